"""What a vCPU's thread does: run the guest, answer its accesses, and say how it ended."""

from __future__ import annotations

import errno

from pyvmm._native import lib
from pyvmm.exit_reason import End, ExitReason
from pyvmm.kvm import KvmError, Vcpu, VcpuExit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from pyvmm.bus import Bus

_MAX_KNOWN: Final = 1024
"""Accesses that a vCPU's loop remembers; a guest may try them all."""


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
            import traceback

            self._stop(ExitReason(End.HOST_FAILURE, f"vCPU {self.vcpu.index}:\n{traceback.format_exc()}"))
        finally:
            self.vcpu.leave_thread()

    def _serve(self) -> None:
        # The hottest Python there is: every access that KVM does not answer by itself passes here.
        enter, exit_, area, reasons = self.vcpu.enter, self.vcpu.exit, self.vcpu.run_area, self._reasons
        mmio, ports = self._mmio, self._ports
        mmio_map, ports_map = mmio.map, ports.map
        # What to do for accesses that were made before, by their keys.
        known: dict[int, tuple[Callable[[memoryview], object], memoryview]] = {}
        find = known.get
        while not reasons:
            before = find(enter())
            if before is not None:
                if mmio.map is mmio_map and ports.map is ports_map:
                    access, view = before
                    access(view)
                    continue
                known.clear()
                mmio_map, ports_map = mmio.map, ports.map
            error = exit_.error
            if error == errno.EINTR:
                continue
            if error:
                raise KvmError("KVM_RUN", error)
            reason = exit_.reason
            if reason == VcpuExit.MMIO:
                bus = mmio
            elif reason == VcpuExit.IO:
                bus = ports
            else:
                self._end(reason)
                return
            address, size, offset, is_write = exit_.address, exit_.size, exit_.data_offset, bool(exit_.is_write)
            # String I/O is one port, and many values.
            for at in range(offset, offset + size * exit_.count, size):
                access = bus.accessor(address, size, is_write)
                view = area[at : at + size]
                if exit_.key and len(known) < _MAX_KNOWN:
                    known[exit_.key] = access, view
                access(view)

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
            }.get(reason)
            self._stop(ExitReason(End.CRASH, f"{what or f'exit {reason}, detail {detail:#x}'}\n{vcpu.describe()}"))
