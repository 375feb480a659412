"""An ordered map from address ranges to devices: one for port I/O, one for MMIO."""

from __future__ import annotations

from _thread import allocate_lock
from bisect import bisect_right

from pyvmm.errors import PyvmmError
from pyvmm.host.shortage import shortage
from pyvmm.limits import PAGE_SIZE
from pyvmm.logs import logger
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final, TypeAlias

    from pyvmm.device_context import DeviceContext

__all__ = ["Bus", "BusDevice", "BusError", "BusRange", "DeviceOverlap", "Placement"]

log = logger(__name__)

ADDRESS_SPACE_END: Final = 1 << 64


class BusError(PyvmmError):
    """A range that cannot be added to a bus."""


class DeviceOverlap(BusError):
    """A range that overlaps one that is already on the bus."""


@record
class BusRange:
    """``size`` addresses from ``base`` on."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """The first address after the range."""
        return self.base + self.size

    def __contains__(self, address: object) -> bool:
        return isinstance(address, int) and self.base <= address < self.end

    def overlaps(self, other: BusRange) -> bool:
        """Whether the two ranges have an address in common."""
        return self.base < other.end and other.base < self.end

    def __str__(self) -> str:
        return f"{self.base:#x}..{self.end - 1:#x}"


@record
class Placement:
    """One way to put a :class:`BusDevice` into a machine."""

    ports: BusRange | None = None
    """Fixed ports, below 65536."""

    more_ports: Sequence[BusRange] = ()
    """More ports, after ``ports`` and not adjacent to them. The device sees offsets from the start of ``ports``."""

    mmio_size: int = 0
    """Bytes of physical address space, in whole pages of 4 KiB. The machine chooses the address."""

    irq: int | None = None
    """The interrupt line (GSI) that the device needs."""

    any_irq: bool = False
    """Whether the device needs an interrupt line and any free line is right."""

    acpi_hid: str = ""
    """The ACPI hardware ID by which the guest finds the device, such as ``PNP0501``; empty for none."""

    @property
    def all_ports(self) -> Sequence[BusRange]:
        """``ports`` and ``more_ports``."""
        return () if self.ports is None else (self.ports, *self.more_ports)


class _Service:
    """A device's lock, and whether it still answers. All of a device's ranges, on both buses, share one such object."""

    __slots__ = ("failed", "lock")

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.failed = False


class BusDevice:
    """A device that answers accesses to a range of ports or of physical addresses.

    ``read``, ``write`` and ``interrupt`` are called on the thread of the vCPU that made the access, and never
    two at a time for one device: the bus holds the device's lock. ``attach`` and ``close`` are called on the
    event loop's thread, before the first access and after the last.
    """

    name: str = "device"

    placements: Sequence[Placement] = ()
    """The places where a machine may put the device; the machine takes the first free one. Empty for a device that
    other code puts on a bus."""

    context: DeviceContext

    _service: _Service | None = None

    def attach(self, context: DeviceContext) -> None:
        """Store the device's place in the machine. Called once, before the first access."""
        self.context = context
        self.name = context.title

    def close(self) -> None:
        """Release the host's resources that the device holds."""

    def request_shutdown(self) -> bool:
        """Ask the guest to shut down, as a power button or Ctrl-Alt-Del does; whether a driver is there to hear it.

        From any thread. Most devices have no way to ask.
        """
        return False

    def read(self, offset: int, data: memoryview) -> None:
        """Answer a read of ``len(data)`` bytes (1, 2, 4 or 8) at ``offset`` from the (first) range's start.

        ``data`` is writable and holds all ones. Bytes that the device does not set read as if no device had answered.
        """

    def write(self, offset: int, data: memoryview) -> None:
        """Take a write of ``len(data)`` bytes (1, 2, 4 or 8) at ``offset`` from the (first) range's start.

        ``data`` is read-only and valid during the call only.
        """

    def interrupt(self, irq_mask: int) -> None:
        """Raise the device's interrupt for the causes in ``irq_mask`` (the device's own bits): one edge."""
        if self.context.irq is not None:
            self.context.irq.signal()


Answer: TypeAlias = (
    "tuple[Callable[[int, memoryview], object], int, memoryview, Callable[[], object], Callable[[], object]]"
)
"""The calls that answer an access: the device's handler, its arguments offset and data, and the functions that take the
device's lock before the call and release it after."""


class _Slot:
    """One range of a bus and its device."""

    __slots__ = ("base", "device", "end", "range", "service")

    def __init__(self, range_: BusRange, device: BusDevice, base: int, service: _Service) -> None:
        self.range = range_
        self.base = base
        """The address of the device's offset 0."""
        self.end = range_.end
        self.device = device
        self.service = service


class Bus:
    """Devices by address.

    An access to an address without a device, or across the end of a range, reads all ones and writes nothing, as
    on a PC. A device whose handler raises is logged once, with its name and the traceback, marked failed, and
    answers all ones from then on.
    """

    changing: Final = allocate_lock()
    """A lock for all buses, held while a device is added or fails."""

    def __init__(self, name: str, end: int = ADDRESS_SPACE_END) -> None:
        self.name = name
        self.end = end
        # vCPU threads look up without a lock, so the two lists are replaced together and never changed.
        self.map: tuple[list[int], list[_Slot]] = ([], [])
        """The first addresses, and their slots. A change makes a new object."""
        self.remembered: list[dict[int, Answer]] = []
        """Dicts that keep :meth:`answer` results. The bus empties them when a device is added or fails."""

    def insert(self, device: BusDevice, base: int, size: int, *, offset: int = 0) -> BusRange:
        """Put ``device`` at ``size`` addresses from ``base`` on. The device sees the first one as ``offset``.

        Raises :class:`BusError` for an empty range or one outside the address space, and :class:`DeviceOverlap` if
        another device is there.
        """
        range_ = BusRange(base, size)
        if size <= 0:
            raise BusError(f"{device.name}: a range on the {self.name} bus needs a size above 0, not {size}")
        if base < 0 or range_.end > self.end:
            raise BusError(f"{device.name}: {range_} is outside the {self.name} bus, which ends at {self.end - 1:#x}")
        bases, slots = self.map[0].copy(), self.map[1].copy()
        at = bisect_right(bases, base)
        for neighbour in slots[max(at - 1, 0) : at + 1]:
            if range_.overlaps(neighbour.range):
                raise DeviceOverlap(
                    f"{device.name}: {range_} on the {self.name} bus overlaps {neighbour.device.name} at "
                    f"{neighbour.range}"
                )
        if device._service is None:
            device._service = _Service()
        bases.insert(at, base)
        slots.insert(at, _Slot(range_, device, base - offset, device._service))
        with self.changing:
            self.map = (bases, slots)
            self._forget()
        return range_

    def devices(self) -> list[tuple[BusRange, BusDevice]]:
        """All ranges and their devices, by address."""
        return [(slot.range, slot.device) for slot in self.map[1]]

    def device_at(self, address: int) -> BusDevice | None:
        """The device that claims ``address``."""
        slot = self._find(address, 1)
        return slot.device if slot else None

    def read(self, address: int, data: memoryview) -> bool:
        """Fill ``data`` from the device at ``address``. Returns whether a device answered."""
        data[:] = _ALL_ONES[: len(data)]
        return self._access(address, data, False)

    def write(self, address: int, data: memoryview) -> bool:
        """Give ``data`` to the device at ``address``. Returns whether a device took it."""
        return self._access(address, data, True)

    def answer(self, address: int, data: memoryview, is_write: bool) -> Answer:
        """The calls with which :meth:`write` or :meth:`read` would answer. For a read, ``data`` must hold all ones
        already.

        The result can be used again until a device is added or fails. So keep it in a dict of :attr:`remembered`, and
        hold :attr:`changing` from before this call. Pass an exception of the handler to :meth:`fail_access`.
        """
        slot = self._find(address, len(data))
        if slot is None or slot.service.failed:
            slot = _Slot(BusRange(address, len(data)), BusDevice(), address, _Service())
        device, lock = slot.device, slot.service.lock
        handler = device.write if is_write else device.read
        return handler, address - slot.base, data, lock.acquire, lock.release

    def _access(self, address: int, data: memoryview, is_write: bool) -> bool:
        slot = self._find(address, len(data))
        if slot is None or slot.service.failed:
            return False
        handler = slot.device.write if is_write else slot.device.read
        try:
            with slot.service.lock:
                handler(address - slot.base, data)
        except Exception as error:
            self.fail_access(address, data, is_write, error)
            return False
        return True

    def _find(self, address: int, size: int) -> _Slot | None:
        bases, slots = self.map
        at = bisect_right(bases, address) - 1
        if at < 0:
            return None
        slot = slots[at]
        return slot if address + size <= slot.end else None

    def fail(self, device: BusDevice, error: BaseException) -> None:
        """Take ``device`` out of service on all buses because of ``error``. The failure is logged once; accesses then
        read all ones."""
        service = device._service
        with self.changing:
            if service is None or service.failed:
                return
            service.failed = True
            self._forget()
        label = device.context.label if hasattr(device, "context") else device.name
        lack = shortage(error)  # which is the host's fault, and no bug
        because = f": {lack}" if lack else ""
        log.error(
            "%s: the device failed and does not answer any more%s", label, because, exc_info=None if lack else error
        )

    def fail_access(self, address: int, data: memoryview, is_write: bool, error: Exception) -> None:
        """Handle ``error``, which the handler of the access raised: :meth:`fail` its device, and read all ones.

        Call it also for a handler that :meth:`answer` has returned.
        """
        device = self.device_at(address)
        if device is not None:
            self.fail(device, error)
        if not is_write:
            data[:] = _ALL_ONES[: len(data)]

    def _forget(self) -> None:
        for answers in self.remembered:
            answers.clear()


_ALL_ONES: Final = b"\xff" * PAGE_SIZE
