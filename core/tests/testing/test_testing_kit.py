"""The kit for tests of devices: what it needs, and that its driver does what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from pyvmm._native import lib
from pyvmm.bus import Bus
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap
from pyvmm.testing.mmio_driver import VIRTIO_F_EVENT_IDX, MmioDriver
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.virtio.mmio import MmioDevice
from pyvmm.virtio.queue import Queue
from pyvmm.x86_64.layout import MMIO_WINDOW_SIZE

from core.tests.virtio.probe import DEVICE_ID, Probe

BASE = 0xD0000000


@pytest.fixture
def heap() -> Iterator[GuestHeap]:
    with GuestMemory.create([(0, 1 << 20)]) as memory:
        yield GuestHeap(memory, 0, 1 << 20)


@pytest.mark.parametrize("module", ["driver_ring", "mmio_driver", "virtio_driver"])
def test_it_needs_no_kvm(module: str) -> None:
    code = f"import pyvmm.testing.{module}, sys; sys.exit('pyvmm.kvm' in sys.modules or 'pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- the heap


def test_a_heap_hands_out_what_is_aligned_and_apart(heap: GuestHeap) -> None:
    buffers = [heap.allocate(length, alignment) for length, alignment in ((3, 1), (10, 16), (4096, 4096), (1, 2))]
    assert [buffer.address % alignment for buffer, alignment in zip(buffers, (1, 16, 4096, 2), strict=True)] == [0] * 4
    ends = [buffer.address + buffer.length for buffer in buffers]
    assert all(end <= buffer.address for end, buffer in zip(ends, buffers[1:], strict=False))


def test_a_heap_that_is_full_says_so(heap: GuestHeap) -> None:
    heap.allocate(1 << 20)
    with pytest.raises(MemoryError):
        heap.allocate(1)
    heap.reset()
    assert heap.allocate(1).address == 0


# --- the ring


def test_a_ring_that_is_full_takes_nothing_and_can_be_used_again(heap: GuestHeap) -> None:
    ring = DriverRing(heap, size=4)
    ring.add([b"a", b"b"], [1])
    with pytest.raises(IndexError, match="2 descriptors are needed and 1 are free"):
        ring.add([b"c", b"d"])
    assert ring.avail_idx == 1
    ring.add([b"e"])
    assert ring.in_flight == 2


def test_a_chain_needs_a_buffer(heap: GuestHeap) -> None:
    with pytest.raises(IndexError):
        DriverRing(heap, size=4).add()


def test_an_indirect_chain_takes_one_descriptor(heap: GuestHeap) -> None:
    ring = DriverRing(heap, size=1, indirect=True)
    chain = ring.add([b"a", b"b"], [1, 2, 3])
    assert chain.descriptors == [0]


def test_a_head_that_was_never_available_is_taken_as_that(heap: GuestHeap) -> None:
    ring = DriverRing(heap, size=4)
    heap.memory.write_u32(ring.used_ring + 4, 3)
    heap.memory.write_u32(ring.used_ring + 8, 77)
    heap.memory.write_u16(ring.used_ring + 2, 1)
    (used,) = ring.take_used()
    assert (used.chain, used.head, used.length) == (None, 3, 77)


def test_a_kick_is_made_once_for_what_is_new(heap: GuestHeap) -> None:
    ring, queue = DriverRing(heap, size=4), Queue(0, 4, EventFd())
    ring.connect(queue)
    assert not ring.kick()
    ring.add([b"a"])
    assert ring.kick()
    assert not ring.kick()
    assert queue.event.drain() == 1
    queue.event.close()


# --- the registers


@pytest.fixture
def bus() -> Iterator[Bus]:
    """A bus with a probe at BASE."""
    loop, bus = EventLoop(), Bus("MMIO")
    with GuestMemory.create([(0, 1 << 20)]) as memory:
        transport = MmioDevice(memory, Probe(), "probe0", loop)
        bus.insert(transport, BASE, MMIO_WINDOW_SIZE)
        yield bus
        transport.close()
    loop.close()


def test_a_driver_works_through_a_bus(bus: Bus) -> None:
    driver = MmioDriver(bus, BASE)
    assert driver.probe() == DEVICE_ID
    driver.begin()
    assert driver.negotiate([3]) == 1 << 3 | 1 << 32
    driver.driver_ok()
    assert driver.read_config(0, 5, width=2) == b"01234"
    assert not driver.needs_reset


def test_where_there_is_no_device_probing_fails(bus: Bus) -> None:
    with pytest.raises(AssertionError, match="no virtio-mmio window: magic 0xffffffff"):
        MmioDriver(bus, BASE + MMIO_WINDOW_SIZE).probe()


def test_features_that_are_refused_are_an_assertion(bus: Bus) -> None:
    driver = MmioDriver(bus, BASE)
    driver.begin()
    with pytest.raises(AssertionError, match="were refused"):
        driver.negotiate([4])


def test_by_default_all_is_accepted_but_event_idx(bus: Bus) -> None:
    driver = MmioDriver(bus, BASE)
    driver.begin()
    assert driver.negotiate() == driver.offered_features() & ~(1 << VIRTIO_F_EVENT_IDX)


# --- all together


@pytest.mark.parametrize("features", [None, [], [VIRTIO_F_EVENT_IDX]])
def test_a_device_is_driven_through_its_life(features: list[int] | None) -> None:
    with VirtioDriver(Probe()) as driver:
        for _ in range(2):
            driver.start(features)
            chain = driver.rings[0].add([b"hello"], [5])
            (used,) = driver.exchange()
            assert used.chain is chain
            assert chain.written() == b"hello"
            assert driver.take_interrupt()
            assert driver.interrupt_status & lib.VIRTIO_MMIO_INT_VRING


def test_a_queue_can_be_left_out() -> None:
    with VirtioDriver(Probe()) as driver:
        driver.start(queue_sizes=[16, 0])
        assert [queue.ready for queue in driver.transport.queues] == [True, False]


def test_a_device_that_gives_nothing_back_is_an_assertion() -> None:
    probe = Probe()
    probe.keep = True
    with VirtioDriver(probe) as driver:
        driver.start()
        driver.rings[0].add([b"x"])
        with pytest.raises(AssertionError, match="gave back 0 chains of 1"):
            driver.exchange(timeout=0.01)
        probe.chains.clear()


def test_a_device_s_files_go_with_its_driver() -> None:
    probe = Probe()
    with VirtioDriver(probe, size=1 << 20, name="probe0") as driver:
        path = probe.context.directory()
        path.joinpath("file").touch()
        assert probe.context.machine is driver.machine
    assert not path.parent.exists()
