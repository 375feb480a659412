"""A file of the host that entropy is read from, without ever waiting for it."""

from __future__ import annotations

import errno
import os
import stat

from pyvmm.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Source:
    """A file that gives bytes, now or later: a character device, a FIFO, a regular file."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`UsageError` where it cannot be read, or has nothing."""
        self.path = path
        self.fd = -1
        self.has_ended = False
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode):
                what = "a directory" if stat.S_ISDIR(mode) else "a socket"
                raise UsageError(f"rng: {path} is {what}; give a file such as /dev/urandom")
            # A FIFO without a writer is at its end; with one in ourselves it just has nothing (fifo(7)).
            access = os.O_RDWR if stat.S_ISFIFO(mode) else os.O_RDONLY
            self.fd = os.open(path, access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            if not stat.S_ISFIFO(mode) and self._is_empty():
                raise UsageError(f"rng: {path} has no data; give a file such as /dev/urandom")
        except UsageError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise UsageError(
                f"rng: {path} cannot be opened: {error.strerror}; give a file such as /dev/urandom"
            ) from error

    def read_into(self, views: Sequence[memoryview]) -> int | None:
        """Fill ``views``, or the first bytes of them: how many; None where there is nothing just now.

        Raises :class:`HostError` where there will be nothing any more.
        """
        try:
            count = os.readv(self.fd, views)
        except BlockingIOError:
            return None
        except OSError as error:
            self.has_ended = True
            raise HostError(f"{self.path} cannot be read: {error.strerror}") from error
        if count == 0:
            self.has_ended = True
            raise HostError(f"{self.path} is at its end")
        return count

    def _is_empty(self) -> bool:
        """Whether the first read gives nothing. What has a position stays where it is."""
        try:
            return not os.pread(self.fd, 1, 0)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ESPIPE:
                raise
        try:
            return not os.read(self.fd, 1)
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
