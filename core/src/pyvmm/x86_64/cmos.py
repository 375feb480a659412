"""The ports of a PC's clock, for a machine that has none."""

from __future__ import annotations

from pyvmm.bus import BusDevice


class AbsentCmos(BusDevice):
    """Says that there is no clock, at once: for ``CMOS_PORT_SIZE`` ports from ``CMOS_PORT`` on, where nothing else
    claims them.

    Who has the FADT (IAPC_CMOS_RTC_NOT_PRESENT) never asks. A guest without ACPI does, and from ports that nobody
    answers it reads that the clock is being updated: Linux waits for that to end for a second each time, in tens of
    thousands of accesses (``mc146818_avoid_UIP`` in drivers/rtc/rtc-mc146818-lib.c). From zeros it reads a clock that
    stands, in 12-hour mode, and its driver (``cmos_do_probe`` in drivers/rtc/rtc-cmos.c) refuses that.
    """

    name = "cmos"

    def read(self, offset: int, data: memoryview) -> None:
        """All zeros."""
        data[:] = bytes(len(data))
