"""Pages that go to the balloon or are reported free, and drivers that give away what is not theirs."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable

import pytest
from balloon_bench import ALL, DEFLATE, FIRST, INFLATE, Bench
from pyvmm.limits import PAGE_SIZE
from pyvmm_virtio_balloon import constants as c
from pyvmm_virtio_balloon.device import MAX_PAGES

HIGH = (4 << 30) // PAGE_SIZE


def resident() -> int:
    """Bytes of shared memory that this process has in RAM: RssShmem of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssShmem:"))


# --- the balloon


def test_pages_in_the_balloon_are_the_hosts(bench: Bench) -> None:
    bench.touch(FIRST, 100)
    held = bench.pages()
    bench.give(*range(FIRST + 10, FIRST + 60))
    assert held - bench.pages() == 50
    assert bench.memory.read((FIRST + 10) * PAGE_SIZE, 50 * PAGE_SIZE) == bytes(50 * PAGE_SIZE)
    for neighbour in (FIRST + 9, FIRST + 60):
        assert bench.memory.read(neighbour * PAGE_SIZE, PAGE_SIZE) == b"\x5a" * PAGE_SIZE


def test_the_process_has_less_in_ram(bench: Bench) -> None:
    size = 32 << 20
    bench.touch(FIRST, size // PAGE_SIZE)
    before = resident()
    for first in range(FIRST, FIRST + size // PAGE_SIZE, 256):
        bench.give(*range(first, first + 256))
        bench.driver.heap.reset()
    assert before - resident() >= size - (1 << 20)
    assert bench.pages() == 0


def test_pages_come_in_any_order(bench: Bench) -> None:
    bench.touch(FIRST, 100)
    held = bench.pages()
    bench.give(FIRST + 3, FIRST + 1, FIRST + 99, FIRST, FIRST + 50, FIRST + 2)
    assert held - bench.pages() == 6


def test_pages_past_the_hole(bench: Bench) -> None:
    bench.touch(HIGH, 4)
    held = bench.pages()
    bench.give(HIGH + 1, HIGH + 2)
    assert held - bench.pages() == 2


def test_pages_come_back_when_they_are_touched(bench: Bench) -> None:
    bench.touch(FIRST, 4)
    bench.give(*range(FIRST, FIRST + 4))
    held = bench.pages()
    bench.give(FIRST, FIRST + 1, queue=DEFLATE)
    assert bench.pages() == held
    bench.touch(FIRST, 1)
    assert bench.memory.read(FIRST * PAGE_SIZE, 1) == b"\x5a"
    assert bench.memory.read((FIRST + 1) * PAGE_SIZE, 1) == b"\0"


# --- drivers that break the rules


@pytest.mark.parametrize(
    "pages",
    [
        [FIRST, FIRST, FIRST],
        [FIRST, 0xFFFFFFFF],
        [(64 << 20) // PAGE_SIZE, FIRST],
        [FIRST, HIGH - 1],
        [FIRST, HIGH + (1 << 20) // PAGE_SIZE],
        [FIRST, 1 << 31],
    ],
)
def test_pages_that_are_not_there_or_given_twice_are_ignored(bench: Bench, pages: list[int]) -> None:
    bench.touch(FIRST, 1)
    held = bench.pages()
    bench.give(*pages)
    assert held - bench.pages() == 1
    assert not bench.driver.needs_reset


def test_a_range_that_runs_past_the_end_of_memory_is_taken_up_to_there(bench: Bench) -> None:
    end = (64 << 20) // PAGE_SIZE
    bench.touch(end - 2, 2)
    held = bench.pages()
    bench.give(*range(end - 2, end + 3))
    assert held - bench.pages() == 2


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_a_number_that_is_cut_short_is_no_page(bench: Bench, length: int) -> None:
    bench.touch(FIRST, 2)
    held = bench.pages()
    data = struct.pack("<II", FIRST, FIRST + 1)[:length]
    bench.driver.rings[INFLATE].add([data])
    assert bench.driver.exchange(INFLATE)[0].length == 0
    assert held - bench.pages() == length // 4


def test_numbers_over_several_buffers(bench: Bench) -> None:
    bench.touch(FIRST, 3)
    held = bench.pages()
    data = struct.pack("<III", FIRST, FIRST + 1, FIRST + 2)
    bench.driver.rings[INFLATE].add([data[:3], data[3:6], data[6:]])
    bench.driver.exchange(INFLATE)
    assert held - bench.pages() == 3


def test_a_request_of_gigabytes_costs_the_host_no_more_than_another(bench: Bench) -> None:
    bench.touch(FIRST, MAX_PAGES + 100)
    buffer = bench.driver.heap.allocate(8 << 20)
    buffer.write(struct.pack(f"<{MAX_PAGES + 100}I", *range(FIRST, FIRST + MAX_PAGES + 100)))
    held = bench.pages()
    for _ in range(64):
        bench.driver.rings[INFLATE].add([buffer] * 2)
    bench.driver.exchange(INFLATE)
    assert held - bench.pages() == MAX_PAGES


@pytest.mark.parametrize("queue", [INFLATE, DEFLATE])
def test_a_request_with_nothing_to_read_is_given_back(bench: Bench, queue: int) -> None:
    bench.driver.rings[queue].add([], [64])
    (used,) = bench.driver.exchange(queue)
    assert used.length == 0


def test_a_guest_that_gives_away_its_own_rings_harms_itself_alone(bench: Bench) -> None:
    bench.driver.rings[INFLATE].add([struct.pack("<256I", *range(256))])
    bench.driver.rings[INFLATE].kick()
    bench.driver.run()
    bench.start()
    bench.touch(FIRST, 1)
    held = bench.pages()
    bench.give(FIRST)
    assert held - bench.pages() == 1


def test_one_request_is_served_at_a_turn_of_the_loop(bench: Bench) -> None:
    for _ in range(3):
        bench.driver.rings[INFLATE].add([struct.pack("<I", FIRST)])
    bench.driver.rings[INFLATE].kick()
    bench.driver.loop.run_once(0)
    assert bench.driver.rings[INFLATE].used_idx == 1
    assert len(bench.driver.wait_used(INFLATE, 3)) == 3


def test_a_host_that_cannot_take_memory_back_says_so_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(address: int, length: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(bench.memory, "discard", refuse)
    with caplog.at_level(logging.WARNING):
        bench.give(FIRST, FIRST + 2)
        bench.give(FIRST)
    assert [record.getMessage() for record in caplog.records] == [
        "balloon0: memory cannot be returned to the host: Operation not supported"
    ]
    assert not bench.driver.needs_reset


# --- free page reporting


def report(bench: Bench, queue: int, first: int, *counts: int) -> None:
    """Report runs of pages, one behind the other, as free."""
    ring = bench.driver.rings[queue]
    buffers = []
    for count in counts:
        buffers.append(type(ring.buffer(1))(bench.memory, first * PAGE_SIZE, count * PAGE_SIZE))
        first += count
    ring.add([], buffers)
    assert [used.length for used in bench.driver.exchange(queue)] == [0]


@pytest.mark.parametrize(
    ("queue", "features"),
    [(4, ALL), (3, ALL), (2, [c.VIRTIO_BALLOON_F_REPORTING])],
    ids=["by the specification", "as Linux and QEMU count", "without statistics"],
)
def test_reported_pages_are_the_hosts(make_bench: Callable[..., Bench], queue: int, features: list[int]) -> None:
    bench = make_bench()
    bench.start(features)
    bench.touch(FIRST, 1024)
    held = bench.pages()
    report(bench, queue, FIRST, 512, 256)
    assert held - bench.pages() == 768
    assert bench.memory.read((FIRST + 767) * PAGE_SIZE, 2 * PAGE_SIZE) == bytes(PAGE_SIZE) + b"\x5a" * PAGE_SIZE


def test_parts_of_pages_are_not_taken(bench: Bench) -> None:
    bench.touch(FIRST, 3)
    ring = bench.driver.rings[4]
    buffer = type(ring.buffer(1))(bench.memory, FIRST * PAGE_SIZE + 1, 3 * PAGE_SIZE - 2)
    ring.add([], [buffer])
    bench.driver.exchange(4)
    assert bench.memory.read(FIRST * PAGE_SIZE, PAGE_SIZE) == b"\x5a" * PAGE_SIZE
    assert bench.memory.read((FIRST + 1) * PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert bench.memory.read((FIRST + 2) * PAGE_SIZE, PAGE_SIZE) == b"\x5a" * PAGE_SIZE


def test_a_report_that_was_not_agreed_on_changes_nothing(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(reporting=False)
    bench.start([c.VIRTIO_BALLOON_F_STATS_VQ])
    bench.touch(FIRST, 4)
    report(bench, 3, FIRST, 4)
    assert bench.memory.read(FIRST * PAGE_SIZE, 1) == b"\x5a"


@pytest.mark.parametrize(("poison", "taken"), [(0, True), (0xAAAAAAAA, False), (0xAA000000, False)])
def test_a_guest_that_fills_what_it_frees_finds_it_as_it_was(bench: Bench, poison: int, taken: bool) -> None:
    bench.driver.write_config(12, struct.pack("<I", poison))
    bench.touch(FIRST, 4)
    report(bench, 4, FIRST, 4)
    assert (bench.memory.read(FIRST * PAGE_SIZE, 1) == b"\0") == taken


def test_without_the_feature_what_the_guest_fills_with_does_not_matter(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.start([c.VIRTIO_BALLOON_F_REPORTING])
    bench.driver.write_config(12, struct.pack("<I", 1))
    bench.touch(FIRST, 4)
    report(bench, 4, FIRST, 4)
    assert bench.memory.read(FIRST * PAGE_SIZE, 1) == b"\0"


def test_nothing_is_held_of_the_host(bench: Bench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        bench.start()
        bench.driver.rings[INFLATE].add([struct.pack("<I", FIRST)])
        bench.driver.rings[INFLATE].kick()
    assert len(os.listdir("/proc/self/fd")) == before
