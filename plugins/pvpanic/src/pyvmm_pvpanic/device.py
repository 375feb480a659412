"""pvpanic: a port at which the guest says that it has panicked (QEMU, docs/specs/pvpanic)."""

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
    """One port: reading it says which events there are, writing it that one has happened.

    A guest that has panicked ends the machine. One that has, and goes on in a kernel that it keeps for that case
    (kdump), is left to it.
    """

    placements = (Placement(ports=BusRange(0x505, 1), acpi_hid="QEMU0001"),)

    def __init__(self) -> None:
        self._told = False

    def read(self, offset: int, data: memoryview) -> None:
        """The events that the guest may tell of."""
        data[0] = EVENTS

    def write(self, offset: int, data: memoryview) -> None:
        """Something happened in the guest."""
        if data[0] & PVPANIC_PANICKED:
            self.context.stop(ExitReason(End.CRASH, f"its kernel panicked, says {self.name}"))
        elif data[0] & PVPANIC_CRASH_LOADED and not self._told:
            self._told = True
            log.warning("%s: the guest's kernel panicked, and goes on in its crash kernel", self.name)
