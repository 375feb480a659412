"""What every device at ports has to do, done by a clock."""

from __future__ import annotations

import time

from pyvmm.testing.contract import BusDeviceContract
from pyvmm.testing.port_driver import PortDriver
from pyvmm.testing.saved_state import save
from pyvmm_rtc.device import Rtc

SCRATCH = 0x40
"""A register that is only memory."""


class TestRtc(BusDeviceContract):
    """A clock."""

    def make(self) -> Rtc:
        return Rtc()

    def exercise(self, driver: PortDriver) -> None:
        for value in (0x5A, 0xA5):
            driver.outb(0x70, SCRATCH)
            driver.outb(0x71, value)
            assert driver.inb(0x71) == value
        driver.outb(0x70, 0x0D)
        assert driver.inb(0x71) == 0x80  # the battery is good

    def test_interrupts_go_on_after_save_and_load(self) -> None:
        began = time.time_ns()
        with PortDriver(Rtc(lambda: began)) as driver:  # a moment in which nothing is due
            for index, value in ((0x0A, 0x23), (0x0B, 0x42)):  # 8192 times a second; PIE, 24 hours
                driver.outb(0x70, index)
                driver.outb(0x71, value)
            state = save(driver.device)  # before the loop has set its timer
        with self.driven(state=state) as driver:
            driver.run_until(lambda: driver.edges() > 0)

    def visible_state(self, driver: PortDriver) -> object:
        """All registers but those of the time."""
        state = []
        for index in range(0x0E, 0x80):
            driver.outb(0x70, index)
            state.append(driver.inb(0x71))
        return state
