"""``--trace-startup``: how long each step of a start takes. When it is off, a step costs one call, and no import."""

from __future__ import annotations

import time

_began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
_began_cpu = time.process_time_ns()


steps: list[tuple[str, int, int]] | None = None
"""The steps so far: the step's name, when it ended in nanoseconds after the process was made, and the CPU time of all
threads until then in nanoseconds. None when the trace is off."""

_made = 0


def begin() -> None:
    """Turn the trace on. Its first step is the time before pyvmm's first line, which is known to 10 ms."""
    global steps, _made
    _made = min(_process_made(), _began)
    steps = [("Python and its own imports", _began - _made, _began_cpu)]


def ended(what: str) -> None:
    """Note that the step ``what`` has just ended."""
    if steps is not None:
        steps.append((what, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - _made, time.process_time_ns()))


def table() -> str:
    """The steps: how long each took, its CPU time, and when it ended, in milliseconds."""
    lines = [f"{'start-up':<44}{'ms':>8}{'CPU ms':>8}{'at':>8}"]
    before = cpu_before = 0
    for what, at, cpu in steps or ():
        numbers = (at - before, cpu - cpu_before, at)
        lines.append(f"{what:<44}" + "".join(f"{number / 1e6:8.1f}" for number in numbers))
        before, cpu_before = at, cpu
    return "\n".join(lines)


def report() -> None:
    """Print the table on stderr, and turn the trace off."""
    global steps
    if steps is not None:
        import sys

        text, steps = table(), None
        if sys.stderr is None:
            return
        # A guest's console may have put the terminal into raw mode, where a newline alone does not return the carriage.
        newline = "\r\n" if sys.stderr.isatty() else "\n"
        try:
            print(text.replace("\n", newline), end=newline, file=sys.stderr, flush=True)
        except OSError:
            pass


def _process_made() -> int:
    """When this process was made, by CLOCK_BOOTTIME in nanoseconds: field 22 of proc_pid_stat(5)."""
    import os

    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return _began  # a jail without /proc
    return int(fields[22 - 3]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
