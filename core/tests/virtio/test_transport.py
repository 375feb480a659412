"""What a transport of registers does with several interrupts, as one over PCI has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap
from pyvmm.testing.mmio_driver import ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, VIRTIO_F_VERSION_1
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import Queue
from pyvmm.virtio.register_transport import RegisterTransport

from core.tests.virtio.probe import Probe


class Separate(RegisterTransport):
    """A transport with an interrupt for each queue and one for the configuration."""

    def __init__(self, memory: GuestMemory, device: Probe, loop: EventLoop) -> None:
        self.memory = memory
        queues = [Queue(index, size, EventFd()) for index, size in enumerate(device.queue_max_sizes)]
        interrupts = [Interrupt(EventFd()) for _ in queues]
        config = Interrupt(EventFd(), self.config_changed, self.fail)
        super().__init__(device, "probe0", loop, queues, interrupts, config)

    @property
    def _memory(self) -> GuestMemory:
        return self.memory

    def interrupted(self) -> list[int]:
        """How often each event was signalled since the last time: the configuration's first."""
        return [event.drain() for event in self.interrupt_events]


class Bench:
    """Such a transport, started, with a ring for each queue."""

    def __init__(self) -> None:
        self.memory = GuestMemory.create([(0, 1 << 20)])
        self.loop = EventLoop()
        self.device = Probe()
        self.transport = Separate(self.memory, self.device, self.loop)
        self.start()

    def start(self) -> None:
        heap = GuestHeap(self.memory, 0, 1 << 20)
        transport = self.transport
        transport.set_status(ACKNOWLEDGE)
        transport.set_status(ACKNOWLEDGE | DRIVER)
        transport.accept_features(VIRTIO_F_VERSION_1 // 32, 1 << VIRTIO_F_VERSION_1 % 32)
        transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
        self.rings = []
        for queue in transport.queues:
            ring = DriverRing(heap, size=16)
            ring.queue = transport.queue_to_set_up(queue.index)
            assert ring.queue is queue
            queue.size = ring.size
            queue.descriptor_table, queue.available_ring = ring.descriptor_table, ring.available_ring
            queue.used_ring, queue.ready = ring.used_ring, True
            self.rings.append(ring)
        transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    def request(self, index: int) -> None:
        self.rings[index].add([b"x"], [1])
        self.rings[index].kick()
        self.loop.run_once(0)

    def close(self) -> None:
        self.transport.close()
        self.loop.close()
        self.memory.close()


@pytest.fixture
def started() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_each_queue_signals_its_own_interrupt(started: Bench) -> None:
    for index, expected in enumerate(([0, 1, 0], [0, 0, 1])):
        started.request(index)
        assert started.transport.interrupted() == expected


def test_changes_of_the_configuration_and_failures_signal_the_configurations_interrupt(started: Bench) -> None:
    started.device.interrupt.signal_config_change()
    assert started.transport.interrupted() == [1, 0, 0]
    assert started.transport.config_generation == 1
    started.device.failing = {"on_kick"}
    started.request(0)
    assert started.transport.status & NEEDS_RESET
    assert started.transport.interrupted() == [1, 0, 0]


def test_a_reset_drains_all_interrupts(started: Bench) -> None:
    started.request(0)
    started.request(1)
    started.device.interrupt.signal_config_change()
    started.transport.set_status(0)
    assert started.transport.interrupted() == [0, 0, 0]
    started.start()
    started.request(1)
    assert started.transport.interrupted() == [0, 0, 1]


def test_a_device_that_failed_finds_nothing_in_its_queues_until_it_is_reset(started: Bench) -> None:
    started.device.failing = {"on_kick"}
    started.request(0)
    started.rings[1].add([b"x"], [1])
    assert started.transport.queues[1].pop() is None
