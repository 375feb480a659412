"""Guest programs without a kernel, compiled when they are needed, and machines that run them on the real /dev/kvm."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pyvmm._native import ffi, lib
from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.errors import HostError
from pyvmm.exit_reason import End, ExitReason
from pyvmm.kvm.ioctl import ioctl
from pyvmm.limits import MAX_CPUS
from pyvmm.machine import Machine, MachineConfig
from pyvmm.plugins import DeviceRequest
from pyvmm.testing.waiting import PATIENCE
from pyvmm.x86_64.boot.registers import RFLAGS_FIXED, RFLAGS_IOPL3, set_boot_state

__all__ = ["FREE_MEMORY", "MEMORY", "PARAMETERS", "PROGRAMS", "REPORT_PORT", "BareMachine", "Report", "compile_program"]

PROGRAMS: Final = Path(__file__).parent / "programs"
"""The directory of ``guest.h``, which programs include."""

MEMORY: Final = 32 << 20
PARAMETERS: Final = 0x300000
"""The address of the 64-bit words that host and program exchange."""

FREE_MEMORY: Final = 0x400000
"""The start of the memory that the program may use."""

STACK_SIZE: Final = 0x2000
STACKS: Final = FREE_MEMORY - (MAX_CPUS - 1) * STACK_SIZE
"""The end of the first vCPU's stack. The stacks of the others follow, up to the free memory."""

REPORT_PORT: Final = 0x510
FLAGS: Final = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"),
    *("-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none"),
    *("-mno-red-zone", "-mgeneral-regs-only"),  # interrupts, and a KVM that emulates integer instructions only
    "-Wl,-Ttext-segment=0x200000,--build-id=none,-z,noexecstack,-z,norelro,--no-warn-rwx-segments",
)


def compile_program(folder: Path, source: Path, *defines: str) -> Path:
    """Compile ``source``, in C, with ``defines``, each ``NAME`` or ``NAME=VALUE``, unless ``folder`` has it.

    The source includes ``guest.h`` and has a function ``program``. Raises :class:`HostError` if there is no gcc.
    """
    path = folder / "-".join([source.stem, *defines]).replace("=", "_").lower()
    if not path.exists():
        arguments = [*FLAGS, f"-I{PROGRAMS}", *(f"-D{define}" for define in defines), str(source), "-o", str(path)]
        try:
            subprocess.run(["gcc", *arguments], check=True)
        except FileNotFoundError as error:
            raise HostError(f"{source.name}: no gcc to compile it; install the package gcc") from error
    return path


class Report(BusDevice):
    """Collects the program's words, and waits for a number of them."""

    name = "report"
    placements = (Placement(ports=BusRange(REPORT_PORT, 4)),)

    def __init__(self) -> None:
        self.words: list[int] = []
        self._more = threading.Condition()

    def write(self, offset: int, data: memoryview) -> None:
        with self._more:
            self.words.append(int.from_bytes(data, "little"))
            self._more.notify_all()

    def wait(self, count: int) -> list[int]:
        """Wait for ``count`` words and return all words. Raises AssertionError if they do not come."""
        with self._more:
            enough = self._more.wait_for(lambda: len(self.words) >= count, PATIENCE)
            assert enough, f"{len(self.words)} words of {count}: {self.words}"
            return self.words


class BareMachine(Machine):
    """A machine that runs a program instead of a kernel."""

    def __init__(
        self,
        kernel: Path,
        *,
        cpus: int = 1,
        user: bool = False,
        all_cpus: bool = False,
        devices: Sequence[DeviceRequest] = (),
        huge_page_size: int = 0,
        memfd: bool = False,
    ) -> None:
        """``user``: at privilege level 3. ``all_cpus``: every vCPU starts with the program, not only the first."""
        super().__init__(
            MachineConfig(
                kernel=kernel,
                memory=MEMORY,
                huge_page_size=huge_page_size,
                memfd=memfd,
                cpus=cpus,
                devices=devices,
            )
        )
        self.user = user
        self.all_cpus = all_cpus
        self.report = Report()
        self.add_device(self.report, "report")

    def stop_by_user(self) -> None:
        """End the run, from any thread."""
        self.stop(ExitReason(End.QUIT))

    def set_parameters(self, *words: int) -> None:
        """Write words for the program."""
        for index, word in enumerate(words):
            self.memory.write_u64(PARAMETERS + 8 * index, word)

    def answers(self, count: int, start: int = 0) -> list[int]:
        """Words that the program has written."""
        return [self.memory.read_u64(PARAMETERS + 8 * (start + index)) for index in range(count)]

    def _start_vcpus(self) -> None:
        for vcpu in self.vcpus if self.all_cpus else self.vcpus[:1]:
            set_boot_state(vcpu, self.memory, self._boot.entry, user=self.user)
            # Not every KVM supports IOPL. A TSS of this size is followed by an I/O bitmap of zeros, which allows all
            # ports.
            sregs = vcpu.get_sregs()
            sregs.tr.limit = 0xFFFF
            vcpu.set_sregs(sregs)
            flags = RFLAGS_FIXED | (RFLAGS_IOPL3 if self.user else 0)
            vcpu.set_regs(rip=self._boot.entry, rdi=vcpu.index, rsp=STACKS + STACK_SIZE * vcpu.index, rflags=flags)
            state = ffi.new("struct kvm_mp_state *")
            state.mp_state = lib.KVM_MP_STATE_RUNNABLE
            ioctl(vcpu.fd, "KVM_SET_MP_STATE", state)
        super()._start_vcpus()

    def run(self) -> ExitReason:
        """Run the machine. If it does not end in :data:`~pyvmm.testing.waiting.PATIENCE` seconds, it is stopped, and
        AssertionError is raised."""
        hangs = threading.Event()

        def stop() -> None:
            hangs.set()
            self.stop(ExitReason(End.QUIT, "the program does not end"))

        watchdog = threading.Timer(PATIENCE, stop)
        watchdog.start()
        try:
            reason = super().run()
        finally:
            watchdog.cancel()
            watchdog.join()
        assert not hangs.is_set(), f"the program did not end in {PATIENCE:.0f} s: {reason}"
        return reason
