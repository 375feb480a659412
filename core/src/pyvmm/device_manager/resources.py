"""Resources that devices share: addresses, ports and interrupt lines, and the requests to KVM for them."""

from __future__ import annotations

from pyvmm.errors import UsageError
from pyvmm.startup.record import record
from pyvmm.x86_64.layout import IRQ_BASE, IRQ_MAX, MMIO_END, MMIO_WINDOW_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.bus import Bus, BusDevice, Placement
    from pyvmm.host.eventfd import EventFd
    from pyvmm.kvm import Vm
    from pyvmm.memory import GuestAddress

__all__ = ["IoEventRequest", "IrqRequest", "Resources"]

_PC_IRQS: Final = (8, 12)
"""The lines of a PC's clock and mouse. They are given out last, so that a plugin for such a device finds its line
free."""


@record
class IoEventRequest:
    """A request for an ioeventfd: a 4-byte write of ``value`` to ``address`` signals ``event``."""

    event: EventFd
    address: GuestAddress
    value: int

    def carry_out(self, vm: Vm) -> None:
        """Do it."""
        vm.ioeventfd(self.event.fd, self.address, 4, self.value)


@record
class IrqRequest:
    """A request for an irqfd: each signal of ``event`` is an edge on line ``irq``."""

    event: EventFd
    irq: int

    def carry_out(self, vm: Vm) -> None:
        """Do it."""
        vm.irqfd(self.event.fd, self.irq)


class Resources:
    """Gives each device of a machine addresses and interrupt lines that no other device has."""

    def __init__(self, mmio_base: GuestAddress, ports: Bus) -> None:
        """Windows begin at ``mmio_base``; ``ports`` has the devices at ports."""
        self.next_irq = IRQ_BASE
        """The interrupt line that is tried next."""
        self._next_address = mmio_base
        self._ports = ports
        self._holders: dict[int, str] = {}
        """The id of the device that has each interrupt line."""

    def take_window(self, id: str, size: int) -> GuestAddress:
        """The address of ``size`` bytes on the MMIO bus for device ``id``. Raises :class:`UsageError` if there is no
        room."""
        address = self._next_address
        if address + size > MMIO_END:
            raise UsageError(f"{id}: no addresses are left for its {size} bytes; leave out another device")
        self._next_address = address + -(-size // MMIO_WINDOW_SIZE) * MMIO_WINDOW_SIZE
        return address

    def take_irq(self, id: str) -> int:
        """A free interrupt line for device ``id``. Raises :class:`UsageError` if there is none."""
        lines = [irq for irq in range(self.next_irq, IRQ_MAX + 1) if irq not in _PC_IRQS]
        for irq in (*lines, *_PC_IRQS):
            if irq not in self._holders:
                self._holders[irq] = id
                if irq not in _PC_IRQS:
                    self.next_irq = irq + 1
                return irq
        raise UsageError(
            f"{id}: no interrupt line is left; a machine has {IRQ_MAX - IRQ_BASE + 1} for devices "
            f"(lines {IRQ_BASE} to {IRQ_MAX})"
        )

    def take_placement(self, device: BusDevice, id: str) -> tuple[Placement, int | None]:
        """The first of the device's placements whose ports and line are free, and its interrupt line, if it has one.

        Raises :class:`UsageError` if none is free.
        """
        for placement in device.placements:
            taken = [other for other, _ in self._ports.devices()]
            if any(ports.overlaps(other) for ports in placement.all_ports for other in taken):
                continue
            if placement.irq is not None and placement.irq in self._holders:
                continue
            if placement.irq is not None:
                self._holders[placement.irq] = id
                return placement, placement.irq
            return placement, self.take_irq(id) if placement.any_irq else None
        if not device.placements:
            raise UsageError(f"{id}: the device has no placements")
        holders = {
            holder.name
            for placement in device.placements
            for ports in placement.all_ports
            for other, holder in self._ports.devices()
            if ports.overlaps(other)
        }
        raise UsageError(f"{id}: its places are taken, by {', '.join(sorted(holders)) or 'other devices'}")
