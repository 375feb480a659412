"""pvpanic: a port at which the guest reports that its kernel has panicked (QEMU, docs/specs/pvpanic)."""

from __future__ import annotations

from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.exit_reason import End, ExitReason
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

log = logger(__name__)

# <misc/pvpanic.h>
PVPANIC_PANICKED: Final = 1 << 0
PVPANIC_CRASH_LOADED: Final = 1 << 1

EVENTS: Final = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED


class Pvpanic(BusDevice):
    """One port. A read returns the supported events; a write reports that an event has happened.

    A panic ends the machine, unless the guest continues in a crash kernel (kdump).
    """

    placements = (Placement(ports=BusRange(0x505, 1), acpi_hid="QEMU0001"),)

    def __init__(self) -> None:
        self._told = False

    def read(self, offset: int, data: memoryview) -> None:
        """Answer with the events that the guest may report."""
        data[0] = EVENTS

    def write(self, offset: int, data: memoryview) -> None:
        """Take the report of an event."""
        if data[0] & PVPANIC_PANICKED:
            self.context.stop(ExitReason(End.CRASH, f"its kernel panicked, as {self.name} reports"))
        elif data[0] & PVPANIC_CRASH_LOADED and not self._told:
            self._told = True
            log.warning("%s: the guest's kernel panicked, and continues in its crash kernel", self.name)
