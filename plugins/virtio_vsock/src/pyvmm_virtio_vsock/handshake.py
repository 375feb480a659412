"""The handshake of a program that connects to the device's socket: it sends ``CONNECT port``.

The protocol is that of Firecracker and Cloud Hypervisor. If the guest accepts, the answer is ``OK`` and the host's
port; otherwise the connection is closed.
"""

from __future__ import annotations

import re
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.host.eventloop import LoopScope

MAX_LINE: Final = 32
"""The most bytes of the line, with its end."""

TIMEOUT: Final = 10.0
"""Seconds within which a program has to send the line. Until then it counts as a stream, whose number is limited."""

_MAX_PORT: Final = 0xFFFFFFFF


class Handshake:
    """A connection that has not sent its line yet."""

    def __init__(self, sock: socket.socket, loop: LoopScope, on_line: Callable[[Handshake, int | None], None]) -> None:
        """Take over the non-blocking ``sock``. ``on_line`` is called once, with the requested port, or with None for a
        wrong line or none within :data:`TIMEOUT`. The socket is removed from the loop before that."""
        self.socket = sock
        self._loop = loop
        self._on_line = on_line
        self._line = b""
        loop.add(sock.fileno(), self._on_readable)
        self._timer = loop.call_later(TIMEOUT, lambda: self._end(None))

    def close(self) -> None:
        """Close the connection."""
        self._timer.cancel()
        self._loop.remove(self.socket.fileno())
        self.socket.close()

    def _on_readable(self, _: int) -> None:
        try:
            # Data after the line may have arrived already. It is for the guest, so it is not read here.
            data = self.socket.recv(MAX_LINE - len(self._line), socket.MSG_PEEK)
            data = self.socket.recv(data.index(b"\n") + 1 if b"\n" in data else len(data))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._line += data
        if data and not self._line.endswith(b"\n") and len(self._line) < MAX_LINE:
            return
        self._end(parse(self._line))

    def _end(self, port: int | None) -> None:
        self._timer.cancel()
        self._loop.remove(self.socket.fileno())
        self._on_line(self, port)


def parse(line: bytes) -> int | None:
    """The port of a line ``CONNECT port``; None for any other."""
    match = re.fullmatch(rb"\s*connect\s+([0-9]{1,10})\s*\n", line, re.IGNORECASE)
    port = int(match[1]) if match else _MAX_PORT + 1
    return port if port <= _MAX_PORT else None
