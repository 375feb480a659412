"""Identity-mapped page tables for a vCPU that starts in 64-bit mode (AMD64 manual, volume 2, section 5.3)."""

from __future__ import annotations

import struct

from pyvmm.x86_64.layout import PAGE_SIZE, PAGE_TABLES_ADDRESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.memory import GuestMemory

PRESENT: Final = 1 << 0
WRITABLE: Final = 1 << 1
USER: Final = 1 << 2
ACCESSED: Final = 1 << 5
DIRTY: Final = 1 << 6
LARGE: Final = 1 << 7

LARGE_PAGE_SIZE: Final = 2 << 20
MAPPED_GIB: Final = 4
ENTRIES: Final = 512

TABLES_SIZE: Final = (2 + MAPPED_GIB) * PAGE_SIZE


def identity_map(base: int, *, user: bool = False) -> bytes:
    """Page tables, to be put at ``base``, that map the first 4 GiB to themselves in pages of 2 MiB.

    Everything may be read, written and executed, with ``user`` at privilege level 3 too. Pages of 2 MiB because
    every 64-bit CPU has them; pages of 1 GiB are a feature of its own, and one that not every KVM handles.
    """
    # Accessed and dirty are set beforehand: where KVM walks the tables itself, it need not write them.
    table = PRESENT | WRITABLE | ACCESSED | (USER if user else 0)
    page = table | LARGE | DIRTY
    pdpt = base + PAGE_SIZE
    directories = pdpt + PAGE_SIZE
    pml4_entries = [pdpt | table]
    pdpt_entries = [(directories + at * PAGE_SIZE) | table for at in range(MAPPED_GIB)]
    pages = [(at * LARGE_PAGE_SIZE) | page for at in range(MAPPED_GIB * ENTRIES)]
    return b"".join(
        (
            struct.pack("<Q", *pml4_entries).ljust(PAGE_SIZE, b"\0"),
            struct.pack(f"<{MAPPED_GIB}Q", *pdpt_entries).ljust(PAGE_SIZE, b"\0"),
            struct.pack(f"<{len(pages)}Q", *pages),
        )
    )


def write(mem: GuestMemory, base: int = PAGE_TABLES_ADDRESS, *, user: bool = False) -> int:
    """Write :func:`identity_map` to guest memory; the value for CR3."""
    mem.write(base, identity_map(base, user=user))
    return base
