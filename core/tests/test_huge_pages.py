"""Memory that a disk's large requests touch is made of huge pages, where the kernel can do so with a memfd."""

from __future__ import annotations

import os

import pytest
from pyvmm._native import ffi, lib
from pyvmm.memory import PAGE_SIZE, GuestMemory, GuestRegion

MIB = 1 << 20
HUGE = 2 * MIB
MIXED = bytes(range(256)) * 16


def held(memory: GuestMemory) -> int:
    """Bytes that the host holds for it."""
    return os.stat(memory.fd).st_blocks * 512


def join(memory: GuestMemory, address: int, length: int) -> None:
    region = next(region for region in memory.regions if region.base <= address < region.end)
    host = memory.host_address(region) + address - region.base
    lib.pyvmm_memory_join(memory.native(), ffi.cast("void *", host), length)


@pytest.fixture(scope="module", autouse=True)
def _kernel_can() -> None:
    with GuestMemory.create([(0, HUGE)]) as memory:
        join(memory, 0, PAGE_SIZE)
        if held(memory) < HUGE:
            pytest.skip("the kernel makes no huge pages of a memfd (MADV_COLLAPSE, Linux 6.1)")


@pytest.mark.parametrize(
    ("address", "length", "ranges"),
    [(5 * MIB, 4, 1), (4 * MIB, HUGE, 1), (5 * MIB, HUGE, 2), (6 * MIB - 1, 2, 2), (0, 16 * MIB, 8)],
)
def test_the_ranges_that_are_touched_and_no_others(address: int, length: int, ranges: int) -> None:
    with GuestMemory.create([(0, 16 * MIB)]) as memory:
        memory.write(5 * MIB, MIXED)
        join(memory, address, length)

        assert held(memory) == ranges * HUGE
        assert memory.read(5 * MIB, len(MIXED)) == MIXED
        assert not any(memory.read(5 * MIB + len(MIXED), MIB))


def test_each_range_once() -> None:
    with GuestMemory.create([(0, 8 * MIB)]) as memory:
        join(memory, 0, HUGE)
        memory.discard(0, 8 * MIB)
        join(memory, 0, HUGE)

        assert held(memory) == 0


def test_a_range_that_is_not_all_of_a_regions_stays_as_it_is() -> None:
    with GuestMemory.create([(0, 3 * MIB), (1 << 32, 6 * MIB)]) as memory:
        for address in (2 * MIB + 5, 1 << 32):
            memory.write(address, MIXED)
            before = held(memory)
            join(memory, address, len(MIXED))
            assert held(memory) == before

        join(memory, (1 << 32) + 2 * MIB, PAGE_SIZE)  # the file's fourth MiB to its sixth
        assert held(memory) == before + HUGE
        assert memory.read(1 << 32, len(MIXED)) == MIXED


def test_what_is_not_guest_memory_is_left_alone() -> None:
    with GuestMemory.create([(0, 4 * MIB)]) as memory:
        own = bytearray(PAGE_SIZE)
        lib.pyvmm_memory_join(memory.native(), ffi.from_buffer(own), len(own))
        join(memory, 3 * MIB, 2 * MIB)  # past the end
        assert held(memory) == 0


def test_another_mapping_of_the_file_sees_the_same() -> None:
    with GuestMemory.create([(0, 4 * MIB)]) as memory:
        memory.write(MIB, MIXED)
        with GuestMemory(os.dup(memory.fd), [GuestRegion(1 << 32, 4 * MIB, 0)]) as other:
            join(other, 1 << 32, PAGE_SIZE)
            other.write((1 << 32) + 5, b"both")
            assert memory.read(5, 4) == b"both"
            assert memory.read(MIB, len(MIXED)) == MIXED
