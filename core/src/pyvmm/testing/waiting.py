"""Waiting for a state, so that a test does not depend on how fast the machine is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

__all__ = ["PATIENCE", "wait_until", "wait_until_asleep"]

PATIENCE: Final = 120.0
"""Seconds that a test waits for a state. Only a hang takes longer, also on a machine that is busy with other things."""

_PAUSE: Final = 0.002
"""Seconds between two looks."""

_LOOKS: Final = 20
"""Looks at a process that find it asleep before it is said to be at rest."""


def wait_until(
    condition: Callable[[], object], seen: Callable[[], object] | None = None, *, timeout: float = PATIENCE
) -> None:
    """Wait until ``condition`` holds; raises AssertionError after ``timeout`` seconds, with what ``seen`` returns."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come true in {timeout:.0f} s" + (f": {seen()}" if seen else ""))
        time.sleep(_PAUSE)


def wait_until_asleep(pid: int) -> None:
    """Wait until no thread of process ``pid`` has anything to do: each sleeps, and stays asleep from look to look.

    What wakes a thread makes it ready to run at once. So a process that is found asleep has dealt with whatever came
    before. Raises AssertionError for one that goes on and on, and for one that has ended.
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
    """State, ticks of user and of system time, and how often it went to sleep or had to wait for a CPU (proc(5))."""
    with open(f"{task}/stat") as stat, open(f"{task}/status") as status:
        fields = stat.read().rpartition(")")[2].split()
        switches = [line.split()[1] for line in status if "ctxt_switches" in line]
    return fields[0], fields[11], fields[12], *switches
