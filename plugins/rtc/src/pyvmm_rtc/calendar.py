"""Time in the format of the chip's registers: BCD or binary, 24 or 12 hours; and the time of the next alarm."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from pyvmm_rtc.registers import (
    RTC_24H,
    RTC_CENTURY,
    RTC_DAY_OF_MONTH,
    RTC_DAY_OF_WEEK,
    RTC_DM_BINARY,
    RTC_HOURS,
    RTC_HOURS_ALARM,
    RTC_MINUTES,
    RTC_MINUTES_ALARM,
    RTC_MONTH,
    RTC_SECONDS,
    RTC_SECONDS_ALARM,
    RTC_YEAR,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence
    from typing import Final

TIME_REGISTERS: Final = (
    *(RTC_SECONDS, RTC_MINUTES, RTC_HOURS, RTC_DAY_OF_WEEK),
    *(RTC_DAY_OF_MONTH, RTC_MONTH, RTC_YEAR, RTC_CENTURY),
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AFTERNOON: Final = 0x80
_ANY: Final = 0xC0
"""An alarm register with this value or more matches every time."""

_DAY: Final = 86400


def write_time(registers: MutableSequence[int], seconds: int, mode: int) -> None:
    """Set the time registers to ``seconds`` since 1970, in the format of ``mode``, the value of register B."""
    now = time.gmtime(seconds)
    for register, value in (
        (RTC_SECONDS, now.tm_sec),
        (RTC_MINUTES, now.tm_min),
        (RTC_DAY_OF_WEEK, (now.tm_wday + 1) % 7 + 1),  # 1 is Sunday
        (RTC_DAY_OF_MONTH, now.tm_mday),
        (RTC_MONTH, now.tm_mon),
        (RTC_YEAR, now.tm_year % 100),
        (RTC_CENTURY, now.tm_year // 100),
    ):
        registers[register] = _encode(value, mode)
    if mode & RTC_24H:
        registers[RTC_HOURS] = _encode(now.tm_hour, mode)
    else:
        registers[RTC_HOURS] = _encode((now.tm_hour - 1) % 12 + 1, mode) | (_AFTERNOON if now.tm_hour >= 12 else 0)


def read_time(registers: Sequence[int], mode: int) -> int:
    """Seconds since 1970 by the time registers, in the format of ``mode``. An impossible time is changed to one near
    it."""
    year = _decode(registers[RTC_CENTURY], mode) * 100 + _decode(registers[RTC_YEAR], mode)
    month = _decode(registers[RTC_MONTH], mode)
    start = datetime(min(max(year, 1), 9998), min(max(month, 1), 12), 1, tzinfo=UTC)
    passed = timedelta(
        days=max(_decode(registers[RTC_DAY_OF_MONTH], mode), 1) - 1,
        hours=_decode_hour(registers[RTC_HOURS], mode),
        minutes=_decode(registers[RTC_MINUTES], mode),
        seconds=_decode(registers[RTC_SECONDS], mode),
    )
    return (start + passed - _EPOCH) // timedelta(seconds=1)


def next_alarm(registers: Sequence[int], mode: int, after: int) -> int | None:
    """The first second after ``after`` that the alarm registers match; None if they never match."""
    hour, minute, second = (
        None if registers[register] >= _ANY else decode(registers[register], mode)
        for register, decode in (
            (RTC_HOURS_ALARM, _decode_hour),
            (RTC_MINUTES_ALARM, _decode),
            (RTC_SECONDS_ALARM, _decode),
        )
    )
    if (hour or 0) > 23 or (minute or 0) > 59 or (second or 0) > 59:
        return None
    at = after + 1
    while True:  # each turn advances to the next hour, minute or second that may match: at most a day
        if hour is not None and at % _DAY // 3600 != hour:
            at = (at // 3600 + 1) * 3600
        elif minute is not None and at % 3600 // 60 != minute:
            at = (at // 60 + 1) * 60
        elif second is not None and at % 60 != second:
            at += 1
        else:
            return at


def _encode(value: int, mode: int) -> int:
    return value if mode & RTC_DM_BINARY else value // 10 << 4 | value % 10


def _decode(register: int, mode: int) -> int:
    return register if mode & RTC_DM_BINARY else (register >> 4) * 10 + (register & 0xF)


def _decode_hour(register: int, mode: int) -> int:
    if mode & RTC_24H:
        return _decode(register, mode)
    return _decode(register & ~_AFTERNOON, mode) % 12 + (12 if register & _AFTERNOON else 0)
