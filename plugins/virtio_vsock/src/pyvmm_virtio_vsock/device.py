"""virtio-vsock: sockets between guest and host, which are Unix sockets on the host (virtio 1.2, section 5.10)."""

from __future__ import annotations

import os
import time

from pyvmm.errors import UsageError
from pyvmm.host.unix_listener import MAX_PATH, UnixListener
from pyvmm.logs import logger
from pyvmm.virtio.constants import VIRTIO_ID_VSOCK
from pyvmm.virtio.device import VirtioDevice

from pyvmm_virtio_vsock.constants import (
    EVENTQ,
    RXQ,
    TXQ,
    VIRTIO_VSOCK_EVENT_TRANSPORT_RESET,
    VIRTIO_VSOCK_F_STREAM,
)
from pyvmm_virtio_vsock.muxer import MAX_BYTES, Muxer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.interrupt import Interrupt
    from pyvmm.virtio.queue import Queue

    from pyvmm_virtio_vsock import VsockOptions
    from pyvmm_virtio_vsock.drain import Drain

log = logger(__name__)

_BACKLOG: Final = 128
_EVENT_SIZE: Final = 4  # struct virtio_vsock_event
_LONGEST_PORT: Final = len("_4294967295")

_LAST_WORDS: Final = 1.0
"""Seconds within which programs on the host have to read the guest's last data when the device ends."""


class Vsock(VirtioDevice):
    """A socket device. A program on the host connects to a Unix socket and names a port of the guest. A program in the
    guest connects to a port of CID 2, which is a Unix socket as well.

    The socket exists from the start. A program that connects waits until the guest has a driver.
    """

    device_type = VIRTIO_ID_VSOCK
    queue_max_sizes = (256, 256, 64)
    device_features = 1 << VIRTIO_VSOCK_F_STREAM

    def __init__(self, options: VsockOptions) -> None:
        """Make the socket. Raises :class:`~pyvmm.errors.UsageError` if that fails."""
        longest = MAX_PATH - _LONGEST_PORT
        if len(os.fsencode(options.path)) > longest:
            raise UsageError(f"vsock: {options.path}: longer than {longest} bytes; give a shorter path")
        self.cid = options.cid
        self.config = self.cid.to_bytes(8, "little")
        self._listener = UnixListener(options.path, f"vsock: {options.path}", backlog=_BACKLOG)
        self._muxer: Muxer | None = None
        self._drains: set[Drain] = set()
        self._event_due = False

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        """Start to serve."""
        super().activate(mem, interrupt, queues)
        self._muxer = Muxer(self.context.loop, self._listener, self.cid, queues[RXQ], self._drains)
        self._muxer.start()
        # If the rings were in use before, the driver was not reset: it has streams that do not exist here.
        self._event_due = any(queue.next_avail for queue in queues)
        self._send_event()

    def on_kick(self, queue: Queue) -> None:
        """Serve a kick: the driver has sent packets, or added buffers."""
        if self._muxer is None:
            return
        if queue.index == EVENTQ:
            self._send_event()
            return
        if queue.index == RXQ:
            self._muxer.fill()
        self._take_packets(self._muxer)  # packets that had to wait for room, too

    def reset(self) -> bool:
        """End all streams."""
        if self._muxer is not None:
            self._muxer.stop()
            if self._muxer.dropped:
                log.info("%s: %d packets of the guest were invalid", self.name, self._muxer.dropped)
            self._muxer = None
        for drain in self._drains:
            drain.watch()  # a failure of the device has removed them from the loop
        return super().reset()

    def close(self) -> None:
        """Remove the socket, after the host has read the guest's data."""
        deadline = time.monotonic() + _LAST_WORDS
        for drain in [*self._drains]:
            drain.finish(deadline)
        self._listener.close()

    def _take_packets(self, muxer: Muxer) -> None:
        txq, taken = self.queues[TXQ], 0
        for _ in range(2 * txq.size):
            if muxer.is_full:
                muxer.fill()
                if muxer.is_full:
                    return  # until the driver makes room, with a kick of the other queue
            chain = txq.pop()
            if chain is None:
                muxer.fill()
                return
            taken += muxer.receive(chain)
            chain.complete()
            if taken >= MAX_BYTES:
                break
        muxer.fill()
        txq.event.signal()

    def _send_event(self) -> None:
        """Tell the driver that its streams are gone, once it has a buffer for that event (section 5.10.6.7)."""
        event = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.to_bytes(_EVENT_SIZE, "little")
        queue = self.queues[EVENTQ]
        while self._event_due and (chain := queue.pop()) is not None:
            self._event_due = chain.writable_length < _EVENT_SIZE
            chain.complete(0 if self._event_due else chain.write(0, event))
