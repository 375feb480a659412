"""The cable between the UART and the host: bounded in both directions, and the place where threads meet."""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Protocol

    from pyvmm.chardev.line import Output
    from pyvmm.host.eventloop import LoopScope
else:
    Protocol = object

log = logger(__name__)

OUTPUT_FULL: Final = 256 << 10
"""Bytes that wait for a host that does not read, from which on the guest's transmitter is held off."""

OUTPUT_ROOM: Final = 4 << 10
"""Bytes of room from which on it may go on: little, since Linux's console waits about 10 ms, then writes anyway."""

OUTPUT_LIMIT: Final = OUTPUT_FULL + (64 << 10)
"""Bytes at which output of a guest that does not heed THRE is dropped."""

INPUT_LIMIT: Final = 4 << 10
"""Bytes that wait for a guest that does not read, at which the host's end is read no more."""

_CHUNK: Final = 64 << 10


class Port(Protocol):
    """What the line tells the UART."""

    def transmitter_ready(self) -> None:
        """It can take output again."""

    def receiver_ready(self) -> None:
        """It has input, where it had none."""


class Line:
    """A cable from the UART to what is on the host: a :class:`pyvmm.chardev.line.Line`, with a guest's end.

    ``send`` and ``take`` are called on vCPU threads. Everything else belongs to the loop's thread.

    What is sent is written to the host at once, on the thread that sends it; the loop gets what the host does not
    take. Measured on /dev/kvm with a guest that polls LSR and writes THR, leaving all of it to the loop took 15 to
    45 % more CPU time, as the loop's thread contends for the GIL with the vCPU's, and in elapsed time lost on files
    what it won on pipes and ptys. With fast ports, which bring bursts instead of characters, a character took half
    of either.
    """

    def __init__(self) -> None:
        self.full = False
        self._lock = allocate_lock()
        self._port: Port | None = None
        self._loop: LoopScope | None = None
        self._output: Output | None = None
        self._unsent = bytearray()
        self._unread = bytearray()
        self._watching = False
        self._resume: Callable[[], None] | None = None
        self._input_paused = False
        self.lost = 0
        """Bytes of the guest's that were dropped since it did not wait."""

    @property
    def waiting(self) -> bool:
        """Whether there is input."""
        return bool(self._unread)

    # The guest's end.

    def send(self, data: bytes) -> None:
        """Take output: to the host at once, or as soon as it takes it; lost where there is no host's end."""
        with self._lock:
            output = self._output
            if output is None:
                return
            if not self._unsent:
                done = output.write(data)
                if done == len(data):
                    return
                data = data[done:]
                if not self._watching and self._loop is not None:
                    self._watching = True
                    self._loop.post(self._watch)
            room = OUTPUT_LIMIT - len(self._unsent)
            self.lost += max(0, len(data) - room)
            self._unsent += data[:room]
            self.full = len(self._unsent) >= OUTPUT_FULL

    def take(self, limit: int) -> bytes:
        """At most ``limit`` bytes of input."""
        with self._lock:
            data = bytes(self._unread[:limit])
            del self._unread[:limit]
            if self._input_paused and len(self._unread) <= INPUT_LIMIT // 2:
                self._input_paused = False
                if self._resume is not None and self._loop is not None:
                    self._loop.post(self._resume)
            return data

    # The host's end.

    def attach(self, port: Port, loop: LoopScope, resume_input: Callable[[], None] | None = None) -> None:
        """Connect the UART; ``resume_input`` is called on the loop's thread when input that paused may go on."""
        self._port = port
        self._loop = loop
        self._resume = resume_input

    def detach(self) -> None:
        """Tell the UART nothing more."""
        self._port = None
        self._resume = None

    def connect(self, output: Output) -> None:
        """Let output go to ``output``."""
        with self._lock:
            self._output = output

    def disconnect(self) -> None:
        """Let output go nowhere, and what waits too."""
        with self._lock:
            output, self._output = self._output, None
            self._unsent.clear()
            self._watching = False
        if output is not None and self._loop is not None:
            output.unwatch(self._loop)
        self._make_room()

    def input_room(self) -> int:
        """How many bytes may be read from the host now; after a 0, ``resume_input`` is called when there is room."""
        with self._lock:
            room = INPUT_LIMIT - len(self._unread)
            if room <= 0:
                self._input_paused = True
            return room

    def deliver(self, data: bytes) -> None:
        """Take input, up to the room that there is: the rest is lost."""
        with self._lock:
            had_input = bool(self._unread)
            self._unread += data[: INPUT_LIMIT - len(self._unread)]
        if not had_input and self._port is not None:
            self._port.receiver_ready()

    def flush(self) -> None:
        """Write what waits, as far as the host takes it at once; a chunk at most, for others live on the loop too."""
        output = self._output
        if output is None:
            return
        chunk = bytes(self._unsent[:_CHUNK])
        # Not under the lock, for it may take long and a vCPU may want to send: meanwhile it only appends.
        done = output.write(chunk)
        with self._lock:
            del self._unsent[:done]
            finished = not self._unsent
            if finished:
                self._watching = False
        if finished and self._loop is not None:
            output.unwatch(self._loop)
        self._make_room()

    def drain(self, wait: Callable[[], bool]) -> None:
        """Write all that waits, before the end; ``wait`` waits until the host takes more, or says that it will not."""
        while self._output is not None and self._unsent:
            before = len(self._unsent)
            self.flush()
            if len(self._unsent) == before and not wait():
                return

    def _make_room(self) -> None:
        with self._lock:
            ready = self.full and len(self._unsent) <= OUTPUT_FULL - OUTPUT_ROOM
            if ready:
                self.full = False
        if ready and self._port is not None:
            self._port.transmitter_ready()

    def _watch(self) -> None:
        if not self._watching or self._output is None or self._loop is None:
            return
        if not self._output.watch(self._loop, lambda _: self.flush()):
            while self._unsent:
                self.flush()
