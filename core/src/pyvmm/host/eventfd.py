"""An eventfd, which kicks a queue or raises an interrupt (eventfd(2))."""

from __future__ import annotations

import os
import select

__all__ = ["EventFd"]


class EventFd:
    """A counter in the kernel that can be waited for and handed to KVM or to another process."""

    __slots__ = ("fd",)

    def __init__(self, fd: int | None = None) -> None:
        """Take over ``fd``, or make a new eventfd: non-blocking, closed on exec."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if fd is None else fd

    def signal(self) -> None:
        """Add one to the counter, which wakes all waiting threads."""
        try:
            os.eventfd_write(self.fd, 1)
        except BlockingIOError:
            pass  # the counter is at its limit: it is signalled already

    def drain(self) -> int:
        """Return the count and set it to 0. The count is 0 if nothing was signalled."""
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to ``timeout`` seconds (for ever if None), then drain. Returns whether it was signalled."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.poll(None if timeout is None else timeout * 1000)
        return self.drain() > 0

    def fileno(self) -> int:
        """The file descriptor."""
        return self.fd

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
