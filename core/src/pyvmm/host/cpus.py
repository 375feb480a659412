"""The CPUs of the host that pyvmm may use."""

from __future__ import annotations

import os

__all__ = ["has_several"]


def has_several() -> bool:
    """Whether this thread may run on more than one CPU (sched_getaffinity(2)). If so, polling can wait for another
    thread, and a second process can run in parallel."""
    return len(os.sched_getaffinity(0)) > 1
