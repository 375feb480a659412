"""The manager of a machine's devices: it gives them addresses, interrupt lines and ids, and tells the guest of them."""

from __future__ import annotations

from pyvmm._native import lib
from pyvmm.bus import Bus, BusDevice, BusRange, Placement
from pyvmm.device_context import DeviceContext, MachineView
from pyvmm.device_manager.resources import IoEventRequest, IrqRequest, Resources
from pyvmm.errors import UsageError
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm.logs import logger
from pyvmm.x86_64.acpi import AcpiDevice
from pyvmm.x86_64.layout import MMIO_BASE, MMIO_WINDOW_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from pyvmm.exit_reason import ExitReason
    from pyvmm.kvm import FastPort, FastPorts, InterruptStatusTable, Vm
    from pyvmm.memory import GuestAddress, GuestMemory
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.mmio import MmioDevice
    from pyvmm.x86_64.boot.cmdline import Cmdline

log = logger(__name__)

VIRTIO_MMIO_HID: Final = "LNRO0005"
"""The ACPI hardware ID of a virtio-mmio window (drivers/virtio/virtio_mmio.c)."""


class MMIODeviceManager:
    """All devices of a machine: virtio devices in windows of the MMIO bus, other devices at the places that they ask
    for.

    Requests to KVM are recorded in ``vm_requests``, so that devices can be registered before there is a virtual
    machine.
    """

    def __init__(
        self,
        guest_mem: GuestMemory,
        mmio_base: GuestAddress = MMIO_BASE,
        *,
        loop: EventLoop,
        stop: Callable[[ExitReason], None] = lambda reason: None,
        fast_ports: FastPorts | None = None,
        interrupt_status: InterruptStatusTable | None = None,
        machine: MachineView | None = None,
    ) -> None:
        """``loop``: the event loop that the devices run on. ``stop``: a function with which devices may end the
        machine. ``machine``: the devices' view of the machine. ``fast_ports``, ``interrupt_status``: the virtual
        machine's tables (:class:`~pyvmm.kvm.Vm`) of accesses that the vCPUs' threads serve without Python."""
        self._machine = machine or MachineView()
        self._fast_ports = fast_ports
        self._interrupt_status = interrupt_status
        self.guest_mem = guest_mem
        self.bus = Bus("MMIO")
        self.ports = Bus("port", 0x10000)
        self.vm_requests: list[IoEventRequest | IrqRequest] = []
        self.id_to_addr_map: dict[str, int] = {}
        """Each device's id, and its first address or port."""
        self.acpi_devices: list[AcpiDevice] = []
        """The devices for ACPI's name space. A device appears there if it has a hardware ID or AML of its own."""
        self._resources = Resources(mmio_base, self.ports)
        self._loop = loop
        self._stop = stop
        self._transports: list[MmioDevice] = []
        self._closers: list[Callable[[], None]] = []

    @property
    def irq(self) -> int:
        """The interrupt line that is tried next."""
        return self._resources.next_irq

    def register_device(self, device: VirtioDevice, cmdline: Cmdline | None, id: str) -> GuestAddress:
        """Give ``device`` a window and an interrupt line. Returns the window's address.

        The guest finds the device by ``cmdline`` if that is given (``virtio_mmio.device=``, for kernels with
        CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES), otherwise by ACPI's tables. This object closes the device, also if this
        method raises. Raises :class:`UsageError` if the id is taken, or if no line, no address or no room on the
        command line is left.
        """
        from pyvmm.virtio.mmio import MmioDevice

        close_unplaced = self._on_close(device.close)
        self._check_id(id)
        if device.needs_memfd and not self.guest_mem.fds:
            raise UsageError(
                f"{id}: the device needs a memfd for the guest's memory, and this machine has none; set "
                "needs_memfd=True in its kind, or memfd=True in the machine's configuration"
            )
        address = self._resources.take_window(id, MMIO_WINDOW_SIZE)
        irq = self._resources.take_irq(id)
        if cmdline is not None:
            cmdline.push("virtio_mmio.device", f"4K@{address:#x}:{irq}")
        transport = MmioDevice(self.guest_mem, device, id, self._loop, self._stop, self._machine)
        self._closers.remove(close_unplaced)
        self._on_close(transport.close)
        window = self.bus.insert(transport, address, MMIO_WINDOW_SIZE)
        self._transports.append(transport)
        for queue in transport.queues:
            self.vm_requests.append(IoEventRequest(queue.event, address + lib.VIRTIO_MMIO_QUEUE_NOTIFY, queue.index))
        acknowledged = transport.interrupt_status.acknowledged
        self.vm_requests.append(
            IoEventRequest(acknowledged, address + lib.VIRTIO_MMIO_INTERRUPT_ACK, lib.VIRTIO_MMIO_INT_VRING)
        )
        if self._interrupt_status is not None:
            transport.interrupt_status.enter(self._interrupt_status, address)
        self.vm_requests.append(IrqRequest(transport.interrupt_event, irq))
        if cmdline is None:
            self._tell_acpi(id, VIRTIO_MMIO_HID, window, (), irq)
        self.id_to_addr_map[id] = address
        return address

    def register_bus_device(self, device: BusDevice, id: str) -> int:
        """Put ``device`` at the first of its placements that is free. Returns its first port or address.

        This object closes the device, also if this method raises :class:`UsageError`.
        """
        close_device = self._on_close(device.close)
        self._check_id(id)
        placement, irq = self._resources.take_placement(device, id)
        event = None
        if irq is not None:
            event = EventFd()
            self._on_close(event.close)
            self.vm_requests.append(IrqRequest(event, irq))
        scope = LoopScope(self._loop, lambda error: self._bus_device_failed(device, scope, error))
        self._on_close(scope.close)

        def fast_port(offset: int) -> FastPort | None:
            return self._fast_port(placement, offset)

        context = DeviceContext(id, scope, self._stop, event, fast_port, self.guest_mem, self._machine)
        try:
            device.attach(context)
        finally:
            # The device is closed before the things that it was given.
            self._closers.remove(close_device)
            self._on_close(close_device)
        base = -1
        window = None
        if placement.mmio_size:
            base = self._resources.take_window(id, placement.mmio_size)
            window = self.bus.insert(device, base, placement.mmio_size)
        if placement.ports is not None:
            base = placement.ports.base
            for ports in placement.all_ports:
                self.ports.insert(device, ports.base, ports.size, offset=ports.base - base)
        self._tell_acpi(id, placement.acpi_hid, window, placement.all_ports, irq)
        self.id_to_addr_map[id] = base
        return base

    def transports(self) -> list[MmioDevice]:
        """The virtio devices' transports, by address."""
        return self._transports.copy()

    def carry_out(self, vm: Vm) -> None:
        """Make the recorded requests to KVM, once, and let devices start threads."""
        for request in self.vm_requests:
            request.carry_out(vm)
        self.vm_requests.clear()
        for transport in self.transports():
            transport.start()

    def close(self) -> None:
        """Close all devices, the last one first. Call it on the loop's thread, after all vCPUs have stopped."""
        while self._closers:
            try:
                self._closers.pop()()
            except Exception:
                log.exception("closing a device failed")  # the other devices must still be closed

    def _on_close(self, closer: Callable[[], None]) -> Callable[[], None]:
        self._closers.append(closer)
        return closer

    def _check_id(self, id: str) -> None:
        if id in self.id_to_addr_map:
            raise UsageError(f"device id {id}: two devices have it; give each device its own")

    def _fast_port(self, placement: Placement, offset: int) -> FastPort | None:
        if self._fast_ports is None or placement.ports is None:
            return None
        port = self._fast_ports.add(placement.ports.base + offset)
        if port is not None:
            self._on_close(port.event.close)
        return port

    def _bus_device_failed(self, device: BusDevice, scope: LoopScope, error: BaseException) -> None:
        scope.close()
        for bus in (self.bus, self.ports):
            bus.fail(device, error)

    def _tell_acpi(self, id: str, hid: str, mmio: BusRange | None, ports: Sequence[BusRange], irq: int | None) -> None:
        uid = sum(device.hid == hid for device in self.acpi_devices)
        self.acpi_devices.append(AcpiDevice(hid, uid, mmio, ports, irq, id))
