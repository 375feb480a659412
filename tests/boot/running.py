"""A machine that runs while a test looks at it from the host."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.boot.booting import PYVMM, SILENCE, Boot


class Running:
    """A run of pyvmm that has not ended; its console's input is a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], scratch: Path) -> None:
        self.process = process
        self.scratch = scratch

    @property
    def output(self) -> str:
        """What the guest has said until now."""
        return (self.scratch / "output").read_text(errors="replace")

    @property
    def errors(self) -> str:
        """What pyvmm has said until now."""
        return (self.scratch / "errors").read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Until ``condition`` holds, while pyvmm runs: it has no event on this side. Raises AssertionError where the
        guest says nothing meanwhile, for :data:`SILENCE` seconds."""
        said, since = self.output, time.monotonic()
        while not condition():
            assert self.process.poll() is None, f"pyvmm ended:\n{self.output[-3000:]}\n{self.errors}"
            if self.output != said:
                said, since = self.output, time.monotonic()
            if time.monotonic() > since + SILENCE:
                raise AssertionError(f"no word for {SILENCE} s, and not yet: {what}\n{self._standing()}")
            time.sleep(0.05)

    def wait_for(self, text: str) -> None:
        """Until the guest has said ``text``."""
        self.wait_until(lambda: text in self.output, text)

    def type(self, line: str) -> None:
        """A line for the guest's console."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def finish(self) -> Boot:
        """Wait for the end."""
        said = ""
        while True:
            try:
                status = self.process.wait(timeout=SILENCE)
                return Boot(status, self.output, self.errors)
            except subprocess.TimeoutExpired:
                if self.output == said:
                    raise AssertionError(f"no word for {SILENCE} s, and no end\n{self._standing()}") from None
                said = self.output

    def _standing(self) -> str:
        """What it has said, and what the kernel counts of its vCPUs, twice: whether the guest sleeps or works."""
        counts = [_kvm_counts(self.process.pid)]
        time.sleep(2)
        counts.append(_kvm_counts(self.process.pid))
        moved = {name: (value, counts[1].get(name)) for name, value in counts[0].items() if value}
        return f"{self.output[-4000:]}\n{self.errors[-4000:]}\nKVM's counts, and 2 s later: {moved}"


def _kvm_counts(pid: int) -> dict[str, int]:
    """What debugfs has of the machine of process ``pid``; empty without debugfs or as somebody else than root."""
    found = Path("/sys/kernel/debug/kvm").glob(f"{pid}-*/*")
    texts = {path.name: path.read_text().strip() for path in found if path.is_file()}
    return {name: int(text) for name, text in texts.items() if text.isdecimal()}


@contextmanager
def running(scratch: Path, arguments: Sequence[str]) -> Iterator[Running]:
    """``pyvmm`` with ``arguments``, killed at the end where it still runs; its files are in ``scratch``."""
    with (scratch / "output").open("wb") as output, (scratch / "errors").open("wb") as errors:
        process = subprocess.Popen([str(PYVMM), *arguments], stdin=subprocess.PIPE, stdout=output, stderr=errors)
    with process:
        try:
            yield Running(process, scratch)
        finally:
            process.kill()
