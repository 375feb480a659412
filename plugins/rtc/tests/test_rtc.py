"""The clock as a driver finds it: reading, setting, modes, alarms and interrupts."""

from __future__ import annotations

import calendar
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyvmm.testing.port_driver import PortDriver
from pyvmm.testing.waiting import PATIENCE
from pyvmm_rtc import pyvmm_device_kinds
from pyvmm_rtc import registers as r
from pyvmm_rtc.calendar import next_alarm, read_time, write_time
from pyvmm_rtc.device import Rtc

SECOND = 10**9


def at(text: str) -> int:
    """Nanoseconds since 1970 of ``2024-02-29 23:59:58``, UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


class Cmos:
    """A driver, and the host's time, which stands until it is moved."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.device = Rtc(lambda: self.now)
        self.driver = PortDriver(self.device, name="rtc0")

    def __getitem__(self, index: int) -> int:
        self.driver.outb(0x70, index)
        return self.driver.inb(0x71)

    def __setitem__(self, index: int, value: int) -> None:
        self.driver.outb(0x70, index)
        self.driver.outb(0x71, value)

    def time(self) -> tuple[int, ...]:
        """Century, year, month, day, day of the week, hour, minute and second, as they are in the registers."""
        names = (r.RTC_CENTURY, r.RTC_YEAR, r.RTC_MONTH, r.RTC_DAY_OF_MONTH)
        return tuple(self[index] for index in (*names, r.RTC_DAY_OF_WEEK, r.RTC_HOURS, r.RTC_MINUTES, r.RTC_SECONDS))

    def set_time_as_linux_does(self, *values: int) -> None:
        """Century, year, month, day, hour, minute, second (mc146818_set_time in drivers/rtc/rtc-mc146818-lib.c)."""
        control, frequency = self[r.RTC_REG_B], self[r.RTC_REG_A]
        self[r.RTC_REG_B] = control | r.RTC_SET
        self[r.RTC_REG_A] = frequency | r.RTC_DIV_RESET2
        names = (r.RTC_CENTURY, r.RTC_YEAR, r.RTC_MONTH, r.RTC_DAY_OF_MONTH, r.RTC_HOURS, r.RTC_MINUTES, r.RTC_SECONDS)
        for index, value in zip(names, values, strict=True):
            self[index] = value
        self[r.RTC_REG_B] = control
        self[r.RTC_REG_A] = frequency


@pytest.fixture
def cmos() -> Iterator[Cmos]:
    """A clock at half past a second."""
    before = len(os.listdir("/proc/self/fd"))
    cmos = Cmos(at("2024-02-29 23:59:58") + SECOND // 2)
    yield cmos
    cmos.driver.close()
    assert len(os.listdir("/proc/self/fd")) == before


# --- reading


def test_it_shows_the_hosts_time_in_bcd_and_24_hours(cmos: Cmos) -> None:
    assert cmos[r.RTC_REG_B] == r.RTC_24H
    assert cmos[r.RTC_REG_D] == r.RTC_VRT
    assert cmos.time() == (0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58)  # a Thursday
    cmos.now += 2 * SECOND
    assert cmos.time() == (0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00)


def test_it_goes_with_the_hosts_clock() -> None:
    with PortDriver(Rtc()) as driver:
        shown = tuple(_read(driver, index) for index in (4, 2, 0))
    now = time.gmtime()
    seconds = [(v >> 4) * 10 + (v & 15) for v in shown]
    shown_at = seconds[0] * 3600 + seconds[1] * 60 + seconds[2]
    assert (now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec - shown_at) % 86400 < 60


def _read(driver: PortDriver, index: int) -> int:
    driver.outb(0x70, index)
    return driver.inb(0x71)


@pytest.mark.parametrize(
    ("mode", "hours"),
    [
        (0, {0: 0x12, 1: 0x01, 11: 0x11, 12: 0x92, 13: 0x81, 23: 0x91}),
        (r.RTC_24H, {0: 0x00, 12: 0x12, 23: 0x23}),
        (r.RTC_DM_BINARY, {0: 12, 11: 11, 12: 0x8C, 23: 0x8B}),
        (r.RTC_DM_BINARY | r.RTC_24H, {0: 0, 12: 12, 23: 23}),
    ],
)
def test_hours_in_each_mode(cmos: Cmos, mode: int, hours: dict[int, int]) -> None:
    cmos[r.RTC_REG_B] = mode
    for hour, register in hours.items():
        cmos.now = at(f"2024-05-06 {hour:02}:30:00")
        assert cmos[r.RTC_HOURS] == register


def test_the_time_is_said_to_change_shortly_before_it_does(cmos: Cmos) -> None:
    second = cmos.now // SECOND * SECOND
    for past, changing in [(0, False), (997_771_999, False), (997_772_000, True), (999_999_999, True), (10**9, False)]:
        cmos.now = second + past
        assert bool(cmos[r.RTC_REG_A] & r.RTC_UIP) == changing
        assert cmos[r.RTC_SECONDS] == (0x59 if past == 10**9 else 0x58)


def test_the_index_cannot_be_read_and_bit_7_is_not_part_of_it(cmos: Cmos) -> None:
    assert cmos.driver.inb(0x70) == 0xFF
    assert cmos[0x80 | r.RTC_SECONDS] == 0x58
    cmos.driver.write(0x70, bytes([0x40, 0x77]))  # both ports at once
    assert cmos.driver.read(0x70, 2) == b"\xff\x77"


def test_the_rest_is_memory(cmos: Cmos) -> None:
    for index in range(14, 128):
        if index != r.RTC_CENTURY:
            cmos[index] = index ^ 0xFF
    assert all(cmos[index] == index ^ 0xFF for index in range(14, 128) if index != r.RTC_CENTURY)
    for index in (r.RTC_REG_C, r.RTC_REG_D):
        cmos[index] = 0x7F
    assert (cmos[r.RTC_REG_C], cmos[r.RTC_REG_D]) == (0, r.RTC_VRT)


# --- setting


def test_linux_sets_it_and_the_first_second_is_half_as_long(cmos: Cmos) -> None:
    cmos.set_time_as_linux_does(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59)
    assert cmos.time()[:4] == (0x19, 0x99, 0x12, 0x31)
    cmos.now += SECOND // 2 - 1
    assert cmos.time()[5:] == (0x23, 0x59, 0x59)
    cmos.now += 1
    assert cmos.time() == (0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0)
    cmos.now += 3600 * SECOND
    assert cmos.time()[5:] == (1, 0, 0)


def test_while_it_is_set_the_time_stands(cmos: Cmos) -> None:
    cmos[r.RTC_REG_B] = r.RTC_24H | r.RTC_SET
    cmos.now += 100 * SECOND + SECOND // 2 - 1
    assert cmos[r.RTC_SECONDS] == 0x58
    assert cmos[r.RTC_REG_A] & r.RTC_UIP == 0
    cmos[r.RTC_SECONDS] = 0x10
    assert cmos[r.RTC_SECONDS] == 0x10
    cmos[r.RTC_REG_B] = r.RTC_24H
    assert cmos.time()[5:] == (0x23, 0x59, 0x10)
    cmos.now += 1  # the divider has gone on
    assert cmos.time()[5:] == (0x23, 0x59, 0x11)


def test_a_register_can_be_set_while_the_clock_goes(cmos: Cmos) -> None:
    cmos[r.RTC_MINUTES] = 0x30
    cmos.now += SECOND // 2
    assert cmos.time()[4:] == (5, 0x23, 0x30, 0x59)


def test_a_mode_that_is_changed_shows_the_same_time(cmos: Cmos) -> None:
    cmos[r.RTC_REG_B] = r.RTC_DM_BINARY
    assert cmos.time() == (20, 24, 2, 29, 5, 0x80 | 11, 59, 58)
    cmos[r.RTC_REG_B] = r.RTC_24H
    assert cmos.time()[5:] == (0x23, 0x59, 0x58)


@pytest.mark.parametrize("mode", [0, r.RTC_24H, r.RTC_DM_BINARY, r.RTC_DM_BINARY | r.RTC_24H])
@given(seconds=st.integers(calendar.timegm((1, 1, 1, 0, 0, 0)), calendar.timegm((9998, 12, 31, 23, 59, 59))))
def test_what_is_written_is_read_in_each_mode(mode: int, seconds: int) -> None:
    registers = bytearray(r.SIZE)
    write_time(registers, seconds, mode)
    assert read_time(registers, mode) == seconds


@given(data=st.binary(min_size=r.SIZE, max_size=r.SIZE), mode=st.integers(0, 255))
def test_nonsense_is_some_time(data: bytes, mode: int) -> None:
    seconds = read_time(data, mode)
    write_time(bytearray(r.SIZE), seconds, mode)


@given(accesses=st.lists(st.tuples(st.integers(0, 127) | st.integers(0, 13), st.integers(0, 255)), max_size=40))
def test_no_write_fails_the_device(accesses: list[tuple[int, int]]) -> None:
    cmos = Cmos(at("2024-02-29 23:59:58"))
    for index, value in accesses:
        cmos[index] = value
        cmos.now += 300_000_000
    cmos.driver.loop.run_once(0)
    cmos[r.RTC_REG_B] = r.RTC_24H
    cmos[r.RTC_REG_A] = r.RTC_REF_CLCK_32KHZ
    cmos.set_time_as_linux_does(0x20, 0x24, 0x01, 0x02, 0x03, 0x04, 0x05)
    assert cmos.time() == (0x20, 0x24, 0x01, 0x02, 3, 0x03, 0x04, 0x05)
    cmos.driver.close()


# --- events


def test_an_event_is_kept_until_it_is_read(cmos: Cmos) -> None:
    cmos[r.RTC_REG_A] = r.RTC_REF_CLCK_32KHZ  # nothing periodic
    cmos[r.RTC_HOURS_ALARM] = 0x12
    cmos[r.RTC_REG_C]
    assert cmos[r.RTC_REG_C] == 0
    cmos.now += 5 * SECOND
    assert cmos[r.RTC_REG_C] == r.RTC_UF
    assert cmos[r.RTC_REG_C] == 0
    assert cmos.driver.edges() == 0


@pytest.mark.parametrize(
    ("alarm", "when"),
    [
        ((0x00, 0x00, 0x05), "2024-03-01 00:00:05"),
        ((0x23, 0x59, 0x59), "2024-02-29 23:59:59"),
        ((0x23, 0x59, 0x58), "2024-03-01 23:59:58"),
        ((0xFF, 0xFF, 0xFF), "2024-02-29 23:59:59"),
        ((0xFF, 0xC0, 0x00), "2024-03-01 00:00:00"),
        ((0xFF, 0x30, 0x15), "2024-03-01 00:30:15"),
        ((0x12, 0xFF, 0x00), "2024-03-01 12:00:00"),
    ],
)
def test_the_alarm(cmos: Cmos, alarm: tuple[int, ...], when: str) -> None:
    indexes = (r.RTC_HOURS_ALARM, r.RTC_MINUTES_ALARM, r.RTC_SECONDS_ALARM)
    for index, value in zip(indexes, alarm, strict=True):
        cmos[index] = value
    cmos[r.RTC_REG_C]
    cmos.now = at(when) - 1
    assert cmos[r.RTC_REG_C] & r.RTC_AF == 0
    cmos.now += 1
    assert cmos[r.RTC_REG_C] & r.RTC_AF


@pytest.mark.parametrize("alarm", [(0x24, 0, 0), (0, 0x60, 0), (0, 0, 0x7F), (0xBF, 0xBF, 0xBF)])
def test_an_alarm_that_never_comes(alarm: tuple[int, ...]) -> None:
    registers = bytearray(r.SIZE)
    registers[r.RTC_HOURS_ALARM], registers[r.RTC_MINUTES_ALARM], registers[r.RTC_SECONDS_ALARM] = alarm
    assert next_alarm(registers, r.RTC_24H, 0) is None


@given(
    hour=st.none() | st.integers(0, 23),
    minute=st.none() | st.integers(0, 59),
    second=st.none() | st.integers(0, 59),
    after=st.integers(0, 10 * 86400),
)
def test_the_next_alarm_is_the_first_second_that_matches(
    hour: int | None, minute: int | None, second: int | None, after: int
) -> None:
    registers = bytearray(r.SIZE)
    for index, value in (
        (r.RTC_HOURS_ALARM, hour),
        (r.RTC_MINUTES_ALARM, minute),
        (r.RTC_SECONDS_ALARM, second),
    ):
        registers[index] = 0xFF if value is None else value
    found = next_alarm(registers, r.RTC_24H | r.RTC_DM_BINARY, after)
    assert found is not None
    for seconds in {found, *range(after + 1, min(after + 3700, found))}:
        matches = (
            hour in (None, seconds // 3600 % 24)
            and minute in (None, seconds // 60 % 60)
            and second in (None, seconds % 60)
        )
        assert matches == (seconds == found)


# --- interrupts


@pytest.fixture
def live() -> Iterator[Cmos]:
    """A clock 50 ms before a second."""
    cmos = Cmos(at("2024-05-06 07:08:10") - SECOND // 20)
    yield cmos
    cmos.driver.close()


def go(cmos: Cmos, nanoseconds: int) -> int:
    """Let time pass, for the clock and for the loop; how many interrupts that brings."""
    cmos.driver.run()
    cmos.now += nanoseconds
    cmos.driver.loop.advance(nanoseconds / SECOND)
    return cmos.driver.edges()


def test_the_update_interrupts_each_second_when_the_guest_has_seen_the_last(live: Cmos) -> None:
    live[r.RTC_REG_B] = r.RTC_24H | r.RTC_UIE
    assert go(live, SECOND // 20) == 1
    assert live[r.RTC_SECONDS] == 0x10
    assert go(live, 2 * SECOND) == 0
    assert live.device._timer is None  # nothing is to come before register C is read
    assert live[r.RTC_REG_C] & (r.RTC_IRQF | r.RTC_UF) == r.RTC_IRQF | r.RTC_UF
    live.driver.run()
    assert live.device._timer is not None


def test_the_alarm_interrupts(live: Cmos) -> None:
    for index, value in ((r.RTC_HOURS_ALARM, 7), (r.RTC_MINUTES_ALARM, 8), (r.RTC_SECONDS_ALARM, 0x10)):
        live[index] = value
    live[r.RTC_REG_C]
    live[r.RTC_REG_B] = r.RTC_24H | r.RTC_AIE
    assert go(live, SECOND // 20) == 1
    assert live[r.RTC_REG_C] & r.RTC_AF


def test_the_periodic_interrupt(live: Cmos) -> None:
    live[r.RTC_REG_B] = r.RTC_24H | r.RTC_PIE  # 1024 Hz
    for _ in range(10):
        assert go(live, SECOND // 1024 + 1) == 1
        assert live[r.RTC_REG_C] & r.RTC_PF
    live[r.RTC_REG_B] = r.RTC_24H
    live[r.RTC_REG_C]
    live.driver.run()
    live.driver.edges()
    assert go(live, SECOND) == 0


def test_an_event_of_before_interrupts_when_the_guest_comes_to_want_it(cmos: Cmos) -> None:
    cmos.now += SECOND
    cmos[r.RTC_REG_B] = r.RTC_24H | r.RTC_UIE
    assert cmos.driver.edges() == 1
    cmos[r.RTC_REG_B] = r.RTC_24H | r.RTC_UIE
    assert cmos.driver.edges() == 0


def test_nobody_waits_for_a_clock_that_stands(cmos: Cmos) -> None:
    cmos[r.RTC_REG_C]
    cmos[r.RTC_REG_B] = r.RTC_24H | r.RTC_SET | r.RTC_UIE | r.RTC_AIE
    cmos.driver.run()
    assert cmos.device._timer is None
    assert cmos[r.RTC_REG_B] & r.RTC_UIE == 0  # as the chip does


def test_a_guest_that_turns_interrupts_on_and_off_makes_no_timers(cmos: Cmos) -> None:
    cmos[r.RTC_HOURS_ALARM] = 0x12
    for _ in range(2000):
        cmos[r.RTC_REG_B] = r.RTC_24H | r.RTC_AIE
        cmos[r.RTC_REG_C]
        cmos[r.RTC_REG_B] = r.RTC_24H
    assert len(cmos.driver.loop._posted) <= 1
    cmos.driver.run()
    assert len(cmos.driver.loop._timers) <= 1


def test_accesses_and_the_timer_at_once() -> None:
    with PortDriver(Rtc()) as driver:
        thread = threading.Thread(target=driver.loop.run)
        thread.start()
        _write(driver, r.RTC_REG_B, r.RTC_24H | r.RTC_PIE | r.RTC_UIE | r.RTC_AIE)
        seen = 0
        deadline = time.monotonic() + PATIENCE
        while seen < 50 and time.monotonic() < deadline:
            driver.irq.wait(1)
            seen += bool(_read(driver, r.RTC_REG_C) & r.RTC_PF)
            _read(driver, r.RTC_SECONDS)
        driver.loop.stop()
        thread.join()
        assert seen == 50
        assert driver.errors == []


def _write(driver: PortDriver, index: int, value: int) -> None:
    driver.outb(0x70, index)
    driver.outb(0x71, value)


# --- its place


def test_where_line_8_is_taken_it_is_a_clock_all_the_same() -> None:
    first, second = Rtc.placements
    assert (first.ports, first.irq) == (second.ports, 8)
    assert (second.irq, second.any_irq, second.acpi_hid) == (None, False, first.acpi_hid)

    class WithoutLine(Rtc):
        placements = (second,)

    now = 0
    with PortDriver(WithoutLine(lambda: now)) as driver:
        _write(driver, r.RTC_REG_B, r.RTC_24H | r.RTC_PIE)
        driver.run()
        now += SECOND
        assert _read(driver, r.RTC_REG_C) & r.RTC_PF
        assert driver.edges() == 0


def test_one_kind_that_names_the_guests_driver() -> None:
    (kind,) = pyvmm_device_kinds()
    assert (kind.name, kind.kernel_config, kind.process) == ("rtc", "CONFIG_RTC_DRV_CMOS", False)
