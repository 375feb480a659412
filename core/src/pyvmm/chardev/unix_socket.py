"""``unix=PATH``: a listening UNIX domain socket (unix(7))."""

from __future__ import annotations

import os
import select

from pyvmm.chardev.backend import Backend
from pyvmm.chardev.descriptors import DescriptorInput, PeerOutput
from pyvmm.host.unix_listener import UnixListener

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from pyvmm.chardev.line import Line
    from pyvmm.device_context import DeviceContext


class UnixSocket(Backend):
    """A socket that serves one client at a time; other clients wait until that one leaves.

    While there is no client, output is lost: a line that is not plugged in does not make the guest wait. A client that
    has shut down its sending half still gets output, until it closes the socket.
    """

    def __init__(self, kind: str, path: Path) -> None:
        """Raises :class:`UsageError` if no socket can be made at ``path``, or if another file is there."""
        self._listener = UnixListener(path, f"{kind}: unix={path}")
        self._client: socket.socket | None = None
        self._client_fd = -1

    def attach(self, line: Line, context: DeviceContext) -> None:
        super().attach(line, context)
        self._context = context
        self._listen()

    def close(self) -> None:
        super().close()
        self._close_client()
        self._listener.close()

    def _listen(self) -> None:
        self._context.loop.add(self._listener.fileno(), self._on_client)

    def _on_client(self, _: int) -> None:
        assert self.line is not None
        client = self._listener.accept()
        if client is None:
            return
        try:
            # epoll takes a descriptor once, and input and output are watched independently.
            self._client_fd = os.dup(client.fileno())
        except OSError as error:
            self._listener.refused(error)
            client.close()
            return
        self._context.loop.remove(self._listener.fileno())
        self._client = client
        self.output = PeerOutput(self._context.title, client.fileno())
        self.line.connect(self.output)
        self.input = DescriptorInput(self._client_fd, self.line, on_end=self._on_end)
        try:
            self.input.start(self._context.loop)
        except OSError as error:  # it cannot be watched
            self._listener.refused(error)
            self._on_hang_up(0)
        else:
            self._context.tell("console_connected")

    def _on_end(self) -> None:
        """Handle the end of a client's input, and check whether the client has closed the socket as well."""
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
