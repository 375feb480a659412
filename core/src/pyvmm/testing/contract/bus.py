"""The suite for a device at ports or in memory."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from pyvmm.bus import Bus, BusDevice
from pyvmm.limits import PAGE_SIZE
from pyvmm.testing.contract.base import NAME, error_lines
from pyvmm.testing.port_driver import PortDriver
from pyvmm.testing.resources import Resources
from pyvmm.testing.saved_state import load, save

_ACCESSES: Final = 5000
_FLOOD: Final = 1000
"""The number of writes to each register in a flood: more than any device has to remember."""

_ACPI_HID: Final = re.compile("([A-Z]{3}|[A-Z0-9]{4})[0-9A-F]{4}")
"""A hardware ID: EISA's or ACPI's (ACPI 6.5, section 6.1.5)."""


class BusDeviceContract:
    """The rules that every :class:`~pyvmm.bus.BusDevice` has to obey.

    A plugin's test class derives from it, is called ``Test…``, and says how its device is made.
    """

    cycles: int = 1000
    """The number of machines that come and go in the test for leaks."""

    tmp_path: Path
    """A folder of the test's own, for the device to use."""

    def make(self) -> BusDevice:
        """Return a fresh device, always from the same options. The previous one is closed by then."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its device is made: def make(self)")

    def exercise(self, driver: PortDriver) -> None:
        """Make the device do its work, and check the result. By default each register is read and written."""
        for bus, address in _addresses(driver):
            _write(bus, address, _read(bus, address, 1))
        driver.run()

    def visible_state(self, driver: PortDriver) -> object:
        """The device's state as a guest sees it. It must be the same after save and load. By default, the value of each
        register, one after the other."""
        return [_read(bus, address, 1) for bus, address in _addresses(driver)]

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    @contextmanager
    def driven(self, placement: int = 0, *, state: bytes | None = None) -> Iterator[PortDriver]:
        """A fresh device with a driver, and with the saved ``state`` of another device; both are closed at the end."""
        device = self.make()
        if state is not None:
            load(device, state)
        with PortDriver(device, name=NAME, placement=placement) as driver:
            yield driver

    def test_says_where_it_wants_to_be(self) -> None:
        with self.driven() as driver:
            assert driver.device.placements
            for placement in driver.device.placements:
                assert placement.ports or placement.mmio_size, "a placement has ports or memory"
                assert placement.mmio_size % PAGE_SIZE == 0, "memory is whole pages"
                for ports in placement.all_ports:
                    assert ports.size > 0 and ports.base >= 0 and ports.end <= 0x10000
                assert placement.irq is None or 0 <= placement.irq < 24
                assert not placement.acpi_hid or _ACPI_HID.fullmatch(placement.acpi_hid)

    def test_works_at_each_of_its_places(self) -> None:
        with self.driven() as driver:
            count = len(driver.device.placements)
            assert driver.device.name == NAME
            self.exercise(driver)
            assert_answers(driver)
        for placement in range(1, count):
            with self.driven(placement) as driver:
                self.exercise(driver)
                assert_answers(driver)

    def test_answers_accesses_of_any_width_anywhere(self, caplog: pytest.LogCaptureFixture) -> None:
        with self.driven() as driver:
            for bus, address in _addresses(driver):
                for width in _widths(bus):
                    assert len(_read(bus, address, width)) == width
                    _write(bus, address, b"\xa5" * width)
            driver.run()
            assert_answers(driver)
        assert not error_lines(caplog)

    def test_takes_every_value_at_every_place(self, caplog: pytest.LogCaptureFixture) -> None:
        with self.driven() as driver:
            for bus, address in _addresses(driver):
                for value in range(256):
                    _write(bus, address, bytes([value]))
                    _read(bus, address, 1)
            driver.run()
            assert_answers(driver)
        assert not error_lines(caplog)

    def test_survives_random_accesses(self, caplog: pytest.LogCaptureFixture) -> None:
        numbers = random.Random(1)
        with self.driven() as driver:
            places = list(_addresses(driver))
            for count in range(_ACCESSES):
                bus, address = numbers.choice(places)
                width = numbers.choice(_widths(bus))
                if numbers.random() < 0.6:
                    _write(bus, address, numbers.randbytes(width))
                else:
                    _read(bus, address, width)
                if count % 100 == 0:
                    driver.loop.run_once(0)
            assert_answers(driver)
        assert not error_lines(caplog)

    def test_accesses_that_straddle_its_end_are_nobodys(self) -> None:
        with self.driven() as driver:
            for bus, place in driver.places:
                for width in (2, 4):
                    if bus.device_at(place.end) is None:
                        assert _read(bus, place.end - width + 1, width) == b"\xff" * width
                        assert not bus.write(place.end - width + 1, memoryview(bytes(width)))

    def test_a_guest_that_floods_it_does_not_make_it_grow(self) -> None:
        with self.driven() as driver:
            sizes = []
            for _ in range(2):
                for bus, address in list(_addresses(driver))[:16]:
                    for count in range(_FLOOD):
                        _write(bus, address, bytes([count & 0xFF]))
                sizes.append(len(save(driver.device)))
            assert sizes[1] - sizes[0] < _FLOOD, f"its state grows with each write: {sizes[0]} bytes, then {sizes[1]}"
            assert_answers(driver)

    def test_goes_on_after_save_and_load(self) -> None:
        with self.driven() as driver:
            self.exercise(driver)
            state = save(driver.device)
            before = self.visible_state(driver)
        with self.driven(state=state) as driver:
            assert self.visible_state(driver) == before
            self.exercise(driver)
            assert_answers(driver)

    @pytest.mark.parametrize("method", ["read", "write"])
    def test_a_failure_is_the_devices_own(self, method: str, caplog: pytest.LogCaptureFixture) -> None:
        with self.driven() as driver:

            def fail(*_: object) -> None:
                raise RuntimeError(f"{method} went wrong on purpose")

            setattr(driver.device, method, fail)
            for _ in range(2):
                for bus, address in _addresses(driver):
                    _read(bus, address, 1)
                    _write(bus, address, b"\0")
            for bus, address in _addresses(driver):
                assert _read(bus, address, 1) == b"\xff"
            (line,) = error_lines(caplog)
            assert line.startswith(f"{NAME}: ")
            assert caplog.records[-1].exc_info, "a bug keeps its traceback"

    def test_many_machines_leave_nothing_behind(self) -> None:
        with self.driven() as driver:
            self.exercise(driver)
        before = Resources.now()
        for _ in range(self.cycles):
            with self.driven():
                pass
        before.assert_no_more_now()
        with self.driven() as driver:
            self.exercise(driver)
        before.assert_no_more_now()


def assert_answers(driver: PortDriver) -> None:
    """Assert that the device is in service."""
    for bus, place in driver.places:
        assert bus.read(place.base, memoryview(bytearray(1))), f"{place} answers no more"


def _addresses(driver: PortDriver) -> Iterator[tuple[Bus, int]]:
    for bus, place in driver.places:
        # All ports; only the start of memory.
        for address in range(place.base, min(place.end, place.base + 256)):
            yield bus, address


def _widths(bus: Bus) -> tuple[int, ...]:
    return (1, 2, 4) if bus.name == "port" else (1, 2, 4, 8)


def _read(bus: Bus, address: int, width: int) -> bytes:
    data = bytearray(width)
    bus.read(address, memoryview(data))
    return bytes(data)


def _write(bus: Bus, address: int, data: bytes) -> None:
    bus.write(address, memoryview(data).toreadonly())
