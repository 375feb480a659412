"""A disk with several queues (VIRTIO_BLK_F_MQ): any request on any queue, one engine behind all of them."""

from __future__ import annotations

import os
import random
import select
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyvmm.limits import MAX_CPUS
from pyvmm.testing.virtio_driver import VIRTIO_F_EVENT_IDX
from pyvmm.testing.waiting import PATIENCE
from pyvmm_virtio_block import constants as c

from .conftest import Disk

MakeDisk = Callable[..., Disk]


def add(disk: Any, queue: int, type_: int, sector: int, readable: Any = (), writable: Any = ()) -> object:
    return disk.driver.rings[queue].add([struct.pack("<IIQ", type_, 0, sector), *readable], [*writable, 1])


def test_the_driver_is_told_how_many_there_are(make_disk: MakeDisk, image: Path) -> None:
    disk = make_disk(image, queues=4)
    assert disk.driver.offered_features() >> c.VIRTIO_BLK_F_MQ & 1
    assert struct.unpack("<H", disk.driver.read_config(34, 2)) == (4,)
    assert [disk.driver.queue_size_max(queue) for queue in range(5)] == [256, 256, 256, 256, 0]


def test_one_queue_is_no_feature(make_disk: MakeDisk, image: Path) -> None:
    disk = make_disk(image)
    assert not disk.driver.offered_features() >> c.VIRTIO_BLK_F_MQ & 1


@pytest.mark.parametrize("features", [None, [c.VIRTIO_BLK_F_MQ, VIRTIO_F_EVENT_IDX]], ids=["flags", "event_idx"])
def test_each_queue_answers_its_own_requests(
    make_disk: MakeDisk, image: Path, backend: str, features: list[int] | None
) -> None:
    disk = make_disk(image, features, queues=4)
    content = image.read_bytes()
    order = random.Random(1)
    for _ in range(20):
        chains = {}
        for _ in range(100):
            queue, sector = order.randrange(4), order.randrange(256)
            chains[add(disk, queue, c.VIRTIO_BLK_T_IN, sector, (), [512])] = queue, sector
        for ring in disk.driver.rings:
            ring.kick()
        for queue, ring in enumerate(disk.driver.rings):
            for used in disk.driver.wait_used(queue, ring.in_flight):
                its_queue, sector = chains.pop(used.chain)
                assert its_queue == queue
                assert disk.answer(used) == (0, content[sector * 512 : sector * 512 + 512])
        assert not chains


def test_a_queue_hears_of_what_is_found_finished_at_another_ones_turn(
    make_disk: MakeDisk, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_AIO", "threads")
    disk = make_disk(image, queues=2)
    second = disk.device._transfers[1]
    serve = second.serve

    def serve_late() -> Any:
        select.select([disk.device.engine.fd], [], [], PATIENCE)  # the first queue's turn is over, its write is not
        return serve()

    monkeypatch.setattr(second, "serve", serve_late)
    add(disk, 0, c.VIRTIO_BLK_T_OUT, 0, [os.urandom(512)])
    disk.driver.rings[0].kick()
    disk.driver.loop.run_once(PATIENCE)

    (used,) = disk.driver.rings[0].take_used()
    assert disk.answer(used) == (0, b"")
    assert disk.driver.take_interrupt()


def test_a_flush_covers_what_another_queue_was_told_is_written(
    make_disk: MakeDisk, image: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make_disk(image, queues=2)
    written: list[bytes] = []
    fdatasync = disk.device.engine.fdatasync

    def sync(file: Any, on_done: Callable[[int], None]) -> None:
        written.append(image.read_bytes()[: 16 * 512])
        fdatasync(file, on_done)

    monkeypatch.setattr(disk.device.engine, "fdatasync", sync)
    data = os.urandom(16 * 512)
    for sector in range(16):
        add(disk, 0, c.VIRTIO_BLK_T_OUT, sector, [data[sector * 512 : sector * 512 + 512]])
    disk.driver.exchange(0)
    add(disk, 1, c.VIRTIO_BLK_T_FLUSH, 0)
    (used,) = disk.driver.exchange(1)

    assert disk.answer(used) == (0, b"")
    assert written == [data]


@pytest.mark.parametrize(("queues", "size"), [(1, 256), (8, 256), (16, 256), (17, 128), (MAX_CPUS, 64)])
def test_all_queues_can_be_full_at_once(make_disk: MakeDisk, image: Path, backend: str, queues: int, size: int) -> None:
    disk = make_disk(image, start={"indirect": True}, queues=queues)
    assert [*disk.device.queue_max_sizes] == [size] * queues
    for ring in disk.driver.rings:
        for sector in range(size):
            ring.add([struct.pack("<IIQ", c.VIRTIO_BLK_T_OUT, 0, sector), bytes(512)], [1])
    for ring in disk.driver.rings:
        ring.kick()
    for queue in range(queues):
        assert {disk.answer(used) for used in disk.driver.wait_used(queue, size)} == {(0, b"")}
    assert image.read_bytes()[: size * 512] == bytes(size * 512)


def test_a_driver_may_leave_queues_out(make_disk: MakeDisk, image: Path) -> None:
    disk = make_disk(image, start={"queue_sizes": [128, 0, 16, 0]}, queues=4)
    for queue in (0, 2):
        add(disk, queue, c.VIRTIO_BLK_T_IN, 1, (), [512])
        (used,) = disk.driver.exchange(queue)
        assert disk.answer(used)[0] == 0
