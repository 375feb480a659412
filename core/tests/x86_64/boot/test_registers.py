"""Page tables and segments, walked and decoded as the CPU does."""

from __future__ import annotations

import struct

import pytest
from pyvmm.memory import GuestMemory
from pyvmm.x86_64.boot import registers
from pyvmm.x86_64.layout import LAPIC_ADDRESS


def translate(mem: GuestMemory, cr3: int, virtual: int) -> tuple[int, int]:
    """The physical address, and the bits that all levels have in common."""
    common = ~0
    address = cr3
    for shift in (39, 30, 21):
        entry = mem.read_u64(address + 8 * (virtual >> shift & 0x1FF))
        assert entry & registers.PTE_PRESENT
        common &= entry
        address = entry & 0x000F_FFFF_FFFF_F000
    assert entry & registers.PTE_LARGE
    return address & ~0x1F_FFFF | virtual & 0x1F_FFFF, common


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("address", [0, 0x1000, 0x1F_FFFF, 0x20_0000, 0x4000_0000, LAPIC_ADDRESS, 0xFFFF_FFFF])
def test_the_first_4_gib_are_mapped_to_themselves(address: int, user: bool) -> None:
    with GuestMemory.create([(0, 2 << 20)]) as mem:
        cr3 = registers.write_page_tables(mem, user=user)

        physical, bits = translate(mem, cr3, address)

    assert physical == address
    assert bits & registers.PTE_WRITABLE
    assert bool(bits & registers.PTE_USER) == user
    assert not bits >> 63


def test_nothing_behind_4_gib_is_mapped() -> None:
    tables = registers.identity_map(0x9000)

    assert len(tables) == registers.PAGE_TABLES_SIZE
    assert not any(tables[8:4096])
    assert not any(tables[4096 + 4 * 8 : 8192])


def test_descriptors_are_those_of_linux() -> None:
    # GDT_ENTRY_INIT of arch/x86/kernel/cpu/common.c, with the accessed bit
    assert registers.CODE.descriptor() == struct.pack("<Q", 0x00AF9B000000FFFF)
    assert registers.DATA.descriptor() == struct.pack("<Q", 0x00CF93000000FFFF)
    assert registers.USER_CODE.descriptor() == struct.pack("<Q", 0x00AFFB000000FFFF)
    assert registers.USER_DATA.descriptor() == struct.pack("<Q", 0x00CFF3000000FFFF)
    assert registers.TSS.descriptor() == struct.pack("<QQ", 0x00008B0000000067, 0)


def test_a_far_system_segment_keeps_its_base() -> None:
    segment = registers.Segment(selector=8, base=0x1122_3344_5566_7788, limit=0x67, type=0xB, s=0)

    low, high = struct.unpack("<QQ", segment.descriptor())

    assert high == 0x1122_3344
    assert (low >> 16 & 0xFF_FFFF) | (low >> 56) << 24 == 0x5566_7788


def test_the_table_has_linux_s_selectors() -> None:
    with GuestMemory.create([(0, 2 << 20)]) as mem:
        base, limit = registers.write_gdt(mem)

        assert mem.read(base + 0x10, 8) == registers.CODE.descriptor()
        assert mem.read(base + 0x18, 8) == registers.DATA.descriptor()
        assert limit + 1 == registers.TSS.selector + 16
    assert registers.USER_CODE.selector & 3 == registers.USER_DATA.selector & 3 == 3
