"""What a machine gives to a device of any sort when it takes it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.eventfd import EventFd
from pyvmm.eventloop import LoopScope
from pyvmm.exit_reason import ExitReason

if TYPE_CHECKING:
    from pyvmm.kvm.fast_port import FastPort


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

    fast_port: Callable[[int], FastPort | None] = lambda offset: None
    """For a BusDevice at ports, before the machine runs: makes the port at this offset one whose bytes need not
    all be calls of the device. None where it cannot; the device must work all the same."""
