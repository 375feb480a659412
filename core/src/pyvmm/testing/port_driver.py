"""A driver for a device at ports or in memory, without a guest: accesses, an interrupt line, and the loop's turns."""

from __future__ import annotations

import time
from collections.abc import Callable

from pyvmm.bus import Bus, BusDevice, BusRange
from pyvmm.device_context import DeviceContext, MachineView
from pyvmm.exit_reason import ExitReason
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import LoopScope
from pyvmm.memory import GuestMemory
from pyvmm.testing.stepping_loop import SteppingLoop
from pyvmm.testing.waiting import PATIENCE
from pyvmm.x86_64.layout import MMIO_BASE

__all__ = ["PortDriver"]


class PortDriver:
    """Plays guest, bus and event loop for one device, all on the caller's thread.

    ::

        with PortDriver(Rtc()) as driver:
            driver.outb(0x70, 0x0A)
            assert driver.inb(0x71) == 0x26

    :meth:`run` raises an exception that the device raises on the loop. An exception at an access takes the device out
    of service, as in a machine.
    """

    def __init__(
        self,
        device: BusDevice,
        *,
        name: str = "device0",
        placement: int = 0,
        memory: GuestMemory | None = None,
        machine: MachineView | None = None,
    ) -> None:
        """Put the device at the placement with index ``placement``, by default the first. :meth:`close` closes it.

        ``memory``: guest memory for the device; the caller closes it. ``machine``: the device's view of its machine, by
        default without other devices. :meth:`close` removes the machine's files on the host.
        """
        self.machine = machine or MachineView()
        self.device = device
        self.loop = SteppingLoop()
        self.irq = EventFd()
        self.stops: list[ExitReason] = []
        """The reasons with which the device asked the machine to end."""
        self.errors: list[BaseException] = []
        """The exceptions that the device raised on the loop. The first one takes it out of service."""
        self._scope = LoopScope(self.loop, self._failed)
        self.bus = Bus("port", 0x10000)
        self.mmio = Bus("MMIO")
        self.places: list[tuple[Bus, BusRange]] = []
        """The ranges at which the device is, each with its bus."""
        place = device.placements[placement]
        has_irq = place.any_irq or place.irq is not None
        irq = self.irq if has_irq else None
        device.attach(DeviceContext(name, self._scope, self.stops.append, irq, memory=memory, machine=self.machine))
        for ports in place.all_ports:
            offset = ports.base - place.all_ports[0].base
            self.places.append((self.bus, self.bus.insert(device, ports.base, ports.size, offset=offset)))
        if place.mmio_size:
            self.places.append((self.mmio, self.mmio.insert(device, MMIO_BASE, place.mmio_size)))

    def read(self, port: int, length: int) -> bytes:
        """One read of ``length`` bytes, 1, 2 or 4; all ones if no device answers."""
        data = bytearray(length)
        self.bus.read(port, memoryview(data))
        return bytes(data)

    def write(self, port: int, data: bytes) -> None:
        """One write."""
        self.bus.write(port, memoryview(data))

    def read_memory(self, offset: int, length: int) -> bytes:
        """One read of ``length`` bytes, 1, 2, 4 or 8, at ``offset`` in the device's part of memory."""
        data = bytearray(length)
        self.mmio.read(MMIO_BASE + offset, memoryview(data))
        return bytes(data)

    def write_memory(self, offset: int, data: bytes) -> None:
        """One write, at ``offset`` in the device's part of memory."""
        self.mmio.write(MMIO_BASE + offset, memoryview(data))

    def inb(self, port: int) -> int:
        """One read of a byte."""
        return self.read(port, 1)[0]

    def outb(self, port: int, value: int) -> None:
        """One write of a byte."""
        self.write(port, bytes([value]))

    def edges(self) -> int:
        """The number of interrupts since the last call."""
        return self.irq.drain()

    def run(self) -> None:
        """Run the loop until nothing is ready."""
        for _ in range(100_000):
            ready = self.loop.run_once(0)
            self._raise()
            if not ready:
                return
        raise AssertionError("the loop does not come to rest")

    def run_until(self, condition: Callable[[], bool], *, timeout: float = PATIENCE) -> None:
        """Run the loop until ``condition`` holds. Raises AssertionError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"it did not come true in {timeout} s"
            self.loop.run_once(left)
            self._raise()

    def _failed(self, error: BaseException) -> None:
        self.errors.append(error)
        self._scope.close()
        self.bus.fail(self.device, error)

    def _raise(self) -> None:
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        """Close device and loop; remove the device's directory."""
        self._scope.close()
        self.device.close()
        self.irq.close()
        self.loop.close()
        self.machine.files.remove()

    def __enter__(self) -> PortDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
