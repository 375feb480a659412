"""The layout of the guest-physical address space, I/O ports and interrupts."""

from __future__ import annotations

from pyvmm.errors import UsageError
from pyvmm.limits import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30

# --- below 1 MiB: what the VMM writes for the guest's first instructions; free for the guest's use afterwards,
# but for the two reserved ranges (see bootparams.e820_map)

GDT_ADDRESS: Final = 0x500
"""The first byte after the BIOS data area."""

ZERO_PAGE_ADDRESS: Final = 0x7000

PAGE_TABLES_ADDRESS: Final = 0x9000
"""PML4, PDPT and four page directories: six pages."""

BOOT_MAP_END: Final = 4 * GIB
"""The first address that those page tables do not map."""

CMDLINE_ADDRESS: Final = 0x20000
CMDLINE_PLACE_SIZE: Final = 0x10000
"""Room for the command line and its NUL; the kernel's own limit is far below."""

EBDA_ADDRESS: Final = 0x9F000
"""The last 4 KiB of base memory. They are reserved, as on a PC, and hold the MP tables."""

MP_TABLE_ADDRESS: Final = EBDA_ADDRESS
"""The MP configuration table. It has room for more CPUs than a machine can have, up to :data:`MP_POINTER_ADDRESS`."""

MP_POINTER_ADDRESS: Final = 0x9FC00
"""The MP floating pointer. Guests search the last KiB of base memory for it (MultiProcessor Specification 1.4, section
4)."""

EBDA_END: Final = 0xA0000

ACPI_ADDRESS: Final = 0xE0000
"""The start of the BIOS's read-only memory. Guests search it for the RSDP (ACPI 6.5, section 5.2.5.1)."""

ACPI_END: Final = 0xFFFF0
"""The first address after the room for ACPI tables."""

RESET_VECTOR_ADDRESS: Final = 0xFFFF0
"""The BIOS's entry point in real mode. Software jumps here to restart the machine."""

HIGH_MEMORY: Final = 0x100000
"""1 MiB: kernels are loaded here or above."""

# --- the hole: no RAM from here to 4 GiB

MMIO_BASE: Final = 0xD000_0000
"""The first of the windows of 4 KiB for the registers of devices."""

MMIO_END: Final = 0xFEC0_0000
"""The first address after the last window."""

MMIO_WINDOW_SIZE: Final = PAGE_SIZE
"""Bytes of physical address space of one device: whole pages, so that a guest can map each by itself."""

IOAPIC_ADDRESS: Final = 0xFEC0_0000
LAPIC_ADDRESS: Final = 0xFEE0_0000

KVM_IDENTITY_MAP_ADDRESS: Final = 0xFFFB_C000
"""One page for KVM_SET_IDENTITY_MAP_ADDR: Intel CPUs without unrestricted guest mode need it."""

KVM_TSS_ADDRESS: Final = 0xFFFB_D000
"""Three pages for KVM_SET_TSS_ADDR, for the same CPUs."""

HOLE_END: Final = 4 * GIB

# --- interrupts: the pins of the one IOAPIC are GSI 0 to 23

IOAPIC_PINS: Final = 24

IRQ_BASE: Final = 5
"""The first GSI for devices. Those below belong to the timer, the keyboard and the legacy serial ports."""

IRQ_MAX: Final = 23
"""The last GSI for devices."""

# --- ports of the sleep and reset registers, which are free on a PC

POWER_PORT: Final = 0x600
POWER_PORT_SIZE: Final = 4
SLEEP_CONTROL_PORT: Final = POWER_PORT + 0
SLEEP_STATUS_PORT: Final = POWER_PORT + 1
RESET_PORT: Final = POWER_PORT + 2

# --- ports at which guests without ACPI look for a keyboard controller and a clock

I8042_STATUS_PORT: Final = 0x64

CMOS_PORT: Final = 0x70
CMOS_PORT_SIZE: Final = 2

CMOS_CENTURY: Final = 0x32
"""The register of a PC's clock that holds the century."""

# --- RAM

MIN_MEMORY: Final = 2 * MIB
"""The smallest memory: it has room for all tables below 1 MiB and a bare-metal program above. A Linux needs far more,
and its loader says so."""

MAX_PHYSICAL_BITS: Final = 52
"""The architecture's limit on physical addresses (AMD64 manual, volume 2, section 5.1)."""


def memory_size_for(end: int) -> int:
    """How much RAM a machine needs so that there is some up to ``end``, an address that is not in the hole."""
    return end if end <= MMIO_BASE else end - HOLE_END + MMIO_BASE


def memory_ranges(size: int, physical_bits: int = MAX_PHYSICAL_BITS) -> list[tuple[int, int]]:
    """The ranges, as (base, size), of ``size`` bytes of RAM: from 0 up to the hole, and the rest from 4 GiB on.

    ``physical_bits`` is the width of the host's physical addresses (CPUID 0x80000008, EAX 7:0). Raises
    :class:`UsageError` for a size that is not whole pages, or that is too small or too large.
    """
    if size < MIN_MEMORY:
        raise UsageError(f"memory: {size} bytes are too few; the least is {MIN_MEMORY >> 20} MiB")
    if size % PAGE_SIZE:
        below = size - size % PAGE_SIZE
        raise UsageError(f"memory: {size} bytes are not whole pages of {PAGE_SIZE}; the next size below is {below}")
    ranges = [(0, min(size, MMIO_BASE))]
    if size > MMIO_BASE:
        ranges.append((HOLE_END, size - MMIO_BASE))
    base, length = ranges[-1]
    if base + length > 1 << physical_bits:
        most = (1 << physical_bits) - HOLE_END + MMIO_BASE
        raise UsageError(
            f"memory: {size >> 20} MiB are more than physical addresses of {physical_bits} bits reach; the most is "
            f"{most >> 20} MiB"
        )
    return ranges
