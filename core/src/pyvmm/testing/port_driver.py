"""A driver for a device at ports, without a guest: its accesses, its interrupt line, and the loop's turns."""

from __future__ import annotations

import time
from collections.abc import Callable

from pyvmm.bus import Bus, BusDevice
from pyvmm.device import DeviceContext
from pyvmm.eventfd import EventFd
from pyvmm.eventloop import EventLoop, LoopScope
from pyvmm.exit_reason import ExitReason


class PortDriver:
    """Plays guest, bus and event loop for one device, all on the caller's thread.

    ::

        with PortDriver(Rtc()) as driver:
            driver.outb(0x70, 0x0A)
            assert driver.inb(0x71) == 0x26

    What a device raises on the loop is raised by :meth:`run`; what it raises at an access takes it out of service, as
    in a machine.
    """

    def __init__(self, device: BusDevice, *, name: str = "device0") -> None:
        """The device is put at the first of its placements, and closed by :meth:`close`."""
        self.device = device
        self.loop = EventLoop()
        self.irq = EventFd()
        self.stops: list[ExitReason] = []
        """What the device asked the machine to end for."""
        self._errors: list[BaseException] = []
        self._scope = LoopScope(self.loop, self._errors.append)
        self.bus = Bus("port", 0x10000)
        placement = device.placements[0]
        has_irq = placement.any_irq or placement.irq is not None
        device.attach(DeviceContext(name, self._scope, self.stops.append, self.irq if has_irq else None))
        for ports in placement.all_ports:
            self.bus.insert(device, ports.base, ports.size, offset=ports.base - placement.all_ports[0].base)

    def read(self, port: int, length: int) -> bytes:
        """One read of ``length`` bytes, 1, 2 or 4; all ones where nobody answers."""
        data = bytearray(length)
        self.bus.read(port, memoryview(data))
        return bytes(data)

    def write(self, port: int, data: bytes) -> None:
        """One write."""
        self.bus.write(port, memoryview(data))

    def inb(self, port: int) -> int:
        """One read of a byte."""
        return self.read(port, 1)[0]

    def outb(self, port: int, value: int) -> None:
        """One write of a byte."""
        self.write(port, bytes([value]))

    def edges(self) -> int:
        """How many interrupts there were since the last call."""
        return self.irq.drain()

    def run(self) -> None:
        """Let the loop serve what is ready, until nothing is."""
        for _ in range(100_000):
            ready = self.loop.run_once(0)
            if self._errors:
                raise self._errors[0]
            if not ready:
                return
        raise AssertionError("the loop does not come to rest")

    def run_until(self, condition: Callable[[], bool], *, timeout: float = 10.0) -> None:
        """Let the loop run until ``condition`` holds; raises AssertionError."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"it did not come true in {timeout} s"
            self.loop.run_once(left)
            if self._errors:
                raise self._errors[0]

    def close(self) -> None:
        """Close device and loop."""
        self._scope.close()
        self.device.close()
        self.irq.close()
        self.loop.close()

    def __enter__(self) -> PortDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
