from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyvmm.errors import UsageError
from pyvmm.options import Size, parse_options
from pyvmm.testing.contract import VirtioDeviceContract
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm_ramdisk import RamDiskOptions, pyvmm_device_kinds
from pyvmm_ramdisk.device import (
    HEADER,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    RamDisk,
)

SIZE = 64 << 10


class TestContract(VirtioDeviceContract):
    """What every virtio device has to do."""

    def make(self) -> RamDisk:
        return RamDisk(RamDiskOptions(Size(SIZE), "abc"))

    def exercise(self, driver: QueueDriver) -> None:
        ring = driver.rings[0]
        for sector in range(2):
            ring.add([HEADER.pack(VIRTIO_BLK_T_OUT, 0, sector), bytes([sector]) * 512], [1])
            driver.exchange()
            ring.add([HEADER.pack(VIRTIO_BLK_T_IN, 0, sector)], [512, 1])
            chain = driver.exchange()[-1].chain
            assert chain is not None
            assert chain.written() == bytes([sector]) * 512 + bytes([VIRTIO_BLK_S_OK])


@pytest.fixture
def driver() -> Iterator[VirtioDriver]:
    with VirtioDriver(RamDisk(RamDiskOptions(Size(SIZE), "abc")), name="ramdisk0") as driver:
        driver.start()
        yield driver


def ask(driver: VirtioDriver, kind: int, sector: int = 0, data: bytes = b"", room: int = 0) -> tuple[bytes, int]:
    """A request: what came, and the status."""
    driver.rings[0].add([HEADER.pack(kind, 0, sector), *([data] if data else [])], [*([room] if room else []), 1])
    (used,) = driver.exchange()
    assert used.chain is not None
    written = used.chain.written()
    return written[:-1], written[-1]


def test_the_driver_learns_the_size(driver: VirtioDriver) -> None:
    assert driver.read_config(0, 8) == (SIZE // 512).to_bytes(8, "little")


def test_it_is_full_of_the_text_and_keeps_what_is_written(driver: VirtioDriver) -> None:
    assert ask(driver, VIRTIO_BLK_T_IN, 0, room=512) == ((b"abc" * 171)[:512], VIRTIO_BLK_S_OK)
    assert ask(driver, VIRTIO_BLK_T_OUT, 3, data=b"x" * 1024) == (b"", VIRTIO_BLK_S_OK)
    assert ask(driver, VIRTIO_BLK_T_IN, 3, room=1024) == (b"x" * 1024, VIRTIO_BLK_S_OK)


def test_it_has_an_id(driver: VirtioDriver) -> None:
    assert ask(driver, VIRTIO_BLK_T_GET_ID, room=20) == (b"ramdisk0".ljust(20, b"\0"), VIRTIO_BLK_S_OK)


@pytest.mark.parametrize("sector", [SIZE // 512, 1 << 55, (1 << 64) - 1])
def test_nothing_is_reached_past_its_end(driver: VirtioDriver, sector: int) -> None:
    assert ask(driver, VIRTIO_BLK_T_IN, sector, room=512)[1] == VIRTIO_BLK_S_IOERR
    assert ask(driver, VIRTIO_BLK_T_OUT, sector, data=bytes(512))[1] == VIRTIO_BLK_S_IOERR


def test_half_a_sector_is_refused_and_an_unknown_request_is_unsupported(driver: VirtioDriver) -> None:
    assert ask(driver, VIRTIO_BLK_T_IN, room=100)[1] == VIRTIO_BLK_S_IOERR
    assert ask(driver, 99)[1] == VIRTIO_BLK_S_UNSUPP


def test_options() -> None:
    assert parse_options(RamDiskOptions, "ramdisk", "16M").size == 16 << 20
    with pytest.raises(UsageError, match="multiple of 512"):
        parse_options(RamDiskOptions, "ramdisk", "1000")


def test_a_process_with_an_empty_disk_takes_no_dead_one_s_place() -> None:
    (kind,) = pyvmm_device_kinds()
    assert not kind.restartable
