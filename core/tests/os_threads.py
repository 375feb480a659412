"""The threads of this process as the kernel has them, Python's own and others."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

PATIENCE: Final = 10.0
"""Seconds that a thread has to get its name, or to be gone when it is done."""


def are_there(prefix: str) -> bool:
    """Whether there is a thread whose name begins with ``prefix``."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it may just have ended
            if (task / "comm").read_text().startswith(prefix):
                return True
    return False


def wait_until(prefix: str, *, there: bool) -> None:
    """Wait until there is such a thread, or none any more; raises AssertionError where that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while are_there(prefix) is not there:
        assert time.monotonic() < deadline, f"thread {prefix}: {'none' if there else 'still there'}"
        time.sleep(0.01)
