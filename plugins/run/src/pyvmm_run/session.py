"""One command in the guest: its streams, its signals and its status, over one connection."""

from __future__ import annotations

import errno
import os
import select
import socket
import time

from pyvmm.errors import PyvmmError

from pyvmm_run import protocol
from pyvmm_run.protocol import MAX_DATA, WINDOW, Decoder, GuestLostError, ProtocolError
from pyvmm_run.streams import Sink, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm_run.protocol import Frame

_CONTROL_ROOM: Final = 64
"""Signals and sizes that may wait to be sent; more are dropped."""


class CommandError(PyvmmError):
    """A command that cannot be started in the guest. ``errno`` says why, as execve(2) and chdir(2) do."""

    def __init__(self, number: int, what: str) -> None:
        self.errno = number
        self.what = what
        super().__init__(f"{what}: {os.strerror(number)}")

    @property
    def exit_status(self) -> int:  # type: ignore[override]
        """As of a shell: 127 for a command that does not exist, 126 for one that cannot be run."""
        return 127 if self.errno == errno.ENOENT else 126


class TimedOutError(Exception):
    """The command has not ended in time."""


class Session:
    """The host's end of a command. :meth:`run` serves it; the other methods may be called meanwhile, from any thread
    or signal handler."""

    def __init__(self, connection: socket.socket) -> None:
        """``connection`` leads to the guest's program; it becomes this object's."""
        self._socket = connection
        self._control: list[bytes] = []
        self._aborted = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command and the processes of its group."""
        self._post(protocol.signal(number))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command that its terminal has another size."""
        self._post(protocol.size(rows, columns))

    def abort(self) -> None:
        """Have :meth:`run` raise :class:`GuestLostError`; the guest kills the command."""
        self._aborted = True
        self._post(b"")

    def _post(self, data: bytes) -> None:
        if len(self._control) < _CONTROL_ROOM:
            self._control.append(data)
        try:
            os.eventfd_write(self._wake, 1)
        except OSError:
            pass  # it is over, or awake

    def run(
        self,
        request: bytes,
        stdin: Source,
        stdout: Sink,
        stderr: Sink,
        *,
        deadline: float | None = None,
        on_start: Callable[[], object] = lambda: None,
    ) -> int:
        """Run a command; its status, or, below zero, the number of the signal that ended it.

        ``request`` is of :func:`pyvmm_run.protocol.command`; ``deadline`` is a time of time.monotonic(). Raises
        :class:`CommandError`, :class:`TimedOutError`, :class:`GuestLostError` and
        :class:`~pyvmm_run.protocol.ProtocolError`. The connection is closed in any case; the guest then kills a command
        that still runs.
        """
        try:
            return _Run(self, stdin, stdout, stderr, on_start).serve(request, deadline)
        finally:
            self._socket.close()
            os.close(self._wake)
            self._wake = -1
            stdout.close()
            stderr.close()


class _Run:
    """The state of a command that runs."""

    def __init__(
        self, session: Session, stdin: Source, stdout: Sink, stderr: Sink, on_start: Callable[[], object]
    ) -> None:
        self._session = session
        self._socket = session._socket
        self._stdin = stdin
        self._sinks = {protocol.STDOUT: stdout, protocol.STDERR: stderr}
        self._on_start = on_start
        self._decoder = Decoder()
        self._to_guest = bytearray()
        self._credit = WINDOW
        """Bytes of input that the guest takes."""
        self._given = {protocol.STDOUT: WINDOW, protocol.STDERR: WINDOW}
        """Bytes of output that the guest may send."""
        self._owed = {protocol.STDOUT: 0, protocol.STDERR: 0}
        """Bytes that are done with, and that the guest may send again but was not told of."""
        self._open = {protocol.STDOUT, protocol.STDERR}
        self._told: set[int] = set()
        """Those streams of which the guest knows that nobody reads them."""
        self._started = False
        self._status: int | None = None

    def serve(self, request: bytes, deadline: float | None) -> int:
        self._socket.setblocking(False)
        self._to_guest += request
        while self._status is None or any(sink.pending for sink in self._sinks.values()):
            self._fill()
            ready = self._wait(deadline)
            if self._session._wake in ready:
                self._take_control()
            for stream, sink in self._sinks.items():
                if sink.pending and sink.fd in ready:
                    self._done_with(stream, sink.flush())
                if sink.broken:
                    self._nobody_reads(stream)
            if self._socket.fileno() in ready and self._status is None:
                self._send()
                self._receive()
        return self._status

    def _wait(self, deadline: float | None) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._session._wake, select.POLLIN)
        if self._status is None:
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._to_guest else 0))
            if self._wants_input() and self._stdin.fd >= 0:
                poll.register(self._stdin.fd, select.POLLIN)
        for sink in self._sinks.values():
            if sink.pending:
                poll.register(sink.fd, select.POLLOUT)
        if self._wants_input() and self._stdin.fd < 0:
            return dict(poll.poll(0))
        if deadline is None:
            timeout = None
        else:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOutError
            timeout = min(left, 86400.0) * 1000 + 1
        ready = dict(poll.poll(timeout))
        if self._stdin.fd in ready and self._wants_input():
            self._take_input()
        return ready

    def _wants_input(self) -> bool:
        return (
            self._started
            and self._status is None
            and not self._stdin.ended
            and self._credit > 0
            and len(self._to_guest) < MAX_DATA
        )

    def _take_input(self) -> None:
        data = self._stdin.read(self._credit)
        if data:
            self._credit -= len(data)
            self._to_guest += protocol.frame(protocol.DATA, protocol.STDIN, data)
        elif self._stdin.ended:
            self._to_guest += protocol.frame(protocol.END, protocol.STDIN)

    def _fill(self) -> None:
        """Have something to send: what is in memory, and credit that is owed."""
        for stream in self._sinks:
            self._done_with(stream, 0)
        while self._stdin.fd < 0 and self._wants_input():
            self._take_input()

    def _take_control(self) -> None:
        try:
            os.eventfd_read(self._session._wake)
        except BlockingIOError:
            pass
        if self._session._aborted:
            raise GuestLostError("the command was given up")
        control = self._session._control
        while control:
            self._to_guest += control.pop(0)

    def _send(self) -> None:
        try:
            while self._to_guest:
                n = self._socket.send(memoryview(self._to_guest)[: 4 * MAX_DATA])
                del self._to_guest[:n]
        except BlockingIOError:
            pass
        except OSError:
            self._to_guest.clear()  # the end is seen where it is received, behind what came before it

    def _receive(self) -> None:
        try:
            data = self._socket.recv(4 * MAX_DATA)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise GuestLostError("the guest's program ended before the command did")
        for frame in self._decoder.feed(data):
            if self._status is not None:
                raise ProtocolError("the guest's program breaks the protocol: a frame after the command's end")
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        first = not self._started
        if frame.type == protocol.FAILED and first:
            raise CommandError(frame.errno, frame.text)
        if (frame.type == protocol.STARTED) != first or frame.type in (protocol.FAILED, protocol.HELLO):
            raise ProtocolError(f"the guest's program breaks the protocol: an unexpected frame of type {frame.type}")
        match frame.type:
            case protocol.STARTED:
                self._started = True
                self._on_start()
            case protocol.DATA:
                self._take_output(frame)
            case protocol.END:
                self._open.discard(frame.stream)
            case protocol.CREDIT:
                self._credit += frame.number
                if self._credit > WINDOW:
                    raise ProtocolError("the guest's program breaks the protocol: more credit than it has room")
            case protocol.EXIT:
                if self._open or not (frame.number < 256 or 0 < frame.number - 256 < 128):
                    raise ProtocolError("the guest's program breaks the protocol: an end of the command that is none")
                self._status = frame.number if frame.number < 256 else 256 - frame.number

    def _take_output(self, frame: Frame) -> None:
        stream = frame.stream
        if stream not in self._open or len(frame.data) > self._given[stream]:
            raise ProtocolError("the guest's program breaks the protocol: output beyond its end or its credit")
        self._given[stream] -= len(frame.data)
        self._done_with(stream, self._sinks[stream].take(frame.data))

    def _done_with(self, stream: int, length: int) -> None:
        self._owed[stream] += length
        # A guest that takes nothing from us gets no more credit, which would only pile up here.
        if self._owed[stream] >= WINDOW // 4 and stream in self._open and len(self._to_guest) < 4 * MAX_DATA:
            self._to_guest += protocol.credit(stream, self._owed[stream])
            self._given[stream] += self._owed[stream]
            self._owed[stream] = 0

    def _nobody_reads(self, stream: int) -> None:
        if stream not in self._told:
            self._told.add(stream)
            self._to_guest += protocol.frame(protocol.END, stream)
