"""The common part of a test's drivers of a virtio device, with or without a guest: start, and exchange of chains."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from pyvmm.memory import GuestAddress, GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap, UsedChain
from pyvmm.testing.mmio_driver import VIRTIO_F_EVENT_IDX, MmioDriver, Window
from pyvmm.testing.waiting import PATIENCE

__all__ = ["RING_HEAP_SIZE", "QueueDriver"]

RING_HEAP_SIZE: Final = 1 << 20
"""Bytes of guest memory for rings; buffers come after them."""


class QueueDriver(MmioDriver):
    """A driver with rings in guest memory. A subclass defines how to kick and how to wait."""

    def __init__(
        self,
        window: Window,
        memory: GuestMemory,
        queue_sizes: Sequence[int],
        *,
        base: GuestAddress = 0,
        heap: GuestAddress = 0,
    ) -> None:
        """``queue_sizes``: the largest size of each queue. The driver uses the first region of ``memory`` from ``heap``
        on."""
        super().__init__(window, base)
        self.memory = memory
        self.queue_sizes = tuple(queue_sizes)
        self._ring_heap = GuestHeap(memory, heap, heap + RING_HEAP_SIZE)
        self.heap = GuestHeap(memory, heap + RING_HEAP_SIZE, memory.regions[0].end)
        """The heap for buffers."""
        self.rings: list[DriverRing] = []
        """One ring for each queue, while the device is started."""

    def start(
        self, features: Iterable[int] | None = None, *, queue_sizes: Sequence[int] | None = None, indirect: bool = False
    ) -> None:
        """Reset, negotiate, set the queues up, DRIVER_OK (section 3.1.1).

        ``features``: the bits to accept, in addition to VERSION_1; by default all offered ones except EVENT_IDX.
        ``queue_sizes``: the size of each queue, by default the largest; 0 leaves a queue out. ``indirect``: whether
        chains of several buffers use indirect tables, which needs the feature.
        """
        for index, ring in enumerate(self.prepare(features, queue_sizes=queue_sizes, indirect=indirect)):
            if queue_sizes is None or queue_sizes[index]:
                self.set_up_queue(index, ring)
        self.driver_ok()

    def prepare(
        self, features: Iterable[int] | None = None, *, queue_sizes: Sequence[int] | None = None, indirect: bool = False
    ) -> list[DriverRing]:
        """Make the first half of :meth:`start`. Returns rings that the device does not know yet."""
        self.begin()
        accepted = self.negotiate(features)
        event_idx = bool(accepted >> VIRTIO_F_EVENT_IDX & 1)
        self._ring_heap.reset()
        self.heap.reset()
        self.rings = []
        for index, size in enumerate(self.queue_sizes if queue_sizes is None else queue_sizes):
            ring = DriverRing(self._ring_heap, size=size or 1, indirect=indirect, event_idx=event_idx)
            ring.heap = self.heap
            ring.notify = partial(self.kick, index)
            self.rings.append(ring)
        return self.rings

    def kick(self, index: int) -> None:
        """Kick queue ``index``."""
        self.notify(index)

    def exchange(self, queue: int = 0, *, timeout: float = PATIENCE) -> list[UsedChain]:
        """Kick, and wait until the device has given back every chain in ``queue``."""
        ring = self.rings[queue]
        ring.kick()
        return self.wait_used(queue, ring.in_flight, timeout=timeout)

    def wait_used(self, queue: int = 0, count: int = 1, *, timeout: float = PATIENCE) -> list[UsedChain]:
        """Wait until the device has given back ``count`` chains of ``queue``; raises AssertionError."""
        ring = self.rings[queue]
        deadline = time.monotonic() + timeout
        used = ring.take_used()
        while len(used) < count:
            left = deadline - time.monotonic()
            assert left > 0, f"the device gave back {len(used)} chains of {count} in {timeout} s"
            assert not self.needs_reset, "the device needs a reset"
            self.wait(left)
            used += ring.take_used()
        return used

    def wait(self, timeout: float) -> None:
        """Let the device do something, for up to ``timeout`` seconds."""
        raise NotImplementedError

    def take_interrupt(self) -> bool:
        """Whether the device has interrupted since the last call."""
        raise NotImplementedError
