"""What every virtio device has to do, done by a network card."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from pyvmm.testing.contract import VirtioDeviceContract
from pyvmm.testing.contract.saved import SavedStateContract
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.virtio_driver import VirtioDriver

sys.path.append(str(Path(__file__).parent))

from net_host import ETH_P_TEST, Wire
from pyvmm_virtio_net import NetOptions
from pyvmm_virtio_net.constants import HEADER_SIZE, RECEIVEQ, TRANSMITQ
from pyvmm_virtio_net.tap_card import Net

FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\1" + ETH_P_TEST.to_bytes(2, "big") + bytes(50)


@pytest.mark.usefixtures("namespace")
class TestNet(VirtioDeviceContract):
    """A card on a tap."""

    def make(self) -> Net:
        return Net(NetOptions("tap0", vhost="off"))

    def exercise(self, driver: QueueDriver) -> None:
        with Wire("tap0") as wire:
            driver.rings[TRANSMITQ].add([bytes(HEADER_SIZE) + FRAME])
            driver.exchange(TRANSMITQ)
            assert [frame for _, frame in wire.receive()] == [FRAME]
            received = driver.rings[RECEIVEQ].add([], [HEADER_SIZE + 1514])
            driver.rings[RECEIVEQ].kick()
            wire.send(FRAME)
            used = driver.wait_used(RECEIVEQ)[-1]
            assert used.chain is received
            assert received.written()[HEADER_SIZE : used.length] == FRAME

    def provoke(self, driver: VirtioDriver, queue: int) -> None:
        """A frame comes."""
        if queue == RECEIVEQ:
            with Wire("tap0") as wire:
                wire.send(FRAME)
            driver.run()


@pytest.mark.usefixtures("namespace")
class TestNetWithPairs(SavedStateContract):
    """A card with two pairs of queues in use: what the driver asked for is state as well."""

    def make(self) -> Net:
        return Net(NetOptions("tap0", vhost="off", queues=2))

    def exercise(self, driver: QueueDriver) -> None:
        with Wire("tap0") as wire:
            if not driver.rings[4].used_idx:
                request = driver.rings[4].add([struct.pack("<BBH", 4, 0, 2)], [1])
                driver.exchange(4)
                assert request.written() == b"\0"
            driver.rings[3].add([bytes(HEADER_SIZE) + FRAME])
            driver.exchange(3)
            assert [frame for _, frame in wire.receive()] == [FRAME]
