"""Tables of Intel's MultiProcessor Specification 1.4, for guests without ACPI: CPUs, the IOAPIC and its pins."""

from __future__ import annotations

import struct

from pyvmm.limits import MAX_CPUS
from pyvmm.x86_64.acpi import checksum, ioapic_id
from pyvmm.x86_64.layout import (
    IOAPIC_ADDRESS,
    IOAPIC_PINS,
    LAPIC_ADDRESS,
    MP_POINTER_ADDRESS,
    MP_TABLE_ADDRESS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.memory import GuestMemory

SPEC_REVISION: Final = 4
"""Version 1.4."""

# Entry types (section 4.3)
PROCESSOR: Final = 0
BUS: Final = 1
IOAPIC: Final = 2
IO_INTERRUPT: Final = 3
LOCAL_INTERRUPT: Final = 4

# Interrupt types (table 4-11)
INT: Final = 0
NMI: Final = 1
EXT_INT: Final = 3

CPU_ENABLED: Final = 1 << 0
CPU_BOOTSTRAP: Final = 1 << 1
IOAPIC_ENABLED: Final = 1 << 0

LAPIC_VERSION: Final = 0x14
"""KVM's (arch/x86/kvm/lapic.c)."""

IOAPIC_VERSION: Final = 0x11
"""KVM's (arch/x86/kvm/ioapic.h)."""

CPU_FEATURES: Final = 1 << 0 | 1 << 9
"""An FPU and an APIC; guests read no other bits."""

ISA_BUS: Final = 0
CONFORMS_TO_BUS: Final = 0
"""Edge-triggered and active high, as on ISA."""

ALL_APICS: Final = 0xFF


def pointer() -> bytes:
    """The floating pointer, which has the address of the table, :data:`MP_TABLE_ADDRESS` (section 4.1)."""
    data = bytearray(struct.pack("<4sIBBB5B", b"_MP_", MP_TABLE_ADDRESS, 1, SPEC_REVISION, 0, 0, 0, 0, 0, 0))
    data[10] = checksum(data)
    return bytes(data)


def table(cpus: int) -> bytes:
    """The configuration table (section 4.2): APIC ids 0 to ``cpus`` - 1, and one ISA bus. Each interrupt of the bus is
    at the IOAPIC's pin of the same number. ``cpus`` is 1 to :data:`MAX_CPUS`."""
    if not 1 <= cpus <= MAX_CPUS:
        raise ValueError(f"{cpus} CPUs in an MP table")
    ioapic = ioapic_id(cpus)
    entries = [
        struct.pack(
            "<BBBBII8x",
            PROCESSOR,
            apic_id,
            LAPIC_VERSION,
            CPU_ENABLED | (0 if apic_id else CPU_BOOTSTRAP),
            0,
            CPU_FEATURES,
        )
        for apic_id in range(cpus)
    ]
    entries.append(struct.pack("<BB6s", BUS, ISA_BUS, b"ISA   "))
    entries.append(struct.pack("<BBBBI", IOAPIC, ioapic, IOAPIC_VERSION, IOAPIC_ENABLED, IOAPIC_ADDRESS))
    entries += [
        struct.pack("<BBHBBBB", IO_INTERRUPT, INT, CONFORMS_TO_BUS, ISA_BUS, irq, ioapic, irq)
        for irq in range(IOAPIC_PINS)
    ]
    entries += [
        struct.pack("<BBHBBBB", LOCAL_INTERRUPT, kind, CONFORMS_TO_BUS, ISA_BUS, 0, ALL_APICS, lint)
        for lint, kind in enumerate((EXT_INT, NMI))
    ]
    body = b"".join(entries)
    data = bytearray(
        struct.pack(
            "<4sHBB8s12sIHHIHBx",
            b"PCMP",
            44 + len(body),
            SPEC_REVISION,
            0,
            b"PYVMM   ",
            b"PYVMM       ",
            0,
            0,
            len(entries),
            LAPIC_ADDRESS,
            0,
            0,
        )
        + body
    )
    data[7] = checksum(data)
    return bytes(data)


def write(mem: GuestMemory, cpus: int) -> None:
    """Write the floating pointer, to the place where guests search for it, and the table."""
    mem.write(MP_POINTER_ADDRESS, pointer())
    mem.write(MP_TABLE_ADDRESS, table(cpus))
