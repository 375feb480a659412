"""The state in which the first vCPU enters a kernel in 64-bit mode (Documentation/arch/x86/boot.rst).

Its registers, and the tables in guest memory that they point to: segment descriptors and identity-mapped pages (AMD64
manual, volume 2, sections 4.8 and 5.3).
"""

from __future__ import annotations

import struct

from pyvmm.limits import PAGE_SIZE
from pyvmm.startup.record import record, replace
from pyvmm.x86_64.layout import BOOT_MAP_END, GDT_ADDRESS, GIB, PAGE_TABLES_ADDRESS, ZERO_PAGE_ADDRESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from pyvmm.kvm import Vcpu
    from pyvmm.memory import GuestAddress, GuestMemory

CR0_PE: Final = 1 << 0
CR0_MP: Final = 1 << 1
CR0_ET: Final = 1 << 4
CR0_NE: Final = 1 << 5
CR0_WP: Final = 1 << 16
CR0_PG: Final = 1 << 31
CR4_PAE: Final = 1 << 5
CR4_OSFXSR: Final = 1 << 9
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10

RFLAGS_FIXED: Final = 1 << 1
RFLAGS_IOPL3: Final = 3 << 12

MSR_IA32_MISC_ENABLE: Final = 0x1A0
MISC_ENABLE_FAST_STRING: Final = 1 << 0
MSR_MTRR_DEF_TYPE: Final = 0x2FF
MTRR_ENABLE_WRITE_BACK: Final = 1 << 11 | 6

APIC_LVT0: Final = 0x350
APIC_LVT1: Final = 0x360
APIC_MODE_NMI: Final = 0x400
APIC_MODE_EXTINT: Final = 0x700

# Types of descriptors (AMD64 manual, volume 2, tables 4-3, 4-4 and 4-6), all accessed, since VMX requires that
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
"""A task state segment, since VMX enters no guest without one. Its base is 0, so it cannot be used to switch stacks."""

LDT: Final = Segment(selector=0, base=0, limit=0, type=2, s=0, present=0, unusable=1)
"""No local descriptor table."""


def gdt() -> bytes:
    """The global descriptor table, with each segment above at its selector."""
    entries = b"\0" * CODE.selector
    for segment in (CODE, DATA, USER_CODE, USER_DATA, TSS):
        assert len(entries) == segment.selector & ~7
        entries += segment.descriptor()
    return entries


def write_gdt(mem: GuestMemory, base: int = GDT_ADDRESS) -> tuple[int, int]:
    """Write :func:`gdt` to guest memory. Returns base and limit for GDTR."""
    data = gdt()
    mem.write(base, data)
    return base, len(data) - 1


# Bits of a page table entry (AMD64 manual, volume 2, section 5.4.1)
PTE_PRESENT: Final = 1 << 0
PTE_WRITABLE: Final = 1 << 1
PTE_USER: Final = 1 << 2
PTE_ACCESSED: Final = 1 << 5
PTE_DIRTY: Final = 1 << 6
PTE_LARGE: Final = 1 << 7

LARGE_PAGE_SIZE: Final = 2 << 20
MAPPED_GIB: Final = BOOT_MAP_END // GIB
TABLE_ENTRIES: Final = 512

PAGE_TABLES_SIZE: Final = (2 + MAPPED_GIB) * PAGE_SIZE


def identity_map(base: int, *, user: bool = False) -> bytes:
    """Page tables, for address ``base``, that map the first 4 GiB to themselves in pages of 2 MiB.

    All pages can be read, written and executed, with ``user`` also at privilege level 3. Every 64-bit CPU has pages of
    2 MiB. Pages of 1 GiB are an optional feature, and not every KVM handles them.
    """
    # Accessed and dirty are set already, so KVM need not write the tables if it walks them itself.
    table = PTE_PRESENT | PTE_WRITABLE | PTE_ACCESSED | (PTE_USER if user else 0)
    page = table | PTE_LARGE | PTE_DIRTY
    pdpt = base + PAGE_SIZE
    directories = pdpt + PAGE_SIZE
    pml4_entries = [pdpt | table]
    pdpt_entries = [(directories + at * PAGE_SIZE) | table for at in range(MAPPED_GIB)]
    pages = [(at * LARGE_PAGE_SIZE) | page for at in range(MAPPED_GIB * TABLE_ENTRIES)]
    return b"".join(
        (
            struct.pack("<Q", *pml4_entries).ljust(PAGE_SIZE, b"\0"),
            struct.pack(f"<{MAPPED_GIB}Q", *pdpt_entries).ljust(PAGE_SIZE, b"\0"),
            struct.pack(f"<{len(pages)}Q", *pages),
        )
    )


def write_page_tables(mem: GuestMemory, base: int = PAGE_TABLES_ADDRESS, *, user: bool = False) -> int:
    """Write :func:`identity_map` to guest memory. Returns the value for CR3."""
    mem.write(base, identity_map(base, user=user))
    return base


def set_boot_state(vcpu: Vcpu, mem: GuestMemory, entry: GuestAddress, *, user: bool = False) -> None:
    """Make ``vcpu`` start at ``entry``: 64-bit, the first 4 GiB mapped to themselves, RSI at the zero page.

    With ``user`` it starts at privilege level 3 with access to all ports, for programs that need no kernel.
    """
    gdt_base, gdt_limit = write_gdt(mem)
    sregs = vcpu.get_sregs()
    code, data = (USER_CODE, USER_DATA) if user else (CODE, DATA)
    _set_segment(sregs.cs, code)
    for register in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _set_segment(register, data)
    _set_segment(sregs.tr, TSS)
    _set_segment(sregs.ldt, LDT)
    sregs.gdt.base, sregs.gdt.limit = gdt_base, gdt_limit
    sregs.idt.base = sregs.idt.limit = 0
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG
    sregs.cr3 = write_page_tables(mem, user=user)
    sregs.cr4 = CR4_PAE | CR4_OSFXSR
    sregs.efer = EFER_LME | EFER_LMA
    vcpu.set_sregs(sregs)
    rflags = RFLAGS_FIXED | (RFLAGS_IOPL3 if user else 0)
    vcpu.set_regs(rip=entry, rsi=ZERO_PAGE_ADDRESS, rsp=ZERO_PAGE_ADDRESS, rflags=rflags)
    vcpu.set_fpu(fcw=0x37F, mxcsr=0x1F80)
    _set_lint(vcpu)


def set_feature_msrs(vcpu: Vcpu) -> None:
    """Set the registers that a BIOS sets to the same values on every CPU. Linux complains if they differ."""
    vcpu.set_msrs({MSR_IA32_MISC_ENABLE: MISC_ENABLE_FAST_STRING, MSR_MTRR_DEF_TYPE: MTRR_ENABLE_WRITE_BACK})


def _set_segment(register: Any, segment: Segment) -> None:
    for field, value in vars(segment).items():
        setattr(register, field, value)


def _set_lint(vcpu: Vcpu) -> None:
    """Set the first CPU's local interrupt pins as a BIOS does: the PICs on LINT0, NMI on LINT1."""
    registers = vcpu.get_lapic()
    for offset, mode in ((APIC_LVT0, APIC_MODE_EXTINT), (APIC_LVT1, APIC_MODE_NMI)):
        registers[offset : offset + 4] = mode.to_bytes(4, "little")
    vcpu.set_lapic(registers)
