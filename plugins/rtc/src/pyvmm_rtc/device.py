"""The clock of a PC: a Motorola MC146818 at ports 0x70 and 0x71, with its interrupt at line 8."""

from __future__ import annotations

import threading
import time

from pyvmm.bus import BusDevice, BusRange, Placement

from pyvmm_rtc.calendar import TIME_REGISTERS, next_alarm, read_time, write_time
from pyvmm_rtc.registers import (
    RTC_24H,
    RTC_AF,
    RTC_AIE,
    RTC_DIV_CTL,
    RTC_DIV_RESET1,
    RTC_EVENTS,
    RTC_IRQF,
    RTC_PF,
    RTC_PIE,
    RTC_RATE_SELECT,
    RTC_REF_CLCK_32KHZ,
    RTC_REG_A,
    RTC_REG_B,
    RTC_REG_C,
    RTC_REG_D,
    RTC_SET,
    RTC_UF,
    RTC_UIE,
    RTC_UIP,
    RTC_VRT,
    SIZE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from pyvmm.device_context import DeviceContext
    from pyvmm.host.eventloop import Timer

_SECOND: Final = 1_000_000_000
"""In nanoseconds, as all times here are."""

_UPDATE: Final = 244_000 + 1_984_000
"""UIP is set for this time before each change: the warning and the update of a chip with a 32 kHz crystal."""

_PORTS: Final = BusRange(0x70, 2)
_HID: Final = "PNP0B00"


class Rtc(BusDevice):
    """A clock that shows the host's time (UTC) until the guest sets it, which changes nothing on the host.

    Time, alarm and periodic interrupt are computed when the guest reads them. A timer runs only for interrupts that the
    guest has enabled.
    """

    placements: Sequence[Placement] = (
        Placement(ports=_PORTS, irq=8, acpi_hid=_HID),
        Placement(ports=_PORTS, acpi_hid=_HID),  # if another device has line 8: a clock without interrupts
    )

    def __init__(self, host_time: Callable[[], int] = time.time_ns) -> None:
        """``host_time`` returns nanoseconds since 1970."""
        self.index = 0
        """The register that port 0x71 accesses."""
        self.registers = bytearray(SIZE)
        """The registers' values. The time registers are up to date only while the clock is stopped."""
        self.registers[RTC_REG_A] = RTC_REF_CLCK_32KHZ | 6  # 1024 Hz
        self.registers[RTC_REG_B] = RTC_24H
        self.registers[RTC_REG_D] = RTC_VRT
        self.offset = 0
        """Nanoseconds from the host's time to the guest's."""
        self._host_time = host_time
        self._seen = host_time()
        """The guest's time up to which events are accounted for."""
        self._lock = threading.Lock()  # vCPUs' threads make accesses, the loop's thread runs the timer
        self._timer: Timer | None = None
        self._arming = False

    def attach(self, context: DeviceContext) -> None:
        """Store the device's place in the machine, and set the timer if the registers enable an interrupt."""
        super().attach(context)
        self._arming = False
        self._arm()

    def read(self, offset: int, data: memoryview) -> None:
        """Answer at port 0x71 with the register; port 0x70 cannot be read."""
        with self._lock:
            for at in range(len(data)):
                if offset + at == 1:
                    data[at] = self._read_register()

    def write(self, offset: int, data: memoryview) -> None:
        """Port 0x70 chooses a register, port 0x71 writes to it."""
        with self._lock:
            for at, value in enumerate(data, offset):
                if at == 0:
                    self.index = value % SIZE  # bit 7 masks NMIs, of which there are none
                else:
                    self._write_register(value)

    @property
    def _now(self) -> int:
        return self._host_time() + self.offset

    @property
    def _stands(self) -> bool:
        """Whether the clock is stopped: the guest sets the time, or holds the divider at 0."""
        a, b = self.registers[RTC_REG_A], self.registers[RTC_REG_B]
        return bool(b & RTC_SET) or a & RTC_DIV_CTL >= RTC_DIV_RESET1

    def _read_register(self) -> int:
        if self.index in TIME_REGISTERS and not self._stands:
            self._latch()
        elif self.index == RTC_REG_A:
            changes = not self._stands and self._now % _SECOND >= _SECOND - _UPDATE
            return self.registers[RTC_REG_A] | (RTC_UIP if changes else 0)
        elif self.index == RTC_REG_C:
            self._catch_up()
            events, self.registers[RTC_REG_C] = self.registers[RTC_REG_C], 0
            self._arm()
            return events
        return self.registers[self.index]

    def _write_register(self, value: int) -> None:
        index = self.index
        if index in (RTC_REG_C, RTC_REG_D):
            return
        self._catch_up()
        stood, fraction = self._stands, self._now % _SECOND
        if index in (RTC_REG_A, RTC_REG_B) or (index in TIME_REGISTERS and not stood):
            if not stood:
                self._latch()
            if self.registers[RTC_REG_A] & RTC_DIV_CTL >= RTC_DIV_RESET1:
                fraction = _SECOND // 2  # after a divider reset, the first second ends after half a second
        if index == RTC_REG_A:
            value &= ~RTC_UIP
        elif index == RTC_REG_B and value & RTC_SET:
            value &= ~RTC_UIE
        self.registers[index] = value
        if (stood or index in TIME_REGISTERS) and not self._stands:
            now = read_time(self.registers, self.registers[RTC_REG_B]) * _SECOND + fraction
            self.offset = now - self._host_time()
            self._seen = now
        self._settle()
        self._arm()

    def _latch(self) -> None:
        """Bring the time registers up to date."""
        write_time(self.registers, self._now // _SECOND, self.registers[RTC_REG_B])

    def _catch_up(self) -> None:
        """Record the events since the last call."""
        now, seen = self._now, self._seen
        self._seen = now
        events = 0
        if not self._stands and now // _SECOND > seen // _SECOND:
            events |= RTC_UF
            alarm = next_alarm(self.registers, self.registers[RTC_REG_B], seen // _SECOND)
            if alarm is not None and alarm <= now // _SECOND:
                events |= RTC_AF
        period = self._period
        if period and now // period > seen // period:
            events |= RTC_PF
        self.registers[RTC_REG_C] |= events
        self._settle()

    def _settle(self) -> None:
        """Interrupt if an enabled event has happened: one edge until the guest reads register C."""
        c = self.registers[RTC_REG_C]
        if c & self.registers[RTC_REG_B] & RTC_EVENTS:
            self.registers[RTC_REG_C] = c | RTC_IRQF
            if not c & RTC_IRQF:
                self.interrupt(c)

    @property
    def _period(self) -> int:
        """Nanoseconds between periodic events; 0 for none."""
        rate = self.registers[RTC_REG_A] & RTC_RATE_SELECT
        if rate == 0:
            return 0
        return _SECOND << (rate + 6 if rate < 3 else rate - 1) >> 15  # 1 and 2 are as 8 and 9

    def _arm(self) -> None:
        """Let the loop's thread set the timer to the next event that interrupts."""
        if self.context.irq is not None and not self._arming and (self._timer or self._next_event() is not None):
            self._arming = True
            self.context.loop.post(self._set_timer)

    def _next_event(self) -> int | None:
        """The guest's time of the next event that interrupts; None if there is none."""
        b, c = self.registers[RTC_REG_B], self.registers[RTC_REG_C]
        if c & RTC_IRQF:
            return None  # no further interrupt before the guest has read register C
        events = []
        if b & RTC_PIE and self._period:
            events.append((self._seen // self._period + 1) * self._period)
        if b & RTC_UIE and not self._stands:
            events.append((self._seen // _SECOND + 1) * _SECOND)
        if b & RTC_AIE and not self._stands:
            alarm = next_alarm(self.registers, b, self._seen // _SECOND)
            if alarm is not None:
                events.append(alarm * _SECOND)
        return min(events, default=None)

    def _set_timer(self) -> None:
        with self._lock:
            self._arming = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            event = self._next_event()
            if event is not None:
                self._timer = self.context.loop.call_later(max(event - self._now, 0) / _SECOND, self._is_due)

    def _is_due(self) -> None:
        with self._lock:
            self._timer = None
            self._catch_up()
            self._arm()
