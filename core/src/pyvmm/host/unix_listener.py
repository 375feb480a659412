"""A Unix socket on which a device listens. It replaces no other file, and is removed with the device (unix(7))."""

from __future__ import annotations

import errno
import os
import socket
import stat

from pyvmm.errors import HostError, UsageError
from pyvmm.host import leftovers
from pyvmm.host.shortage import Need, shortage
from pyvmm.host.standard_streams import null
from pyvmm.host.working_directory import from_root
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_PATH", "UnixListener", "identity", "lasting_path", "listen"]

log = logger(__name__)

MAX_PATH = 107
"""The most bytes in a socket's path: sun_path in <linux/un.h>, without its NUL."""

_ROOM = 16
"""Bytes that a device may put behind the path of its socket."""


def listen(sock: socket.socket, path: str | os.PathLike[str], what: str, *, backlog: int = 1) -> None:
    """Make ``sock`` listen at ``path``. It replaces a leftover socket there, on which no process listens.

    Raises :class:`UsageError`, which begins with ``what``, if no socket can be made or another file is there, and
    :class:`HostError` if the host has no room for a socket.
    """
    bound = None
    try:
        try:
            sock.bind(os.fspath(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_dead(path, what)
            sock.bind(os.fspath(path))
        bound = identity(path)
        sock.listen(backlog)
    except (OSError, ValueError) as error:
        if bound is not None and identity(path) == bound:
            os.unlink(path)
        if lack := shortage(error):
            raise HostError(f"{what}: {lack}") from error
        reason = getattr(error, "strerror", None) or str(error)  # a path that is too long has no errno
        raise UsageError(f"{what}: {reason}; give a path where a socket can be made") from error


def lasting_path(path: str | os.PathLike[str], more: int = 0) -> str:
    """``path``, from the root on, so that it stays right when this process changes its working directory.

    Where that would be longer than a socket's path may be, with ``more`` bytes behind it, it is ``path`` as it is.
    """
    whole = from_root(path)
    return whole if len(os.fsencode(whole)) + more <= MAX_PATH else os.fspath(path)


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """The device and inode that identify the file at ``path``; None if there is no file."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove_dead(path: str | os.PathLike[str], what: str) -> None:
    """Remove the socket at ``path`` if no process listens there; raises :class:`UsageError` for any other file."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{what}: something that is no socket is there; give another path")
        # A blocking socket would wait for a busy listener.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            error = probe.connect_ex(os.fspath(path))
        if error == errno.ECONNREFUSED:
            os.unlink(path)
            return
    except FileNotFoundError:
        return  # it has just gone
    if error not in (0, errno.EAGAIN, errno.ENOENT):
        raise UsageError(f"{what}: a socket is there that cannot be tried: {os.strerror(error)}; give another path")
    if error != errno.ENOENT:
        raise UsageError(f"{what}: another process listens there; give another path")


class UnixListener:
    """A non-blocking stream socket that listens at a path.

    A leftover socket there, such as one of a killed process, is replaced. Any other file is left alone. :meth:`close`
    removes the path, or the interpreter's exit does, if it is still the same socket.
    """

    def __init__(self, path: Path, what: str, *, backlog: int = 1) -> None:
        """``what`` begins an error's message, such as ``vsock: /run/vm.sock``. ``backlog``: about how many clients may
        wait in the queue before connect(2) blocks.

        Raises :class:`UsageError` if no socket can be made at the path, or if another file is there.
        """
        self.path = path
        self.lasting_path = lasting_path(path, _ROOM)
        """The path for sockets whose names begin with it, also after a change of the working directory."""
        self._whole_path = from_root(path)
        self._what = what
        self._turned_away = False
        self._process = os.getpid()
        self._identity: tuple[int, int] | None = None
        self._reserve = -1
        with Need(what):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # When no descriptor is left, this one is closed for a moment in order to turn a client away.
            with Need(what):
                self._reserve = null()
            with leftovers.Making():
                listen(self._socket, path, what, backlog=backlog)
                self._identity = identity(path)
                leftovers.add(self._remove)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The file descriptor, readable when a client waits; -1 when closed."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """The next client's socket, non-blocking; None if there is no client after all.

        If no descriptor is left for a client, the client is turned away. Otherwise it would wait in vain and keep the
        loop busy. Any other error of the host is logged once.
        """
        try:
            client, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            self.refused(error)
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return None
        client.setblocking(False)
        return client

    def close(self) -> None:
        """Stop listening, and remove the path. Closing twice does nothing."""
        self._socket.close()
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        self._remove()

    def refused(self, error: OSError) -> None:
        """Log why a client cannot be served, once for all of them."""
        if not self._turned_away:
            self._turned_away = True
            log.warning("%s: %s; a client is turned away", self._what, error.strerror)

    def _turn_away(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        try:
            client, _ = self._socket.accept()
            client.close()
        except OSError:
            pass
        try:
            self._reserve = null()
        except OSError:
            pass  # it was given to somebody else meanwhile; there is one again when a client is turned away next

    def _remove(self) -> None:
        leftovers.discard(self._remove)
        # A forked child has a copy of this object, but must not remove the socket.
        if self._identity is not None and os.getpid() == self._process and identity(self._whole_path) == self._identity:
            os.unlink(self._whole_path)
        self._identity = None
