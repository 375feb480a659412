"""The bare-metal guest: made from guest/, run in a VMM, its results read."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.benchmarks.harness import BenchError
from tests.benchmarks.machines import Card, Disk, Machine, Vmm
from tests.benchmarks.process import Cpu, Process, clean_environment
from tests.system.prepared import CACHE, key_of, prepared_file

_HERE: Final = Path(__file__).resolve().parent
_GUEST: Final = _HERE / "guest"
_MADE: Final = CACHE / "benchmarks"

_LINK: Final = [
    *("-nostdlib", "-static", "-no-pie", f"-Wl,-T,{_GUEST / 'guest.ld'}", "-Wl,--build-id=none"),
    *("-Wl,--no-warn-rwx-segments", "-Wl,-z,noexecstack"),
]
_COMPILE: Final = [
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-ffreestanding", "-fno-pic", "-fno-stack-protector"),
    *("-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-mgeneral-regs-only", "-mno-red-zone"),
]

_RESET_VECTOR: Final = (
    b"\xb0\x01"  # mov al, 1
    b"\xe6\xf4"  # out 0xf4, al
    b"\xeb\xfe"  # jmp to itself
)


@dataclass(frozen=True)
class Result:
    """The result of one test of the guest."""

    word: str
    count: int
    seconds: float
    values: Mapping[str, int]
    """What else it reported; times in ticks."""
    cpu: Cpu
    """What the VMM used meanwhile."""
    ticks_per_ms: int

    @property
    def rate(self) -> float:
        """Of what is counted, a second."""
        return self.count / self.seconds

    def microseconds(self, name: str) -> float:
        """A time that it reported."""
        return self.values[name] / self.ticks_per_ms * 1000


def guest(level: int) -> Path:
    """The guest, an ELF for Linux's 64-bit entry and for PVH's, at privilege level 0 or 3."""
    sources = [_GUEST / "start.S", *sorted(_GUEST.glob("*.c"))]
    return _gcc(f"guest-level{level}", sources, [f"-DLEVEL={level}", *_COMPILE, *_LINK])


def first() -> Path:
    """A guest whose first instructions end it."""
    return _gcc("guest-first", [_GUEST / "first.S"], _LINK)


def first_rom() -> Path:
    """The same as a ROM in place of QEMU's firmware: a CPU begins 16 bytes below its end."""

    def make(path: Path) -> None:
        path.write_bytes(bytes((64 << 10) - 16) + _RESET_VECTOR.ljust(16, b"\0"))

    return prepared_file(_MADE / "first.rom", key_of(_RESET_VECTOR.hex()), make)


def kvm_loop() -> Path:
    """A minimal program that runs the guest on the host."""
    return _gcc("kvm_loop", [_HERE / "host/kvm_loop.c"], ["-O2", "-Wall", "-Wextra"])


@cache
def ticks_per_ms() -> int:
    """The rate of the time-stamp counter, here and in every guest."""
    command = _gcc("tsc", [_HERE / "host/tsc.c"], ["-O2", "-Wall", "-Wextra"])
    return int(subprocess.run([command], capture_output=True, check=True).stdout)


@dataclass(frozen=True)
class KvmLoop:
    """The bare C loop on /dev/kvm as a VMM."""

    name: str = "C"

    def command(self, machine: Machine) -> list[str]:
        return [str(kvm_loop()), str(machine.kernel), machine.cmdline]

    def ended_well(self, status: int) -> bool:
        return status == 0


def run_tests(
    vmm: Vmm,
    words: Sequence[str],
    *,
    level: int = 3,
    disks: Sequence[Disk] = (),
    cards: Sequence[Card] = (),
    environment: Mapping[str, str] | None = None,
) -> list[Result]:
    """Run one machine through these tests (see guest/main.c)."""
    cmdline = command_line([*words, "idle"])  # not to be gone before its CPU times are read
    machine = Machine(guest(level), cmdline, disks=tuple(disks), cards=tuple(cards))
    results = []
    with Process(vmm.command(machine), environment) as process:
        for word in words:
            process.wait_for("BEGIN")
            before = process.cpu()
            process.wait_for("END")
            cpu = process.cpu().since(before)
            results.append(_result(process.wait_for("RESULT"), word, cpu))
    return results


def command_line(words: Sequence[str]) -> str:
    """The guest's command line for these tests."""
    return " ".join(f"bench={word}" for word in (f"tsc,{ticks_per_ms()}", *words))


def time_to_end(vmm: Vmm, machine: Machine, environment: Mapping[str, str] | None = None) -> tuple[float, float]:
    """Seconds from the start of the VMM's process to its end, and seconds of CPU time meanwhile."""
    with open(os.devnull, "r+b") as null:
        began = time.perf_counter()
        process = subprocess.Popen(
            vmm.command(machine),
            stdin=null,
            stdout=null,
            stderr=subprocess.PIPE,
            env=clean_environment() | dict(environment or {}),
        )
        before = _children_cpu()
        _, errors = process.communicate()
        seconds = time.perf_counter() - began
        cpu = _children_cpu() - before
    if not vmm.ended_well(process.returncode):
        said = " / ".join(errors.decode(errors="replace").splitlines()[-3:])
        raise BenchError(f"ended with {process.returncode}: {said}")
    return seconds, cpu


def _children_cpu() -> float:
    """CPU time of all children, and of theirs, that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _result(line: str, word: str, cpu: Cpu) -> Result:
    said, *pairs = line.removeprefix("RESULT ").split()
    if said != word:
        raise BenchError(f"{word!r} was asked for, {said!r} done")
    values = {name: int(value) for name, _, value in (pair.partition("=") for pair in pairs)}
    ticks, count = values.pop("ticks"), values.pop("count")
    return Result(word, count, ticks / ticks_per_ms() / 1000, values, cpu, ticks_per_ms())


def _gcc(name: str, sources: Sequence[Path], options: Sequence[str]) -> Path:
    def make(path: Path) -> None:
        command = ["gcc", *options, "-o", str(path), *map(str, sources)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise BenchError("gcc is not installed (tests/system/require build)") from error
        if result.returncode != 0:
            raise BenchError(f"gcc: {result.stderr.strip()}")

    inputs = [*sources, *sorted(_GUEST.glob("*.h")), _GUEST / "guest.ld"]
    return prepared_file(_MADE / name, key_of(*inputs, *options), make)
