"""Memory that is used is made of huge pages, where the kernel can do so with a memfd."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
from pyvmm._native import ffi, lib
from pyvmm.limits import PAGE_SIZE
from pyvmm.machine.huge_pages import PageJoiner
from pyvmm.memory import GuestMemory, GuestRegion
from pyvmm.testing import waiting

from core.tests.os_threads import wait_until

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


# --- beside a guest


def until_held(memory: GuestMemory, size: int) -> None:
    waiting.wait_until(lambda: held(memory) == size, lambda: f"{held(memory)} bytes are held, not {size}")


def until_seen(memory: GuestMemory, at: int, **state: int) -> None:
    """Until a look has found that of the first region's range ``at``."""
    seen = memory.native().regions[0].ranges[at]
    waiting.wait_until(
        lambda: all(getattr(seen, name) == value for name, value in state.items()),
        lambda: f"{seen.pages=} {seen.joined=} {seen.returned=}, not {state}",
    )


def until_all_is_joined_that_will_be(memory: GuestMemory) -> None:
    """Until what comes to be used last, and is looked at last, is one page: all that is used was looked at before."""
    memory.write(30 * MIB, MIXED * 20)
    until_seen(memory, 15, joined=1)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """32 MiB that is joined as it comes to be used."""
    with GuestMemory.create([(0, 32 * MIB)]) as memory, PageJoiner(memory):
        yield memory


def test_what_comes_to_be_used_is_joined(memory: GuestMemory) -> None:
    memory.write(5 * MIB, MIXED * 20)
    until_held(memory, HUGE)
    assert memory.read(5 * MIB, 20 * len(MIXED)) == MIXED * 20
    assert not any(memory.read(4 * MIB, MIB))


def test_a_page_here_and_there_is_not(memory: GuestMemory) -> None:
    for address in range(8 * MIB, 16 * MIB, HUGE):
        memory.write_u8(address, 1)
    memory.write(2 * MIB, MIXED * 20)
    until_all_is_joined_that_will_be(memory)
    assert held(memory) == 2 * HUGE + 4 * PAGE_SIZE


@pytest.mark.parametrize(("first", "then", "ahead"), [((1, 2, 3), 4, (5, 6, 7)), ((9, 8, 7, 6), 5, (4, 3, 2, 1))])
def test_the_next_ones_of_a_run_are_before_they_are_used(first: Sequence[int], then: int, ahead: Sequence[int]) -> None:
    with GuestMemory.create([(0, 32 * MIB)]) as memory:
        for at in first:
            memory.join(at * HUGE, HUGE)
        with PageJoiner(memory):
            memory.write(then * HUGE, MIXED * 20)
            until_held(memory, (len(first) + 1 + len(ahead)) * HUGE)
        for at in ahead:
            memory.write(at * HUGE, MIXED)
        assert held(memory) == (len(first) + 1 + len(ahead)) * HUGE


def test_what_was_given_back_is_joined_again_when_it_is_used_again(memory: GuestMemory) -> None:
    for _ in range(3):
        memory.write(5 * MIB, MIXED * 20)
        until_seen(memory, 2, joined=1)
        assert held(memory) == HUGE
        memory.discard(4 * MIB, HUGE)
        assert held(memory) == 0
        until_seen(memory, 2, joined=0, returned=1)


def test_what_was_given_back_is_not_taken_again_before_it_is_used() -> None:
    with GuestMemory.create([(0, 32 * MIB)]) as memory:
        memory.join(2 * MIB, 3 * HUGE)
        with PageJoiner(memory):
            memory.discard(4 * MIB, 2 * HUGE)
            until_seen(memory, 3, returned=1)
            memory.write(4 * MIB, MIXED * 20)
            until_held(memory, 2 * HUGE)
            until_all_is_joined_that_will_be(memory)
            assert held(memory) == 3 * HUGE


def test_what_was_given_back_in_part_is_not_taken_again(memory: GuestMemory) -> None:
    memory.write(2 * MIB, MIXED * 15)  # too little to be joined
    until_seen(memory, 1, pages=15)
    memory.discard(2 * MIB, PAGE_SIZE)
    until_seen(memory, 1, pages=14)
    memory.write(2 * MIB + 15 * PAGE_SIZE, MIXED * 85)
    until_all_is_joined_that_will_be(memory)
    assert held(memory) == 99 * PAGE_SIZE + HUGE


def test_it_ends_and_leaves_the_rest_as_it_is() -> None:
    with GuestMemory.create([(0, 32 * MIB)]) as memory:
        joiner = PageJoiner(memory)
        wait_until("memory", there=True)
        joiner.close()
        joiner.close()
        memory.write(5 * MIB, MIXED * 20)
        assert held(memory) == 20 * PAGE_SIZE
    wait_until("memory", there=False)


def test_memory_that_is_not_to_be_joined_never_is() -> None:
    with GuestMemory.create([(0, 8 * MIB)], join_pages=False) as memory, PageJoiner(memory):
        memory.write(5 * MIB, MIXED * 20)
        memory.join(0, 8 * MIB)
        assert not memory.native().regions[0].ranges  # without which the thread passes a region by
        assert held(memory) == 20 * PAGE_SIZE


def test_a_mapping_begins_where_a_huge_page_of_the_file_may() -> None:
    with GuestMemory.create([(0, 3 * MIB), (1 << 32, 6 * MIB)]) as memory:
        for region in memory.regions:
            assert (memory.host_address(region) - region.offset) % HUGE == 0
