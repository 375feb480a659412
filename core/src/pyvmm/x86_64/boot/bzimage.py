"""Loads a Linux bzImage for its 64-bit entry point (Documentation/arch/x86/boot.rst)."""

from __future__ import annotations

import struct

from pyvmm.x86_64.boot.image import ImageFile, LoadedKernel
from pyvmm.x86_64.layout import HIGH_MEMORY, MIB, MMIO_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.memory import GuestMemory

# Offsets in the file and in the zero page alike
SETUP_SECTS: Final = 0x1F1
SYSSIZE: Final = 0x1F4
BOOT_FLAG: Final = 0x1FE
JUMP_OFFSET: Final = 0x201
HEADER: Final = 0x202
VERSION: Final = 0x206
LOADFLAGS: Final = 0x211
INITRD_ADDR_MAX: Final = 0x22C
KERNEL_ALIGNMENT: Final = 0x230
RELOCATABLE_KERNEL: Final = 0x234
XLOADFLAGS: Final = 0x236
CMDLINE_SIZE: Final = 0x238
PREF_ADDRESS: Final = 0x258
INIT_SIZE: Final = 0x260
HEADER_END_MAX: Final = 0x290
"""The setup header may grow up to here in ``struct boot_params`` (<asm/bootparam.h>)."""

MAGIC: Final = b"HdrS"
BOOT_FLAG_VALUE: Final = 0xAA55
LOADED_HIGH: Final = 1 << 0
XLF_KERNEL_64: Final = 1 << 0
VERSION_XLOADFLAGS: Final = 0x20C
"""The boot protocol that has ``xloadflags``: 2.12, Linux 3.8."""

SECTOR_SIZE: Final = 512
ENTRY_64: Final = 0x200
"""The offset of the 64-bit entry point from the address at which the kernel is loaded."""


def is_bzimage(head: bytes) -> bool:
    """Whether the file's first KiB has a Linux setup header."""
    return head[HEADER : HEADER + 4] == MAGIC and head[BOOT_FLAG : BOOT_FLAG + 2] == b"\x55\xaa"


def load(mem: GuestMemory, file: ImageFile) -> LoadedKernel:
    """Load the protected-mode kernel to its preferred address.

    So is a relocatable kernel: if loaded below that address, it would move itself up to it, and above it has no
    advantage. Raises :class:`UsageError` for a file that is damaged, cannot start in 64-bit mode or does not fit.
    """
    head = file.read(0, HEADER_END_MAX)
    if len(head) < HEADER_END_MAX or not is_bzimage(head):
        raise file.error("has no whole Linux setup header; it is damaged or truncated")
    (version,) = struct.unpack_from("<H", head, VERSION)
    if version < VERSION_XLOADFLAGS or not head[LOADFLAGS] & LOADED_HIGH:
        raise file.error(
            f"is a Linux kernel of boot protocol {version >> 8}.{version & 0xFF:02}; an x86-64 one of 2.12 "
            "(Linux 3.8) or later is wanted"
        )
    if not struct.unpack_from("<H", head, XLOADFLAGS)[0] & XLF_KERNEL_64:
        raise file.error("is a 32-bit Linux kernel; an x86-64 one is wanted")

    offset = ((head[SETUP_SECTS] or 4) + 1) * SECTOR_SIZE
    (paragraphs,) = struct.unpack_from("<I", head, SYSSIZE)
    size = paragraphs * 16
    if size <= ENTRY_64:
        raise file.error("has a setup header without a kernel behind it; it is damaged")
    if offset + size > file.size:
        raise file.error(f"is truncated: {file.size} bytes of {offset + size}")

    (start,) = struct.unpack_from("<Q", head, PREF_ADDRESS)
    (init_size,) = struct.unpack_from("<I", head, INIT_SIZE)
    (alignment,) = struct.unpack_from("<I", head, KERNEL_ALIGNMENT)
    if not HIGH_MEMORY <= start < MMIO_BASE or (head[RELOCATABLE_KERNEL] and (alignment == 0 or start % alignment)):
        raise file.error(f"asks to be loaded at {start:#x}; it is damaged")
    end = start + max(init_size, size)
    if end > MMIO_BASE:
        raise file.error(f"asks for memory up to {end:#x}, and a kernel's ends at {MMIO_BASE:#x}; it is damaged")
    if end > mem.regions[0].end:
        raise file.error(
            f"needs memory up to {-(-end // MIB)} MiB to start, and the guest has {mem.regions[0].end // MIB} MiB; "
            "give more with --memory"
        )
    file.read_into(mem, start, offset, size)

    (cmdline_size,) = struct.unpack_from("<I", head, CMDLINE_SIZE)
    (initrd_addr_max,) = struct.unpack_from("<I", head, INITRD_ADDR_MAX)
    header_end = min(HEADER + head[JUMP_OFFSET], HEADER_END_MAX)
    return LoadedKernel(
        entry=start + ENTRY_64,
        start=start,
        end=end,
        format="bzImage",
        setup_header=head[SETUP_SECTS:header_end],
        cmdline_limit=cmdline_size,
        initrd_addr_max=initrd_addr_max,
    )
