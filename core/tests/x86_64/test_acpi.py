"""ACPI tables, also through the eyes of the reference implementation: ``iasl`` of Debian's acpica-tools."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from pyvmm.bus import BusRange
from pyvmm.errors import UsageError
from pyvmm.memory import GuestMemory
from pyvmm.x86_64 import acpi, aml, layout

UART = acpi.AcpiDevice("PNP0501", 0, ports=[BusRange(0x3F8, 8)], irq=4)


def windows(count: int) -> list[acpi.AcpiDevice]:
    return [
        acpi.AcpiDevice(acpi.VIRTIO_MMIO_HID, at, mmio=BusRange(0xD0000000 + at * 4096, 4096), irq=5 + at % 19)
        for at in range(count)
    ]


def tables(built: acpi.AcpiTables) -> dict[bytes, bytes]:
    """The tables by signature, found as a guest finds them: from the RSDP on, by addresses."""

    def at(address: int) -> bytes:
        rest = built.blob[address - built.address :]
        return rest[: struct.unpack_from("<I", rest, 4)[0]]

    pointer = built.blob[built.rsdp_address - built.address :][:36]
    assert pointer[:8] == b"RSD PTR "
    assert sum(pointer[:20]) & 0xFF == 0
    assert sum(pointer) & 0xFF == 0
    xsdt = at(struct.unpack_from("<Q", pointer, 24)[0])
    found = {b"XSDT": xsdt}
    for (address,) in struct.iter_unpack("<Q", xsdt[36:]):
        found[at(address)[:4]] = at(address)
    found[b"DSDT"] = at(struct.unpack_from("<Q", found[b"FACP"], 140)[0])
    return found


@pytest.mark.parametrize(
    ("cpus", "devices"),
    [
        (1, []),
        (1, [UART]),
        (2, [UART, *windows(1)]),
        (4, [UART, *windows(19)]),
        (8, [UART, *windows(200)]),
        (300, [UART]),
        (
            8,
            [
                acpi.AcpiDevice("PYVM0001", 0, mmio=BusRange(1 << 33, 1 << 20), irq=23),
                acpi.AcpiDevice("PYVM0001", 1, mmio=BusRange(0xFFFFF000, 4096)),
                acpi.AcpiDevice("PNP0C02", 2, ports=[BusRange(0x400, 0x200)]),
                acpi.AcpiDevice("PNP0C02", 1 << 40),
                acpi.AcpiDevice("PYVM0002", 0, irq=9, terms=aml.method("_STA", 0, aml.return_(aml.integer(0xF)))),
                acpi.AcpiDevice("", 0, ports=[BusRange(0x700, 4)], terms=aml.name("_ADR", aml.integer(3))),
                acpi.AcpiDevice("", 1, ports=[BusRange(0x710, 4)]),
            ],
        ),
    ],
)
def test_iasl_takes_every_table_apart_and_together_again(
    cpus: int, devices: list[acpi.AcpiDevice], tmp_path: Path
) -> None:
    if shutil.which("iasl") is None:
        pytest.skip("iasl is missing: apt install acpica-tools")

    for signature, table in tables(acpi.build(cpus, devices)).items():
        stem = tmp_path / signature.decode()
        stem.with_suffix(".aml").write_bytes(table)
        apart = subprocess.run(["iasl", "-d", stem.with_suffix(".aml")], capture_output=True, text=True, check=True)
        together = subprocess.run(
            ["iasl", "-p", f"{stem}-again", stem.with_suffix(".dsl")], capture_output=True, text=True, check=True
        )

        assert not re.search(r"error|warning|invalid|incorrect|exception", apart.stderr + apart.stdout, re.I)
        assert "0 Errors, 0 Warnings, 0 Remarks" in together.stdout
        again = Path(f"{stem}-again.aml").read_bytes()
        # iasl puts its own name and a new checksum into the header.
        assert again[36:] == table[36:]


def test_a_device_without_id_and_terms_is_not_told_of() -> None:
    dsdt = tables(acpi.build(1, [acpi.AcpiDevice("", 0, ports=[BusRange(0x710, 4)]), UART]))[b"DSDT"]

    assert b"D000" not in dsdt and b"D001" in dsdt
    assert acpi.device_path(1) == r"\_SB.D001"


def test_a_method_takes_up_to_seven_arguments() -> None:
    assert aml.method("ABCD", 2, serialized=True) == b"\x14\x06ABCD\x0a"
    with pytest.raises(ValueError, match="0 to 7 arguments, not 8"):
        aml.method("ABCD", 8)


def test_checksums_are_right() -> None:
    for table in tables(acpi.build(2, [UART, *windows(19)])).values():
        assert sum(table) & 0xFF == 0


def test_the_fadt_says_what_is_not_there() -> None:
    fadt = tables(acpi.build(1, []))[b"FACP"]

    (boot,) = struct.unpack_from("<H", fadt, 109)
    (flags,) = struct.unpack_from("<I", fadt, 112)
    assert len(fadt) == 276
    assert boot & acpi.IAPC_8042 == 0
    assert boot & acpi.IAPC_CMOS_RTC_NOT_PRESENT
    assert fadt[108] == 0
    assert boot & acpi.IAPC_VGA_NOT_PRESENT
    assert flags & acpi.HW_REDUCED_ACPI
    assert flags & acpi.RESET_REG_SUP


def test_the_fadt_says_what_is_there() -> None:
    fadt = tables(acpi.build(1, [], i8042=True, rtc=True))[b"FACP"]

    (boot,) = struct.unpack_from("<H", fadt, 109)
    assert boot & acpi.IAPC_8042
    assert boot & acpi.IAPC_CMOS_RTC_NOT_PRESENT == 0
    assert fadt[108] == layout.CMOS_CENTURY


def test_the_fadt_has_the_registers_of_power() -> None:
    fadt = tables(acpi.build(1, []))[b"FACP"]

    for offset, port in (
        (116, layout.RESET_PORT),
        (244, layout.SLEEP_CONTROL_PORT),
        (256, layout.SLEEP_STATUS_PORT),
    ):
        assert struct.unpack_from("<BBBBQ", fadt, offset) == (acpi.SYSTEM_IO, 8, 0, 1, port)


@pytest.mark.parametrize("cpus", [1, 2, 8, 255, 256, 300])
def test_the_madt_has_each_cpu_once_and_one_ioapic(cpus: int) -> None:
    madt = tables(acpi.build(cpus, []))[b"APIC"]

    assert struct.unpack_from("<II", madt, 36) == (layout.LAPIC_ADDRESS, 0)
    entries = []
    at = 44
    while at < len(madt):
        entries.append(madt[at : at + madt[at + 1]])
        at += madt[at + 1]
    xapic = [entry[3] for entry in entries if entry[0] == acpi.MADT_LAPIC]
    x2apic = [struct.unpack_from("<I", entry, 4)[0] for entry in entries if entry[0] == acpi.MADT_X2APIC]
    ioapics = [entry for entry in entries if entry[0] == acpi.MADT_IOAPIC]
    assert xapic + x2apic == list(range(cpus))
    assert all(apic_id < 255 for apic_id in xapic)
    assert len(ioapics) == 1
    assert struct.unpack_from("<II", ioapics[0], 4) == (layout.IOAPIC_ADDRESS, 0)
    if cpus < 255:
        assert ioapics[0][2] not in xapic


def test_all_tables_fit_their_place_with_a_thousand_devices() -> None:
    built = acpi.build(8, windows(1000))

    assert built.address + len(built.blob) <= layout.ACPI_END


def test_more_than_fits_is_refused() -> None:
    with pytest.raises(UsageError, match="give fewer devices"):
        acpi.build(8, windows(2000))


def test_a_hardware_id_that_is_none_is_a_bug() -> None:
    for hid in ("PNP05", "pnp0501", "LNRO00051", "PNP05G1", 'A"BC0001'):
        with pytest.raises(ValueError, match="not a PNP or ACPI id"):
            acpi.build(1, [acpi.AcpiDevice(hid, 0)])


def test_the_rsdp_is_where_a_scan_finds_it() -> None:
    built = acpi.build(1, [])
    with GuestMemory.create([(0, 2 << 20)]) as mem:
        address = acpi.write(mem, built)

        assert address % 16 == 0
        assert 0xE0000 <= address < 0x100000
        assert mem.read(address, 8) == b"RSD PTR "


@pytest.mark.parametrize(
    ("length", "encoded"),
    [
        (0, "01"),
        (62, "3f"),
        (63, "4104"),
        (4093, "4fff"),
        (4094, "810001"),
        (0xFFFFC, "8fffff"),
        (0xFFFFD, "c1000001"),
    ],
)
def test_package_lengths_count_themselves(length: int, encoded: str) -> None:
    assert aml.package_length(length).hex() == encoded


def test_a_package_that_is_too_long_is_a_bug() -> None:
    with pytest.raises(ValueError, match="too many"):
        aml.package_length(1 << 28)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers_are_as_short_as_can_be(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


def test_a_pnp_id_is_compressed() -> None:
    assert aml.eisa_id("PNP0501").hex() == "0c41d00501"
