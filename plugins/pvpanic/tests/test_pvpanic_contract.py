"""What every device at ports has to do, done by pvpanic."""

from __future__ import annotations

from pyvmm.testing.contract import BusDeviceContract
from pyvmm.testing.port_driver import PortDriver
from pyvmm_pvpanic.device import EVENTS, PVPANIC_PANICKED, Pvpanic


class TestPvpanic(BusDeviceContract):
    """A port."""

    def make(self) -> Pvpanic:
        return Pvpanic()

    def exercise(self, driver: PortDriver) -> None:
        assert driver.inb(0x505) == EVENTS
        driver.stops.clear()
        driver.outb(0x505, PVPANIC_PANICKED)
        assert len(driver.stops) == 1
