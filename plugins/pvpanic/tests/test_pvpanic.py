"""What a guest can say at pvpanic's port, and what comes of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm.errors import UsageError
from pyvmm.exit_reason import End
from pyvmm.options import parse_options
from pyvmm.testing.port_driver import PortDriver
from pyvmm_pvpanic import PvpanicOptions, pyvmm_device_kinds
from pyvmm_pvpanic import device as pvpanic

PORT = 0x505


@pytest.fixture
def driver() -> Iterator[PortDriver]:
    with PortDriver(pvpanic.Pvpanic(), name="pvpanic0") as driver:
        yield driver


def test_the_guest_learns_what_it_can_say(driver: PortDriver) -> None:
    assert driver.inb(PORT) == 3
    assert driver.read(PORT, 2) == b"\xff\xff"  # there is no more than a byte
    assert driver.stops == []


@pytest.mark.parametrize("events", [1, 3, 0xFF])
def test_a_panic_ends_the_machine_and_says_so(driver: PortDriver, events: int) -> None:
    driver.outb(PORT, events)
    (reason,) = driver.stops
    assert (reason.end, reason.status) == (End.CRASH, 3)
    assert str(reason) == "the guest crashed: its kernel panicked, as pvpanic0 reports"


def test_a_guest_with_a_crash_kernel_goes_on(driver: PortDriver, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):  # which does not fill the log
        driver.outb(PORT, 2)
    assert driver.stops == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("value", [b"\0", b"\x04", b"\xf8", b"\x01\x01", b"\x01\0\0\0"])
def test_anything_else_is_nothing(driver: PortDriver, value: bytes) -> None:
    driver.write(PORT, value)
    assert driver.stops == []


def test_linux_finds_it_by_acpi() -> None:
    (placement,) = pvpanic.Pvpanic.placements
    assert (placement.acpi_hid, placement.irq, placement.any_irq) == ("QEMU0001", None, False)


def test_one_kind_without_options() -> None:
    (kind,) = pyvmm_device_kinds()
    assert (kind.name, kind.kernel_config, kind.process) == ("pvpanic", "CONFIG_PVPANIC_MMIO", False)
    with pytest.raises(UsageError, match="it has no options"):
        parse_options(PvpanicOptions, "pvpanic", "on")


HEADER = Path("/usr/include/misc/pvpanic.h")


@pytest.mark.skipif(not HEADER.exists(), reason="needs the kernel's headers")
def test_constants_are_those_of_the_header() -> None:
    bits = re.findall(
        r"(PVPANIC_\w+)\s+(?:\(1 << |_BITUL\()(\d)\)", HEADER.read_text()
    )  # newer headers have the latter
    defined = {name: 1 << int(bit) for name, bit in bits}
    ours = {name: value for name, value in vars(pvpanic).items() if name.startswith("PVPANIC_")}
    assert ours == {name: defined[name] for name in ours}
    assert ours
