"""A receive and a transmit queue, connected to a tap or a stream (virtio 1.2, section 5.1.6)."""

from __future__ import annotations

import os
import select

from pyvmm.host.eventloop import READABLE, WRITABLE, LoopScope
from pyvmm.virtio.messages import BothWays, FromDescriptor, Stop, Stream, ToDescriptor

from pyvmm_virtio_net.constants import ETHERNET_HEADER_SIZE, HEADER_SIZE, MAX_FRAME_SIZE, NUM_BUFFERS_OFFSET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Protocol

    from pyvmm.virtio.queue import Queue
else:
    Protocol = object

_MAX_STALE: Final = 4096
"""The most frames that are dropped at the start. A tap keeps 1000 by default."""


class Pair(Protocol):
    """An object that moves the frames of a queue pair."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """Stop. After the return nothing touches the queues."""

    def on_kick(self, queue: Queue) -> None:
        """Serve ``queue``, one of the pair, after a kick."""

    def __str__(self) -> str:
        """A summary of the moved frames, for the log."""


def throw_away(fd: int) -> None:
    """Drop the frames that a tap has kept while there was no driver. They may need features that the new driver
    refused."""
    header = bytearray(HEADER_SIZE)
    try:
        for _ in range(_MAX_STALE):
            os.readv(fd, [header])
    except OSError:
        pass


class QueuePair:
    """Moves frames between two queues and a tap or stream in this process, for one activation of the device."""

    def __init__(
        self,
        loop: LoopScope,
        channel: int | Stream,
        receiveq: Queue,
        transmitq: Queue,
        *,
        merge: bool,
        max_frame_size: int,
        checksums: bool,
        is_gone: Callable[[], bool],
        on_gone: Callable[[], None],
    ) -> None:
        """``channel``: a tap's descriptor, or a stream. ``merge``: the driver accepted MRG_RXBUF. ``max_frame_size``:
        bytes of the largest frame that may come, with its header. ``checksums``: the driver accepted GUEST_CSUM.
        ``is_gone``: returns whether a channel that cannot be read has failed for ever. ``on_gone``: called once if it
        has."""
        self.received = FromDescriptor(
            receiveq,
            channel,
            min_size=HEADER_SIZE,
            max_size=max_frame_size,
            merge=merge,
            count_offset=NUM_BUFFERS_OFFSET,
            # The kernel may mark a checksum as valid although the driver did not accept GUEST_CSUM (section 5.1.6.4.1).
            clear=0 if checksums else NUM_BUFFERS_OFFSET,
        )
        self.sent = ToDescriptor(
            transmitq, channel, min_size=HEADER_SIZE + ETHERNET_HEADER_SIZE, max_size=MAX_FRAME_SIZE
        )
        self._loop = loop
        self._stream = channel if isinstance(channel, Stream) else None
        self._fd = channel.fd if isinstance(channel, Stream) else channel
        self._both = BothWays(self.sent, self.received, loop) if self._stream is None else None
        self._receiveq = receiveq
        self._transmitq = transmitq
        self._is_gone = is_gone
        self._on_gone = on_gone
        self._events = READABLE
        self._gone = False

    def start(self) -> None:
        """Begin."""
        if self._stream is None:
            throw_away(self._fd)
        self._loop.add(self._fd, self._ready, self._events)
        self._transmitq.event.signal()  # serve frames that are there already
        self._receive_more()

    def stop(self) -> None:
        """Stop. No frame is in flight between two callbacks, so there is nothing to wait for."""
        self._loop.remove(self._fd)

    def on_kick(self, queue: Queue) -> None:
        """Serve a kick: the driver has frames to send, or new buffers for received ones."""
        if queue is self._transmitq:
            if not self._events & WRITABLE:
                self._send()
        elif not self._events & READABLE:
            self._wait_for(self._events | READABLE)
            self._receive()
        elif self._stream is not None and self._stream.has_more:
            self._receive()

    def __str__(self) -> str:
        received, sent = self.received, self.sent
        return (
            f"{received.messages} frames received, {received.dropped} dropped; "
            f"{sent.messages} sent, {sent.dropped} dropped"
        )

    def _ready(self, ready: int) -> None:
        if ready & (select.EPOLLERR | select.EPOLLHUP):
            self._leave()
            return
        if ready & WRITABLE:
            self._wait_for(self._events & ~WRITABLE)
            self._send()
        if ready & READABLE:
            self._receive()

    def _send(self) -> None:
        if not self._move():
            self._sent(self.sent.move())

    def _receive(self) -> None:
        if not self._move():
            self._received(self.received.move())

    def _move(self) -> bool:
        """Move frames both ways, if no direction waits for something else. Returns whether it did."""
        if self._both is None or self._events != READABLE or self._gone:
            return False
        sent, received = self._both.move()
        self._sent(sent)
        self._received(received)
        return True

    def _sent(self, stop: int) -> None:
        if stop == Stop.BUDGET:
            self._transmitq.event.signal()
        elif stop == Stop.WAIT:
            self._wait_for(self._events | WRITABLE)

    def _received(self, stop: int) -> None:
        if stop == Stop.EMPTY:
            # The tap keeps its frames until the driver has room again. Nothing is polled meanwhile, and no frame is
            # lost.
            self._wait_for(self._events & ~READABLE)
        elif stop == Stop.ERROR and self._is_gone():
            self._leave()
        elif stop == Stop.BUDGET:
            self._receive_more()

    def _receive_more(self) -> None:
        """Continue with messages that were read from a stream but not received; the descriptor does not report them."""
        if self._stream is not None and self._stream.has_more:
            self._receiveq.event.signal()

    def _wait_for(self, events: int) -> None:
        if events != self._events:
            self._events = events
            if not self._gone:
                self._loop.modify(self._fd, events)

    def _leave(self) -> None:
        """Stop waiting for a channel that is gone. Its descriptor drops the frames that the guest sends."""
        if not self._gone:
            self._gone = True
            self._loop.remove(self._fd)
            self._on_gone()
            if self._events & WRITABLE:
                self._events &= ~WRITABLE
                self._send()
