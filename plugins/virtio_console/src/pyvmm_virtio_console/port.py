"""Port 0: the guest's end of a line to the host, which is two queues (virtio 1.2, section 5.3.6)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.chardev.line import Output
    from pyvmm.host.eventloop import LoopScope
    from pyvmm.virtio.queue import DescriptorChain, Queue

MAX_BYTES: Final = 256 << 10
"""What is written at a time, more or less, so that other devices on the loop get their turn."""

LAST_WORDS: Final = 1 << 20
"""Bytes of output that a machine's end waits for, at most."""

_CHUNK: Final = 64 << 10


class Port:
    """A :class:`pyvmm.chardev.line.Line`. Nothing is kept here: output stays in the guest's buffers until the host
    takes it, and input with the host until the guest has buffers."""

    def __init__(self, *, drops: bool) -> None:
        """``drops``: what the host does not take at once is dropped, rather than the guest made to wait."""
        self.drops = drops
        self.lost = 0
        """Bytes of the guest's that were dropped."""

        self._output: Output | None = None
        self._watching = False
        self._loop: LoopScope | None = None
        self._receiveq: Queue | None = None
        self._transmitq: Queue | None = None
        self._chain: DescriptorChain | None = None
        """What the host has taken in part, up to ``_offset``."""
        self._offset = 0

    # The guest's end.

    def activate(self, loop: LoopScope, receiveq: Queue, transmitq: Queue) -> None:
        """There is a driver."""
        self._loop, self._receiveq, self._transmitq = loop, receiveq, transmitq

    def deactivate(self) -> None:
        """There is none any more, or none that is served."""
        self._unwatch()
        self._receiveq = self._transmitq = self._chain = None
        self._offset = 0

    def transmit(self) -> None:
        """Write what the driver has sent."""
        if self._transmitq is not None and self._write(MAX_BYTES) >= MAX_BYTES:
            self._transmitq.event.signal()

    # The host's end.

    def connect(self, output: Output) -> None:
        """As :meth:`Line.connect`."""
        self._output = output

    def disconnect(self) -> None:
        """As :meth:`Line.disconnect`."""
        self._unwatch()
        self._output = None
        self.transmit()

    def send(self, data: bytes) -> None:
        """As :meth:`Line.send`; what the host does not take at once is lost."""
        if self._output is not None:
            self._output.write(data)

    def input_room(self) -> int:
        """As :meth:`Line.input_room`."""
        chain = self._next_room()
        if chain is None:
            return 0
        assert self._receiveq is not None
        self._receiveq.unpop(chain)
        return chain.writable_length

    def deliver(self, data: bytes) -> None:
        """As :meth:`Line.deliver`."""
        while data and (chain := self._next_room()) is not None:
            size = chain.write(0, data)
            chain.complete(size)
            data = data[size:]

    def drain(self, wait: Callable[[], bool]) -> None:
        """As :meth:`Line.drain`."""
        left = LAST_WORDS
        while left > 0:
            done = self._write(left)
            if self._chain is None or not (done or wait()):
                return
            left -= done

    def _next_room(self) -> DescriptorChain | None:
        """The next chain that takes input; None where there is none, and the driver will kick when there is."""
        queue = self._receiveq
        for _ in range(2 * queue.size if queue is not None else 0):
            assert queue is not None
            chain = queue.pop()
            if chain is None or chain.writable_length:
                return chain
            chain.complete()
        return None

    def _write(self, limit: int) -> int:
        """Write up to about ``limit`` bytes: how many were taken or are lost; ``limit`` where more may be left."""
        queue, done = self._transmitq, 0
        if queue is None:
            return 0
        for _ in range(2 * queue.size):
            chain = self._chain or queue.pop()
            if chain is None:
                self._unwatch()
                return done
            left = chain.readable_length - self._offset
            size = min(left, _CHUNK)
            taken = self._output.write(chain.read(self._offset, size)) if self._output and size else size
            is_full = taken < size
            if self._output is None:
                taken = left
            elif is_full and self.drops:
                self.lost += left - taken
                taken = left
            self._chain, self._offset = (chain, self._offset + taken) if taken < left else (None, 0)
            if self._chain is None:
                chain.complete()
            done += taken
            if self._chain is not None and is_full and self._watch():
                return done
            if done >= limit:
                break
        return max(done, limit)

    def _watch(self) -> bool:
        """Go on when the host takes more; False where it always does."""
        assert self._output is not None and self._loop is not None
        self._watching = self._output.watch(self._loop, lambda _: self.transmit())
        return self._watching

    def _unwatch(self) -> None:
        if self._watching and self._output is not None and self._loop is not None:
            self._output.unwatch(self._loop)
        self._watching = False
