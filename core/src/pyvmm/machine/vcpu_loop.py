"""The loop of a vCPU's thread: it runs the guest, answers its accesses, and reports the reason of its end."""

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
"""The most accesses that a vCPU's loop remembers, since a guest may try all of them."""


class VcpuLoop:
    """Runs one vCPU until the machine ends."""

    def __init__(
        self, vcpu: Vcpu, mmio: Bus, ports: Bus, stop: Callable[[ExitReason], None], reasons: Sequence[ExitReason]
    ) -> None:
        """``stop`` adds to ``reasons`` before it kicks the vCPU. While ``reasons`` is empty, an interrupted vCPU enters
        the guest again."""
        self.vcpu = vcpu
        self._mmio = mmio
        self._ports = ports
        self._stop = stop
        self._reasons = reasons
        self._known: dict[int, Answer] = {}
        """The answers to accesses that were made before, by the accesses' keys."""
        for bus in (mmio, ports):
            bus.remembered.append(self._known)

    def run(self) -> None:
        """Run the vCPU on the calling thread."""
        self.vcpu.enter_thread()
        try:
            self._serve()
        except KvmError as error:
            self._stop(ExitReason(End.HOST_FAILURE, f"vCPU {self.vcpu.index}: {error}"))
        except BaseException:  # a device may even have called sys.exit
            import traceback

            self._stop(ExitReason(End.HOST_FAILURE, f"vCPU {self.vcpu.index}:\n{traceback.format_exc()}"))
        finally:
            self._known.clear()  # its views would keep the vCPU's memory mapped
            self.vcpu.leave_thread()

    def _serve(self) -> None:
        # This is the hottest Python code: every access that KVM does not answer itself passes here. Its time depends
        # less on the number of steps than on the memory that they touch: a KVM without hardware virtualization returns
        # with empty TLBs.
        enter, find = self.vcpu.enter, self._known.get
        while not self._reasons:
            while True:  # CPython 3.11 specializes only code that reaches a plain backward jump, which this loop has
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
        """Handle the last exit, if it is no remembered access. Returns whether the vCPU may continue."""
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
        # String I/O moves many values through one port.
        access = bus.write if is_write else bus.read
        for at in range(start, start + size * exit_.count, size):
            access(address, area[at : at + size])
        return True

    def _fail(self, error: Exception, data: memoryview) -> None:
        """Handle ``error``, which the device of the current access raised."""
        exit_ = self.vcpu.exit
        bus = self._mmio if exit_.reason == VcpuExit.MMIO else self._ports
        bus.fail_access(exit_.address, data, bool(exit_.is_write), error)

    def _end(self, reason: int) -> None:
        """End the machine for an exit that is not an access."""
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
