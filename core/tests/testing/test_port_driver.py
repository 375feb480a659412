"""The kit for devices at ports: what a test sees of a device that works, and of one that does not."""

from __future__ import annotations

import os

import pytest
from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.device_context import DeviceInfo, MachineView
from pyvmm.exit_reason import End, ExitReason
from pyvmm.memory import GuestMemory
from pyvmm.testing.port_driver import PortDriver


class Doubler(BusDevice):
    """Answers twice what was written, with an interrupt from the loop."""

    placements = (Placement(BusRange(0x10, 2), more_ports=(BusRange(0x20, 1),), any_irq=True),)

    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.closed = 0

    def read(self, offset: int, data: memoryview) -> None:
        data[0] = self.values[offset]

    def write(self, offset: int, data: memoryview) -> None:
        self.values[offset] = 2 * data[0]
        if data[0] == 0x42:
            self.context.stop(ExitReason(End.REBOOT))
        self.context.loop.post(lambda: self.interrupt(1) if data[0] else 1 // data[0])

    def close(self) -> None:
        self.closed += 1


def test_a_device_sees_memory_and_machine_and_its_files_go() -> None:
    device, machine = Doubler(), MachineView({"doubler0": DeviceInfo("doubler", ""), "lamp0": DeviceInfo("lamp", "")})
    with (
        GuestMemory.create([(0, 1 << 20)]) as memory,
        PortDriver(device, name="doubler0", memory=memory, machine=machine) as driver,
    ):
        assert device.context.memory is memory
        assert list(device.context.devices) == ["doubler0", "lamp0"]
        path = device.context.directory()
        path.joinpath("file").touch()
        assert driver.machine is machine
    assert not path.exists() and not machine.files.path.exists()


def test_accesses_interrupts_and_stops() -> None:
    device = Doubler()
    before = len(os.listdir("/proc/self/fd"))
    with PortDriver(device, name="doubler0") as driver:
        driver.outb(0x10, 5)
        driver.outb(0x20, 0x42)
        assert (driver.inb(0x10), driver.inb(0x20), driver.inb(0x12)) == (10, 0x84, 0xFF)
        assert driver.edges() == 0
        driver.run()
        assert driver.edges() == 2
        assert [reason.end for reason in driver.stops] == [End.REBOOT]
        assert device.name == "doubler0"
    assert device.closed == 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_fails_on_the_loop_fails_the_test_and_what_fails_at_an_access_the_device() -> None:
    with PortDriver(Doubler()) as driver:
        driver.outb(0x10, 0)
        with pytest.raises(ZeroDivisionError):
            driver.run()
    with PortDriver(Doubler()) as driver:
        assert driver.inb(0x11) == 0xFF  # KeyError
        driver.outb(0x10, 1)
        assert driver.inb(0x10) == 0xFF


def test_waiting_for_what_does_not_come() -> None:
    with PortDriver(Doubler()) as driver, pytest.raises(AssertionError, match="did not come true"):
        driver.run_until(lambda: False, timeout=0.05)
