"""What a machine gives to a device, for tests: an event loop on a thread of its own and an interrupt line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyvmm.device_context import DeviceContext, MachineView
from pyvmm.exit_reason import ExitReason
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm_serial import SerialOptions
from pyvmm_serial.device import Serial
from pyvmm_serial.uart import Uart

from plugins.serial.tests.linux_8250 import Linux8250


class FakePeer:
    """The other end of a UART's cable, in memory."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.full = False
        self.input = bytearray()

    @property
    def waiting(self) -> bool:
        return bool(self.input)

    def send(self, data: bytes) -> None:
        self.sent += data

    def take(self, limit: int) -> bytes:
        data = bytes(self.input[:limit])
        del self.input[:limit]
        return data


@dataclass
class Bench:
    """A UART alone, with its peer, its interrupt line and a driver."""

    peer: FakePeer
    uart: Uart
    irq: EventFd
    driver: Linux8250

    def edges(self) -> int:
        """How many edges there were since the last call."""
        return self.irq.drain()


@contextmanager
def bench() -> Iterator[Bench]:
    """A UART that nobody has touched."""
    loop, irq, peer = EventLoop(), EventFd(), FakePeer()
    uart = Uart(peer)
    uart.attach(DeviceContext("serial0", LoopScope(loop, _raise), lambda reason: None, irq))
    yield Bench(peer, uart, irq, Linux8250(uart, irq))
    loop.close()
    irq.close()


def _raise(error: BaseException) -> None:
    raise error


@dataclass
class Running:
    """A serial device in a machine without a CPU: the test is the guest."""

    device: Serial
    driver: Linux8250
    loop: EventLoop

    def on_loop(self, function: Callable[[], object]) -> object:
        """Run ``function`` on the event loop's thread and return what it does."""
        return self.loop.call(function)

    stops: list[ExitReason] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def running(options: SerialOptions, view: MachineView | None = None) -> Iterator[Running]:
    """A serial device with ``options``, attached to a running event loop. An error on the loop fails the test.

    ``view``: what the machine lets it know."""
    device = Serial(options)
    loop, irq = EventLoop(), EventFd()
    errors: list[BaseException] = []
    scope = LoopScope(loop, errors.append)
    machine = Running(device, Linux8250(device, irq), loop)

    def stop(reason: ExitReason) -> None:
        machine.stops.append(reason)
        machine.stopped.set()

    thread = threading.Thread(target=loop.run)
    try:
        device.attach(DeviceContext("serial0", scope, stop, irq, machine=view or MachineView()))
        thread.start()
        yield machine
    finally:
        loop.stop()
        if thread.ident:
            thread.join()
        scope.close()
        irq.close()
        device.close()
        loop.close()
    if errors:
        raise errors[0]
