"""ACPI tables of a hardware-reduced machine: RSDP, XSDT, FADT, MADT and DSDT (ACPI 6.5, chapter 5)."""

from __future__ import annotations

import struct

from pyvmm.errors import UsageError
from pyvmm.startup.record import record
from pyvmm.x86_64 import aml
from pyvmm.x86_64.layout import (
    ACPI_ADDRESS,
    ACPI_END,
    CMOS_CENTURY,
    IOAPIC_ADDRESS,
    LAPIC_ADDRESS,
    RESET_PORT,
    SLEEP_CONTROL_PORT,
    SLEEP_STATUS_PORT,
)
from pyvmm.x86_64.platform_devices import RESET_VALUE, S5_SLP_TYP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.bus import BusRange
    from pyvmm.memory import GuestAddress, GuestMemory

VIRTIO_MMIO_HID: Final = "LNRO0005"
"""The hardware ID by which Linux 4.5 and later find a virtio-mmio device (drivers/virtio/virtio_mmio.c)."""

OEM_ID: Final = b"PYVMM "
OEM_TABLE_ID: Final = b"PYVMM   "
CREATOR_ID: Final = b"PYVM"
OEM_REVISION: Final = 1

HEADER_SIZE: Final = 36
_ALIGNMENT: Final = 16

# FADT flags (section 5.2.9, table 5.10)
WBINVD: Final = 1 << 0
PROC_C1: Final = 1 << 2
PWR_BUTTON: Final = 1 << 4  # set: there is no fixed-hardware button
SLP_BUTTON: Final = 1 << 5  # likewise
RESET_REG_SUP: Final = 1 << 10
HEADLESS: Final = 1 << 12
HW_REDUCED_ACPI: Final = 1 << 20

# IA-PC boot architecture flags (section 5.2.9.3, table 5.11). LEGACY_DEVICES, bit 0, is clear, since the DSDT names all
# devices.
IAPC_8042: Final = 1 << 1
IAPC_VGA_NOT_PRESENT: Final = 1 << 2
IAPC_CMOS_RTC_NOT_PRESENT: Final = 1 << 5

# MADT entries (section 5.2.12)
MADT_LAPIC: Final = 0
MADT_IOAPIC: Final = 1
MADT_X2APIC: Final = 9
MADT_ENABLED: Final = 1 << 0

SYSTEM_IO: Final = 1
BYTE_ACCESS: Final = 1


@record
class AcpiDevice:
    r"""A device for the DSDT, below ``\_SB``.

    ``uid`` distinguishes devices with the same ``hid``. A device whose ``hid`` is empty gets neither. The interrupt is
    edge-triggered, active high and not shared.
    """

    hid: str
    uid: int
    mmio: BusRange | None = None
    ports: Sequence[BusRange] = ()
    irq: int | None = None
    id: str = ""
    """The id of the machine's device."""

    terms: bytes = b""
    """More AML for the device's object: a term list (section 20.2.5)."""


@record
class AcpiTables:
    """The bytes of all tables, to be written at ``address``."""

    blob: bytes
    address: GuestAddress
    rsdp_address: GuestAddress


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes of ``data`` a multiple of 256; ``data`` must have 0 in its place."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table: the header of section 5.2.6 and ``body``."""
    data = bytearray(
        struct.pack(
            "<4sIBB6s8sI4sI",
            signature,
            HEADER_SIZE + len(body),
            revision,
            0,
            OEM_ID,
            OEM_TABLE_ID,
            OEM_REVISION,
            CREATOR_ID,
            OEM_REVISION,
        )
        + body
    )
    data[9] = checksum(data)
    return bytes(data)


def rsdp(xsdt_address: GuestAddress) -> bytes:
    """Root system description pointer of ACPI 2.0 and later (section 5.2.5.3)."""
    data = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, 0, 36, xsdt_address, 0))
    data[8] = checksum(data[:20])
    data[32] = checksum(data)
    return bytes(data)


def xsdt(addresses: Sequence[GuestAddress]) -> bytes:
    """Extended system description table (section 5.2.8)."""
    return table(b"XSDT", 1, struct.pack(f"<{len(addresses)}Q", *addresses))


def _io_register(port: int) -> bytes:
    """Generic address structure of an 8-bit port (section 5.2.3.2)."""
    return struct.pack("<BBBBQ", SYSTEM_IO, 8, 0, BYTE_ACCESS, port)


def fadt(dsdt_address: GuestAddress, *, i8042: bool = False, rtc: bool = False) -> bytes:
    """Fixed ACPI description table, revision 6.3 (section 5.2.9). The only fixed hardware is the sleep and reset
    registers."""
    boot = IAPC_VGA_NOT_PRESENT
    boot |= IAPC_8042 if i8042 else 0
    boot |= 0 if rtc else IAPC_CMOS_RTC_NOT_PRESENT
    flags = WBINVD | PROC_C1 | PWR_BUTTON | SLP_BUTTON | RESET_REG_SUP | HEADLESS | HW_REDUCED_ACPI
    data = bytearray(276)

    def put(layout: str, offset: int, value: int) -> None:
        struct.pack_into(layout, data, offset, value)

    put("<B", 108, CMOS_CENTURY if rtc else 0)
    put("<H", 109, boot)
    put("<I", 112, flags)
    data[116:128] = _io_register(RESET_PORT)
    put("<B", 128, RESET_VALUE)
    put("<B", 131, 3)
    put("<Q", 140, dsdt_address)
    data[244:256] = _io_register(SLEEP_CONTROL_PORT)
    data[256:268] = _io_register(SLEEP_STATUS_PORT)
    data[268:276] = OEM_TABLE_ID
    return table(b"FACP", 6, bytes(data[HEADER_SIZE:]))


def madt(cpus: int) -> bytes:
    """Multiple APIC description table (section 5.2.12): APIC ids 0 to ``cpus`` - 1, and the IOAPIC.

    PCAT_COMPAT is clear: a guest that reads this table needs no 8259. APIC ids from 255 on are x2APIC ids (section
    5.2.12.12).
    """
    body = struct.pack("<II", LAPIC_ADDRESS, 0)
    for apic_id in range(cpus):
        if apic_id < 255:
            body += struct.pack("<BBBBI", MADT_LAPIC, 8, apic_id, apic_id, MADT_ENABLED)
        else:
            body += struct.pack("<BBHIII", MADT_X2APIC, 16, 0, apic_id, MADT_ENABLED, apic_id)
    body += struct.pack("<BBBBII", MADT_IOAPIC, 12, ioapic_id(cpus), 0, IOAPIC_ADDRESS, 0)
    return table(b"APIC", 5, body)


def ioapic_id(cpus: int) -> int:
    """The IOAPIC's APIC id: one that no CPU has, if 8 bits can hold it."""
    return cpus if cpus < 255 else 0


def dsdt(cpus: int, devices: Sequence[AcpiDevice]) -> bytes:
    r"""Differentiated system description table (section 5.2.11.1): CPUs, devices and ``\_S5``."""
    terms = [
        aml.device(f"C{at:03X}", aml.name("_HID", aml.string("ACPI0007")), aml.name("_UID", aml.integer(at)))
        for at in range(cpus)
    ]
    terms += [_device(_segment(at), device) for at, device in enumerate(devices) if device.hid or device.terms]
    s5 = aml.package(aml.integer(S5_SLP_TYP), *[aml.integer(0)] * 3)
    return table(b"DSDT", 2, aml.scope("_SB", *terms) + aml.name("_S5", s5))


def device_path(index: int) -> str:
    r"""The path of the object of device ``index`` in the name space: ``\_SB.D000`` for the first."""
    return rf"\_SB.{_segment(index)}"


def _segment(index: int) -> str:
    return f"D{index:03X}"


def _is_hardware_id(text: str) -> bool:
    """Whether it is three letters, or four letters and digits, and then four hexadecimal digits (section 6.1.5)."""
    vendor, product = text[:-4], text[-4:]
    if not text.isascii() or not text.isalnum() or text != text.upper() or any(c > "F" for c in product):
        return False
    return len(vendor) == 4 or (len(vendor) == 3 and vendor.isalpha())


def _device(segment: str, device: AcpiDevice) -> bytes:
    if device.hid and not _is_hardware_id(device.hid):
        raise ValueError(f"not a PNP or ACPI id: {device.hid!r}")
    terms = []
    if device.hid:
        terms += [aml.name("_HID", aml.hardware_id(device.hid)), aml.name("_UID", aml.integer(device.uid))]
    resources = []
    if device.mmio is not None:
        # Its DMA is coherent with the CPUs' caches (section 6.2.17).
        terms.append(aml.name("_CCA", aml.integer(1)))
        resources.append(aml.memory(device.mmio.base, device.mmio.size))
    resources += [aml.io_ports(ports.base, ports.size) for ports in device.ports]
    if device.irq is not None:
        resources.append(aml.interrupt(device.irq))
    if resources:
        terms.append(aml.name("_CRS", aml.resource_template(*resources)))
    return aml.device(segment, *terms, device.terms)


def build(cpus: int, devices: Sequence[AcpiDevice], *, i8042: bool = False, rtc: bool = False) -> AcpiTables:
    """All tables of a machine with ``cpus`` CPUs and ``devices``.

    ``i8042`` and ``rtc`` say that the machine has a keyboard controller and a CMOS clock at their usual ports, the
    clock with its century at CMOS_CENTURY. A guest that looks for one in vain loses a second or more. Raises
    :class:`UsageError` if the tables do not fit below 1 MiB: about 1500 devices do.
    """
    blob = bytearray(-(-len(rsdp(0)) // _ALIGNMENT) * _ALIGNMENT)

    def place(data: bytes) -> GuestAddress:
        address = ACPI_ADDRESS + len(blob)
        blob.extend(data + bytes(-len(data) % _ALIGNMENT))
        return address

    dsdt_address = place(dsdt(cpus, devices))
    addresses = [place(fadt(dsdt_address, i8042=i8042, rtc=rtc)), place(madt(cpus))]
    pointer = rsdp(place(xsdt(addresses)))
    blob[: len(pointer)] = pointer
    if len(blob) > ACPI_END - ACPI_ADDRESS:
        raise UsageError(
            f"acpi: the tables for {cpus} CPUs and {len(devices)} devices have {len(blob)} bytes, and there is room "
            f"for {ACPI_END - ACPI_ADDRESS}; give fewer devices"
        )
    return AcpiTables(bytes(blob), ACPI_ADDRESS, ACPI_ADDRESS)


def write(mem: GuestMemory, tables: AcpiTables) -> GuestAddress:
    """Write ``tables`` to guest memory; the RSDP's address."""
    mem.write(tables.address, tables.blob)
    return tables.rsdp_address
