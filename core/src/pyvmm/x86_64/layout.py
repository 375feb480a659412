"""Where things are in the guest's physical address space, and which ports and interrupts are whose."""

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
"""The first byte behind the BIOS data area."""

ZERO_PAGE_ADDRESS: Final = 0x7000

PAGE_TABLES_ADDRESS: Final = 0x9000
"""PML4, PDPT and four page directories: six pages."""

CMDLINE_ADDRESS: Final = 0x20000
CMDLINE_PLACE_SIZE: Final = 0x10000
"""Room for the command line and its NUL; the kernel's own limit is far below."""

EBDA_ADDRESS: Final = 0x9F000
"""The last 4 KiB of base memory, reserved, as a PC's BIOS has them for itself: MP tables are in them."""

MP_TABLE_ADDRESS: Final = EBDA_ADDRESS
"""The configuration table, up to :data:`MP_POINTER_ADDRESS`: room for more CPUs than a machine can have."""

MP_POINTER_ADDRESS: Final = 0x9FC00
"""The floating pointer: one of the places where it is looked for is the last KiB of base memory (MultiProcessor
Specification 1.4, section 4)."""

EBDA_END: Final = 0xA0000

ACPI_ADDRESS: Final = 0xE0000
"""Where a BIOS has its tables; the RSDP is looked for from here on (ACPI 6.5, section 5.2.5.1)."""

ACPI_END: Final = 0xFFFF0
"""The first address behind the room for ACPI tables."""

RESET_VECTOR_ADDRESS: Final = 0xFFFF0
"""Where software that wants the BIOS to restart the machine jumps to, in real mode."""

HIGH_MEMORY: Final = 0x100000
"""1 MiB: kernels are loaded from here on."""

# --- the hole: no RAM from here to 4 GiB

MMIO_BASE: Final = 0xD000_0000
"""The first of the 4 KiB windows that devices are given."""

MMIO_END: Final = 0xFEC0_0000
"""The first address behind the last window."""

MMIO_WINDOW_SIZE: Final = PAGE_SIZE
"""Bytes of physical address space of one device: whole pages, so that a guest can map each by itself."""

IOAPIC_ADDRESS: Final = 0xFEC0_0000
LAPIC_ADDRESS: Final = 0xFEE0_0000

KVM_IDENTITY_MAP_ADDRESS: Final = 0xFFFB_C000
"""One page for KVM_SET_IDENTITY_MAP_ADDR: Intel CPUs without unrestricted guest mode need it."""

KVM_TSS_ADDRESS: Final = 0xFFFB_D000
"""Three pages for KVM_SET_TSS_ADDR, for the same CPUs."""

HOLE_END: Final = 4 * GIB

# --- interrupts: pins of the one IOAPIC, which are GSI 0 to 23

IOAPIC_PINS: Final = 24

IRQ_BASE: Final = 5
"""The first GSI for devices: the ones below belong to timer, keyboard and the legacy serial ports."""

IRQ_MAX: Final = 23
"""The last one."""

# --- ports that end a run; nothing on a PC claims them

POWER_PORT: Final = 0x600
POWER_PORT_SIZE: Final = 4
SLEEP_CONTROL_PORT: Final = POWER_PORT + 0
SLEEP_STATUS_PORT: Final = POWER_PORT + 1
RESET_PORT: Final = POWER_PORT + 2

# --- ports at which guests without ACPI look for what is not there

I8042_STATUS_PORT: Final = 0x64

CMOS_PORT: Final = 0x70
CMOS_PORT_SIZE: Final = 2

CMOS_CENTURY: Final = 0x32
"""The register in which a PC's clock has the century."""

# --- RAM

MIN_MEMORY: Final = 2 * MIB
"""The least that holds everything below 1 MiB and a bare-metal program above it; a Linux needs far more, and
its loader says so."""

MAX_PHYSICAL_BITS: Final = 52
"""The architecture's limit on physical addresses (AMD64 manual, volume 2, section 5.1)."""


def memory_ranges(size: int, physical_bits: int = MAX_PHYSICAL_BITS) -> list[tuple[int, int]]:
    """Where ``size`` bytes of RAM go, as (base, size): from 0 to the hole, the rest from 4 GiB on.

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
