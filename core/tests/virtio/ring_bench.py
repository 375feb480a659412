"""One queue with its driver, without device and transport."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.host.eventfd import EventFd
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import DescriptorChain, Queue

LOW = 1 << 20
"""Bytes of memory from 0 on; behind them is the hole."""

HIGH_BASE = 4 << 30
HIGH = 1 << 16


class RingBench:
    """A queue, active unless told otherwise, over a ring at the start of memory."""

    def __init__(
        self,
        size: int = 16,
        *,
        max_size: int = 256,
        event_idx: bool = False,
        indirect: bool = True,
        ranges: Sequence[tuple[int, int]] = ((0, LOW), (HIGH_BASE, HIGH)),
        activate: bool = True,
    ) -> None:
        self.memory = GuestMemory.create(ranges)
        self.heap = GuestHeap(self.memory, 0, self.memory.regions[0].end)
        self.ring = DriverRing(self.heap, size=size, event_idx=event_idx)
        self.queue = Queue(0, max_size, EventFd())
        self.ring.connect(self.queue)
        self.interrupt = EventFd()
        self.event_idx = event_idx
        self.indirect = indirect
        if activate:
            self.activate()

    def activate(self) -> None:
        """As at DRIVER_OK."""
        self.queue.activate(self.memory, Interrupt(self.interrupt), self.event_idx, self.indirect)

    def take(self) -> list[DescriptorChain]:
        """All chains that the device can have now."""
        chains = []
        while (chain := self.queue.pop()) is not None:
            chains.append(chain)
        return chains

    def snapshot(self) -> list[bytes]:
        """All memory except the parts of a ring that the device may write: used ring and avail_event."""
        content = [bytearray(self.memory.read(region.base, min(region.size, LOW))) for region in self.memory.regions]
        used = self.ring.used_ring
        content[0][used : used + 6 + 8 * self.ring.size] = bytes(6 + 8 * self.ring.size)
        return [bytes(part) for part in content]

    def close(self) -> None:
        """Close everything."""
        self.queue.reset()
        self.queue.event.close()
        self.interrupt.close()
        self.memory.close()

    def __enter__(self) -> RingBench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
