"""Which place a device gets, what KVM and the guest are told of it, and in which order everything is closed."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from pyvmm.bus import BusDevice, BusError, BusRange, Placement
from pyvmm.device_context import DeviceContext, DeviceInfo, MachineView
from pyvmm.device_manager import MMIODeviceManager
from pyvmm.device_manager.resources import IoEventRequest, IrqRequest
from pyvmm.errors import HostError, UsageError
from pyvmm.host.eventloop import EventLoop
from pyvmm.kvm import FastPorts
from pyvmm.memory import GuestMemory
from pyvmm.testing.mmio_driver import MmioDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.mmio import MmioDevice
from pyvmm.x86_64.boot.cmdline import Cmdline
from pyvmm.x86_64.layout import IRQ_BASE, IRQ_MAX, MMIO_BASE, MMIO_END

NOTIFY = 0x50
INTERRUPT_ACK = 0x64
VRING = 1
LINES = IRQ_MAX - IRQ_BASE + 1


class Lamp(VirtioDevice):
    """A virtio device that tells ``log`` of its end."""

    device_type = 42

    def __init__(self, log: list[str] | None = None, queues: int = 1) -> None:
        self.queue_max_sizes = (16,) * queues
        self.log = log if log is not None else []

    def close(self) -> None:
        self.log.append(f"close {getattr(self, 'context', None) and self.name}")


class Switch(BusDevice):
    """A device at ports or in a window."""

    def __init__(self, *placements: Placement, log: list[str] | None = None) -> None:
        self.placements = placements
        self.log = log if log is not None else []

    def read(self, offset: int, data: memoryview) -> None:
        data[:] = bytes([offset]) * len(data)

    def close(self) -> None:
        self.log.append(f"close {self.name}")


class Vm:
    """Takes what a machine's KVM is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def ioeventfd(self, *arguments: Any) -> None:
        self.told.append(("ioeventfd", *arguments))

    def irqfd(self, *arguments: Any) -> None:
        self.told.append(("irqfd", *arguments))


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory.create([(0, 1 << 20)]) as memory:
        yield memory


@pytest.fixture
def manager(loop: EventLoop, memory: GuestMemory) -> Iterator[MMIODeviceManager]:
    manager = MMIODeviceManager(memory, loop=loop, fast_ports=FastPorts())
    yield manager
    manager.close()


def irqs(manager: MMIODeviceManager) -> list[int]:
    return [request.irq for request in manager.vm_requests if isinstance(request, IrqRequest)]


# --- virtio devices


def test_devices_get_windows_and_lines_one_after_the_other(manager: MMIODeviceManager) -> None:
    addresses = [manager.register_device(Lamp(), None, f"lamp{number}") for number in range(3)]
    assert addresses == [MMIO_BASE, MMIO_BASE + 0x1000, MMIO_BASE + 0x2000]
    assert irqs(manager) == [IRQ_BASE, IRQ_BASE + 1, IRQ_BASE + 2]
    assert manager.id_to_addr_map == {f"lamp{number}": address for number, address in enumerate(addresses)}
    assert [transport.name for transport in manager.transports()] == ["lamp0", "lamp1", "lamp2"]
    for address in addresses:
        assert MmioDriver(manager.bus, address).probe() == 42


def test_a_window_ends_where_the_next_begins(manager: MMIODeviceManager) -> None:
    first = manager.register_device(Lamp(), None, "first")
    manager.register_device(Lamp(), None, "second")
    driver = MmioDriver(manager.bus, first)
    assert driver.read(0xFFC, 4) == bytes(4)  # the end of the configuration space
    assert driver.read(0xFFE, 4) == b"\xff" * 4  # over the end
    assert driver.read(0x2000, 4) == b"\xff" * 4  # nobody


def test_kvm_is_told_of_a_kick_for_each_queue_of_acknowledgements_and_of_one_line(manager: MMIODeviceManager) -> None:
    address = manager.register_device(Lamp(queues=3), None, "lamp")
    (transport,) = manager.transports()
    assert manager.vm_requests == [
        *(IoEventRequest(queue.event, address + NOTIFY, index) for index, queue in enumerate(transport.queues)),
        IoEventRequest(transport.interrupt_status.acknowledged, address + INTERRUPT_ACK, VRING),
        IrqRequest(transport.interrupt_event, IRQ_BASE),
    ]


def test_what_was_recorded_is_carried_out_once(manager: MMIODeviceManager) -> None:
    address = manager.register_device(Lamp(), None, "lamp")
    (transport,) = manager.transports()
    vm = Vm()
    manager.carry_out(vm)  # type: ignore[arg-type]
    manager.carry_out(vm)  # type: ignore[arg-type]
    assert vm.told == [
        ("ioeventfd", transport.queues[0].event.fd, address + NOTIFY, 4, 0),
        ("ioeventfd", transport.interrupt_status.acknowledged.fd, address + INTERRUPT_ACK, 4, VRING),
        ("irqfd", transport.interrupt_event.fd, IRQ_BASE),
    ]
    assert manager.vm_requests == []


def test_the_guest_is_told_by_acpi(manager: MMIODeviceManager) -> None:
    for number in range(2):
        manager.register_device(Lamp(), None, f"lamp{number}")
    assert [(device.hid, device.uid, device.mmio, device.irq) for device in manager.acpi_devices] == [
        ("LNRO0005", 0, BusRange(MMIO_BASE, 0x1000), IRQ_BASE),
        ("LNRO0005", 1, BusRange(MMIO_BASE + 0x1000, 0x1000), IRQ_BASE + 1),
    ]


def test_or_by_the_command_line_and_not_by_both(manager: MMIODeviceManager) -> None:
    cmdline = Cmdline("quiet")
    manager.register_device(Lamp(), cmdline, "lamp0")
    manager.register_device(Lamp(), cmdline, "lamp1")
    assert str(cmdline) == (
        f"quiet virtio_mmio.device=4K@{MMIO_BASE:#x}:{IRQ_BASE} "
        f"virtio_mmio.device=4K@{MMIO_BASE + 0x1000:#x}:{IRQ_BASE + 1}"
    )
    assert manager.acpi_devices == []


def test_an_id_that_is_taken_is_refused(manager: MMIODeviceManager) -> None:
    manager.register_device(Lamp(), None, "lamp")
    with pytest.raises(UsageError, match="device id lamp: two devices have it"):
        manager.register_device(Lamp(), None, "lamp")
    with pytest.raises(UsageError, match="device id lamp: two devices have it"):
        manager.register_bus_device(Switch(Placement(ports=BusRange(0x100, 1))), "lamp")
    assert len(manager.transports()) == 1


def test_lines_run_out_after_the_last_and_the_message_says_how_many_there_are(manager: MMIODeviceManager) -> None:
    for number in range(LINES):
        manager.register_device(Lamp(), None, f"lamp{number}")
    with pytest.raises(UsageError, match=rf"one_more: no interrupt line is left; a machine has {LINES} for devices"):
        manager.register_device(Lamp(), None, "one_more")
    assert sorted(irqs(manager)) == list(range(IRQ_BASE, IRQ_MAX + 1))
    assert "one_more" not in manager.id_to_addr_map
    assert len(manager.transports()) == LINES


def test_addresses_run_out(loop: EventLoop, memory: GuestMemory) -> None:
    manager = MMIODeviceManager(memory, MMIO_END - 0x2000, loop=loop)
    for number in range(2):
        manager.register_device(Lamp(), None, f"lamp{number}")
    with pytest.raises(UsageError, match="lamp2: no addresses are left for its 4096 bytes; leave out another device"):
        manager.register_device(Lamp(), None, "lamp2")
    with pytest.raises(UsageError, match="switch: no addresses are left for its"):
        manager.register_bus_device(Switch(Placement(mmio_size=0x1000)), "switch")
    manager.close()


def test_a_command_line_that_is_full_is_refused(manager: MMIODeviceManager) -> None:
    cmdline = Cmdline("x" * 2030)
    with pytest.raises(UsageError):
        manager.register_device(Lamp(), cmdline, "lamp")
    assert manager.transports() == []


# --- other devices


def test_a_device_gets_the_place_that_it_asks_for(manager: MMIODeviceManager) -> None:
    switch = Switch(Placement(ports=BusRange(0x3F8, 8), irq=4, acpi_hid="PNP0501"))
    assert manager.register_bus_device(switch, "switch") == 0x3F8
    assert manager.ports.device_at(0x3FF) is switch
    assert manager.ports.device_at(0x400) is None
    assert (switch.name, switch.context.name) == ("switch", "switch")
    assert switch.context.irq is not None
    assert manager.vm_requests == [IrqRequest(switch.context.irq, 4)]
    assert [(device.hid, device.irq) for device in manager.acpi_devices] == [("PNP0501", 4)]


def test_a_device_in_a_window_takes_whole_pages(manager: MMIODeviceManager) -> None:
    first = manager.register_bus_device(Switch(Placement(mmio_size=0x1001, any_irq=True)), "first")
    second = manager.register_bus_device(Switch(Placement(mmio_size=0x1000)), "second")
    assert (first, second) == (MMIO_BASE, MMIO_BASE + 0x2000)
    assert irqs(manager) == [IRQ_BASE]


def test_a_fixed_line_is_left_out_for_others(manager: MMIODeviceManager) -> None:
    manager.register_bus_device(Switch(Placement(ports=BusRange(0x100, 1), irq=IRQ_BASE)), "switch")
    manager.register_device(Lamp(), None, "lamp")
    assert irqs(manager) == [IRQ_BASE, IRQ_BASE + 1]


def test_a_place_whose_line_is_taken_is_not_free(manager: MMIODeviceManager) -> None:
    places = (Placement(ports=BusRange(0x100, 1), irq=4), Placement(ports=BusRange(0x200, 1), irq=3))
    assert manager.register_bus_device(Switch(places[0]), "first") == 0x100
    places = (Placement(ports=BusRange(0x110, 1), irq=4), places[1])
    assert manager.register_bus_device(Switch(*places), "second") == 0x200
    with pytest.raises(UsageError, match=r"third: its places are taken, by second"):
        manager.register_bus_device(Switch(*places), "third")


def test_a_device_without_a_place_is_refused(manager: MMIODeviceManager) -> None:
    with pytest.raises(UsageError, match="switch: the device has no placements"):
        manager.register_bus_device(Switch(), "switch")


def test_ports_past_the_last_are_refused(manager: MMIODeviceManager) -> None:
    with pytest.raises(BusError, match="outside the port bus"):
        manager.register_bus_device(Switch(Placement(ports=BusRange(0xFFFF, 2))), "switch")


def test_fast_ports_are_for_ports_and_as_many_as_there_are(manager: MMIODeviceManager) -> None:
    in_window = Switch(Placement(mmio_size=0x1000))
    manager.register_bus_device(in_window, "window")
    assert in_window.context.fast_port(0) is None

    at_ports = Switch(Placement(ports=BusRange(0x100, 32)))
    manager.register_bus_device(at_ports, "ports")
    made = [at_ports.context.fast_port(offset) for offset in range(17)]
    assert all(made[:16])
    assert made[16] is None


def test_a_callback_that_raises_takes_the_device_out_of_service(
    manager: MMIODeviceManager, loop: EventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    switch = Switch(Placement(ports=BusRange(0x100, 4), mmio_size=0x1000))
    manager.register_bus_device(switch, "switch")
    switch.context.loop.post(lambda: 1 / 0)
    switch.context.loop.post(lambda: pytest.fail("ran after the failure"))
    loop.run_once(0)

    for bus, address in ((manager.ports, 0x100), (manager.bus, MMIO_BASE)):
        data = bytearray(4)
        assert not bus.read(address, memoryview(data))
        assert data == b"\xff" * 4
    (record,) = caplog.records
    assert "switch: the device failed" in record.getMessage()


def test_a_device_that_fails_is_logged_with_its_package(
    memory: GuestMemory, loop: EventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    packages = {name: DeviceInfo(name, f"pyvmm-{name} 1.2") for name in ("lamp", "switch")}
    manager = MMIODeviceManager(memory, loop=loop, machine=MachineView(packages))
    lamp, switch = Lamp(), Switch(Placement(ports=BusRange(0x100, 4)))
    manager.register_device(lamp, None, "lamp")
    manager.register_bus_device(switch, "switch")
    for device in (lamp, switch):
        device.context.loop.post(lambda: 1 / 0)
        loop.run_once(0)
    manager.close()

    assert [record.getMessage() for record in caplog.records] == [
        "lamp (pyvmm-lamp 1.2): ZeroDivisionError: division by zero; it is not served until the driver resets it",
        "switch (pyvmm-switch 1.2): the device failed and does not answer any more",
    ]


def test_a_device_has_the_machine_in_its_context(memory: GuestMemory, loop: EventLoop) -> None:
    machine = MachineView({"lamp": DeviceInfo("lamp", "")})
    manager = MMIODeviceManager(memory, loop=loop, machine=machine)
    lamp, switch = Lamp(), Switch(Placement(ports=BusRange(0x100, 4)))
    manager.register_device(lamp, None, "lamp")
    manager.register_bus_device(switch, "switch")
    assert lamp.context.machine is switch.context.machine is machine
    assert switch.context.memory is memory
    assert lamp.context.memory is None
    manager.close()


# --- the end


def test_everything_is_closed_the_last_one_first(manager: MMIODeviceManager) -> None:
    before = descriptors()
    log: list[str] = []
    manager.register_device(Lamp(log), None, "lamp0")
    manager.register_bus_device(Switch(Placement(ports=BusRange(0x100, 4), any_irq=True), log=log), "switch")
    manager.register_device(Lamp(log, queues=4), None, "lamp1")
    manager.close()
    assert log == ["close lamp1", "close switch", "close lamp0"]
    assert descriptors() == before
    manager.close()
    assert len(log) == 3


def test_a_device_that_fails_to_close_keeps_no_other_from_being_closed(
    manager: MMIODeviceManager, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Switch):
        def close(self) -> None:
            raise RuntimeError("stuck")

    before = descriptors()
    log: list[str] = []
    manager.register_device(Lamp(log), None, "lamp")
    manager.register_bus_device(Stuck(Placement(ports=BusRange(0x100, 4), any_irq=True)), "stuck")
    manager.close()
    assert log == ["close lamp"]
    assert descriptors() == before
    assert "stuck" in caplog.text


@pytest.mark.parametrize("kind", ["virtio", "bus"])
def test_a_device_that_is_refused_is_closed_all_the_same(manager: MMIODeviceManager, kind: str) -> None:
    before = descriptors()
    log: list[str] = []
    manager.register_device(Lamp(log), None, "lamp")
    with pytest.raises(UsageError):
        if kind == "virtio":
            manager.register_device(Lamp(log), None, "lamp")
        else:
            manager.register_bus_device(Switch(Placement(ports=BusRange(0x100, 1)), log=log), "lamp")
    manager.close()
    assert log == ["close None" if kind == "virtio" else "close device", "close lamp"]
    assert descriptors() == before


@pytest.mark.parametrize("kind", ["virtio", "bus"])
def test_a_device_that_cannot_be_attached_is_closed_and_leaves_nothing(manager: MMIODeviceManager, kind: str) -> None:
    before = descriptors()
    log: list[str] = []

    class DarkLamp(Lamp):
        def attach(self, context: DeviceContext) -> None:
            super().attach(context)
            raise HostError("no bulb")

    class DarkSwitch(Switch):
        def attach(self, context: DeviceContext) -> None:
            super().attach(context)
            raise HostError("no bulb")

    with pytest.raises(HostError, match="no bulb"):
        if kind == "virtio":
            manager.register_device(DarkLamp(log), None, "dark")
        else:
            manager.register_bus_device(DarkSwitch(Placement(ports=BusRange(0x100, 1), any_irq=True), log=log), "dark")
    assert manager.ports.devices() == []
    assert manager.bus.devices() == []
    manager.close()
    assert log == ["close dark"]
    assert descriptors() == before


def test_a_transport_is_on_the_bus_and_a_bus_device_is_no_transport(manager: MMIODeviceManager) -> None:
    manager.register_bus_device(Switch(Placement(mmio_size=0x1000)), "switch")
    manager.register_device(Lamp(), None, "lamp")
    assert [type(device) for _, device in manager.bus.devices()] == [Switch, MmioDevice]
    assert [transport.name for transport in manager.transports()] == ["lamp"]
