"""``serial:unix=PATH``: a listening UNIX domain socket (unix(7))."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import select
import socket
import stat
from pathlib import Path

from pyvmm.device import DeviceContext
from pyvmm.errors import UsageError

from pyvmm_serial.backend import Backend
from pyvmm_serial.descriptors import DescriptorInput, DescriptorOutput
from pyvmm_serial.line import Line

log = logging.getLogger(__name__)


class UnixSocket(Backend):
    """A socket that one client at a time is served on; others wait until it leaves.

    While there is no client, output is lost: a line that is not plugged in holds up no guest. A client that has
    shut down its sending half still gets output, until it closes the socket.
    """

    def __init__(self, path: Path) -> None:
        """Raises :class:`UsageError` for a path where no socket can be, or where something else is."""
        self.path = path
        self._client: socket.socket | None = None
        self._client_fd = -1
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            try:
                self._listener.bind(os.fspath(path))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self._remove_dead_socket()
                self._listener.bind(os.fspath(path))
            self._identity = self._stat()
            self._listener.listen(1)
        except OSError as error:
            self._listener.close()
            reason = error.strerror or str(error)  # a path that is too long has no errno
            raise UsageError(f"serial: unix={path}: {reason}; give a path where a socket can be made") from error
        except UsageError:
            self._listener.close()
            raise
        atexit.register(self._remove_socket)

    def attach(self, line: Line, context: DeviceContext) -> None:
        super().attach(line, context)
        self._context = context
        self._listen()

    def close(self) -> None:
        super().close()
        self._close_client()
        self._listener.close()
        self._remove_socket()

    def _listen(self) -> None:
        self._context.loop.add(self._listener.fileno(), self._on_client)

    def _on_client(self, _: int) -> None:
        assert self.line is not None
        try:
            client, _address = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("%s: %s: %s; no more clients", self._context.name, self.path, error.strerror)
            self._context.loop.remove(self._listener.fileno())
            return
        self._context.loop.remove(self._listener.fileno())
        client.setblocking(False)
        self._client = client
        # epoll takes a descriptor once, and input and output are watched independently.
        self._client_fd = os.dup(client.fileno())
        self.output = _SocketOutput(self._context.name, client.fileno())
        self.line.connect(self.output)
        self.input = DescriptorInput(self._client_fd, self.line, on_end=self._on_end)
        self.input.start(self._context.loop)

    def _on_end(self) -> None:
        """The client sends no more; has it left as well?"""
        poll = select.poll()
        poll.register(self._client_fd, 0)
        if poll.poll(0):
            self._on_hang_up(0)
        else:
            self._context.loop.add(self._client_fd, self._on_hang_up, 0)

    def _on_hang_up(self, _: int) -> None:
        assert self.line is not None
        self._context.loop.remove(self._client_fd)
        self.line.disconnect()
        self.input = self.output = None
        self._close_client()
        self._listen()

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
            os.close(self._client_fd)
            self._client_fd = -1

    def _stat(self) -> tuple[int, int]:
        status = os.lstat(self.path)
        return status.st_dev, status.st_ino

    def _remove_dead_socket(self) -> None:
        if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
            raise UsageError(f"serial: unix={self.path}: something that is no socket is there; give another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(os.fspath(self.path)) != errno.ECONNREFUSED:
                raise UsageError(f"serial: unix={self.path}: another process listens there; give another path")
        os.unlink(self.path)

    def _remove_socket(self) -> None:
        atexit.unregister(self._remove_socket)
        try:
            if self._stat() == self._identity:
                os.unlink(self.path)
        except OSError:
            pass  # it is gone


class _SocketOutput(DescriptorOutput):
    def _lose(self, error: OSError) -> None:
        """EPIPE: the client left."""
