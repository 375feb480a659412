"""A driver for any virtio device, without a guest: the registers of a transport, rings, and the loop's turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pyvmm._native import lib
from pyvmm.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap, UsedChain
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.mmio import MmioDevice

_RING_PAGES: Final = 1 << 20
"""Bytes at the start of memory that rings are put into."""

VIRTIO_F_VERSION_1: Final[int] = lib.VIRTIO_F_VERSION_1
VIRTIO_F_INDIRECT_DESC: Final[int] = lib.VIRTIO_RING_F_INDIRECT_DESC
VIRTIO_F_EVENT_IDX: Final[int] = lib.VIRTIO_RING_F_EVENT_IDX


class VirtioDriver:
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
        end = self.memory.regions[0].end
        self._ring_heap = GuestHeap(self.memory, 0, _RING_PAGES)
        self.heap = GuestHeap(self.memory, _RING_PAGES, end)
        """Where buffers come from."""
        self.rings: list[DriverRing] = []
        """One for each queue, while the device is started."""

    def read_register(self, offset: int) -> int:
        """A register of the transport (virtio 1.2, section 4.2.2)."""
        data = bytearray(4)
        self.transport.read(offset, memoryview(data))
        return int.from_bytes(data, "little")

    def write_register(self, offset: int, value: int) -> None:
        """Write a register of the transport."""
        self.transport.write(offset, memoryview(value.to_bytes(4, "little")))

    def read_config(self, offset: int, length: int) -> bytes:
        """Part of the configuration space."""
        data = bytearray(length)
        self.transport.read(lib.VIRTIO_MMIO_CONFIG + offset, memoryview(data))
        return bytes(data)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space."""
        self.transport.write(lib.VIRTIO_MMIO_CONFIG + offset, memoryview(data))

    def offered_features(self) -> int:
        """The features of device, ring and transport, as one number."""
        features = 0
        for page in range(2):
            self.write_register(lib.VIRTIO_MMIO_DEVICE_FEATURES_SEL, page)
            features |= self.read_register(lib.VIRTIO_MMIO_DEVICE_FEATURES) << 32 * page
        return features

    def start(
        self, features: Iterable[int] | None = None, *, queue_sizes: Sequence[int] | None = None, indirect: bool = False
    ) -> None:
        """Reset, negotiate, set the queues up, DRIVER_OK (section 3.1.1).

        ``features``: the bits to accept, beside VERSION_1; by default all that is offered but EVENT_IDX.
        ``queue_sizes``: the largest of each queue, by default; 0 leaves a queue out. ``indirect``: whether chains of
        several buffers use indirect tables, which needs the feature.
        """
        self.reset()
        self.write_register(lib.VIRTIO_MMIO_STATUS, lib.VIRTIO_CONFIG_S_ACKNOWLEDGE)
        status = lib.VIRTIO_CONFIG_S_ACKNOWLEDGE | lib.VIRTIO_CONFIG_S_DRIVER
        self.write_register(lib.VIRTIO_MMIO_STATUS, status)
        if features is None:
            accepted = self.offered_features() & ~(1 << VIRTIO_F_EVENT_IDX)
        else:
            accepted = sum(1 << bit for bit in {*features, VIRTIO_F_VERSION_1})
        for page in range(2):
            self.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES_SEL, page)
            self.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES, accepted >> 32 * page & 0xFFFFFFFF)
        status |= lib.VIRTIO_CONFIG_S_FEATURES_OK
        self.write_register(lib.VIRTIO_MMIO_STATUS, status)
        assert self.status & lib.VIRTIO_CONFIG_S_FEATURES_OK, f"features {accepted:#x} were refused"
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
                self._set_up(index, ring)
        self.write_register(lib.VIRTIO_MMIO_STATUS, status | lib.VIRTIO_CONFIG_S_DRIVER_OK)

    @property
    def status(self) -> int:
        """The Status register: VIRTIO_CONFIG_S_…"""
        return self.read_register(lib.VIRTIO_MMIO_STATUS)

    @property
    def needs_reset(self) -> bool:
        """Whether the device has given up until a reset."""
        return bool(self.status & lib.VIRTIO_CONFIG_S_NEEDS_RESET)

    def reset(self) -> None:
        """Reset the device."""
        self.write_register(lib.VIRTIO_MMIO_STATUS, 0)

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
            self.loop.run_once(left)

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
            self.loop.run_once(left)
            used += ring.take_used()
        return used

    def take_interrupt(self) -> bool:
        """Whether the device has interrupted since the last time."""
        return self.transport.interrupt_event.drain() > 0

    def close(self) -> None:
        """Close device, loop and memory."""
        self.transport.close()
        self.loop.close()
        self.memory.close()

    def __enter__(self) -> VirtioDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set_up(self, index: int, ring: DriverRing) -> None:
        self.write_register(lib.VIRTIO_MMIO_QUEUE_SEL, index)
        self.write_register(lib.VIRTIO_MMIO_QUEUE_NUM, ring.size)
        for low, address in (
            (lib.VIRTIO_MMIO_QUEUE_DESC_LOW, ring.descriptor_table),
            (lib.VIRTIO_MMIO_QUEUE_AVAIL_LOW, ring.available_ring),
            (lib.VIRTIO_MMIO_QUEUE_USED_LOW, ring.used_ring),
        ):
            self.write_register(low, address & 0xFFFFFFFF)
            self.write_register(low + 4, address >> 32)
        self.write_register(lib.VIRTIO_MMIO_QUEUE_READY, 1)
