"""The descriptors and threads of this process, so that a test can find leaks."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyvmm.testing.waiting import PATIENCE

__all__ = ["Resources", "descriptors_left"]


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Within it, this process can open ``count`` more descriptors; what is open stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    # The folder's own descriptor is among them, and free again.
    probe = os.dup(0)
    os.close(probe)
    taken.discard(probe)
    limit = 0
    free = 0
    while free < count or limit in taken:
        free += limit not in taken
        limit += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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
                pass  # the descriptor of the folder itself
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
