"""A running VMM: its console's lines, and its cost on the host."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.benchmarks.harness import BenchError

PATIENCE: Final = 600
"""Seconds after which a machine that says nothing is given up."""

_END_PATIENCE: Final = 20

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cpu:
    """CPU time that a VMM with all its processes used, in seconds."""

    vcpus: float
    """Of the threads that run the guest, the guest's own included."""
    guest: float
    """Of it, the guest's own; to a tick of the kernel's clock."""
    others: float
    """Of all other threads, vhost's in the kernel included."""

    @property
    def host(self) -> float:
        """The CPU time that the host spends for the guest."""
        return self.vcpus - self.guest + self.others


class CpuTimes:
    """The CPU times of a VMM's threads at some moment."""

    def __init__(self, pid: int) -> None:
        """Of this process and its descendants, and of vhost's threads for them."""
        self._threads: dict[str, tuple[float, float]] = {}
        for process in tree(pid):
            for thread in (*_listed(Path(f"/proc/{process}/task")), *_vhost_threads(process)):
                times = _thread_times(thread)
                if times is not None:
                    self._threads[thread.name] = times

    def since(self, before: CpuTimes) -> Cpu:
        """The CPU time used since ``before``. A thread that ran the guest until now is a vCPU's."""
        vcpus = guest = others = 0.0
        for name, (ran, of_guest) in self._threads.items():
            ran_before, of_guest_before = before._threads.get(name, (0.0, 0.0))
            if of_guest:
                vcpus += ran - ran_before
                guest += of_guest - of_guest_before
            else:
                others += ran - ran_before
        return Cpu(vcpus, guest, others)


class Process:
    """A VMM with its guest's console as a pipe; ended with the block if it still runs."""

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        """``environment`` is added to ours."""
        self._errors = tempfile.TemporaryFile()
        self._rest = b""
        env = clean_environment() | dict(environment or {})
        self.started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors, env=env
            )
        except OSError as error:
            self._errors.close()
            raise BenchError(f"{command[0]}: {error.strerror}") from error
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self.pid = self._process.pid

    def line(self) -> str | None:
        """The next line of the console; None at its end."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._output], [], [], PATIENCE)
            if not ready:
                raise BenchError(f"no word for {PATIENCE} s; {self.complaint()}")
            data = os.read(self._output, 65536)
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace").strip()

    def wait_for(self, beginning: str) -> str:
        """The next line with this beginning, others thrown away."""
        seen: list[str] = []
        while (line := self.line()) is not None:
            if line.startswith(beginning):
                return line
            seen.append(line)
        raise BenchError(f"ended without {beginning!r}; {self.complaint()} {' / '.join(seen[-3:])}")

    def wait(self) -> int:
        """Its exit status, when it ends."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"did not end within {PATIENCE} s") from error

    def complaint(self) -> str:
        """What it said on stderr, in one line."""
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        return " / ".join(text.splitlines()[-3:])

    def cpu(self) -> CpuTimes:
        """CPU times so far."""
        return CpuTimes(self.pid)

    def memory(self, guest_mib: int) -> Memory:
        """Memory of all its processes, without the guest's."""
        total = Memory()
        for pid in tree(self.pid):
            total += _memory(pid, guest_mib)
        return total

    def end(self) -> None:
        """End it, so that it cleans up behind itself; if it does not, all the same."""
        self._process.terminate()
        try:
            self._process.wait(_END_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


@dataclass(frozen=True)
class Memory:
    """Memory of processes, in MiB, without their guests'."""

    unique: float = 0
    """What no other process shares."""
    proportional: float = 0
    """With shared pages divided by those that share them."""

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.unique + other.unique, self.proportional + other.proportional)


def clean_environment() -> dict[str, str]:
    """Ours, without what makes one Python differ from another."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    # Not by /proc/PID/task/TID/children, which may leave some out while others come and go.
    children: dict[int, list[int]] = {}
    for process in _processes():
        fields = _stat(process)
        if fields:
            children.setdefault(int(fields[1]), []).append(int(process.name))
    pids = [pid]
    for parent in pids:
        pids += children.get(parent, [])
    return pids


def _stat(task: Path) -> list[str]:
    """The fields behind the name, the third one of proc(5) first; none when it has gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _thread_times(thread: Path) -> tuple[float, float] | None:
    """Seconds on a CPU, and of them the guest's; None when it has gone."""
    try:
        ran = int((thread / "schedstat").read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = _stat(thread)
    return (ran, int(fields[43 - 3]) * _TICK) if fields else None


def _vhost_threads(pid: int) -> list[Path]:
    """Up to kernel 6.3 vhost's threads are the kernel's own."""
    return [process for process in _processes() if _comm(process) == f"vhost-{pid}"]


def _processes() -> list[Path]:
    return [process for process in _listed(Path("/proc")) if process.name.isdecimal()]


def _comm(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def _memory(pid: int, guest_mib: int) -> Memory:
    """From smaps (proc(5)). The guest's memory is the mapping that is at least as large and writable."""
    try:
        text = Path(f"/proc/{pid}/smaps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return Memory()
    unique = proportional = 0
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)[1:]:
        fields = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", mapping, re.MULTILINE)}
        if fields["Size"] >= guest_mib << 10 and " rw" in mapping.splitlines()[0]:
            continue
        unique += fields["Private_Clean"] + fields["Private_Dirty"] + fields.get("Private_Hugetlb", 0)
        proportional += fields["Pss"]
    return Memory(unique / 1024, proportional / 1024)
