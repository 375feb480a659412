"""A receive and a transmit queue, and the descriptor whose frames they carry (virtio 1.2, section 5.1.6)."""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from collections.abc import Callable
from typing import Final

from pyvmm.eventloop import READABLE, WRITABLE, LoopScope
from pyvmm.virtio.queue import DescriptorChain, Queue

from pyvmm_virtio_net.constants import ETHERNET_HEADER_SIZE, HEADER_SIZE, MAX_FRAME_SIZE, NUM_BUFFERS_OFFSET

_GONE: Final = errno.EBADFD
_IOV_MAX: Final = 1024
_FRAMES: Final = 64
"""Frames moved before other devices on the loop get their turn."""


class QueuePair:
    """Moves frames between a pair of queues and a tap, for one activation of the device."""

    def __init__(
        self,
        loop: LoopScope,
        fd: int,
        receiveq: Queue,
        transmitq: Queue,
        *,
        merge: bool,
        max_frame_size: int,
        checksums: bool,
        on_gone: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._receiveq = receiveq
        self._transmitq = transmitq
        self._merge = merge
        self._max_frame_size = max_frame_size
        self._checksums = checksums
        self._on_gone = on_gone
        self._events = READABLE
        self._gone = False
        self._scrap = bytearray(2 * MAX_FRAME_SIZE)
        """Takes what of a frame has no room in the guest's buffers: a frame that reaches it is dropped."""
        self._window: deque[DescriptorChain] = deque()
        self._room = 0
        self.dropped_received = 0
        self.dropped_sent = 0

    def start(self) -> None:
        """Begin. What came before there was a driver is thrown away, as a card without one would."""
        try:
            for _ in range(1 << 16):
                os.readv(self._fd, [memoryview(self._scrap)[:HEADER_SIZE]])
        except OSError:
            pass
        self._loop.add(self._fd, self._ready, self._events)

    def stop(self) -> None:
        """End."""
        self._loop.remove(self._fd)

    def on_kick(self, queue: Queue) -> None:
        if queue is self._transmitq:
            if not self._events & WRITABLE:
                self._transmit()
        elif not self._events & READABLE:
            self._wait_for(self._events | READABLE)
            self._receive()

    def _ready(self, ready: int) -> None:
        if ready & (select.EPOLLERR | select.EPOLLHUP):
            self._gone = True
            self._loop.remove(self._fd)
            self._on_gone()
            return
        if ready & WRITABLE:
            self._wait_for(self._events & ~WRITABLE)
            self._transmit()
        if ready & READABLE:
            self._receive()

    def _wait_for(self, events: int) -> None:
        if events != self._events:
            self._events = events
            if not self._gone:
                self._loop.modify(self._fd, events)

    def _transmit(self) -> None:
        queue = self._transmitq
        for _ in range(_FRAMES):
            chain = queue.pop()
            if chain is None:
                return
            if HEADER_SIZE + ETHERNET_HEADER_SIZE <= chain.readable_length <= MAX_FRAME_SIZE:
                try:
                    os.writev(self._fd, chain.readable)
                except BlockingIOError:
                    queue.unpop(chain)
                    self._wait_for(self._events | WRITABLE)
                    return
                except OSError:
                    self.dropped_sent += 1
            else:
                self.dropped_sent += 1
            chain.complete()
        queue.event.signal()

    def _receive(self) -> None:
        try:
            for _ in range(_FRAMES):
                if not self._gather():
                    self._wait_for(self._events & ~READABLE)
                    return
                buffers = [view for chain in self._window for view in chain.writable][: _IOV_MAX - 1]
                room = sum(map(len, buffers))
                size = os.readv(self._fd, [*buffers, self._scrap])
                if size > room:
                    self.dropped_received += 1
                    continue
                self._give(size)
        except BlockingIOError:
            pass
        finally:
            while self._window:
                self._receiveq.unpop(self._window.pop())
            self._room = 0

    def _gather(self) -> bool:
        while not self._window or self._merge and self._room < self._max_frame_size:
            chain = self._receiveq.pop()
            if chain is None:
                return bool(self._window)
            if chain.writable_length < HEADER_SIZE:
                chain.complete()
                continue
            self._window.append(chain)
            self._room += chain.writable_length
        return True

    def _give(self, size: int) -> None:
        first = self._window[0]
        count = 0
        while size > 0:
            chain = self._window.popleft()
            self._room -= chain.writable_length
            part = min(size, chain.writable_length)
            chain.complete(part)
            size -= part
            count += 1
        first.write(NUM_BUFFERS_OFFSET, count.to_bytes(2, "little"))
        if not self._checksums:
            first.write(0, b"\0")
