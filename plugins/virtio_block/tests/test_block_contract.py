"""What every virtio device has to do, done by a disk."""

from __future__ import annotations

import struct

from pyvmm.testing.contract import VirtioDeviceContract
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm_virtio_block import BlockOptions
from pyvmm_virtio_block.constants import VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
from pyvmm_virtio_block.device import Block

SECTOR = 512


class TestBlock(VirtioDeviceContract):
    """A disk that can be written to."""

    writable_config = (32,)  # writeback

    def make(self) -> Block:
        image = self.tmp_path / "disk.img"
        if not image.exists():
            image.write_bytes(bytes(256 * SECTOR))
        return Block(BlockOptions(image, id="contract"))

    def exercise(self, driver: QueueDriver) -> None:
        data = bytes(range(256)) * 4
        assert _request(driver, VIRTIO_BLK_T_OUT, 3, [data]) == b""
        assert _request(driver, VIRTIO_BLK_T_FLUSH) == b""
        assert _request(driver, VIRTIO_BLK_T_IN, 3, size=len(data)) == data
        assert _request(driver, VIRTIO_BLK_T_GET_ID, size=20) == b"contract".ljust(20, b"\0")


class TestReadOnlyBlock(VirtioDeviceContract):
    """A disk that cannot."""

    def make(self) -> Block:
        image = self.tmp_path / "disk.img"
        image.write_bytes(bytes(range(256)) * 64)
        return Block(BlockOptions(image, ro=True))

    def exercise(self, driver: QueueDriver) -> None:
        assert _request(driver, VIRTIO_BLK_T_IN, 1, size=SECTOR) == bytes(range(256)) * 2


def _request(driver: QueueDriver, type_: int, sector: int = 0, data: list[bytes] | None = None, size: int = 0) -> bytes:
    """The data of a successful request."""
    chain = driver.rings[0].add([struct.pack("<IIQ", type_, 0, sector), *(data or [])], [size, 1] if size else [1])
    driver.exchange()
    *answer, status = chain.written()
    assert status == 0
    return bytes(answer)
