"""Segments for a vCPU that starts in 64-bit mode, as descriptors in a table and as the registers' hidden parts."""

from __future__ import annotations

import struct

from pyvmm.startup.record import record, replace
from pyvmm.x86_64.layout import GDT_ADDRESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.memory import GuestMemory

# Types of descriptors (AMD64 manual, volume 2, tables 4-3, 4-4 and 4-6), accessed ones: VMX demands it
CODE_READABLE: Final = 0xB
DATA_WRITABLE: Final = 0x3
TSS64_BUSY: Final = 0xB


@record
class Segment:
    """A segment register; the fields are those of ``struct kvm_segment`` (<asm/kvm.h>).

    ``limit`` is in bytes; ``type`` to ``avl`` are the descriptor's bits.
    """

    selector: int
    base: int
    limit: int
    type: int
    s: int
    dpl: int = 0
    present: int = 1
    db: int = 0
    l: int = 0  # noqa: E741 - the manual's name
    g: int = 0
    avl: int = 0
    unusable: int = 0

    def descriptor(self) -> bytes:
        """The 8 bytes in a descriptor table, 16 for a system segment (AMD64 manual, volume 2, section 4.8)."""
        limit = self.limit >> 12 if self.g else self.limit
        value = (
            limit & 0xFFFF
            | (self.base & 0xFF_FFFF) << 16
            | self.type << 40
            | self.s << 44
            | self.dpl << 45
            | self.present << 47
            | (limit >> 16 & 0xF) << 48
            | self.avl << 52
            | self.l << 53
            | self.db << 54
            | self.g << 55
            | (self.base >> 24 & 0xFF) << 56
        )
        if self.s:
            return struct.pack("<Q", value)
        return struct.pack("<QQ", value, self.base >> 32)


# __BOOT_CS and __BOOT_DS of Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst) are 0x10 and 0x18.
CODE: Final = Segment(selector=0x10, base=0, limit=0xFFFF_FFFF, type=CODE_READABLE, s=1, l=1, g=1)
"""64-bit code at privilege level 0."""

DATA: Final = Segment(selector=0x18, base=0, limit=0xFFFF_FFFF, type=DATA_WRITABLE, s=1, db=1, g=1)
"""Data and stack at privilege level 0."""

USER_CODE: Final = replace(CODE, selector=0x20 | 3, dpl=3)
"""64-bit code at privilege level 3."""

USER_DATA: Final = replace(DATA, selector=0x28 | 3, dpl=3)
"""Data and stack at privilege level 3."""

TSS: Final = Segment(selector=0x30, base=0, limit=0x67, type=TSS64_BUSY, s=0)
"""A task state segment: VMX enters no guest without one. At address 0, so not one to switch stacks with."""

LDT: Final = Segment(selector=0, base=0, limit=0, type=2, s=0, present=0, unusable=1)
"""No local descriptor table."""


def table() -> bytes:
    """The descriptor table with all of the segments above at their selectors."""
    entries = b"\0" * CODE.selector
    for segment in (CODE, DATA, USER_CODE, USER_DATA, TSS):
        assert len(entries) == segment.selector & ~7
        entries += segment.descriptor()
    return entries


def write(mem: GuestMemory, base: int = GDT_ADDRESS) -> tuple[int, int]:
    """Write the table to guest memory; base and limit for GDTR."""
    data = table()
    mem.write(base, data)
    return base, len(data) - 1
