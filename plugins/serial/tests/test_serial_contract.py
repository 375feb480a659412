"""What every device at ports has to do, done by a serial port."""

from __future__ import annotations

from pyvmm.testing.contract import BusDeviceContract
from pyvmm.testing.port_driver import PortDriver
from pyvmm_serial import SerialOptions
from pyvmm_serial.device import Serial
from pyvmm_serial.registers import UART_LCR, UART_SCR, UART_TX


class TestSerial(BusDeviceContract):
    """A port whose output goes to a file."""

    def make(self) -> Serial:
        return Serial(SerialOptions(file=self.tmp_path / "output"))

    def exercise(self, driver: PortDriver) -> None:
        (_, place) = driver.places[0]
        output = self.tmp_path / "output"
        driver.run()  # a machine that runs has emptied the file
        before = output.stat().st_size
        driver.outb(place.base + UART_LCR, 0x03)
        for value in b"hello":
            driver.outb(place.base + UART_TX, value)
        driver.run()
        assert output.read_bytes()[before:] == b"hello"
        driver.outb(place.base + UART_SCR, 0x5A)
        assert driver.inb(place.base + UART_SCR) == 0x5A
