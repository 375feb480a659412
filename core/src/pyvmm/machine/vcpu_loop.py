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

    from pyvmm.bus import Answer, Bus

_MAX_KNOWN: Final = 1024
"""Accesses that a vCPU's loop remembers; a guest may try them all."""


class VcpuLoop:
    """Runs one vCPU until the machine ends."""

    def __init__(
        self, vcpu: Vcpu, mmio: Bus, ports: Bus, stop: Callable[[ExitReason], None], reasons: Sequence[ExitReason]
    ) -> None:
        """``reasons`` is what ``stop`` adds to before it kicks the vCPU: not empty, a run that was interrupted was the
        last."""
        self.vcpu = vcpu
        self._mmio = mmio
        self._ports = ports
        self._stop = stop
        self._reasons = reasons
        self._known: dict[int, Answer] = {}
        """Accesses that were made before, by their keys."""
        for bus in (mmio, ports):
            bus.remembered.append(self._known)

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
            self._known.clear()  # whose views would keep the vCPU's memory mapped
            self.vcpu.leave_thread()

    def _serve(self) -> None:
        # The hottest Python there is: every access that KVM does not answer by itself passes here. Its time goes less
        # into what there is to do than into how much memory that touches: a KVM without hardware virtualization comes
        # back with empty TLBs.
        enter, find = self.vcpu.enter, self._known.get
        while not self._reasons:
            while True:  # CPython 3.11 makes nothing faster that never gets to a plain jump back, as this has
                answer = find(enter())
                if answer is None:
                    break
                handler, offset, view, acquire, release = answer
                acquire()
                try:
                    handler(offset, view)
                except Exception as error:
                    self._fail(error, view)
                finally:
                    release()
            if not self._serve_other():
                return

    def _serve_other(self) -> bool:
        """Do what the last exit is about, which is no access that is known; whether the vCPU may go on."""
        exit_, area = self.vcpu.exit, self.vcpu.run_area
        if exit_.error == errno.EINTR:
            return True
        if exit_.error:
            raise KvmError("KVM_RUN", exit_.error)
        reason = exit_.reason
        if reason not in (VcpuExit.MMIO, VcpuExit.IO):
            self._end(reason)
            return False
        bus = self._mmio if reason == VcpuExit.MMIO else self._ports
        address, size, start, is_write = exit_.address, exit_.size, exit_.data_offset, bool(exit_.is_write)
        if exit_.key and len(self._known) < _MAX_KNOWN:
            with bus.changing:
                self._known[exit_.key] = bus.answer(address, area[start : start + size], is_write)
        # String I/O is one port, and many values.
        access = bus.write if is_write else bus.read
        for at in range(start, start + size * exit_.count, size):
            access(address, area[at : at + size])
        return True

    def _fail(self, error: Exception, data: memoryview) -> None:
        """The device that was to answer the present access raised ``error``."""
        exit_ = self.vcpu.exit
        bus = self._mmio if exit_.reason == VcpuExit.MMIO else self._ports
        bus.fail_access(exit_.address, data, bool(exit_.is_write), error)

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
