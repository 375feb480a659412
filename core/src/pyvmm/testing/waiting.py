"""Waiting for a state, so that a test does not depend on the machine's speed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

__all__ = ["PATIENCE", "wait_until", "wait_until_asleep"]

PATIENCE: Final = 120.0
"""The longest time for which a test waits for a state, in seconds. Even on a busy machine only a hang takes longer."""

_PAUSE: Final = 0.002
"""Seconds between two checks."""

_LOOKS: Final = 20
"""The number of checks in a row that must find a process asleep before it counts as at rest."""


def wait_until(
    condition: Callable[[], object], seen: Callable[[], object] | None = None, *, timeout: float = PATIENCE
) -> None:
    """Wait until ``condition`` holds. Raises AssertionError after ``timeout`` seconds, with the result of ``seen``."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come true in {timeout:.0f} s" + (f": {seen()}" if seen else ""))
        time.sleep(_PAUSE)


def wait_until_asleep(pid: int) -> None:
    """Wait until all threads of process ``pid`` are idle: each sleeps, and stays asleep over several checks.

    An event that wakes a thread makes the thread ready to run immediately. So a process that is asleep has handled all
    earlier events. Raises AssertionError if the process never rests, or has ended.
    """
    threads: list[tuple[str, ...]] = []

    def is_asleep() -> bool:
        nonlocal threads
        before, threads = threads, []
        for task in sorted(os.listdir(f"/proc/{pid}/task")):
            threads.append(_look(f"/proc/{pid}/task/{task}"))
        assert all(thread[0] != "Z" for thread in threads), f"process {pid} has ended"
        return threads == before and all(thread[0] == "S" for thread in threads)

    looks = 0

    def is_at_rest() -> bool:
        nonlocal looks
        looks = looks + 1 if is_asleep() else 0
        return looks == _LOOKS

    wait_until(is_at_rest, lambda: f"its threads, each with state, user and system time, and switches: {threads}")


def _look(task: str) -> tuple[str, ...]:
    """A thread's state, ticks of user and of system time, and numbers of voluntary and involuntary context switches
    (proc(5))."""
    with open(f"{task}/stat") as stat, open(f"{task}/status") as status:
        fields = stat.read().rpartition(")")[2].split()
        switches = [line.split()[1] for line in status if "ctxt_switches" in line]
    return fields[0], fields[11], fields[12], *switches
