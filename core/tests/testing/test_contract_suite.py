"""The contract suite, on devices of the core's own: one that does right, and some that do wrong and are caught."""

from __future__ import annotations

from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.testing.contract import BusDeviceContract, VirtioDeviceContract
from pyvmm.testing.queue_driver import QueueDriver

from core.tests.virtio.probe import Probe


class Echo(Probe):
    """A probe whose configuration the driver cannot change, with features that are a device's to have."""

    device_features = 1 << 3 | 1 << 70 | 1 << 127

    def write_config(self, offset: int, data: memoryview) -> None:
        self.note("write_config")


class TestEcho(VirtioDeviceContract):
    """A device that does what it should."""

    def make(self) -> Echo:
        return Echo()

    def exercise(self, driver: QueueDriver) -> None:
        for index, ring in enumerate(driver.rings):
            chain = ring.add([b"hello"], [5])
            (used,) = driver.exchange(index)
            assert used.chain is chain
            assert chain.written() == b"hello"


class TestEchoByDefaults(VirtioDeviceContract):
    """The same, with nothing said of it but how it is made."""

    def make(self) -> Echo:
        return Echo((1, 2, 256))


class Counter(BusDevice):
    """Counts writes, and interrupts for each."""

    placements = (
        Placement(ports=BusRange(0x500, 4), any_irq=True, acpi_hid="PNP0C02"),
        Placement(mmio_size=4096),
    )

    def __init__(self) -> None:
        self.counts = bytearray(8)

    def read(self, offset: int, data: memoryview) -> None:
        data[0] = self.counts[offset % 8]

    def write(self, offset: int, data: memoryview) -> None:
        self.counts[offset % 8] = self.counts[offset % 8] + 1 & 0xFF
        self.interrupt(1)


class TestCounter(BusDeviceContract):
    """A device at ports, or in memory."""

    def make(self) -> Counter:
        return Counter()
