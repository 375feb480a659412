"""Port 0: the guest's end of a line to the host, with two queues (virtio 1.2, section 5.3.6)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.chardev.line import Output
    from pyvmm.host.eventloop import LoopScope
    from pyvmm.virtio.queue import DescriptorChain, Queue

MAX_BYTES: Final = 256 << 10
"""About the most bytes that are written in one turn, so that other devices on the loop get their turn."""

LAST_WORDS: Final = 1 << 20
"""The most bytes of output that are still written at the machine's end."""

_CHUNK: Final = 64 << 10


class Port:
    """A :class:`pyvmm.chardev.line.Line` without buffers of its own: output stays in the guest's buffers until the host
    takes it, and input stays on the host until the guest has buffers."""

    def __init__(self, *, drops: bool) -> None:
        """``drops``: whether output that the host does not take immediately is dropped; otherwise the guest waits."""
        self.drops = drops
        self.lost = 0
        """The number of the guest's bytes that were dropped."""

        self._output: Output | None = None
        self._watching = False
        self._loop: LoopScope | None = None
        self._receiveq: Queue | None = None
        self._transmitq: Queue | None = None
        self._chain: DescriptorChain | None = None
        """The chain that the host has taken in part, up to ``_offset``."""
        self._offset = 0

    # The guest's end.

    def activate(self, loop: LoopScope, receiveq: Queue, transmitq: Queue) -> None:
        """Start to serve the driver's queues."""
        self._loop, self._receiveq, self._transmitq = loop, receiveq, transmitq

    def deactivate(self) -> None:
        """Stop: the driver has gone or is not served any more."""
        self._unwatch()
        self._receiveq = self._transmitq = self._chain = None
        self._offset = 0

    def transmit(self) -> None:
        """Write the driver's output."""
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
        """As :meth:`Line.send`. Data that the host does not take immediately is lost."""
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
        """The next chain for input; None if there is none. The driver then kicks when it adds one."""
        queue = self._receiveq
        for _ in range(2 * queue.size if queue is not None else 0):
            assert queue is not None
            chain = queue.pop()
            if chain is None or chain.writable_length:
                return chain
            chain.complete()
        return None

    def _write(self, limit: int) -> int:
        """Write up to about ``limit`` bytes. Returns the number of bytes taken or lost; ``limit`` or more if there may
        be more."""
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
        """Continue when the host can take more. Returns False if it always can."""
        assert self._output is not None and self._loop is not None
        self._watching = self._output.watch(self._loop, lambda _: self.transmit())
        return self._watching

    def _unwatch(self) -> None:
        if self._watching and self._output is not None and self._loop is not None:
            self._output.unwatch(self._loop)
        self._watching = False
