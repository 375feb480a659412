"""The cable between the UART and the host. It is bounded in both directions, and vCPUs' threads meet the loop's thread
here."""

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
"""When this many bytes wait for a host that does not read, the guest's transmitter is stopped."""

OUTPUT_ROOM: Final = 4 << 10
"""When this many bytes are free, the transmitter continues. It is little, since Linux's console waits only about 10
ms."""

OUTPUT_LIMIT: Final = OUTPUT_FULL + (64 << 10)
"""When this many bytes wait, output of a guest that ignores THRE is dropped."""

INPUT_LIMIT: Final = 4 << 10
"""When this many bytes wait for a guest that does not read, the host's end is not read."""

_CHUNK: Final = 64 << 10


class Port(Protocol):
    """The UART, as the line calls it."""

    def send_all(self) -> None:
        """Send what the guest has written and the UART still holds."""

    def transmitter_ready(self) -> None:
        """The line can take output again."""

    def receiver_ready(self) -> None:
        """The line has input, after it had none."""


class Line:
    """A cable from the UART to the host's end: a :class:`pyvmm.chardev.line.Line`, with methods for the UART.

    ``send`` and ``take`` are called on vCPU threads. Everything else belongs to the loop's thread.

    ``send`` writes output to the host immediately, on the calling thread; the loop writes the rest that the host does
    not take. This was measured on /dev/kvm with a guest that polls LSR and writes THR. If the loop wrote everything, it
    took 15 to 45 % more CPU time, since the loop's thread and the vCPU's compete for the GIL; elapsed time was longer
    on files and shorter on pipes and ptys. With fast ports, which bring bursts instead of characters, a character took
    half of both times.
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
        """The number of the guest's bytes that were dropped because it did not wait."""

    @property
    def waiting(self) -> bool:
        """Whether there is input."""
        return bool(self._unread)

    # The guest's end.

    def send(self, data: bytes) -> None:
        """Take output, and write it to the host immediately or as soon as the host can take it. Without a host's end it
        is lost."""
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
        """Connect the UART. ``resume_input`` is called on the loop's thread when paused input may continue."""
        self._port = port
        self._loop = loop
        self._resume = resume_input

    def detach(self) -> None:
        """Stop calling the UART."""
        self._port = None
        self._resume = None

    def connect(self, output: Output) -> None:
        """Send output to ``output``."""
        with self._lock:
            self._output = output

    def disconnect(self) -> None:
        """Drop output, and waiting output too."""
        with self._lock:
            output, self._output = self._output, None
            self._unsent.clear()
            self._watching = False
        if output is not None and self._loop is not None:
            output.unwatch(self._loop)
        self._make_room()

    def input_room(self) -> int:
        """The number of bytes that may be read from the host now. After a 0, ``resume_input`` is called when there is
        room."""
        with self._lock:
            room = INPUT_LIMIT - len(self._unread)
            if room <= 0:
                self._input_paused = True
            return room

    def deliver(self, data: bytes) -> None:
        """Take input, up to the free room. The rest is lost."""
        with self._lock:
            had_input = bool(self._unread)
            self._unread += data[: INPUT_LIMIT - len(self._unread)]
        if not had_input and self._port is not None:
            self._port.receiver_ready()

    def flush(self) -> None:
        """Write waiting output, as much as the host takes now, but at most a chunk, so that other devices on the loop
        get their turn."""
        output = self._output
        if output is None:
            return
        chunk = bytes(self._unsent[:_CHUNK])
        # Without the lock, since this may take long and a vCPU may want to send. Meanwhile a vCPU only appends.
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
        """Write all waiting output, before the end. ``wait`` waits until the host can take more; it returns False if
        the host does not."""
        if self._port is not None:
            self._port.send_all()
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
