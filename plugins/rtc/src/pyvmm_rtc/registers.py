"""Registers of the MC146818 and their bits, with their names in <linux/mc146818rtc.h>."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SIZE: Final = 128
"""The number of registers: time, control, and memory."""

RTC_SECONDS: Final = 0
RTC_SECONDS_ALARM: Final = 1
RTC_MINUTES: Final = 2
RTC_MINUTES_ALARM: Final = 3
RTC_HOURS: Final = 4
RTC_HOURS_ALARM: Final = 5
RTC_DAY_OF_WEEK: Final = 6
RTC_DAY_OF_MONTH: Final = 7
RTC_MONTH: Final = 8
RTC_YEAR: Final = 9
RTC_REG_A: Final = 10
RTC_REG_B: Final = 11
RTC_REG_C: Final = 12
RTC_REG_D: Final = 13
RTC_CENTURY: Final = 0x32
"""The chip does not define it, but every PC has it; the FADT declares it."""

# A: the rate, the divider's control, and whether the time is about to change.
RTC_RATE_SELECT: Final = 0x0F
RTC_DIV_CTL: Final = 0x70
RTC_REF_CLCK_32KHZ: Final = 0x20
RTC_DIV_RESET1: Final = 0x60
RTC_DIV_RESET2: Final = 0x70
RTC_UIP: Final = 0x80

# B: modes, and the events that interrupt.
RTC_24H: Final = 0x02
RTC_DM_BINARY: Final = 0x04
RTC_UIE: Final = 0x10
RTC_AIE: Final = 0x20
RTC_PIE: Final = 0x40
RTC_SET: Final = 0x80

# C: the events that have happened. Each has the position of the bit in B that enables its interrupt.
RTC_UF: Final = 0x10
RTC_AF: Final = 0x20
RTC_PF: Final = 0x40
RTC_IRQF: Final = 0x80
RTC_EVENTS: Final = RTC_UF | RTC_AF | RTC_PF

# D
RTC_VRT: Final = 0x80
"""The battery is good: the registers are valid."""
