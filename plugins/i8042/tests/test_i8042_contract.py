"""What every device at ports has to do, done by a keyboard controller."""

from __future__ import annotations

from pyvmm.testing.contract import BusDeviceContract
from pyvmm.testing.port_driver import PortDriver
from pyvmm_i8042 import I8042Options
from pyvmm_i8042.device import I8042


class TestI8042(BusDeviceContract):
    """A controller that takes commands at a socket."""

    def make(self) -> I8042:
        return I8042(I8042Options(socket=self.tmp_path / "control"))

    def exercise(self, driver: PortDriver) -> None:
        while driver.inb(0x64) & 1:
            driver.inb(0x60)  # what nobody has read before
        driver.outb(0x64, 0xAA)  # test yourself
        assert driver.inb(0x64) & 1
        assert driver.inb(0x60) == 0x55
        driver.outb(0x60, 0xEE)  # echo, of the keyboard
        assert driver.inb(0x60) == 0xEE
        driver.outb(0x60, 0xF4)  # enable, whose answer is to be read later
