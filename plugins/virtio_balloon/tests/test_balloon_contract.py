"""What every virtio device has to do, done by a balloon."""

from __future__ import annotations

import struct

from pyvmm.testing.contract import VirtioDeviceContract
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm_virtio_balloon import BalloonOptions
from pyvmm_virtio_balloon.device import DEFLATE, INFLATE, Balloon


class TestBalloon(VirtioDeviceContract):
    """A balloon whose guest is to give up 8 MiB."""

    writable_config = (*range(4, 8), *range(12, 16))  # actual, poison_val

    def make(self) -> Balloon:
        return Balloon(BalloonOptions(size=8 << 20))  # type: ignore[arg-type]

    def exercise(self, driver: QueueDriver) -> None:
        assert struct.unpack("<I", driver.read_config(0, 4)) == (2048,)
        page = driver.heap.allocate(4096, 4096)
        page.write(b"\xa5" * 4096)
        number = struct.pack("<I", page.address >> 12)
        driver.rings[INFLATE].add([number])
        driver.exchange(INFLATE)
        assert page.read() == bytes(4096), "what is in the balloon is the host's"
        driver.write_config(4, struct.pack("<I", 1))
        driver.rings[DEFLATE].add([number])
        driver.exchange(DEFLATE)
        assert struct.unpack("<I", driver.read_config(4, 4)) == (1,)
