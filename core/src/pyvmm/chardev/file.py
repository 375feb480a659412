"""``file=PATH``: a file that takes the guest's output. There is no input."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from pyvmm.chardev.backend import Backend
from pyvmm.chardev.descriptors import DescriptorOutput
from pyvmm.errors import UsageError
from pyvmm.host.shortage import shortage
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final

    from pyvmm.chardev.line import Line
    from pyvmm.device_context import DeviceContext

log = logger(__name__)

_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock: l_type, l_whence, l_start, l_len, l_pid."""


class File(Backend):
    """A file that is made, or emptied, when the machine starts. It may also be a device, or a FIFO that a process
    reads."""

    def __init__(self, kind: str, path: Path) -> None:
        """Raises :class:`UsageError` if ``path`` cannot be written."""
        self.path = path
        self._fd = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o666)
            if stat.S_ISREG(os.fstat(self._fd).st_mode):
                _lock(self._fd, f"{kind}: file={path}")
        except UsageError:
            self.close()
            raise
        except OSError as error:
            raise UsageError(f"{kind}: file={path}: {error.strerror}; give a path that can be written") from error

    def attach(self, line: Line, context: DeviceContext) -> None:
        super().attach(line, context)
        self.output = _FileOutput(f"{context.title}: {self.path}", self._fd)
        context.loop.post(self.output.empty)
        line.connect(self.output)

    def close(self) -> None:
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _FileOutput(DescriptorOutput):
    """Empties the file when the machine runs. By then each device has opened, and locked, its own files."""

    _is_emptied = False

    def empty(self) -> None:
        if not self._is_emptied:
            self._is_emptied = True
            if self._is_file and stat.S_ISREG(os.fstat(self.fd).st_mode):
                try:
                    os.ftruncate(self.fd, 0)
                except OSError as error:
                    log.warning("%s: it cannot be emptied: %s", self.name, shortage(error) or error.strerror)

    def write(self, data: bytes) -> int:
        self.empty()
        return super().write(data)


def _lock(fd: int, what: str) -> None:
    """Lock the file for this line (fcntl(2), F_OFD_SETLK), so that it overwrites no disk and no other line's file."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise UsageError(f"{what}: a disk or another line uses this file; give another one") from error
