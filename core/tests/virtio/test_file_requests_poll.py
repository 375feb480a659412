"""A ring that has run empty is looked at for a moment: no kick is asked of a driver that is quick."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pyvmm.host.aio import IoEngine, IoFile
from pyvmm.memory import GuestMemory
from pyvmm.testing.virtio_driver import VIRTIO_F_EVENT_IDX, VirtioDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.file_requests import MAX_POLL, TransferFormat, Transfers
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import Queue

FORMAT = TransferFormat(
    header_size=12, type_offset=0, position_offset=4, unit=1, read_type=1, write_type=2, done=0, failed=1
)
READ = (1).to_bytes(4, "little") + bytes(8)
LONG = 2_000_000_000


class Store(VirtioDevice):
    device_type = 42
    queue_max_sizes = (128,)

    def __init__(self, file: IoFile) -> None:
        self.file = file
        self.engine = IoEngine(8, backend="threads")

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        self.transfers = Transfers(queues[0], mem, self.engine, self.file, FORMAT, end=4096, loop=self.context.loop)
        super().activate(mem, interrupt, queues)

    def on_kick(self, queue: Queue) -> None:
        assert not list(self.transfers.serve())

    def close(self) -> None:
        self.engine.close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    path = tmp_path / "store"
    path.write_bytes(bytes(4096))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    fd = os.open(path, os.O_RDWR)
    yield Store(IoFile(fd))
    os.close(fd)


@pytest.mark.parametrize("features", [[], [VIRTIO_F_EVENT_IDX]], ids=["flags", "event_idx"])
def test_a_driver_that_waits_for_interrupts_is_served_without_kicks(store: Store, features: list[int]) -> None:
    """One after the other: each answer interrupts while the device goes on looking."""
    with VirtioDriver(store) as driver:
        driver.start(features)
        store.transfers._native.max_poll = store.transfers._native.poll = LONG
        ring, answers, done = driver.rings[0], 0, threading.Event()

        def drive() -> None:
            nonlocal answers
            for _ in range(20):
                if not driver.transport.interrupt_event.wait(10):
                    break
                answers += len(ring.take_used())
                if answers == 20:
                    store.transfers._native.max_poll = 0  # the next one is the last that it waits for
                ring.add([READ], [65])
            done.set()

        thread = threading.Thread(target=drive)
        ring.add([READ], [65])
        ring.kick()
        thread.start()
        driver.run_until(done.is_set)
        thread.join()
        assert answers == 20


def test_what_is_of_no_use_is_done_less_and_less_and_tried_again(store: Store) -> None:
    with VirtioDriver(store) as driver:
        driver.start()
        native = store.transfers._native
        native.poll = MAX_POLL
        waits = []
        for _ in range(40):
            assert not list(store.transfers.serve())
            waits.append(native.poll)
        steps = [MAX_POLL // 2, MAX_POLL // 4, MAX_POLL // 8, 0]
        assert waits[:4] == steps
        assert waits[4:19] == [0] * 15
        assert waits[19:23] == steps


def test_what_a_paused_ring_has_under_way_comes_to_its_end(store: Store) -> None:
    store.engine.native.inline_length = 0
    with VirtioDriver(store) as driver:
        driver.start()
        driver.loop.add(store.engine.fd, lambda _: store.on_kick(queue))
        queue, ring = driver.transport.queues[0], driver.rings[0]
        for _ in range(5):
            ring.add([READ], [65])
            assert not list(store.transfers.serve())
            queue.paused = True
            driver.run_until(lambda: queue.in_flight == 0)
            ring.add([READ], [65])
            driver.run()
            assert queue.in_flight == 0
            queue.paused = False
        driver.loop.remove(store.engine.fd)


def test_one_cpu_is_left_to_the_guest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with VirtioDriver(store) as driver:
        driver.start()
        assert store.transfers._native.max_poll == 0
