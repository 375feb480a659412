"""Where devices that are not virtio are put, and what the guest is told of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.device_manager import MMIODeviceManager
from pyvmm.device_manager.resources import IrqRequest
from pyvmm.errors import UsageError
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.x86_64.acpi import AcpiDevice


class Ports(BusDevice):
    """A device at ports that reads as the offset it is asked for."""

    def __init__(self, *placements: Placement) -> None:
        self.placements = placements

    def read(self, offset: int, data: memoryview) -> None:
        data[0] = offset


CONTROLLER = Placement(BusRange(0x60, 1), more_ports=[BusRange(0x64, 2)], irq=1, acpi_hid="PNP0303")


@pytest.fixture
def devices() -> Iterator[MMIODeviceManager]:
    loop = EventLoop()
    with GuestMemory.create([(0, 1 << 20)]) as memory:
        devices = MMIODeviceManager(memory, loop=loop)
        yield devices
        devices.close()
    loop.close()


def read(devices: MMIODeviceManager, port: int) -> int:
    data = bytearray(1)
    devices.ports.read(port, memoryview(data))
    return data[0]


def test_a_device_at_ports_that_are_apart_is_found_at_all_of_them(devices: MMIODeviceManager) -> None:
    assert devices.register_bus_device(Ports(CONTROLLER), "controller") == 0x60
    assert [read(devices, port) for port in range(0x60, 0x67)] == [0, 0xFF, 0xFF, 0xFF, 4, 5, 0xFF]
    assert devices.acpi_devices == [
        AcpiDevice("PNP0303", 0, None, (BusRange(0x60, 1), BusRange(0x64, 2)), 1, "controller")
    ]
    assert [request.irq for request in devices.vm_requests if isinstance(request, IrqRequest)] == [1]


@pytest.mark.parametrize("port", [0x60, 0x64, 0x65])
def test_a_place_of_which_one_port_is_taken_is_not_free(devices: MMIODeviceManager, port: int) -> None:
    devices.register_bus_device(Ports(Placement(BusRange(port, 1))), "first")
    with pytest.raises(UsageError, match="controller: its places are taken, by first"):
        devices.register_bus_device(Ports(CONTROLLER), "controller")


def test_the_next_free_place_is_taken(devices: MMIODeviceManager) -> None:
    second = Placement(BusRange(0x160, 1), more_ports=[BusRange(0x164, 1)])
    devices.register_bus_device(Ports(Placement(BusRange(0x64, 1))), "first")
    assert devices.register_bus_device(Ports(CONTROLLER, second), "controller") == 0x160
    assert read(devices, 0x60) == 0xFF
    assert read(devices, 0x164) == 4
