"""The threads of this process as the kernel has them, Python's own and others."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pyvmm.testing import waiting


def are_there(prefix: str) -> bool:
    """Whether there is a thread whose name begins with ``prefix``."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it may just have ended
            if (task / "comm").read_text().startswith(prefix):
                return True
    return False


def wait_until(prefix: str, *, there: bool) -> None:
    """Wait until there is such a thread, or none any more. Raises AssertionError if that takes too long."""
    waiting.wait_until(
        lambda: are_there(prefix) is there, lambda: f"thread {prefix}: {'none' if there else 'still there'}"
    )
