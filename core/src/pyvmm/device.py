"""What a machine gives to a device of any sort when it takes it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyvmm.eventfd import EventFd
from pyvmm.eventloop import LoopScope
from pyvmm.exit_reason import ExitReason


@dataclass(frozen=True)
class DeviceContext:
    """A device's place in a machine, handed to ``attach`` before anything else is asked of the device."""

    name: str
    """The device's id: unique in the machine, first in its log lines."""

    loop: LoopScope
    """The event loop that the device lives on."""

    stop: Callable[[ExitReason], None]
    """Ends the machine; from any thread, returns at once."""

    irq: EventFd | None = None
    """A BusDevice's interrupt line, as an irqfd: each signal is one edge. None where it asked for no line."""
