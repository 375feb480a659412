"""What a well-behaved driver gets (virtio 1.2, section 5.2.6)."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from pyvmm.testing.virtio_driver import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC
from pyvmm_virtio_block import constants as c


def test_read_returns_the_images_bytes(disk: Any, image: Path) -> None:
    assert disk.read(3, 4096) == image.read_bytes()[3 * 512 : 3 * 512 + 4096]


def test_read_of_the_whole_disk_and_of_the_last_sector(disk: Any, image: Path) -> None:
    content = image.read_bytes()
    assert disk.read(0, len(content)) == content
    assert disk.read(255, 512) == content[-512:]


def test_read_is_spread_over_segments_of_any_length(disk: Any, image: Path) -> None:
    assert disk.read(8, 1, 511, 100, 412, 1024) == image.read_bytes()[4096 : 4096 + 2048]


def test_write_is_gathered_from_segments_of_any_length(disk: Any, image: Path) -> None:
    data = os.urandom(1536)
    assert disk.write(5, data[:7], data[7:1000], data[1000:]) == 0
    assert image.read_bytes()[5 * 512 : 5 * 512 + 1536] == data


def test_write_leaves_its_neighbours_alone(disk: Any, image: Path) -> None:
    before = image.read_bytes()
    assert disk.write(10, b"x" * 512) == 0
    assert image.read_bytes() == before[: 10 * 512] + b"x" * 512 + before[11 * 512 :]


def test_header_split_across_descriptors(disk: Any, image: Path) -> None:
    header = struct.pack("<IIQ", 0, 0, 2)
    used = disk.raw([header[:3], header[3:4], header[4:]], [512, 1])
    assert disk.answer(used) == (0, image.read_bytes()[1024:1536])


def test_header_and_data_in_one_descriptor(disk: Any, image: Path) -> None:
    used = disk.raw([struct.pack("<IIQ", 1, 0, 2) + b"y" * 512], [1])
    assert disk.answer(used) == (0, b"")
    assert image.read_bytes()[1024:1536] == b"y" * 512


def test_data_and_status_in_one_descriptor(disk: Any, image: Path) -> None:
    used = disk.raw([struct.pack("<IIQ", 0, 0, 2)], [513])
    assert disk.answer(used) == (0, image.read_bytes()[1024:1536])


def test_data_and_status_cut_in_odd_places(disk: Any, image: Path) -> None:
    used = disk.raw([struct.pack("<IIQ", 0, 0, 2)], [500, 10, 3])
    assert disk.answer(used) == (0, image.read_bytes()[1024:1536])


def test_many_requests_at_once_are_all_answered(disk: Any, image: Path) -> None:
    content = image.read_bytes()
    chains = {disk.add(0, sector, (), [512]): sector for sector in range(64)}
    for used in disk.driver.exchange():
        sector = chains[used.chain]
        assert disk.answer(used) == (0, content[sector * 512 : sector * 512 + 512])


def test_a_full_ring_of_indirect_chains(make_disk: Any, image: Path, backend: str) -> None:
    disk = make_disk(image, start={"indirect": True})
    content = image.read_bytes()
    for _ in range(3):
        chains = {disk.add(0, sector, (), [256, 256]): sector for sector in range(256)}
        for used in disk.driver.exchange():
            sector = chains[used.chain]
            assert disk.answer(used) == (0, content[sector * 512 : sector * 512 + 512])


def test_an_indirect_chain_of_a_thousand_segments(make_disk: Any, image: Path, backend: str) -> None:
    disk = make_disk(image, start={"indirect": True})
    assert disk.read(0, *[128] * 1000) == image.read_bytes()[:128000]
    data = os.urandom(128 * 1000)
    assert disk.write(1, *(data[i : i + 128] for i in range(0, len(data), 128))) == 0
    assert image.read_bytes()[512 : 512 + len(data)] == data


def test_event_idx(make_disk: Any, image: Path, backend: str) -> None:
    disk = make_disk(image, [VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC])
    for sector in range(100):
        assert disk.read(sector, 512) == image.read_bytes()[sector * 512 : sector * 512 + 512]
        assert disk.driver.take_interrupt()


def test_flush_succeeds(disk: Any) -> None:
    assert disk.write(0, b"z" * 512) == 0
    assert disk.request(c.VIRTIO_BLK_T_FLUSH) == (0, b"")


def test_flush_is_fdatasync(disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fdatasync = disk.device.engine.fdatasync
    monkeypatch.setattr(
        disk.device.engine, "fdatasync", lambda file, done: (synced.append(file), fdatasync(file, done))
    )
    assert disk.request(c.VIRTIO_BLK_T_FLUSH) == (0, b"")
    assert synced == [disk.device.image.file]


def test_flush_on_a_read_only_disk(make_disk: Any, image: Path) -> None:
    assert make_disk(image, ro=True).request(c.VIRTIO_BLK_T_FLUSH) == (0, b"")


def test_get_id(make_disk: Any, image: Path) -> None:
    disk = make_disk(image, id="disk-of-tests")
    assert disk.request(c.VIRTIO_BLK_T_GET_ID, writable=[20]) == (0, b"disk-of-tests".ljust(20, b"\0"))


def test_get_id_of_twenty_bytes_has_no_terminator(make_disk: Any, image: Path) -> None:
    assert make_disk(image, id="x" * 20).request(c.VIRTIO_BLK_T_GET_ID, writable=[7, 13]) == (0, b"x" * 20)


def test_get_id_without_one_is_zeros(disk: Any) -> None:
    assert disk.request(c.VIRTIO_BLK_T_GET_ID, writable=[20]) == (0, bytes(20))


def test_interrupt_follows_completion(disk: Any) -> None:
    disk.driver.take_interrupt()
    disk.read(0, 512)
    assert disk.driver.take_interrupt()


def test_configuration_space(make_disk: Any, image: Path) -> None:
    disk = make_disk(image)
    config = struct.unpack("<QIIHBBIBBHIBBHIIIIIB3x", disk.driver.read_config(0, 60))
    capacity, size_max, seg_max, *geometry, blk_size = config[:7]
    assert (capacity, size_max, seg_max, geometry, blk_size) == (256, 0, 254, [0, 0, 0], 512)
    physical, offset, minimum, optimum, wce, _, queues = config[7:14]
    assert (1 << physical, offset, minimum, optimum, wce, queues) == (minimum, 0, minimum, 0, 1, 1)
    assert config[14:] == (1 << 22, 32, minimum, 1 << 22, 32, 1)


def test_configuration_space_byte_by_byte_and_past_its_end(disk: Any) -> None:
    whole = disk.driver.read_config(0, 64)
    assert b"".join(disk.driver.read_config(i, 1) for i in range(64)) == whole
    assert whole[60:] == bytes(4)
    assert disk.driver.read_config(1000, 8) == bytes(8)


def test_features(make_disk: Any, image: Path) -> None:
    offered = make_disk(image).device.device_features
    assert {bit for bit in range(64) if offered >> bit & 1} == {2, 6, 9, 10, 11, 13, 14}


def test_features_of_a_read_only_disk(make_disk: Any, image: Path) -> None:
    offered = make_disk(image, ro=True).device.device_features
    assert {bit for bit in range(64) if offered >> bit & 1} == {2, 5, 6, 9, 10}


@pytest.mark.parametrize(
    ("features", "wce", "flags"),
    [
        ([c.VIRTIO_BLK_F_FLUSH], None, 0),
        ([], None, os.RWF_DSYNC),
        ([c.VIRTIO_BLK_F_CONFIG_WCE], None, os.RWF_DSYNC),
        ([c.VIRTIO_BLK_F_FLUSH, c.VIRTIO_BLK_F_CONFIG_WCE], None, 0),
        ([c.VIRTIO_BLK_F_FLUSH, c.VIRTIO_BLK_F_CONFIG_WCE], 0, os.RWF_DSYNC),
        ([c.VIRTIO_BLK_F_FLUSH, c.VIRTIO_BLK_F_CONFIG_WCE], 1, 0),
        ([c.VIRTIO_BLK_F_FLUSH], 0, 0),
    ],
)
def test_writes_are_synchronous_while_the_driver_wants_no_cache(
    make_disk: Any,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    features: list[int],
    wce: int | None,
    flags: int,
) -> None:
    disk = make_disk(image, features)
    if wce is not None:
        disk.driver.write_config(32, bytes([wce]))
    assert disk.device.write_flags == flags
    assert disk.write(0, b"w" * 512) == 0
    assert image.read_bytes()[:512] == b"w" * 512


def test_writeback_field_reads_as_written_and_is_back_after_a_reset(disk: Any) -> None:
    disk.driver.write_config(32, b"\0")
    assert disk.driver.read_config(32, 1) == b"\0"
    disk.driver.write_config(32, b"\7")
    assert disk.driver.read_config(32, 1) == b"\0"
    disk.driver.start()
    assert disk.driver.read_config(32, 1) == b"\1"


def test_config_writes_elsewhere_change_nothing(disk: Any) -> None:
    before = disk.driver.read_config(0, 60)
    for offset in (0, 8, 20, 31, 33, 59, 60, 4000):
        disk.driver.write_config(offset, b"\xff" * 4)
    assert disk.driver.read_config(0, 60) == before


def test_reset_and_start_again(disk: Any, image: Path) -> None:
    for _ in range(3):
        assert disk.read(0, 512) == image.read_bytes()[:512]
        disk.driver.start()


def test_reset_in_the_middle_of_io_leaves_guest_memory_alone(disk: Any) -> None:
    for sector in range(80):
        disk.add(0, sector, (), [512])
    disk.driver.rings[0].kick()
    disk.driver.loop.run_once(1)
    disk.driver.reset()
    assert disk.device.engine.in_use == 0
    before = bytes(disk.driver.memory.slice(0, disk.driver.memory.size))
    disk.driver.run()
    assert bytes(disk.driver.memory.slice(0, disk.driver.memory.size)) == before
    disk.driver.start()
    disk.read(0, 512)


def test_device_offered_no_queue_is_left_alone(make_disk: Any, image: Path) -> None:
    disk = make_disk(image, start={"queue_sizes": [0]})
    disk.driver.run()
    disk.driver.reset()
