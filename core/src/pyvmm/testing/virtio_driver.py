"""A driver for any virtio device, without a guest: the registers of a transport, rings, and the loop's turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pyvmm.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap, UsedChain
from pyvmm.testing.mmio_driver import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, MmioDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.mmio import MmioDevice

__all__ = ["VIRTIO_F_EVENT_IDX", "VIRTIO_F_INDIRECT_DESC", "VirtioDriver"]

_RING_PAGES: Final = 1 << 20
"""Bytes at the start of memory that rings are put into."""


class VirtioDriver(MmioDriver):
    """Plays driver, transport registers and event loop for one device, all on the caller's thread.

    ::

        with VirtioDriver(device) as driver:
            driver.start([VIRTIO_BLK_F_FLUSH])
            driver.rings[0].add([header], [512, 1])
            used, = driver.exchange()
    """

    def __init__(
        self, device: VirtioDevice, *, memory: GuestMemory | None = None, size: int = 64 << 20, name: str = "device0"
    ) -> None:
        """``size``: bytes of guest memory from 0 on, where ``memory`` is not given. The device is closed by
        :meth:`close`, and so is the memory."""
        self.device = device
        self.memory = memory or GuestMemory.create([(0, size)])
        self.loop = EventLoop()
        self.transport = MmioDevice(self.memory, device, name, self.loop)
        self.transport.start()
        super().__init__(self.transport)
        end = self.memory.regions[0].end
        self._ring_heap = GuestHeap(self.memory, 0, _RING_PAGES)
        self.heap = GuestHeap(self.memory, _RING_PAGES, end)
        """Where buffers come from."""
        self.rings: list[DriverRing] = []
        """One for each queue, while the device is started."""

    def start(
        self, features: Iterable[int] | None = None, *, queue_sizes: Sequence[int] | None = None, indirect: bool = False
    ) -> None:
        """Reset, negotiate, set the queues up, DRIVER_OK (section 3.1.1).

        ``features``: the bits to accept, beside VERSION_1; by default all that is offered but EVENT_IDX.
        ``queue_sizes``: the largest of each queue, by default; 0 leaves a queue out. ``indirect``: whether chains of
        several buffers use indirect tables, which needs the feature.
        """
        self.begin()
        accepted = self.negotiate(features)
        sizes = self.device.queue_max_sizes if queue_sizes is None else queue_sizes
        event_idx = bool(accepted >> VIRTIO_F_EVENT_IDX & 1)
        self._ring_heap.reset()
        self.heap.reset()
        self.rings = []
        for index, size in enumerate(sizes):
            ring = DriverRing(self._ring_heap, size=size or 1, indirect=indirect, event_idx=event_idx)
            ring.heap = self.heap
            ring.queue = self.transport.queues[index]
            self.rings.append(ring)
            if size:
                self.set_up_queue(index, ring)
        self.driver_ok()

    def run(self) -> int:
        """Let the loop serve what is ready, until nothing is; how often something was."""
        for rounds in range(100_000):
            if not self.loop.run_once(0):
                return rounds
        raise AssertionError("the loop does not come to rest")

    def run_until(self, condition: Callable[[], bool], *, timeout: float = 10.0) -> None:
        """Let the loop run until ``condition`` holds; raises AssertionError."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"it did not come true in {timeout} s"
            self._turn(left)

    def exchange(self, queue: int = 0, *, timeout: float = 10.0) -> list[UsedChain]:
        """Kick, and let the loop run until the device has given back all that is in ``queue``."""
        ring = self.rings[queue]
        ring.kick()
        return self.wait_used(queue, ring.in_flight, timeout=timeout)

    def wait_used(self, queue: int = 0, count: int = 1, *, timeout: float = 10.0) -> list[UsedChain]:
        """Let the loop run until the device has given back ``count`` chains of ``queue``; raises AssertionError."""
        ring = self.rings[queue]
        deadline = time.monotonic() + timeout
        used = ring.take_used()
        while len(used) < count:
            left = deadline - time.monotonic()
            assert left > 0, f"the device gave back {len(used)} chains of {count} in {timeout} s"
            assert not self.needs_reset, "the device needs a reset"
            self._turn(left)
            used += ring.take_used()
        return used

    def take_interrupt(self) -> bool:
        """Whether the device has interrupted since the last time."""
        return self.transport.interrupt_event.drain() > 0

    def _turn(self, timeout: float) -> None:
        """Let the loop wait once; a device on a thread of its own does what it does without that."""
        self.loop.run_once(timeout if self.device.own_loop is None else min(timeout, 0.001))

    def close(self) -> None:
        """Close device, loop and memory."""
        self.transport.close()
        self.loop.close()
        self.memory.close()

    def __enter__(self) -> VirtioDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
