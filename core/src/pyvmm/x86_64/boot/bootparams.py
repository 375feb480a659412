"""The zero page, ``struct boot_params`` (Documentation/arch/x86/zero-page.rst), and the command line beside it."""

from __future__ import annotations

import struct

from pyvmm.limits import PAGE_SIZE
from pyvmm.startup.record import record
from pyvmm.x86_64.boot import bzimage, cmdline
from pyvmm.x86_64.layout import (
    ACPI_ADDRESS,
    CMDLINE_ADDRESS,
    CMDLINE_PLACE_SIZE,
    EBDA_ADDRESS,
    EBDA_END,
    HIGH_MEMORY,
    HOLE_END,
    KVM_IDENTITY_MAP_ADDRESS,
    RESET_VECTOR_ADDRESS,
    ZERO_PAGE_ADDRESS,
)
from pyvmm.x86_64.platform_devices import RESET_VECTOR_CODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.memory import GuestAddress, GuestMemory, GuestRegion
    from pyvmm.x86_64.boot.image import LoadedKernel
    from pyvmm.x86_64.boot.initrd import LoadedInitrd

# Offsets outside the setup header
ACPI_RSDP_ADDR: Final = 0x070
EXT_RAMDISK_IMAGE: Final = 0x0C0
EXT_RAMDISK_SIZE: Final = 0x0C4
E820_ENTRIES: Final = 0x1E8
E820_TABLE: Final = 0x2D0

# Offsets in the setup header, of fields that the loader fills in
ROOT_FLAGS: Final = 0x1F2
VID_MODE: Final = 0x1FA
TYPE_OF_LOADER: Final = 0x210
CODE32_START: Final = 0x214
RAMDISK_IMAGE: Final = 0x218
RAMDISK_SIZE: Final = 0x21C
CMD_LINE_PTR: Final = 0x228

VID_MODE_NORMAL: Final = 0xFFFF
UNDEFINED_LOADER: Final = 0xFF
PROTOCOL_VERSION: Final = 0x20F

E820_MAX: Final = 128
E820_RAM: Final = 1
E820_RESERVED: Final = 2


@record
class E820Entry:
    """``struct boot_e820_entry``: ``size`` bytes at ``address``."""

    address: GuestAddress
    size: int
    type: int


def e820_map(regions: Sequence[GuestRegion]) -> list[E820Entry]:
    """The memory map (ACPI 6.5, section 15): all RAM, except for the ranges that the guest must not use.

    The MMIO windows are in no entry, as on a PC: the devices claim them.
    """
    low, *high = regions
    return [
        E820Entry(0, EBDA_ADDRESS, E820_RAM),
        E820Entry(EBDA_ADDRESS, EBDA_END - EBDA_ADDRESS, E820_RESERVED),
        # 0xa0000 to 0xe0000 would be video memory and option ROMs.
        E820Entry(ACPI_ADDRESS, HIGH_MEMORY - ACPI_ADDRESS, E820_RESERVED),
        E820Entry(HIGH_MEMORY, low.end - HIGH_MEMORY, E820_RAM),
        E820Entry(KVM_IDENTITY_MAP_ADDRESS, HOLE_END - KVM_IDENTITY_MAP_ADDRESS, E820_RESERVED),
        *(E820Entry(region.base, region.size, E820_RAM) for region in high),
    ]


def zero_page(
    kernel: LoadedKernel, e820: Sequence[E820Entry], initrd: LoadedInitrd | None = None, rsdp_address: GuestAddress = 0
) -> bytes:
    """The page that RSI points to at the kernel's 64-bit entry point.

    ``rsdp_address`` is 0 if there is no ACPI.
    """
    if len(e820) > E820_MAX:
        raise ValueError(f"{len(e820)} e820 entries; the zero page holds {E820_MAX}")
    page = bytearray(PAGE_SIZE)
    header = kernel.setup_header or _vmlinux_header()
    page[bzimage.SETUP_SECTS : bzimage.SETUP_SECTS + len(header)] = header
    struct.pack_into("<H", page, VID_MODE, VID_MODE_NORMAL)
    page[TYPE_OF_LOADER] = UNDEFINED_LOADER
    struct.pack_into("<I", page, CODE32_START, kernel.start & 0xFFFF_FFFF)
    struct.pack_into("<I", page, CMD_LINE_PTR, CMDLINE_ADDRESS)
    if initrd is not None:
        for low, high, value in (
            (RAMDISK_IMAGE, EXT_RAMDISK_IMAGE, initrd.address),
            (RAMDISK_SIZE, EXT_RAMDISK_SIZE, initrd.size),
        ):
            struct.pack_into("<I", page, low, value & 0xFFFF_FFFF)
            struct.pack_into("<I", page, high, value >> 32)
    struct.pack_into("<Q", page, ACPI_RSDP_ADDR, rsdp_address)
    page[E820_ENTRIES] = len(e820)
    for at, entry in enumerate(e820):
        struct.pack_into("<QQI", page, E820_TABLE + 20 * at, entry.address, entry.size, entry.type)
    return bytes(page)


def _vmlinux_header() -> bytes:
    """A setup header for a kernel whose file has none: the fields that Linux reads after its own boot code."""
    page = bytearray(bzimage.HEADER_END_MAX)
    # As in a bzImage: mount the root file system read-only, unless the command line says rw.
    struct.pack_into("<H", page, ROOT_FLAGS, 1)
    struct.pack_into("<H", page, bzimage.BOOT_FLAG, bzimage.BOOT_FLAG_VALUE)
    page[bzimage.HEADER : bzimage.HEADER + 4] = bzimage.MAGIC
    struct.pack_into("<H", page, bzimage.VERSION, PROTOCOL_VERSION)
    page[bzimage.LOADFLAGS] = bzimage.LOADED_HIGH
    return bytes(page[bzimage.SETUP_SECTS :])


def cmdline_limit(kernel: LoadedKernel) -> int:
    """Characters of command line that ``kernel`` takes and there is a place for."""
    return min(kernel.cmdline_limit, CMDLINE_PLACE_SIZE - 1)


def write_cmdline(mem: GuestMemory, text: str, kernel: LoadedKernel) -> None:
    """Write the command line to its place.

    Raises :class:`UsageError` if it is longer than the kernel takes, or has characters that the kernel cannot take.
    """
    cmdline.check(text)
    limit = cmdline_limit(kernel)
    if len(text) > limit:
        raise cmdline.too_long(len(text), limit)
    mem.write(CMDLINE_ADDRESS, text.encode("ascii") + b"\0")


def write(
    mem: GuestMemory,
    kernel: LoadedKernel,
    command_line: str,
    initrd: LoadedInitrd | None = None,
    rsdp_address: GuestAddress = 0,
) -> GuestAddress:
    """Write the command line, the reset vector and the zero page. Returns the zero page's address, for RSI."""
    mem.write(RESET_VECTOR_ADDRESS, RESET_VECTOR_CODE)
    write_cmdline(mem, command_line, kernel)
    mem.write(ZERO_PAGE_ADDRESS, zero_page(kernel, e820_map(mem.regions), initrd, rsdp_address))
    return ZERO_PAGE_ADDRESS
