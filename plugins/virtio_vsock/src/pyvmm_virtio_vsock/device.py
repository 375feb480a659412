"""virtio-vsock: sockets between guest and host, the host's being Unix sockets (virtio 1.2, section 5.10)."""

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
"""Seconds that programs of the host have, when the device ends, to read what the guest has sent."""


class Vsock(VirtioDevice):
    """A socket device: programs of the host connect to a Unix socket and name a port of the guest; those of the guest
    connect to a port of CID 2, which is a Unix socket as well.

    The socket is there from the start; who connects waits until the guest has a driver.
    """

    device_type = VIRTIO_ID_VSOCK
    queue_max_sizes = (256, 256, 64)
    device_features = 1 << VIRTIO_VSOCK_F_STREAM

    def __init__(self, options: VsockOptions) -> None:
        """Make the socket; raises :class:`~pyvmm.errors.UsageError` where that cannot be."""
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
        # Rings that have been in use, by a driver that was not reset: it has streams that are not here.
        self._event_due = any(queue.next_avail for queue in queues)
        self._send_event()

    def on_kick(self, queue: Queue) -> None:
        """The driver has sent packets, or made room for some."""
        if self._muxer is None:
            return
        if queue.index == EVENTQ:
            self._send_event()
            return
        if queue.index == RXQ:
            self._muxer.fill()
        self._take_packets(self._muxer)  # also those that had to wait for room

    def reset(self) -> bool:
        """End all streams."""
        if self._muxer is not None:
            self._muxer.stop()
            if self._muxer.dropped:
                log.info("%s: %d packets of the guest's made no sense", self.name, self._muxer.dropped)
            self._muxer = None
        for drain in self._drains:
            drain.watch()  # the loop has forgotten them where the device had failed
        return super().reset()

    def close(self) -> None:
        """Remove the socket, when what the guest has sent is read."""
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
                    return  # until the driver makes room, which is a kick of the other queue
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
        """Tell the driver, once it has a buffer for that, that its streams are gone (section 5.10.6.7)."""
        event = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.to_bytes(_EVENT_SIZE, "little")
        queue = self.queues[EVENTQ]
        while self._event_due and (chain := queue.pop()) is not None:
            self._event_due = chain.writable_length < _EVENT_SIZE
            chain.complete(0 if self._event_due else chain.write(0, event))
