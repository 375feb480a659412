"""A queue in the hands of another, such as the kernel's vhost, and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyvmm.host.eventfd import EventFd
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import Queue

MEMORY = 1 << 20


class Other:
    """Serves the ring by a queue of its own."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.queue = Queue(0, 16, EventFd(-1))
        bench.ring.connect(self.queue)
        self.ended = 0
        base = bench.queue.hand_over(self.end)
        self.queue.activate(bench.memory, Interrupt(bench.interrupt), False, False, base=base)

    def serve(self, count: int) -> None:
        for _ in range(count):
            chain = self.queue.pop()
            assert chain is not None
            chain.complete()
        self.queue.publish()

    def end(self) -> int:
        self.ended += 1
        return self.queue.stop()


class Bench:
    """A queue and its driver."""

    def __init__(self) -> None:
        self.memory = GuestMemory.create([(0, MEMORY)])
        self.ring = DriverRing(GuestHeap(self.memory, 0, MEMORY), size=16)
        self.queue = Queue(0, 16, EventFd())
        self.ring.connect(self.queue)
        self.interrupt = EventFd()
        self.queue.activate(self.memory, Interrupt(self.interrupt), False, False)

    def add(self, count: int) -> None:
        for _ in range(count):
            self.ring.add([b"request"])

    def serve(self) -> int:
        """Complete what there is; how much."""
        count = 0
        for chain in self.queue:
            chain.complete()
            count += 1
        self.queue.publish()
        return count

    def close(self) -> None:
        self.queue.event.close()
        self.interrupt.close()
        self.memory.close()


@pytest.fixture
def b() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_each_request_is_served_once(b: Bench) -> None:
    for _ in range(20):
        b.add(5)
        first = b.queue.pop()  # takes a batch
        assert first is not None
        first.complete()
        other = Other(b)
        assert b.queue.handed_over and b.queue.pop() is None and b.queue.native is None
        other.serve(2)
        b.queue.take_back()
        b.queue.take_back()
        assert other.ended == 1
        assert b.serve() == 2
        assert len(b.ring.take_used()) == 5


def test_stop_goes_on_where_the_other_was(b: Bench) -> None:
    b.add(5)
    Other(b).serve(3)

    assert b.queue.stop() == 3
    assert not b.queue.handed_over


def test_reset_ends_the_other(b: Bench) -> None:
    b.add(2)
    other = Other(b)

    b.queue.reset()

    assert other.ended == 1
    assert not b.queue.handed_over
