"""Guest memory that is given back to the host: whole pages, inside one region, of the right descriptor."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest
from pyvmm.limits import PAGE_SIZE
from pyvmm.memory import GuestMemory, GuestMemoryError, GuestRegion

LOW = 16 * PAGE_SIZE
HIGH_BASE = 4 << 30
HIGH = 8 * PAGE_SIZE


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """16 pages at 0 and 8 from 4 GiB on, all written to."""
    with GuestMemory.create([(0, LOW), (HIGH_BASE, HIGH)]) as memory:
        for region in memory.regions:
            memory.write(region.base, b"\x5a" * region.size)
        yield memory


def pages(memory: GuestMemory) -> int:
    """Pages that the host holds for it."""
    return os.fstat(memory.fd).st_blocks * 512 // PAGE_SIZE


def test_what_is_given_back_costs_nothing_and_reads_as_zeros(memory: GuestMemory) -> None:
    assert pages(memory) == 24
    memory.discard(4 * PAGE_SIZE, 3 * PAGE_SIZE)
    assert pages(memory) == 21
    assert memory.read(4 * PAGE_SIZE, 3 * PAGE_SIZE) == bytes(3 * PAGE_SIZE)
    assert memory.read(4 * PAGE_SIZE - 1, 1) == memory.read(7 * PAGE_SIZE, 1) == b"\x5a"


def test_a_region_that_is_not_at_the_files_start(memory: GuestMemory) -> None:
    memory.discard(HIGH_BASE + PAGE_SIZE, PAGE_SIZE)
    assert memory.read(HIGH_BASE, 3 * PAGE_SIZE) == b"\x5a" * PAGE_SIZE + bytes(PAGE_SIZE) + b"\x5a" * PAGE_SIZE
    assert memory.read(0, LOW) == b"\x5a" * LOW


@pytest.mark.parametrize(
    ("address", "length", "given_back"),
    [
        (0, 0, 0),
        (0, PAGE_SIZE - 1, 0),
        (1, PAGE_SIZE, 0),
        (1, 2 * PAGE_SIZE - 1, 1),
        (PAGE_SIZE - 1, 2 * PAGE_SIZE, 1),
        (0, LOW, 16),
        (LOW, 0, 0),
    ],
)
def test_a_page_that_is_covered_in_part_stays(memory: GuestMemory, address: int, length: int, given_back: int) -> None:
    memory.discard(address, length)
    assert 24 - pages(memory) == given_back


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, LOW + 1),
        (LOW, PAGE_SIZE),
        (LOW - PAGE_SIZE, 2 * PAGE_SIZE),
        (HIGH_BASE - PAGE_SIZE, 2 * PAGE_SIZE),
        (HIGH_BASE + HIGH, PAGE_SIZE),
        (0, HIGH_BASE + HIGH),
        (-PAGE_SIZE, PAGE_SIZE),
        (2**64 - PAGE_SIZE, PAGE_SIZE),
        (0, -1),
    ],
)
def test_what_is_not_inside_one_region_is_refused_whole(memory: GuestMemory, address: int, length: int) -> None:
    with pytest.raises(GuestMemoryError):
        memory.discard(address, length)
    assert pages(memory) == 24


def test_memory_comes_back_when_it_is_written(memory: GuestMemory) -> None:
    memory.discard(0, LOW)
    memory.discard(0, LOW)
    memory.write(5 * PAGE_SIZE + 7, b"again")
    assert pages(memory) == 8 + 1
    assert memory.read(5 * PAGE_SIZE, 12) == bytes(7) + b"again"


def test_each_region_has_its_own_descriptor_in_whatever_order_they_were_given() -> None:
    fds = [os.memfd_create("high"), os.memfd_create("low")]
    for fd in fds:
        os.ftruncate(fd, LOW)
    regions = [GuestRegion(HIGH_BASE, LOW, 0), GuestRegion(0, LOW, 0)]
    with GuestMemory(fds, regions) as memory:
        memory.write(0, b"\x5a" * LOW)
        memory.write(HIGH_BASE, b"\x5a" * LOW)
        memory.discard(0, PAGE_SIZE)
        memory.discard(HIGH_BASE, 2 * PAGE_SIZE)
        assert [os.fstat(fd).st_blocks * 512 for fd in fds] == [LOW - 2 * PAGE_SIZE, LOW - PAGE_SIZE]


def test_memory_that_cannot_be_written_is_the_hosts_error() -> None:
    fd = os.memfd_create("sealed")
    os.ftruncate(fd, LOW)
    readonly = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    memory = GuestMemory.create([(0, LOW)])
    memory._region_fds = [readonly]
    with pytest.raises(OSError) as raised:
        memory.discard(0, PAGE_SIZE)
    assert raised.value.errno == errno.EBADF
    memory.close()
    os.close(readonly)


def test_after_the_close_no_descriptor_is_touched() -> None:
    memory = GuestMemory.create([(0, LOW)])
    memory.close()
    with pytest.raises((GuestMemoryError, IndexError)):
        memory.discard(0, LOW)


# --- where a view is


def test_a_slice_knows_where_it_is(memory: GuestMemory) -> None:
    for address, length in [(0, 1), (5, LOW - 5), (LOW - 1, 1), (HIGH_BASE, HIGH), (HIGH_BASE + 4097, 3)]:
        assert memory.address_of(memory.slice(address, length)) == address


def test_a_view_of_something_else_is_refused(memory: GuestMemory) -> None:
    with GuestMemory.create([(0, LOW)]) as other:
        for view in (memoryview(bytearray(4)), other.slice(0, 4)):
            with pytest.raises(ValueError, match="not a view of guest memory"):
                memory.address_of(view)
            view.release()
