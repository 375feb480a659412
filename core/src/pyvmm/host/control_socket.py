"""A device's control socket: a client sends one command a line, and gets one line of JSON for each."""

from __future__ import annotations

import json
from functools import partial

from pyvmm.host.unix_listener import UnixListener
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Final, TypeAlias

    from pyvmm.host.eventloop import LoopScope

__all__ = ["Answer", "Command", "ControlSocket"]

log = logger(__name__)

Answer: TypeAlias = "Callable[[Mapping[str, object]], None]"
"""Takes the answer to a command, once. The answer is a value that JSON can express."""

Command: TypeAlias = "Callable[[str, Answer], None]"
"""Carries out a command. It gets the rest of the line after the command's name, and answers now or later.

It raises ValueError with a phrase that tells the user what is wrong.
"""

_MAX_LINE: Final = 4096
"""The longest command, in bytes."""


class ControlSocket:
    """Takes commands to a device at a Unix socket.

    ::

        $ echo size 64M | socat - UNIX:balloon.sock
        {"target": 67108864, "actual": 0}

    A client's commands are carried out one after the other. A command that fails is answered with ``{"error": "…"}``.
    Everything runs on the loop's thread.
    """

    def __init__(self, path: Path, what: str) -> None:
        """``what`` begins an error's message, such as ``balloon: socket=/run/vm.sock``.

        Raises :class:`UsageError` if no socket can be made at ``path``.
        """
        self._listener = UnixListener(path, what, backlog=8)
        self._clients: set[_Client] = set()
        self._commands: Mapping[str, Command] = {}
        self._loop: LoopScope | None = None

    def attach(self, loop: LoopScope, commands: Mapping[str, Command]) -> None:
        """Start to listen. ``commands`` has the commands by name."""
        self._loop = loop
        self._commands = commands
        loop.add(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Disconnect all clients and remove the socket; closing twice does nothing."""
        if self._loop is not None and self._listener.fileno() >= 0:
            self._loop.remove(self._listener.fileno())
        for client in list(self._clients):
            client.close()
        self._listener.close()

    def _accept(self, _: int) -> None:
        sock = self._listener.accept()
        if sock is not None:
            assert self._loop is not None
            try:
                self._clients.add(_Client(sock, self._loop, self._commands, self._clients.discard))
            except OSError as error:  # it cannot be watched
                self._listener.refused(error)
                sock.close()


class _Client:
    """A connected client."""

    def __init__(
        self,
        sock: socket.socket,
        loop: LoopScope,
        commands: Mapping[str, Command],
        on_close: Callable[[_Client], None],
    ) -> None:
        self._socket = sock
        self._loop = loop
        self._commands = commands
        self._on_close = on_close
        self._input = b""
        self._waits = False
        """Whether a command is waiting for its answer."""
        self._sends_no_more = False
        loop.add(sock.fileno(), self._readable)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._on_close(self)

    def _readable(self, _: int) -> None:
        try:
            data = self._socket.recv(_MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._sends_no_more = True
            self._loop.remove(self._socket.fileno())
            data = b"\n"  # the last line may lack it
        self._input += data
        if len(self._input) > _MAX_LINE:
            self.close()  # it does not wait for answers, or sends no commands
        else:
            self._serve()

    def _serve(self) -> None:
        """Carry out the next command, if the last one was answered."""
        if self._waits or self._socket.fileno() < 0:
            return
        while b"\n" in self._input:
            line, self._input = self._input.split(b"\n", 1)
            name, _, argument = line.decode(errors="replace").strip().partition(" ")
            if name:
                self._waits = True
                self._carry_out(name, argument.strip())
                return
        if self._sends_no_more:
            self.close()

    def _carry_out(self, name: str, argument: str) -> None:
        answer = partial(self._answer, [])
        command = self._commands.get(name)
        try:
            if command is None:
                raise ValueError(f"unknown command {name!r}; the commands are {', '.join(self._commands)}")
            command(argument, answer)
        except ValueError as error:
            answer({"error": str(error)})

    def _answer(self, given: list[bool], answer: Mapping[str, object]) -> None:
        """Send ``answer``, if it is the command's first, and continue with the next command."""
        if given or self._socket.fileno() < 0:
            return
        given.append(True)
        line = json.dumps(answer).encode() + b"\n"
        try:
            if self._socket.send(line) < len(line):
                raise BlockingIOError
        except OSError:
            self.close()  # it has left, or does not read
            return
        self._waits = False
        self._loop.post(self._serve)
