"""The rest of a closed stream's data, on its way to a program on the host that has not read it yet."""

from __future__ import annotations

import select
import socket
import time

from pyvmm.host.eventloop import WRITABLE, LoopScope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Drain:
    """Writes the rest to a socket, then closes it."""

    def __init__(self, sock: socket.socket, rest: bytearray, loop: LoopScope, on_end: Callable[[Drain], None]) -> None:
        """Take over the non-blocking ``sock``. ``on_end`` is called when it is closed."""
        self._socket = sock
        self._rest = rest
        self._loop = loop
        self._on_end = on_end
        self.watch()

    @property
    def size(self) -> int:
        """The number of bytes left."""
        return len(self._rest)

    def watch(self) -> None:
        """Wait on the loop until the host reads. It may be called again."""
        self._loop.remove(self._socket.fileno())
        self._loop.add(self._socket.fileno(), self._write, WRITABLE)

    def finish(self, deadline: float) -> None:
        """Wait for the host until ``deadline`` by time.monotonic(). After that, unread data is lost."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while self._socket.fileno() >= 0 and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self._write(0)
        self._end()

    def _write(self, _: int) -> None:
        try:
            done = self._socket.send(self._rest, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            done = len(self._rest)  # no program reads it
        del self._rest[:done]
        if not self._rest:
            self._end()

    def _end(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._on_end(self)
