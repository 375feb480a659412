"""The zero page, the memory map and the command line in guest memory."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from pyvmm.errors import UsageError
from pyvmm.memory import GuestMemory
from pyvmm.x86_64 import layout, platform_devices
from pyvmm.x86_64.boot import bootparams
from pyvmm.x86_64.boot.bootparams import E820_RAM, E820_RESERVED, E820Entry
from pyvmm.x86_64.boot.image import LoadedKernel
from pyvmm.x86_64.boot.initrd import LoadedInitrd
from pyvmm.x86_64.layout import GIB, MIB, memory_ranges

ELF_KERNEL = LoadedKernel(16 * MIB, 16 * MIB, 20 * MIB, "ELF")


def test_the_map_has_all_ram_but_what_is_reserved() -> None:
    with GuestMemory.create(memory_ranges(5 * GIB)) as mem:
        entries = bootparams.e820_map(mem.regions)

    assert entries == [
        E820Entry(0, 0x9F000, E820_RAM),
        E820Entry(0x9F000, 0x1000, E820_RESERVED),
        E820Entry(0xE0000, 0x20000, E820_RESERVED),
        E820Entry(0x100000, layout.MMIO_BASE - 0x100000, E820_RAM),
        E820Entry(0xFFFBC000, 0x44000, E820_RESERVED),
        E820Entry(4 * GIB, 5 * GIB - layout.MMIO_BASE, E820_RAM),
    ]


@pytest.mark.parametrize("size", [2 * MIB, 128 * MIB, layout.MMIO_BASE, layout.MMIO_BASE + 4096])
def test_the_map_s_entries_are_in_order_and_apart(size: int) -> None:
    with GuestMemory.create(memory_ranges(size)) as mem:
        entries = bootparams.e820_map(mem.regions)

    for entry, after in pairwise(entries):
        assert entry.size > 0
        assert entry.address + entry.size <= after.address
    assert all(entry.type == E820_RESERVED for entry in entries if layout.MMIO_BASE <= entry.address < 4 * GIB)


def test_an_elf_kernel_gets_a_setup_header() -> None:
    page = bootparams.zero_page(ELF_KERNEL, [])

    assert len(page) == 4096
    assert page[0x202:0x206] == b"HdrS"
    assert struct.unpack_from("<H", page, 0x1FE)[0] == 0xAA55
    assert struct.unpack_from("<H", page, 0x206)[0] == 0x20F
    assert struct.unpack_from("<H", page, 0x1F2)[0] == 1
    assert page[0x1EF] == 0
    assert page[0x210] == 0xFF
    assert page[0x211] == 1


def test_a_bzimage_s_setup_header_is_kept_but_for_what_a_loader_fills_in() -> None:
    header = bytes(range(1, 0x7C))
    kernel = LoadedKernel(16 * MIB + 0x200, 16 * MIB, 20 * MIB, "bzImage", setup_header=header)

    page = bootparams.zero_page(kernel, [])

    written = {*range(0x1FA, 0x1FC), 0x210, *range(0x214, 0x218), *range(0x228, 0x22C)}
    for at, value in enumerate(header, 0x1F1):
        assert at in written or page[at] == value
    assert page[0x210] == 0xFF
    assert struct.unpack_from("<I", page, 0x214)[0] == 16 * MIB
    assert not any(page[0x1F1 + len(header) : 0x2D0])


def test_the_fields_of_a_whole_machine() -> None:
    initrd = LoadedInitrd(0x1_2345_6000, 0x2_0000_0001)
    entries = [E820Entry(0, 0x9FC00, 1), E820Entry(1 << 32, 1 << 33, 2)]

    page = bootparams.zero_page(ELF_KERNEL, entries, initrd, rsdp_address=0xE0000)

    assert struct.unpack_from("<Q", page, 0x070)[0] == 0xE0000
    assert struct.unpack_from("<II", page, 0x218) == (0x23456000, 1)
    assert struct.unpack_from("<II", page, 0x0C0) == (1, 2)
    assert struct.unpack_from("<I", page, 0x228)[0] == layout.CMDLINE_ADDRESS
    assert page[0x1E8] == 2
    assert struct.unpack_from("<QQIQQI", page, 0x2D0) == (0, 0x9FC00, 1, 1 << 32, 1 << 33, 2)


def test_a_map_of_too_many_entries_is_a_bug() -> None:
    bootparams.zero_page(ELF_KERNEL, [E820Entry(0, 1, 1)] * 128)

    with pytest.raises(ValueError, match="holds 128"):
        bootparams.zero_page(ELF_KERNEL, [E820Entry(0, 1, 1)] * 129)


def test_everything_is_written_to_its_place() -> None:
    with GuestMemory.create([(0, 2 * MIB)]) as mem:
        mem.write(layout.CMDLINE_ADDRESS, b"x" * 100)

        address = bootparams.write(mem, ELF_KERNEL, "console=ttyS0")

        assert address == layout.ZERO_PAGE_ADDRESS
        assert mem.read(address, 4096) == bootparams.zero_page(ELF_KERNEL, bootparams.e820_map(mem.regions))
        assert mem.read(layout.CMDLINE_ADDRESS, 14) == b"console=ttyS0\0"
        assert mem.read(0xFFFF0, len(platform_devices.RESET_VECTOR_CODE)) == platform_devices.RESET_VECTOR_CODE


def test_a_command_line_as_long_as_the_limit_fits() -> None:
    with GuestMemory.create([(0, 2 * MIB)]) as mem:
        bootparams.write_cmdline(mem, "x" * 2047, ELF_KERNEL)

        with pytest.raises(UsageError, match="2048 characters, and the kernel takes 2047"):
            bootparams.write_cmdline(mem, "x" * 2048, ELF_KERNEL)


@pytest.mark.parametrize(("of_kernel", "limit"), [(255, 255), (0, 0), (0xFFFFFFFF, 0xFFFF)])
def test_the_kernel_s_own_limit_counts_within_the_place(of_kernel: int, limit: int) -> None:
    kernel = LoadedKernel(16 * MIB, 16 * MIB, 20 * MIB, "bzImage", cmdline_limit=of_kernel)
    with GuestMemory.create([(0, 2 * MIB)]) as mem, pytest.raises(UsageError, match=f"takes {limit};"):
        bootparams.write_cmdline(mem, "x" * (limit + 1), kernel)


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\u00e9"])
def test_characters_that_a_kernel_cannot_take_are_refused(text: str) -> None:
    with GuestMemory.create([(0, 2 * MIB)]) as mem, pytest.raises(UsageError, match="only printable ASCII"):
        bootparams.write_cmdline(mem, text, ELF_KERNEL)
