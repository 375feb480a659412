"""A place on the host for the files of a machine's devices: a directory each, the user's own, gone with the machine."""

from __future__ import annotations

import os
import stat

from pyvmm.errors import HostError
from pyvmm.host import leftovers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HostFiles"]


class HostFiles:
    """A directory with one for each device in it, made only when somebody asks.

    It is in ``$XDG_RUNTIME_DIR``, else in ``$TMPDIR`` or ``/tmp``, and no other user can look into it. The machine, its
    devices' processes and a process that takes a dead one's place all find the same: who has ``path`` has it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """The place at ``path``; by default a new one."""
        self._path = os.fspath(path) if path else _new_path()

    @property
    def path(self) -> Path:
        """Where it is, or would be."""
        from pathlib import Path

        return Path(self._path)

    def __fspath__(self) -> str:
        return self._path

    def directory(self, device: str) -> Path:
        """The directory of the device with the id ``device``, made if it is not there; raises :class:`HostError`.

        The path is short, as that of a Unix socket has to be.
        """
        from pathlib import Path

        _make(self._path)
        path = os.path.join(self._path, _file_name(device))
        _make(path)
        return Path(path)

    def remove(self) -> None:
        """Remove it with all that is in it, if it was ever made."""
        leftovers.discard(self.remove)
        if os.path.exists(self._path):
            import shutil

            shutil.rmtree(self._path, ignore_errors=True)


def _new_path() -> str:
    parent = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.access(parent, os.W_OK | os.X_OK):
        parent = os.environ.get("TMPDIR", "/tmp")
    # Absolute, for other processes, whose current directory may be another.
    return os.path.join(os.path.abspath(parent), f"pyvmm-{os.getpid()}-{os.urandom(8).hex()}")


def _file_name(device: str) -> str:
    """An id, which may have any character, as the name of a file."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else f"%{ord(c):x}" for c in device)


def _make(path: str) -> None:
    """Make a directory, unless it is there and nobody else's."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise HostError(f"{path}: not a directory of this user, so not a place for a device's files") from None
    except OSError as error:
        raise HostError(f"{path}: a directory for a device's files cannot be made: {error.strerror}") from error
