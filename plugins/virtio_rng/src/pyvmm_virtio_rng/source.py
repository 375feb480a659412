"""The file on the host from which entropy is read, without ever waiting."""

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
    """A file with data now or later: a character device, a FIFO, a regular file."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`UsageError` if it cannot be read or has no data."""
        self.path = path
        self.fd = -1
        self.has_ended = False
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode):
                what = "a directory" if stat.S_ISDIR(mode) else "a socket"
                raise UsageError(f"rng: {path} is {what}; give a file such as /dev/urandom")
            # A FIFO without a writer is at its end. So this process is a writer too; the FIFO then just has no data
            # (fifo(7)).
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
        """Fill ``views``, or their first bytes. Returns the number of bytes; None if there is no data now.

        Raises :class:`HostError` if there will be no more data.
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
        """Whether the first read returns no data. The position of a file that has one stays the same."""
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
