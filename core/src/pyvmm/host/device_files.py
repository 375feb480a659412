"""Directories on the host for the files of a machine's devices: one each, private to the user, removed with the
machine."""

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
    """A directory with a subdirectory for each device, made when it is first asked for.

    It is in ``$XDG_RUNTIME_DIR``, else in ``$TMPDIR`` or ``/tmp``, and no other user can read it. The machine, its
    devices' processes and their replacements all use the same directory, by its ``path``.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """The directory ``path``; by default a new one."""
        self._path = os.fspath(path) if path else _new_path()

    @property
    def path(self) -> Path:
        """The directory's path, even before the directory is made."""
        from pathlib import Path

        return Path(self._path)

    def __fspath__(self) -> str:
        return self._path

    def directory(self, device: str) -> Path:
        """The directory of the device with the id ``device``, made if it does not exist; raises :class:`HostError`.

        The path is short enough for a Unix socket.
        """
        from pathlib import Path

        _make(self._path)
        path = os.path.join(self._path, _file_name(device))
        _make(path)
        return Path(path)

    def remove(self) -> None:
        """Remove the directory with its contents, if it was ever made."""
        leftovers.discard(self.remove)
        if os.path.exists(self._path):
            import shutil

            shutil.rmtree(self._path, ignore_errors=True)


def _new_path() -> str:
    parent = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.access(parent, os.W_OK | os.X_OK):
        parent = os.environ.get("TMPDIR", "/tmp")
    # An absolute path, since other processes may have another current directory.
    return os.path.join(os.path.abspath(parent), f"pyvmm-{os.getpid()}-{os.urandom(8).hex()}")


def _file_name(device: str) -> str:
    """A file name for an id, which may have any character."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else f"%{ord(c):x}" for c in device)


def _make(path: str) -> None:
    """Make the directory. One that exists must belong to this user."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise HostError(f"{path}: not a directory of this user, so not a place for a device's files") from None
    except OSError as error:
        raise HostError(f"{path}: a directory for a device's files cannot be made: {error.strerror}") from error
