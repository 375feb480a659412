"""A Unix socket to which front ends connect, one after the other."""

from __future__ import annotations

import errno
import os
import socket

from pyvmm.errors import UsageError
from pyvmm.host import leftovers
from pyvmm.host.shortage import Need, shortage
from pyvmm.host.unix_listener import identity, listen
from pyvmm.host.working_directory import from_root
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.host.eventloop import EventLoop
    from pyvmm.vhost_user.backend import Backend

log = logger(__name__)

_RETRY_DELAY: Final = 1.0
"""Seconds after which a front end is tried again for which the host had no room."""


class Listener:
    """Accepts front ends for ``backend``, one at a time: the next one waits until the last one has disconnected."""

    def __init__(self, loop: EventLoop, backend: Backend, sock: socket.socket, path: str = "") -> None:
        """Take over the listening ``sock``. At the end, ``path`` is removed if it is still the same socket."""
        self._loop = loop
        self._backend = backend
        self._socket = sock
        self._path = from_root(path) if path else ""
        self._identity = identity(path) if path else None
        if path:
            leftovers.add(self._remove)
        self._refused = False
        sock.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Stop listening, and remove the socket's file."""
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        self._remove()

    def _remove(self) -> None:
        leftovers.discard(self._remove)
        if self._path and identity(self._path) == self._identity:
            os.unlink(self._path)
            self._path = ""

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add(self._socket.fileno(), self._accept)

    def _accept(self, _: int) -> None:
        try:
            connected, _address = self._socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._refuse(error)
                self._loop.remove(self._socket.fileno())
                self._loop.call_later(_RETRY_DELAY, self._listen)  # it waits: that keeps the loop busy
            return
        self._loop.remove(self._socket.fileno())
        try:
            self._backend.serve(connected, self._listen)
        except OSError as error:  # it cannot be watched
            self._refuse(error)
            self._backend.disconnect()

    def _refuse(self, error: OSError) -> None:
        if not self._refused:
            self._refused = True
            log.error("%s: a front end cannot be accepted: %s", self._backend.name, shortage(error) or error.strerror)


def bind(path: str) -> socket.socket:
    """A socket that listens at ``path``. It replaces a socket left there by a process that has ended.

    Raises :class:`UsageError` if another file is there or if no socket can be made at ``path``.
    """
    if not path:
        raise UsageError("serve: no socket can be made without a path; give one")  # the kernel would choose a name
    with Need(f"serve: {path}"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listen(sock, path, f"serve: {path}")
    except BaseException:
        sock.close()
        raise
    return sock


def from_fd(fd: int) -> tuple[socket.socket, bool]:
    """The socket that this process was started with as descriptor ``fd``, and whether it listens.

    Raises :class:`UsageError` if it is no Unix stream socket.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"serve: descriptor {fd} is no socket: {error.strerror}") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise UsageError(f"serve: descriptor {fd} is no Unix stream socket")
    listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if not listens:
        try:
            sock.getpeername()
        except OSError as error:
            raise UsageError(f"serve: descriptor {fd} is neither connected nor listening") from error
    sock.set_inheritable(False)
    return sock, listens
