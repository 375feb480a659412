"""The descriptors and threads of this process, so that a test can find leaks."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass

from pyvmm.testing.waiting import PATIENCE

__all__ = ["Resources"]


@dataclass(frozen=True)
class Resources:
    """Descriptors and threads."""

    descriptors: dict[int, str]
    """The kernel's description of each open descriptor."""

    threads: int

    @classmethod
    def now(cls) -> Resources:
        """The resources of this process, after a garbage collection."""
        gc.collect()
        descriptors = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                descriptors[int(name)] = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                pass  # the one of the folder itself
        return cls(descriptors, len(os.listdir("/proc/self/task")))

    def assert_no_more_now(self, *, timeout: float = PATIENCE) -> None:
        """Raise AssertionError if the process has more than this. It waits for threads that are about to end."""
        deadline = time.monotonic() + timeout
        while (now := Resources.now()).threads > self.threads and time.monotonic() < deadline:
            time.sleep(0.001)
        new = [what for fd, what in now.descriptors.items() if fd not in self.descriptors]
        count = len(now.descriptors) - len(self.descriptors)
        assert count <= 0, f"{count} descriptors are left open, among {new[:10]}"
        assert now.threads <= self.threads, f"{now.threads - self.threads} threads are left"
