"""What a vCPU's thread does: run the guest, answer its accesses, and say how it ended."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

from pyvmm._native import lib
from pyvmm.bus import Bus
from pyvmm.exit_reason import End, ExitReason
from pyvmm.kvm import KvmError, Vcpu, VcpuExit


class VcpuLoop:
    """Runs one vCPU until the machine ends."""

    def __init__(
        self, vcpu: Vcpu, mmio: Bus, ports: Bus, stop: Callable[[ExitReason], None], reasons: Sequence[ExitReason]
    ) -> None:
        """``reasons`` is what ``stop`` adds to: the loop ends when it is not empty."""
        self.vcpu = vcpu
        self._mmio = mmio
        self._ports = ports
        self._stop = stop
        self._reasons = reasons

    def run(self) -> None:
        """Run, on the calling thread."""
        self.vcpu.enter_thread()
        try:
            self._serve()
        except KvmError as error:
            self._stop(ExitReason(End.HOST_FAILURE, f"vCPU {self.vcpu.index}: {error}"))
        except BaseException:  # a device may even have called sys.exit
            self._stop(ExitReason(End.HOST_FAILURE, f"vCPU {self.vcpu.index}:\n{traceback.format_exc()}"))
        finally:
            self.vcpu.leave_thread()

    def _serve(self) -> None:
        # The hottest Python there is: every access that KVM does not answer by itself passes here.
        run, exit_, area, reasons = self.vcpu.run, self.vcpu.exit, self.vcpu.run_area, self._reasons
        mmio_exit, io_exit, interrupted = int(VcpuExit.MMIO), int(VcpuExit.IO), int(VcpuExit.INTERRUPTED)
        mmio, ports = self._mmio, self._ports
        views: dict[tuple[int, int], memoryview] = {}  # few: KVM puts data at the same places
        while not reasons:
            reason = run()
            if reason == mmio_exit:
                bus = mmio
            elif reason == io_exit:
                bus = ports
            elif reason == interrupted:
                continue
            else:
                self._end(reason)
                return
            access = bus.write if exit_.is_write else bus.read
            address, size, offset = exit_.address, exit_.size, exit_.data_offset
            if exit_.count == 1:
                view = views.get((offset, size))
                if view is None:
                    view = views[offset, size] = area[offset : offset + size]
                access(address, view)
            else:  # string I/O: one port, many values
                for at in range(offset, offset + size * exit_.count, size):
                    access(address, area[at : at + size])

    def _end(self, reason: int) -> None:
        """Say why the machine ends, for an exit that is not an access."""
        vcpu = self.vcpu
        detail = vcpu.exit_detail()
        if reason == VcpuExit.SYSTEM_EVENT and detail == lib.KVM_SYSTEM_EVENT_SHUTDOWN:
            self._stop(ExitReason(End.POWEROFF))
        elif reason == VcpuExit.SYSTEM_EVENT and detail == lib.KVM_SYSTEM_EVENT_RESET:
            self._stop(ExitReason(End.REBOOT))
        else:
            what = {
                VcpuExit.SHUTDOWN: "triple fault",
                VcpuExit.INTERNAL_ERROR: f"KVM internal error, suberror {detail}",
                VcpuExit.FAIL_ENTRY: f"the CPU refused to enter the guest, reason {detail:#x}",
                VcpuExit.SYSTEM_EVENT: f"system event {detail}",
            }.get(VcpuExit(reason) if reason in VcpuExit.__members__.values() else VcpuExit.UNKNOWN)
            self._stop(ExitReason(End.CRASH, f"{what or f'exit {reason}, detail {detail:#x}'}\n{vcpu.describe()}"))
