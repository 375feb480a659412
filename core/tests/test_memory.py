"""Guest memory: what can be reached, what cannot, what it costs, and who else can map it."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyvmm._native import ffi, lib
from pyvmm.errors import HostError
from pyvmm.limits import PAGE_SIZE
from pyvmm.memory import GuestMemory, GuestMemoryError, GuestRegion

LOW = 1 << 20
HIGH_BASE = 4 << 30
HIGH = 64 << 10


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """1 MiB at 0 and 64 KiB from 4 GiB on: a hole in between."""
    with GuestMemory.create([(0, LOW), (HIGH_BASE, HIGH)]) as memory:
        yield memory


def descriptors() -> int:
    gc.collect()  # other tests' views hold on to their memory
    return len(os.listdir("/proc/self/fd"))


def mappings() -> int:
    with open("/proc/self/maps", encoding="ascii") as maps:
        return sum("guest-memory" in line for line in maps)


# --- making it


def test_regions_share_one_memfd_end_to_end(memory: GuestMemory) -> None:
    assert memory.regions == (GuestRegion(0, LOW, 0), GuestRegion(HIGH_BASE, HIGH, LOW))
    assert (memory.size, memory.end) == (LOW + HIGH, HIGH_BASE + HIGH)
    memory.write(HIGH_BASE + 5, b"high")
    assert os.pread(memory.fd, 4, LOW + 5) == b"high"


def test_it_is_all_zeros(memory: GuestMemory) -> None:
    assert memory.read(0, LOW) == bytes(LOW)
    assert memory.read(HIGH_BASE, HIGH) == bytes(HIGH)


@pytest.mark.parametrize(
    "ranges", [[(0, 0)], [(0, -PAGE_SIZE)], [(0, PAGE_SIZE + 1)], [(1, PAGE_SIZE)], [(0, PAGE_SIZE), (5, PAGE_SIZE)]]
)
def test_a_range_that_is_not_whole_pages_is_refused(ranges: list[tuple[int, int]]) -> None:
    before = descriptors()
    with pytest.raises(ValueError, match="not a range of whole pages"):
        GuestMemory.create(ranges)
    assert descriptors() == before


@pytest.mark.parametrize("gib", [1, 2, 4, 5])
def test_past_4_gib_it_costs_nothing_until_it_is_touched(gib: int) -> None:
    ranges = [(0, min(gib << 30, 0xD000_0000))]
    if gib << 30 > 0xD000_0000:
        ranges.append((HIGH_BASE, (gib << 30) - 0xD000_0000))
    before = resident()

    with GuestMemory.create(ranges) as memory:
        assert memory.size == gib << 30
        assert os.fstat(memory.fd).st_blocks == 0

        for base, size in ranges:
            memory.write_u64(base + size - 8, 1)
            assert memory.read_u8(base) == 0

        # Two pages a region: the one written, and the one read, which tmpfs makes too.
        assert os.fstat(memory.fd).st_blocks * 512 <= 2 * PAGE_SIZE * len(ranges)
        assert resident() - before < 4 << 20


def resident() -> int:
    """Bytes of this process in RAM, shared memory and all."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE_SIZE


def test_more_than_the_host_can_map_is_one_line_that_says_so() -> None:
    before = descriptors()
    with pytest.raises(HostError, match=r"memory: the host .* MiB for the guest"):
        GuestMemory.create([(0, 1 << 62)])
    assert descriptors() == before


def test_a_process_that_may_map_no_more_gets_a_host_error() -> None:
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * PAGE_SIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), limits[1]))
    try:
        with pytest.raises(HostError, match="give a smaller --memory"):
            GuestMemory.create([(0, 1 << 30)])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert descriptors() == before


# --- bounds


INSIDE = [(0, 0), (0, 1), (0, LOW), (LOW - 1, 1), (LOW, 0), (HIGH_BASE, HIGH), (HIGH_BASE + HIGH, 0)]
OUTSIDE = [
    (-1, 1),
    (-4, 8),
    (0, -1),
    (0, LOW + 1),
    (LOW - 1, 2),  # into the hole
    (LOW, 1),
    (HIGH_BASE - 1, 1),
    (HIGH_BASE - 1, 2),  # out of the hole
    (0, HIGH_BASE + HIGH),  # over the hole
    (HIGH_BASE, HIGH + 1),
    (HIGH_BASE + HIGH, 1),
    (2**64 - 1, 1),
    (2**64 - 1, 2),  # around the end of the address space
    (0, 2**64),
    (2**70, 1),
]


@pytest.mark.parametrize(("address", "length"), INSIDE)
def test_an_access_inside_one_region_works(memory: GuestMemory, address: int, length: int) -> None:
    assert memory.contains(address, length)
    with memory.slice(address, length) as view:
        assert len(view) == length
        assert not view.readonly
    assert memory.read(address, length) == bytes(length)
    memory.write(address, b"\x5a" * length)
    assert memory.read(address, length) == b"\x5a" * length


@pytest.mark.parametrize(("address", "length"), OUTSIDE)
def test_an_access_not_inside_one_region_raises_with_address_and_length(
    memory: GuestMemory, address: int, length: int
) -> None:
    assert not memory.contains(address, length)
    for access in (memory.slice, memory.read):
        with pytest.raises(GuestMemoryError) as raised:
            access(address, length)
        assert (raised.value.address, raised.value.length) == (address, length)
        assert f"{address:#x}" in str(raised.value)


def test_a_write_that_does_not_fit_writes_nothing(memory: GuestMemory) -> None:
    with pytest.raises(GuestMemoryError):
        memory.write(LOW - 4, b"12345678")
    assert memory.read(LOW - 4, 4) == bytes(4)


@pytest.mark.parametrize(("bits", "value"), [(8, 0xFE), (16, 0xFEDC), (32, 0xFEDCBA98), (64, 0xFEDCBA9876543210)])
def test_numbers_are_little_endian_and_checked(memory: GuestMemory, bits: int, value: int) -> None:
    read, write = getattr(memory, f"read_u{bits}"), getattr(memory, f"write_u{bits}")
    size = bits // 8
    for address in (0, 1, LOW - size, HIGH_BASE + 3):  # aligned or not
        write(address, value)
        assert read(address) == value
        assert memory.read(address, size) == value.to_bytes(size, "little")
    for address in (LOW - size + 1, HIGH_BASE - 1, HIGH_BASE + HIGH, -1):
        with pytest.raises(GuestMemoryError):
            read(address)
        with pytest.raises(GuestMemoryError):
            write(address, value)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_a_number_is_stored_at_once(memory: GuestMemory, bits: int) -> None:
    read, write = getattr(memory, f"read_u{bits}"), getattr(memory, f"write_u{bits}")
    ones = (1 << bits) - 1
    write(8, ones)
    writer = os.fork()
    if writer == 0:
        try:
            while True:
                write(8, ones)
        finally:
            os._exit(1)
    try:
        assert {read(8) for _ in range(20_000)} == {ones}
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


@given(
    address=st.integers(-8, HIGH_BASE + 2 * HIGH)
    | st.sampled_from([LOW, HIGH_BASE, HIGH_BASE + HIGH]).flatmap(lambda edge: st.integers(edge - 9, edge + 9)),
    length=st.integers(-2, 16) | st.integers(0, 2 * LOW),
)
def test_contains_and_slice_agree_with_the_ranges(address: int, length: int) -> None:
    memory = SHARED
    expected = length >= 0 and any(
        region.base <= address and address + length <= region.end for region in memory.regions
    )
    assert memory.contains(address, length) == expected
    if expected:
        assert len(memory.slice(address, length)) == length
    else:
        with pytest.raises(GuestMemoryError):
            memory.slice(address, length)


SHARED = GuestMemory.create([(0, LOW), (HIGH_BASE, HIGH)])
"""For tests that write nothing."""


# --- views


def test_a_slice_is_the_memory_itself(memory: GuestMemory) -> None:
    view = memory.slice(0x1000, 16)
    view[:4] = b"view"
    assert memory.read(0x1000, 4) == b"view"
    os.pwrite(memory.fd, b"file", 0x1000)
    assert bytes(view[:4]) == b"file"
    view.release()


def test_a_copy_stays_when_the_memory_changes(memory: GuestMemory) -> None:
    copy = memory.read(0, 4)
    memory.write(0, b"new!")
    assert copy == bytes(4)


def test_the_hosts_addresses_are_those_of_the_regions(memory: GuestMemory) -> None:
    from pyvmm._native import ffi

    for region in memory.regions:
        memory.write(region.base + 7, b"here")
        assert bytes(ffi.buffer(ffi.cast("char *", memory.host_address(region) + 7), 4)) == b"here"


def test_native_code_is_told_of_all_regions(memory: GuestMemory) -> None:
    native = memory.native()
    assert native.count == 2
    assert [(native.regions[i].base, native.regions[i].size) for i in range(2)] == [(0, LOW), (HIGH_BASE, HIGH)]
    assert memory.native() is native


# --- another process


CHILD = """
import mmap, os, sys
with mmap.mmap(int(sys.argv[1]), 4096, offset=int(sys.argv[2])) as mapping:
    sys.stdout.buffer.write(mapping[:5])
    mapping[5:10] = b"child"
"""


def test_another_process_can_map_it(memory: GuestMemory) -> None:
    memory.write(HIGH_BASE, b"guest")
    offset = memory.regions[1].offset
    answer = subprocess.run(
        [sys.executable, "-c", CHILD, str(memory.fd), str(offset)],
        pass_fds=[memory.fd],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert answer.stdout == b"guest"
    assert memory.read(HIGH_BASE + 5, 5) == b"child"


def test_it_can_be_made_from_a_descriptor_and_regions(memory: GuestMemory) -> None:
    memory.write(HIGH_BASE, b"high")
    with GuestMemory(os.dup(memory.fd), memory.regions) as other:
        assert other.read(HIGH_BASE, 4) == b"high"
        other.write(0, b"low")
    assert memory.read(0, 3) == b"low"


@pytest.mark.parametrize("fds", [-1, [], [-1, -1]])
def test_without_a_descriptor_there_is_no_memory(memory: GuestMemory, fds: int | list[int]) -> None:
    with pytest.raises((OSError, ValueError)):
        GuestMemory(fds, memory.regions)


def test_regions_may_be_given_in_any_order(memory: GuestMemory) -> None:
    with GuestMemory(os.dup(memory.fd), memory.regions[::-1]) as other:
        assert other.regions == memory.regions
        memory.write(HIGH_BASE, b"high")
        assert other.read(HIGH_BASE, 4) == b"high"


def test_a_region_past_the_end_of_the_file_is_refused_and_the_descriptor_closed(memory: GuestMemory) -> None:
    before = descriptors()
    with pytest.raises((OSError, ValueError)):
        GuestMemory(os.dup(memory.fd), [GuestRegion(0, 2 * LOW, 0)])
    assert descriptors() == before


def test_it_is_not_inherited_unasked(memory: GuestMemory) -> None:
    assert not os.get_inheritable(memory.fd)


# --- the end


def test_close_releases_every_descriptor_and_mapping_and_may_come_twice() -> None:
    before = descriptors(), mappings()
    memory = GuestMemory.create([(0, LOW), (HIGH_BASE, HIGH)])
    assert mappings() == before[1] + 2
    memory.close()
    memory.close()
    assert (descriptors(), mappings()) == before
    assert memory.fd == -1


def test_an_access_after_the_close_raises() -> None:
    memory = GuestMemory.create([(0, LOW)])
    memory.close()
    for access in (lambda: memory.read(0, 1), lambda: memory.write(0, b"x"), lambda: memory.slice(0, 0)):
        with pytest.raises((GuestMemoryError, IndexError, ValueError)):
            access()


def test_a_view_outlives_the_memory() -> None:
    memory = GuestMemory.create([(0, LOW)])
    memory.write(0, b"still")
    view = memory.slice(0, 5)
    memory.close()
    assert bytes(view) == b"still"
    view[:] = b"there"
    assert bytes(view) == b"there"
    view.release()


def test_a_view_that_native_code_holds_does_not_keep_the_memory_from_closing() -> None:
    before = descriptors()
    memory = GuestMemory.create([(0, LOW)])
    held = ffi.from_buffer(memory.slice(0, 5))
    memory.close()
    assert memory.fd == -1
    held[0] = b"x"
    assert held[0] == b"x"
    ffi.release(held)
    del held
    assert descriptors() == before


def test_a_mapping_that_fails_closes_the_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return self.refuse if name == "pyvmm_memory_map" else getattr(lib, name)

        def refuse(self, *_: object) -> Any:
            ffi.errno = errno.ENOMEM
            return ffi.NULL

    monkeypatch.setattr("pyvmm.memory.lib", Refusing())
    with pytest.raises(HostError, match="give a smaller --memory"):
        GuestMemory.create([(0, LOW)])
    assert descriptors() == before
