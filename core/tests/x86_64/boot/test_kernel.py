"""Loading kernels: what is loaded where, and one clear line for every file that is no kernel."""

from __future__ import annotations

import gzip
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyvmm.errors import UsageError
from pyvmm.memory import GuestMemory
from pyvmm.x86_64.boot import bzimage, elf, kernel
from pyvmm.x86_64.boot.image import ImageFile
from pyvmm.x86_64.layout import MIB, MMIO_BASE

WANTED = r"; an x86-64 Linux bzImage \(vmlinuz\) or ELF vmlinux is wanted"


@pytest.fixture
def mem() -> Iterator[GuestMemory]:
    with GuestMemory.create([(0, 32 * MIB)]) as mem:
        yield mem


def bzimage_bytes(code: bytes = b"\x90" * 0x400, /, **fields: int) -> bytes:
    """A bzImage of one setup sector with ``code`` as its protected-mode kernel; fields by boot.rst's names."""
    values = {
        "setup_sects": ("<B", 0x1F1, 1),
        "syssize": ("<I", 0x1F4, len(code) // 16),
        "boot_flag": ("<H", 0x1FE, 0xAA55),
        "jump": ("<BB", 0x200, 0xEB),
        "header": ("<I", 0x202, 0x53726448),
        "version": ("<H", 0x206, 0x20F),
        "loadflags": ("<B", 0x211, 1),
        "initrd_addr_max": ("<I", 0x22C, 0x7FFFFFFF),
        "kernel_alignment": ("<I", 0x230, 2 * MIB),
        "relocatable_kernel": ("<B", 0x234, 1),
        "xloadflags": ("<H", 0x236, 0x3F),
        "cmdline_size": ("<I", 0x238, 2047),
        "pref_address": ("<Q", 0x258, 16 * MIB),
        "init_size": ("<I", 0x260, 8 * MIB),
    }
    data = bytearray(1024) + code
    for name, (layout, offset, default) in values.items():
        value = fields.pop(name, default)
        if name == "jump":
            struct.pack_into(layout, data, offset, value, 0x6A)
        else:
            struct.pack_into(layout, data, offset, value)
    assert not fields
    return bytes(data)


def elf_bytes(
    *segments: tuple[int, int, int, int, int],
    entry: int = 0x100000,
    data: bytes = b"",
    ident: bytes = b"\x7fELF\x02\x01\x01",
    kind: int = 2,
    machine: int = 62,
    phoff: int = 64,
    phentsize: int = 56,
    phnum: int | None = None,
    types: tuple[int, ...] = (),
) -> bytes:
    """An ELF file: header, program headers from (offset, vaddr, paddr, filesz, memsz), then ``data``."""
    count = len(segments) if phnum is None else phnum
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, machine, 1, entry, phoff, 0, 0, 64, phentsize, count, 64, 0, 0
    )
    table = b"".join(
        struct.pack("<IIQQQQQQ", types[at] if types else 1, 7, *segment, 4096) for at, segment in enumerate(segments)
    )
    return header + table + data


def test_a_bzimage_is_loaded_to_its_preferred_address(mem: GuestMemory, tmp_path: Path) -> None:
    code = random.Random(1).randbytes(0x1000)
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage_bytes(code) + b"a signature")

    loaded = kernel.load(mem, path)

    assert loaded.format == "bzImage"
    assert loaded.start == 16 * MIB
    assert loaded.entry == 16 * MIB + 0x200
    assert loaded.end == 24 * MIB
    assert loaded.cmdline_limit == 2047
    assert loaded.initrd_addr_max == 0x7FFFFFFF
    assert loaded.setup_header == path.read_bytes()[0x1F1:0x26C]
    assert mem.read(16 * MIB, len(code)) == code
    assert mem.read(16 * MIB + len(code), 11) == bytes(11)


def test_a_bzimage_that_cannot_move_goes_where_it_must(mem: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage_bytes(relocatable_kernel=0, kernel_alignment=0, pref_address=MIB, init_size=0x1000))

    loaded = kernel.load(mem, path)

    assert (loaded.entry, loaded.end) == (MIB + 0x200, MIB + 0x1000)


def test_no_setup_sectors_means_four(mem: GuestMemory, tmp_path: Path) -> None:
    data = bytearray(bzimage_bytes(setup_sects=0))
    data[1024:] = bytes(4 * 512 - 512) + b"\x90" * 0x400
    path = tmp_path / "vmlinuz"
    path.write_bytes(data)

    kernel.load(mem, path)

    assert mem.read(16 * MIB, 0x400) == b"\x90" * 0x400


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"version": 0x20B}, "boot protocol 2.11; an x86-64 one of 2.12"),
        ({"version": 0}, "boot protocol 0.00"),
        ({"loadflags": 0}, "boot protocol 2.15"),
        ({"xloadflags": 0}, "is a 32-bit Linux kernel; an x86-64 one is wanted"),
        ({"syssize": 0}, "without a kernel behind it"),
        ({"syssize": 0xFFFFFFFF}, "is truncated: 2048 bytes of 68719477744"),
        ({"syssize": 0x41}, "is truncated: 2048 bytes of 2064"),
        ({"setup_sects": 255}, "is truncated"),
        ({"pref_address": 0}, "asks to be loaded at 0x0"),
        ({"pref_address": 0xFFFFFFFFFFFFFFFF}, "asks to be loaded at 0xffffffffffffffff"),
        ({"pref_address": MMIO_BASE}, "asks to be loaded at 0xd0000000"),
        ({"pref_address": 16 * MIB + 1}, "asks to be loaded at"),
        ({"kernel_alignment": 0}, "asks to be loaded at"),
        ({"init_size": 17 * MIB}, "needs memory up to 33 MiB to start, and the guest has 32 MiB"),
        (
            {"init_size": 0xFFFFFFFF},
            "asks for memory up to 0x100ffffff, and a kernel's ends at 0xd0000000; it is damaged",
        ),
        ({"pref_address": 64 * MIB}, "needs memory up to 72 MiB"),
    ],
)
def test_a_bzimage_that_cannot_be_loaded(mem: GuestMemory, tmp_path: Path, fields: dict[str, int], says: str) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage_bytes(**fields))

    with pytest.raises(UsageError, match=f"^kernel {path}: .*{says}") as caught:
        kernel.load(mem, path)

    assert "\n" not in str(caught.value)


def test_an_elf_kernel_is_loaded_to_its_physical_addresses(mem: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    virtual = 0xFFFFFFFF81000000
    path.write_bytes(
        elf_bytes(
            (64 + 2 * 56 + 3, virtual + 0x3000, 0x203000, 5, 0x2000),
            (64 + 2 * 56, virtual, 0x200000, 3, 3),
            entry=0x200001,
            data=b"abcdefgh",
        )
    )

    loaded = kernel.load(mem, path)

    assert loaded.format == "ELF"
    assert (loaded.entry, loaded.start, loaded.end) == (0x200001, 0x200000, 0x205000)
    assert loaded.setup_header == b""
    assert mem.read(0x200000, 4) == b"abc\0"
    assert mem.read(0x203000, 6) == b"defgh\0"


def test_a_virtual_entry_point_becomes_a_physical_one(mem: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "guest"
    path.write_bytes(elf_bytes((0, 0x8000000000, 0x100000, 64, 4096), entry=0x8000000010))

    assert kernel.load(mem, path).entry == 0x100010


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (elf_bytes(ident=b"\x7fELF\x01\x01\x01", machine=3), "a 32-bit little-endian ELF file for i386; a 64-bit"),
        (elf_bytes(ident=b"\x7fELF\x02\x01\x01", machine=183), "a 64-bit little-endian ELF file for arm64"),
        (elf_bytes(ident=b"\x7fELF\x02\x02\x01", machine=0x1600), "a 64-bit big-endian ELF file for s390"),
        (elf_bytes(machine=0xFFFF), "for machine 65535"),
        (elf_bytes(ident=b"\x7fELF\xff\x01\x01"), "is a damaged ELF file"),
        (b"\x7fELF", "no whole ELF header"),
        (elf_bytes()[:63], "no whole ELF header"),
        (elf_bytes((0, 0, 0x100000, 64, 64), kind=1), "an object file, not linked; a static executable is wanted"),
        (elf_bytes((0, 0, 0x100000, 64, 64), kind=3), "position-independent"),
        (elf_bytes((0, 0, 0x100000, 64, 64), kind=4), "a core dump"),
        (elf_bytes((0, 0, 0x100000, 64, 64), kind=77), "of type 77"),
        (elf_bytes(), "without program headers"),
        (elf_bytes((0, 0, 0x100000, 64, 64), types=(4,)), "nothing to load"),
        (elf_bytes((0, 0, 0x100000, 0, 0)), "nothing to load"),
        (elf_bytes((0, 0, 0x100000, 64, 64), (0, 0, 0, 1, 1), types=(1, 3)), "a dynamically linked program"),
        (elf_bytes((0, 0, 0x100000, 64, 64), phentsize=32), "program headers of 32 bytes"),
        (elf_bytes((0, 0, 0x100000, 64, 64), phnum=0xFFFF), "65535 ELF program headers"),
        (elf_bytes((0, 0, 0x100000, 64, 64), phnum=3), "program headers past its end"),
        (elf_bytes((0, 0, 0x100000, 64, 64), phoff=1 << 63), "program headers past its end"),
        (elf_bytes((0, 0, 0x100000, 64, 64), phoff=(1 << 64) - 1), "program headers past its end"),
        (elf_bytes((0, 0, 0x100000, 64, 63)), "more bytes than memory"),
        (elf_bytes((0, 0, 0x100000, 121, 4096)), "is truncated: 120 bytes of 121"),
        (elf_bytes((1 << 63, 0, 0x100000, 1, 4096)), "is truncated"),
        (elf_bytes(((1 << 64) - 1, 0, 0x100000, 2, 4096)), "is truncated"),
        (elf_bytes((0, 0, 0x1000, 64, 64)), "segment at 0x1000; what is below 0x100000 is the machine's own"),
        (elf_bytes((0, 0, 32 * MIB - 64, 64, 65)), "0x2000000, and the guest has 32 MiB; give at least 33 MiB"),
        # What is beside the hole is a matter of memory; what is in it is none.
        (elf_bytes((0, 0, MMIO_BASE - 64, 64, 64)), "needs memory .* give at least 3328 MiB with --memory"),
        (elf_bytes((0, 0, MMIO_BASE - 64, 64, 65)), "link the program to other addresses"),
        (elf_bytes((0, 0, MMIO_BASE, 64, 64)), "no memory at 0xd0000000..0xffffffff, where its devices are"),
        (elf_bytes((0, 0, 0xFFFFFFC0, 64, 64)), "no memory at 0xd0000000..0xffffffff, where its devices are"),
        (elf_bytes((0, 0, 1 << 32, 64, 64)), "needs memory .* give at least 3329 MiB with --memory"),
        (elf_bytes((0, 0, (1 << 64) - 64, 64, 4096)), "segment at 0xffffffffffffffc0.*, where no machine has memory"),
        (elf_bytes((0, 0, 0x100000, 64, (1 << 64) - 1)), "has a segment at 0x100000.* link the program to other"),
        (elf_bytes((0, 0, 0x100000, 64, 64), (0, 0, 0x10003F, 1, 1)), "segments that overlap at 0x10003f"),
        (elf_bytes((0, 0, 0x100000, 64, 64), entry=0x100040), "entry point at 0x100040, outside of what it loads"),
    ],
)
def test_an_elf_file_that_cannot_be_loaded(mem: GuestMemory, tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(data)

    with pytest.raises(UsageError, match=f"^kernel {path}: .*{says}") as caught:
        kernel.load(mem, path)

    assert "\n" not in str(caught.value)


def test_an_entry_point_that_the_first_page_tables_do_not_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "guest"
    with GuestMemory.create([(0, 32 * MIB), (1 << 32, MIB)]) as mem:
        path.write_bytes(elf_bytes((0, 0, 0x100000, 64, 64), (0, 0, 1 << 32, 64, 64), entry=0x100000))
        assert kernel.load(mem, path).entry == 0x100000

        for physical, virtual, entry in ((1 << 32, 0, 1 << 32), (1 << 32, 0x8000000000, 0x8000000010)):
            path.write_bytes(elf_bytes((0, virtual, physical, 64, 64), entry=entry))
            with pytest.raises(UsageError, match=r"entry point at 0x1000000.0; a machine begins with the first 4 GiB"):
                kernel.load(mem, path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (gzip.compress(b"kernel", mtime=0), "gzip-compressed data"),
        (b"\xfd7zXZ\0", "xz-compressed data"),
        (b"MZ\0\0zimg" + bytes(64), "an EFI zboot image"),
        (b"MZ" + bytes(0x36) + b"ARM\x64" + bytes(64), "an arm64 Image"),
        (bytes(0x38) + b"RSC\x05", "a RISC-V Image"),
        (b"MZ" + bytes(100), "a PE program, not a Linux kernel"),
        (b"QFI\xfb" + bytes(100), "a qcow2 disk image"),
        (b"!<arch>\ndebian-binary", "an archive, such as a Debian package"),
        (b"070701" + b"0" * 104, "a cpio archive, such as an initrd"),
        (b"#!/bin/sh\n", "a script"),
        (b"hello\n", "text"),
        (bytes(4096), "all zeros"),
        (b"\0", "all zeros"),
        (b"\xff\xfe\xfd", "of no known format"),
    ],
)
def test_a_file_that_is_something_else_is_named(mem: GuestMemory, tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)

    with pytest.raises(UsageError, match=f"^kernel {path}: is {says}{WANTED}$"):
        kernel.load(mem, path)


def test_a_header_without_its_end_is_no_kernel(mem: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage_bytes()[:0x280])

    with pytest.raises(UsageError, match="no whole Linux setup header"):
        kernel.load(mem, path)


def missing(path: Path) -> None:
    """Nothing there."""


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (missing, "cannot be opened: No such file or directory"),
        (Path.mkdir, "is a directory; a file is wanted"),
        (Path.touch, "is empty"),
        (make_fifo, "is not a regular file"),
        (make_loop, "cannot be opened: Too many levels of symbolic links"),
    ],
)
def test_a_path_that_is_no_file(mem: GuestMemory, tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    path = tmp_path / "kernel"
    make(path)

    with pytest.raises(UsageError, match=f"^kernel {path}: {says}"):
        kernel.load(mem, path)


def test_a_device_is_no_file(mem: GuestMemory) -> None:
    with pytest.raises(UsageError, match=r"^kernel /dev/zero: is not a regular file"):
        kernel.load(mem, "/dev/zero")


def test_a_file_that_may_not_be_read(mem: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(bzimage_bytes())
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(UsageError, match="cannot be opened: Permission denied"):
            kernel.load(mem, path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["", "a\nb", "nul\0", "\udcff", "x" * 5000])
def test_a_strange_name_stays_on_one_line(mem: GuestMemory, name: str) -> None:
    with pytest.raises(UsageError, match=r"^kernel ") as caught:
        kernel.load(mem, name)

    assert str(caught.value).isprintable()


def test_random_files_and_random_damage_end_in_one_line(mem: GuestMemory, tmp_path: Path) -> None:
    rng = random.Random(2)
    good = [
        bzimage_bytes(),
        elf_bytes((176, 0x100000, 0x100000, 64, 4096), (240, 0x200000, 0x200000, 8, 8), data=bytes(128)),
    ]
    path = tmp_path / "kernel"
    for _ in range(1500):
        data = bytearray(rng.choice([*good, *good, rng.randbytes(rng.randrange(1, 2048))]))
        for _ in range(rng.randrange(8)):
            at = rng.randrange(min(len(data), 0x270))
            data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path.write_bytes(data[: rng.choice([len(data), rng.randrange(1, len(data) + 1)])])
        try:
            loaded = kernel.load(mem, path)
        except UsageError as error:
            assert str(error).startswith(f"kernel {path}: ")
            assert str(error).isprintable()
        else:
            assert MIB <= loaded.start <= loaded.entry < loaded.end <= mem.end


def test_no_descriptor_is_left_open(mem: GuestMemory, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(bzimage_bytes())
    bad.write_bytes(b"text")
    before = len(os.listdir("/proc/self/fd"))

    kernel.load(mem, good)
    for path in (bad, tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError):
            kernel.load(mem, path)

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_shrinks_while_it_is_read(mem: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(bzimage_bytes())
    with ImageFile(path, "kernel") as file:
        os.truncate(path, 1500)

        with pytest.raises(UsageError, match="became shorter while it was read"):
            bzimage.load(mem, file)


def test_a_kernel_that_ends_with_memory_fits(mem: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage_bytes(init_size=16 * MIB))

    assert kernel.load(mem, path).end == mem.end


def test_formats_are_told_apart_by_their_first_bytes() -> None:
    assert elf.is_elf(elf_bytes())
    assert not elf.is_elf(bzimage_bytes())
    assert bzimage.is_bzimage(bzimage_bytes())
    assert not bzimage.is_bzimage(bzimage_bytes()[:0x203])
    assert not bzimage.is_bzimage(b"")
