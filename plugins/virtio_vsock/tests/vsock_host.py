"""The host's side for tests: programs with Unix sockets."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from vsock_guest import REQUEST, RESPONSE, Guest, Stream


class Host:
    """Programs that connect and listen; their sockets do not block, and are closed at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sockets: list[socket.socket] = []

    def connect(self, line: bytes = b"") -> socket.socket:
        """A client of the device's socket that says ``line``."""
        client = self._keep(socket.socket(socket.AF_UNIX))
        client.connect(str(self.path))
        client.setblocking(False)
        if line:
            client.sendall(line)
        return client

    def listen(self, port: int, backlog: int = 16) -> socket.socket:
        """A server at a port of the host."""
        server = self._keep(socket.socket(socket.AF_UNIX))
        server.bind(f"{self.path}_{port}")
        server.listen(backlog)
        server.setblocking(False)
        return server

    def accept(self, server: socket.socket) -> socket.socket:
        """The server's next client, which must be there."""
        client = self._keep(server.accept()[0])
        client.setblocking(False)
        return client

    def open(self, guest: Guest, port: int, buf_alloc: int = 256 << 10) -> tuple[Stream, socket.socket]:
        """A stream from a program of the host to a port of the guest, which accepts."""
        client = self.connect(b"CONNECT %d\n" % port)
        packet = guest.packet()
        assert (packet.op, packet.header.dst_port) == (REQUEST, port)
        stream = Stream(guest, packet.header.src_port, port, buf_alloc=buf_alloc)
        stream.hear(packet)
        if not guest.rx.in_flight:
            guest.post()
        stream.send(RESPONSE)
        match = re.fullmatch(rb"OK (\d+)\n", client.recv(100))
        assert match and int(match[1]) == stream.host_port
        return stream, client

    def _keep(self, sock: socket.socket) -> socket.socket:
        self.sockets.append(sock)
        return sock

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.sockets:
            sock.close()


def receive(sock: socket.socket, size: int = 1 << 20) -> bytes:
    """The available data, up to ``size`` bytes; empty if there is none or the other side has ended."""
    data = bytearray()
    while len(data) < size:
        try:
            part = sock.recv(size - len(data))
        except BlockingIOError:
            break
        if not part:
            break
        data += part
    return bytes(data)


def has_ended(sock: socket.socket) -> bool:
    """Whether the other side has ended and all of its data was received."""
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
