"""Loads a static ELF program for x86-64: a vmlinux or a bare-metal guest (System V ABI, chapters 4 and 5)."""

from __future__ import annotations

import struct
from itertools import pairwise

from pyvmm.startup.record import record
from pyvmm.x86_64.boot.image import ImageFile, LoadedKernel, describe
from pyvmm.x86_64.layout import BOOT_MAP_END, HIGH_MEMORY, HOLE_END, MIB, MMIO_BASE, memory_size_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.memory import GuestMemory

MAGIC: Final = b"\x7fELF"
ELFCLASS64: Final = 2
ELFDATA2LSB: Final = 1
EM_X86_64: Final = 62
ET_EXEC: Final = 2
PT_LOAD: Final = 1
PT_INTERP: Final = 3

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")

_TYPES: Final = {1: "an object file, not linked", 3: "position-independent", 4: "a core dump"}

MAX_MEMORY: Final = 1 << 46
"""Bytes that no x86-64 host has: what Linux takes with four levels of page tables."""

PHDRS_MAX: Final = 256
"""The most program headers that are read; a vmlinux has about five."""


@record
class _Segment:
    """A PT_LOAD entry of the program header table, in the order of the file's fields."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


def is_elf(head: bytes) -> bool:
    """Whether the file is an ELF file, of any kind."""
    return head[:4] == MAGIC


def load(mem: GuestMemory, file: ImageFile) -> LoadedKernel:
    """Load each PT_LOAD segment to its physical address. Guest memory must be new: all zeros.

    The entry point may be a physical address, as in a vmlinux, or a virtual address inside of a segment, as other
    linkers store it. Raises :class:`UsageError` if the file is damaged, for another architecture, or too large.
    """
    head = file.read(0, _EHDR.size)
    if len(head) < _EHDR.size or not is_elf(head):
        raise file.error("has no whole ELF header; it is damaged or truncated")
    ident, kind, machine, _, entry, phoff, _, _, _, phentsize, phnum, _, _, _ = _EHDR.unpack(head)
    if ident[4] != ELFCLASS64 or ident[5] != ELFDATA2LSB or machine != EM_X86_64:
        raise file.error(f"is {describe(head)}; a 64-bit one for x86-64 is wanted")
    if kind != ET_EXEC:
        raise file.error(f"is an ELF file that is {_TYPES.get(kind, f'of type {kind}')}; a static executable is wanted")

    segments = _segments(file, phoff, phentsize, phnum)
    for before, after in pairwise(segments):
        if before.paddr + before.memsz > after.paddr:
            raise file.error(f"has segments that overlap at {after.paddr:#x}")
    for segment in segments:
        _check(mem, file, segment)
    start = _physical_entry(file, entry, segments)
    if start >= BOOT_MAP_END:
        raise file.error(
            f"has its entry point at {start:#x}; a machine begins with the first {BOOT_MAP_END >> 30} GiB mapped: link "
            "the program's entry to an address below"
        )
    for segment in segments:
        file.read_into(mem, segment.paddr, segment.offset, segment.filesz)
    return LoadedKernel(
        entry=start,
        start=segments[0].paddr,
        end=segments[-1].paddr + segments[-1].memsz,
        format="ELF",
    )


def _segments(file: ImageFile, phoff: int, phentsize: int, phnum: int) -> list[_Segment]:
    """The segments that occupy memory, sorted by physical address."""
    if phnum == 0:
        raise file.error("is an ELF file without program headers; an executable is wanted")
    if phentsize != _PHDR.size or phnum > PHDRS_MAX:
        raise file.error(f"has {phnum} ELF program headers of {phentsize} bytes; it is damaged")
    table = file.read(phoff, phnum * _PHDR.size)
    if len(table) < phnum * _PHDR.size:
        raise file.error("has ELF program headers past its end; it is damaged or truncated")
    headers = [_Segment(*fields) for fields in _PHDR.iter_unpack(table)]
    if any(header.type == PT_INTERP for header in headers):
        raise file.error("is a dynamically linked program; a static executable is wanted")
    loads = [header for header in headers if header.type == PT_LOAD and header.memsz]
    if not loads:
        raise file.error("is an ELF file with nothing to load")
    return sorted(loads, key=lambda segment: segment.paddr)


def _check(mem: GuestMemory, file: ImageFile, segment: _Segment) -> None:
    end = segment.paddr + segment.memsz
    if segment.filesz > segment.memsz:
        raise file.error(f"has a segment at {segment.paddr:#x} with more bytes than memory; it is damaged")
    if segment.offset + segment.filesz > file.size:
        raise file.error(f"is truncated: {file.size} bytes of {segment.offset + segment.filesz}")
    if segment.paddr < HIGH_MEMORY:
        raise file.error(f"has a segment at {segment.paddr:#x}; what is below {HIGH_MEMORY:#x} is the machine's own")
    if segment.paddr < HOLE_END and end > MMIO_BASE:
        raise file.error(
            f"has a segment at {segment.paddr:#x}..{end - 1:#x}; a machine has no memory at {MMIO_BASE:#x}.."
            f"{HOLE_END - 1:#x}, where its devices are: link the program to other addresses"
        )
    needed = memory_size_for(end)
    if needed > MAX_MEMORY:
        raise file.error(f"has a segment at {segment.paddr:#x}..{end - 1:#x}, where no machine has memory")
    if not mem.contains(segment.paddr, segment.memsz):
        raise file.error(
            f"needs memory at {segment.paddr:#x}..{end - 1:#x}, and the guest has "
            f"{mem.size // MIB} MiB; give at least {-(-needed // MIB)} MiB with --memory"
        )


def _physical_entry(file: ImageFile, entry: int, segments: list[_Segment]) -> int:
    for segment in segments:
        if segment.paddr <= entry < segment.paddr + segment.memsz:
            return entry
    for segment in segments:
        if segment.vaddr <= entry < segment.vaddr + segment.memsz:
            return entry - segment.vaddr + segment.paddr
    raise file.error(f"has its entry point at {entry:#x}, outside of what it loads; it is damaged")
