"""Guest-physical memory: a memfd that the VMM and the devices' processes map, or anonymous memory of this process."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from bisect import bisect_right

from pyvmm._native import ffi, lib
from pyvmm.errors import HostError
from pyvmm.limits import PAGE_SIZE
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final, TypeAlias

__all__ = ["GuestAddress", "GuestMemory", "GuestMemoryError", "GuestRegion"]

GuestAddress: TypeAlias = int
"""A guest-physical address, in bytes from 0."""

MAX_REGIONS: Final[int] = lib.PYVMM_MAX_REGIONS
"""The most regions that a guest's memory can have."""

_HUGE_PAGE: Final = 2 << 20  # the smallest that x86-64 has
_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")


class GuestMemoryError(Exception):
    """An access that is not inside one region of guest memory."""

    def __init__(self, address: GuestAddress, length: int) -> None:
        super().__init__(f"no guest memory at {address:#x}, {length:#x} bytes")
        self.address = address
        self.length = length


@record
class GuestRegion:
    """``size`` bytes of guest memory from guest address ``base`` on, at ``offset`` in the memfd.

    ``base``, ``size`` and ``offset`` are in bytes and multiples of 4 KiB.
    """

    base: GuestAddress
    size: int
    offset: int

    @property
    def end(self) -> GuestAddress:
        """The first address after the region."""
        return self.base + self.size


class GuestMemory:
    """Guest memory: backed by one memfd, by one per region if another process made it, or by anonymous memory. Each
    region has one mapping.

    Memory is reserved but not touched: a page costs the host nothing until the guest or a device writes it.
    All numbers are little-endian. Every access is checked: it lies inside one region or raises
    :class:`GuestMemoryError`.
    """

    def __init__(
        self, fd: int | Sequence[int] | None, regions: Sequence[GuestRegion], *, join_pages: bool = True
    ) -> None:
        """Map ``regions`` of the memfd ``fd``. This object closes ``fd``, also on failure.

        ``fd`` may be a sequence, with one descriptor for each region in the same order; :attr:`fd` is then the first.
        None makes new memory that is private to this process, as :meth:`private` does.
        ``join_pages``: whether :meth:`join` and large transfers make huge pages of the memory that they touch.
        Raises OSError if a region cannot be mapped.
        """
        self.join_pages = join_pages
        self.fds: tuple[int, ...] = () if fd is None else (fd,) if isinstance(fd, int) else tuple(fd)
        """The memfds: one, or one per region. Memory that is private to this process has none."""
        self.regions: tuple[GuestRegion, ...] = ()
        self._bases: list[GuestAddress] = []
        self._region_fds: list[int] = []
        self._views: list[memoryview] = []
        self._native: Any = None
        try:
            self._map([fd] * len(regions) if fd is None or isinstance(fd, int) else self.fds, regions)
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The memfd; -1 when closed, and for anonymous memory."""
        return self.fds[0] if self.fds else -1

    def replace(self, fds: Sequence[int], regions: Sequence[GuestRegion]) -> None:
        """Replace all mappings by those of other regions; each region is in the descriptor with the same index.

        A slice of an old mapping keeps that mapping. Native code that holds addresses must ask for them again. This
        object closes the descriptors, as with the constructor. On failure the memory is unchanged.
        """
        old = self.fds, self._views
        self._views = []
        try:
            self._map(fds, regions)
        except BaseException:
            self._release(fds, self._views)
            self.fds, self._views = old
            raise
        self.fds = tuple(fds)
        if self._native is not None:
            self._fill_native()
        self._release(*old)

    @classmethod
    def create(
        cls, ranges: Sequence[tuple[GuestAddress, int]], *, huge_page_size: int = 0, join_pages: bool = True
    ) -> GuestMemory:
        """New memory, all zeros, at ``ranges`` of (base, size).

        ``huge_page_size``: the size of the host's reserved huge pages to use (hugetlbfs), in bytes, 2 MiB or 1 GiB. All
        of them are taken now, so that the guest cannot run out of them. 0: normal pages. Raises :class:`HostError`
        where the host refuses so much memory.
        """
        regions, offset = _regions(ranges)
        fd = -1
        try:
            fd = os.memfd_create(
                "guest-memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _huge_page_flags(huge_page_size)
            )
            os.ftruncate(fd, offset)
            # Another process that maps it cannot shrink it, which would kill the others (SIGBUS).
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            if huge_page_size:
                raise _no_huge_pages(offset, huge_page_size) from error
            raise HostError(f"memory: the host refuses {offset >> 20} MiB for the guest: {error.strerror}") from error
        try:
            return cls(fd, regions, join_pages=join_pages)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                if huge_page_size:
                    raise _no_huge_pages(offset, huge_page_size) from error
                raise _no_room(offset) from error
            raise

    @classmethod
    def private(cls, ranges: Sequence[tuple[GuestAddress, int]]) -> GuestMemory:
        """New memory, all zeros, at ``ranges`` of (base, size), for a machine that shares no memory with other
        processes.

        The memory is anonymous. It uses huge pages from its first use on, if the host gives them on request
        (madvise(2), MADV_HUGEPAGE). Forks do not inherit it. Raises :class:`HostError` if the host refuses so much
        memory.
        """
        regions, size = _regions(ranges)
        try:
            return cls(None, regions)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise _no_room(size) from error
            raise

    @property
    def size(self) -> int:
        """The size of all regions together, in bytes."""
        return sum(region.size for region in self.regions)

    @property
    def end(self) -> GuestAddress:
        """The first address after the last region."""
        return self.regions[-1].end

    def host_address(self, region: GuestRegion) -> int:
        """The address of ``region`` in this process, for the kernel and for native code."""
        # The buffer is released immediately: while it is held, the mapping cannot be closed.
        with self._views[self.regions.index(region)][:] as view:
            return int(ffi.cast("uintptr_t", ffi.from_buffer(view)))

    def native(self) -> Any:
        """The regions as a ``struct pyvmm_memory *`` for native code of this process."""
        if self._native is None:
            self._native = ffi.new("struct pyvmm_memory *")
            self._fill_native()
        return self._native

    def slice(self, address: GuestAddress, length: int) -> memoryview:
        """A writable view of ``length`` bytes at ``address``; nothing is copied."""
        at = bisect_right(self._bases, address) - 1
        if at >= 0 and length >= 0:
            region = self.regions[at]
            offset = address - region.base
            if offset + length <= region.size:
                return self._views[at][offset : offset + length]
        raise GuestMemoryError(address, length)

    def contains(self, address: GuestAddress, length: int) -> bool:
        """Whether ``length`` bytes at ``address`` lie inside one region."""
        at = bisect_right(self._bases, address) - 1
        return at >= 0 and 0 <= length <= self.regions[at].end - address

    def address_of(self, view: memoryview) -> GuestAddress:
        """The guest address of ``view``, a slice of guest memory; raises ValueError for any other view."""
        at = int(ffi.cast("uintptr_t", ffi.from_buffer(view)))
        for region in self.regions:
            offset = at - self.host_address(region)
            if 0 <= offset <= region.size - len(view):
                return region.base + offset
        raise ValueError("not a view of guest memory")

    def discard(self, address: GuestAddress, length: int) -> None:
        """Give the whole pages in ``length`` bytes at ``address`` back to the host. They read as zeros from then on.

        If the memory has larger pages, such as those of hugetlbfs, only pages that the range covers wholly are given
        back; the covered part of other pages is zeroed. Raises :class:`GuestMemoryError`, and OSError if the host
        cannot do it.
        """
        if not self.contains(address, length):
            raise GuestMemoryError(address, length)
        start = -(-address // PAGE_SIZE) * PAGE_SIZE
        end = (address + length) // PAGE_SIZE * PAGE_SIZE
        if start < end:
            at = bisect_right(self._bases, address) - 1
            region = self.regions[at]
            fd, offset = self._region_fds[at], start - region.base
            if fd < 0:
                own = ffi.cast("void *", self.host_address(region) + offset)
                error = lib.pyvmm_memory_discard_own(own, end - start)
            else:
                error = lib.pyvmm_memory_discard(fd, region.offset + offset, end - start)
            if error:
                raise OSError(-error, os.strerror(-error))

    def join(self, address: GuestAddress, length: int) -> None:
        """Make a huge page of each 2 MiB range that ``length`` bytes at ``address`` touch, if the kernel can.

        It pays off before much of the ranges is used. Raises :class:`GuestMemoryError`.
        """
        with self.slice(address, length) as view:
            lib.pyvmm_memory_join(self.native(), ffi.from_buffer(view), length)

    def read(self, address: GuestAddress, length: int) -> bytes:
        """A copy of ``length`` bytes at ``address``."""
        return bytes(self.slice(address, length))

    def write(self, address: GuestAddress, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` to ``address``."""
        self.slice(address, len(data))[:] = data

    def read_u8(self, address: GuestAddress) -> int:
        """The byte at ``address``."""
        return self.slice(address, 1)[0]

    def read_u16(self, address: GuestAddress) -> int:
        """The 16-bit number at ``address``, which need not be aligned."""
        return int(_U16.unpack(self.slice(address, 2))[0])

    def read_u32(self, address: GuestAddress) -> int:
        """The 32-bit number at ``address``, which need not be aligned."""
        return int(_U32.unpack(self.slice(address, 4))[0])

    def read_u64(self, address: GuestAddress) -> int:
        """The 64-bit number at ``address``, which need not be aligned."""
        return int(_U64.unpack(self.slice(address, 8))[0])

    def write_u8(self, address: GuestAddress, value: int) -> None:
        """Write ``value``, 0 to 2⁸−1."""
        self.slice(address, 1)[0] = value

    # Each is a single store, since other threads read this memory meanwhile. struct.pack_into fills it with zeros
    # first.

    def write_u16(self, address: GuestAddress, value: int) -> None:
        """Write ``value``, 0 to 2¹⁶−1."""
        self.slice(address, 2).cast("H")[0] = value

    def write_u32(self, address: GuestAddress, value: int) -> None:
        """Write ``value``, 0 to 2³²−1."""
        self.slice(address, 4).cast("I")[0] = value

    def write_u64(self, address: GuestAddress, value: int) -> None:
        """Write ``value``, 0 to 2⁶⁴−1."""
        self.slice(address, 8).cast("Q")[0] = value

    def close(self) -> None:
        """Unmap the regions and close the descriptors. A mapping with a slice in use is unmapped when the slice is
        released."""
        self._release(self.fds, self._views)
        self.fds, self._region_fds, self._views = (), [], []

    def _map(self, fds: Sequence[int | None], regions: Sequence[GuestRegion]) -> None:
        if len(regions) > MAX_REGIONS:
            raise ValueError(f"{len(regions)} regions of memory, more than {MAX_REGIONS}")
        pairs = sorted(zip(fds, regions, strict=True), key=lambda pair: pair[1].base)
        for fd, region in pairs:
            page = PAGE_SIZE if fd is None else _page_size(fd)
            start = region.offset % page
            length = -(-(start + region.size) // page) * page
            # Huge pages are reserved here: if none were left later, touching one would kill the process.
            host = lib.pyvmm_memory_map(
                -1 if fd is None else fd, region.offset - start, length, page, page != PAGE_SIZE
            )
            if host == ffi.NULL:
                raise OSError(ffi.errno, os.strerror(ffi.errno))
            # A view keeps the mapping.
            mapping = ffi.gc(host, lambda host, length=length: _unmap(host, length))
            self._views.append(memoryview(ffi.buffer(mapping, length))[start : start + region.size])
        self.regions = tuple(region for _, region in pairs)
        self._region_fds = [-1 if fd is None else fd for fd, _ in pairs]
        self._bases = [region.base for region in self.regions]

    def _fill_native(self) -> None:
        self._native.count = len(self.regions)
        self._ranges: list[Any] = []  # native code notes joined ranges in them
        for i, region in enumerate(self.regions):
            native = self._native.regions[i]
            native.base, native.size = region.base, region.size
            native.host = ffi.cast("uint8_t *", self.host_address(region))
            native.offset, native.fd = region.offset, self._region_fds[i]
            ranges = ffi.NULL
            if self.join_pages and native.fd >= 0 and _page_size(native.fd) == PAGE_SIZE:
                ranges = ffi.new("struct pyvmm_range[]", region.size // _HUGE_PAGE + 2)
            native.ranges = ranges
            self._ranges.append(ranges)

    def _release(self, fds: Sequence[int], views: Sequence[memoryview]) -> None:
        for view in views:
            view.release()
        for fd in fds:
            os.close(fd)

    def __enter__(self) -> GuestMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _regions(ranges: Sequence[tuple[GuestAddress, int]]) -> tuple[list[GuestRegion], int]:
    """Regions of ``ranges``, one after the other in one file, and the file's size."""
    regions = []
    offset = 0
    for base, size in ranges:
        if size <= 0 or size % PAGE_SIZE or base % PAGE_SIZE:
            raise ValueError(f"not a range of whole pages: {size:#x} bytes at {base:#x}")
        regions.append(GuestRegion(base, size, offset))
        offset += size
    return regions, offset


def _no_room(size: int) -> HostError:
    return HostError(f"memory: the host cannot map {size >> 20} MiB for the guest; give a smaller --memory")


def _unmap(host: Any, length: int) -> None:
    lib.pyvmm_memory_unmap(host, length)


def _huge_page_flags(size: int) -> int:
    """The flags for memfd_create(2): the page size as a power of two, in the bits from MFD_HUGE_SHIFT on."""
    return os.MFD_HUGETLB | (size.bit_length() - 1) << os.MFD_HUGE_SHIFT if size else 0


def _no_huge_pages(size: int, page_size: int) -> HostError:
    """An error that says how many huge pages are free, and how to reserve the missing ones."""
    directory = f"/sys/kernel/mm/hugepages/hugepages-{page_size >> 10}kB"
    name = f"{page_size >> 20} MiB" if page_size < 1 << 30 else f"{page_size >> 30} GiB"
    wanted = -(-size // page_size)
    try:
        with open(f"{directory}/free_hugepages") as file:
            free = int(file.read())
    except OSError:
        return HostError(f"memory: the host has no huge pages of {name}; leave out hugepages, or give another size")
    return HostError(
        f"memory: {wanted} huge pages of {name} are needed, and {free} are free; "
        f"reserve them with: echo {wanted} > {directory}/nr_hugepages"
    )


def _page_size(fd: int) -> int:
    """The page size of ``fd``, of which mappings must be multiples: hugetlbfs maps and unmaps whole huge pages."""
    block = os.fstatvfs(fd).f_bsize
    return block if block >= _HUGE_PAGE and block & (block - 1) == 0 else PAGE_SIZE
