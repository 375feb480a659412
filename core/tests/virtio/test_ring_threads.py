"""A driver and a device on two threads: no request and no wake-up is lost."""

from __future__ import annotations

import threading

import pytest
from pyvmm.device_context import DeviceContext
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap
from pyvmm.testing.mmio_driver import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, MmioDriver
from pyvmm.testing.waiting import PATIENCE
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.mmio import MmioDevice
from pyvmm.virtio.queue import Queue

REQUESTS = 4000


class Echo(VirtioDevice):
    """Gives back what it reads."""

    device_type = 42
    queue_max_sizes = (64,)
    served = 0

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)

    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            chain.complete(chain.write(0, chain.read(0, 64)))
            self.served += 1


@pytest.mark.parametrize("features", [(), (VIRTIO_F_EVENT_IDX,), (VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC)])
@pytest.mark.parametrize("depth", [1, 3, 16])
def test_a_driver_that_sleeps_until_it_is_interrupted_gets_every_answer(depth: int, features: tuple[int, ...]) -> None:
    memory, loop, device = GuestMemory.create([(0, 1 << 20)]), EventLoop(), Echo()
    transport = MmioDevice(memory, device, "echo0", loop)
    thread = threading.Thread(target=loop.run)
    thread.start()
    driver = MmioDriver(transport)
    driver.begin()
    driver.negotiate(features)
    event_idx = VIRTIO_F_EVENT_IDX in features
    ring = DriverRing(
        GuestHeap(memory, 0, 1 << 20), size=64, event_idx=event_idx, indirect=VIRTIO_F_INDIRECT_DESC in features
    )
    ring.queue = transport.queues[0]
    driver.set_up_queue(0, ring)
    driver.driver_ok()
    request, answer = ring.buffer(8), ring.buffer(8)
    ring.heap = GuestHeap(memory, ring.heap._next, 1 << 20)

    sent = answered = 0
    try:
        while answered < REQUESTS:
            ring.heap.reset() if ring.in_flight == 0 else None
            while ring.in_flight < depth and sent < REQUESTS:
                ring.add([request], [answer])
                sent += 1
            ring.kick()
            used = ring.take_used()
            if not used:
                # As a driver has to before it sleeps: say so, then look once more.
                ring.interrupts = True
                if ring.used_idx == ring._last_used:
                    assert transport.interrupt_event.wait(PATIENCE), f"lost at {answered} of {REQUESTS}"
                ring.interrupts = False
                continue
            assert all(entry.length == 8 for entry in used)
            answered += len(used)
    finally:
        loop.stop()
        thread.join(PATIENCE)
        transport.close()
        loop.close()
        memory.close()
    assert (answered, device.served) == (REQUESTS, REQUESTS)
