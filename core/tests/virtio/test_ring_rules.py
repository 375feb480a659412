"""What a driver can get wrong in a ring: each is one rule, and nothing is written for it."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from pyvmm.testing.driver_ring import VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE
from pyvmm.virtio.queue import QueueError

from core.tests.virtio.ring_bench import HIGH, HIGH_BASE, LOW, RingBench

NEXT, WRITE, INDIRECT = VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_DESC_F_INDIRECT
SIZE = 16
BUFFER = 0x8000
"""An address where nothing of the ring is."""


# --- where the ring is: refused at DRIVER_OK

DESC, AVAIL, USED = "descriptor_table", "available_ring", "used_ring"

RING_PLACES = [
    ("size 0", {"size": 0}, "size is 0"),
    ("size no power of two", {"size": 12}, "not a power of two"),
    ("size above the maximum", {"size": 512}, "above the maximum"),
    ("size above 16 bits", {"size": 0x10000}, "above the maximum"),
    ("size 2 to the 31st", {"size": 1 << 31}, "above the maximum"),
    ("size all ones", {"size": 0xFFFFFFFF}, "not a power of two"),
    ("descriptor table misaligned", {DESC: 0x1008}, "misaligned"),
    ("available ring misaligned", {AVAIL: 0x2001}, "misaligned"),
    ("used ring misaligned", {USED: 0x3002}, "misaligned"),
    ("descriptor table in the hole", {DESC: LOW}, "not in guest memory"),
    ("available ring in the hole", {AVAIL: HIGH_BASE - 0x1000}, "not in guest memory"),
    ("used ring behind the last region", {USED: HIGH_BASE + HIGH}, "not in guest memory"),
    ("descriptor table over a region's end", {DESC: LOW - 16 * SIZE + 16}, "not in guest memory"),
    ("available ring over a region's end", {AVAIL: LOW - 2 * SIZE - 4}, "not in guest memory"),
    ("used ring over a region's end", {USED: LOW - 8 * SIZE - 4}, "not in guest memory"),
    ("descriptor table out of the hole", {DESC: HIGH_BASE - 16}, "not in guest memory"),
    ("descriptor table around the address space", {DESC: 2**64 - 16}, "not in guest memory"),
    ("used ring around the address space", {USED: 2**64 - 4}, "not in guest memory"),
    ("all at the same place", {DESC: 0x1000, AVAIL: 0x1000, USED: 0x1000}, "overlap"),
    ("available ring over the table's last byte", {DESC: 0x1000, AVAIL: 0x1000 + 16 * SIZE - 2}, "overlap"),
    ("used ring over the table's first byte", {DESC: 0x1000, USED: 0x1000 - 8 * SIZE - 4}, "overlap"),
    ("used ring over used_event", {AVAIL: 0x1000, USED: 0x1000 + 4 + 2 * SIZE}, "overlap"),
    ("available ring over avail_event", {USED: 0x1000, AVAIL: 0x1000 + 4 + 8 * SIZE}, "overlap"),
]


@pytest.mark.parametrize(
    ("place", "rule"), [(place, rule) for _, place, rule in RING_PLACES], ids=[name for name, *_ in RING_PLACES]
)
def test_a_ring_at_a_bad_place_is_refused(place: dict[str, int], rule: str) -> None:
    with RingBench(SIZE, activate=False) as bench:
        for field, value in place.items():
            setattr(bench.queue, field, value)
        before = bench.snapshot()

        with pytest.raises(QueueError, match=f"queue 0: .*{rule}"):
            bench.activate()

        assert bench.queue.pop() is None
        assert bench.queue.used_idx() == 0
        bench.queue.publish()
        assert bench.snapshot() == before


@pytest.mark.parametrize(
    "place",
    [
        {DESC: 0, AVAIL: LOW - 6 - 2 * SIZE, USED: 0x1000},
        {DESC: HIGH_BASE + HIGH - 16 * SIZE, AVAIL: HIGH_BASE, USED: HIGH_BASE + 0x1000},
        {DESC: LOW - 16 * SIZE, AVAIL: LOW - 16 * SIZE - 6 - 2 * SIZE, USED: HIGH_BASE},
        {DESC: 0x1000, AVAIL: 0x1000 + 16 * SIZE, USED: 0x1000 + 16 * SIZE + 6 + 2 * SIZE + 2},
    ],
    ids=["first and last bytes of a region", "above the hole", "in two regions", "end to end"],
)
def test_a_ring_that_just_fits_is_served(place: dict[str, int]) -> None:
    with RingBench(SIZE, activate=False) as bench:
        for field, value in place.items():
            setattr(bench.queue, field, value)
            setattr(bench.ring, field, value)
        bench.activate()
        bench.ring.add([b"hello"])
        (chain,) = bench.take()
        assert chain.read(0, 100) == b"hello"


def test_a_queue_that_was_refused_can_be_set_up_again() -> None:
    with RingBench(SIZE, activate=False) as bench:
        bench.queue.size = 3
        with pytest.raises(QueueError):
            bench.activate()
        bench.queue.reset()
        bench.ring.connect(bench.queue)
        bench.activate()
        bench.ring.add([b"hello"])
        assert len(bench.take()) == 1


# --- what is in the ring


def descriptors(*entries: tuple[int, int, int, int]) -> Callable[[RingBench], None]:
    """A ring whose table starts with ``entries`` of (address, length, flags, next), the first of them available."""

    def apply(bench: RingBench) -> None:
        for index, entry in enumerate(entries):
            bench.ring.write_descriptor(index, *entry)
        bench.ring.make_available(0)

    return apply


def indirect(*entries: tuple[int, int, int, int], length: int | None = None) -> Callable[[RingBench], None]:
    """A ring with one chain whose indirect table at BUFFER has ``entries``."""

    def apply(bench: RingBench) -> None:
        for index, entry in enumerate(entries):
            bench.memory.write(BUFFER + 16 * index, struct.pack("<QIHH", *entry))
        size = 16 * len(entries) if length is None else length
        bench.ring.write_descriptor(0, BUFFER, size, INDIRECT)
        bench.ring.make_available(0)

    return apply


def available(*heads: int, idx: int | None = None) -> Callable[[RingBench], None]:
    """A ring with good one-buffer chains at every entry, of which ``heads`` are available; ``idx`` is their index."""

    def apply(bench: RingBench) -> None:
        for index in range(SIZE):
            bench.ring.write_descriptor(index, BUFFER, 4)
        for position, head in enumerate(heads):
            bench.ring.write_available(position, head)
        bench.ring.avail_idx = len(heads) if idx is None else idx

    return apply


BAD_RINGS = [
    ("index one more than a ring ahead", available(idx=SIZE + 1), "index is more than a ring ahead"),
    ("index half the numbers ahead", available(idx=0x8000), "index is more than a ring ahead"),
    ("index behind", available(idx=-1), "index is more than a ring ahead"),
    ("head just outside", available(SIZE), "head of a chain is outside"),
    ("head far outside", available(0xFFFF), "head of a chain is outside"),
    ("head twice", available(3, 3), "made available again"),
    ("head twice with others between", available(3, 1, 2, 3), "made available again"),
    ("next just outside", descriptors((BUFFER, 4, NEXT, SIZE)), "next field is outside"),
    ("next far outside", descriptors((BUFFER, 4, NEXT, 0xFFFF)), "next field is outside"),
    ("chain of one that loops", descriptors((BUFFER, 4, NEXT, 0)), "loops or is too long"),
    ("chain of two that loops", descriptors((BUFFER, 4, NEXT, 1), (BUFFER, 4, NEXT, 0)), "loops or is too long"),
    (
        "chain of all that loops",
        descriptors(*((BUFFER, 4, NEXT, (index + 1) % SIZE) for index in range(SIZE))),
        "loops or is too long",
    ),
    ("buffer of length 0", descriptors((BUFFER, 0, 0, 0)), "a buffer has no length"),
    ("writable buffer of length 0", descriptors((BUFFER, 0, WRITE, 0)), "a buffer has no length"),
    ("last buffer of length 0", descriptors((BUFFER, 4, NEXT, 1), (BUFFER, 0, 0, 0)), "a buffer has no length"),
    ("buffer in the hole", descriptors((LOW, 1, 0, 0)), "a buffer is not in guest memory"),
    ("buffer over a region's end", descriptors((LOW - 4, 5, 0, 0)), "a buffer is not in guest memory"),
    ("buffer out of the hole", descriptors((HIGH_BASE - 1, 2, 0, 0)), "a buffer is not in guest memory"),
    ("buffer over the hole", descriptors((LOW - 4, 0xFFFFFFFF, 0, 0)), "a buffer is not in guest memory"),
    ("buffer over the last region's end", descriptors((HIGH_BASE, HIGH + 1, 0, 0)), "a buffer is not in guest memory"),
    ("buffer around the address space", descriptors((2**64 - 2, 4, WRITE, 0)), "a buffer is not in guest memory"),
    ("buffer nowhere", descriptors((2**63, 1, WRITE, 0)), "a buffer is not in guest memory"),
    (
        "readable after writable",
        descriptors((BUFFER, 4, WRITE | NEXT, 1), (BUFFER, 4, 0, 0)),
        "a buffer to read comes after one to write",
    ),
    (
        "readable between writable",
        descriptors((BUFFER, 4, WRITE | NEXT, 1), (BUFFER, 4, NEXT, 2), (BUFFER, 4, WRITE, 0)),
        "a buffer to read comes after one to write",
    ),
    ("indirect with next", descriptors((BUFFER, 16, INDIRECT | NEXT, 1), (BUFFER, 4, 0, 0)), "INDIRECT and NEXT"),
    ("indirect table empty", descriptors((BUFFER, 0, INDIRECT, 0)), "indirect table is empty"),
    ("indirect table of half an entry", descriptors((BUFFER, 8, INDIRECT, 0)), "of odd length"),
    ("indirect table of an entry and a byte", descriptors((BUFFER, 17, INDIRECT, 0)), "of odd length"),
    ("indirect table longer than there may be", descriptors((0, 1025 * 16, INDIRECT, 0)), "too long"),
    ("indirect table of 4 GiB", descriptors((0, 0xFFFFFFF0, INDIRECT, 0)), "too long"),
    ("indirect table in the hole", descriptors((LOW, 16, INDIRECT, 0)), "indirect table is not in guest memory"),
    ("indirect table over an end", descriptors((LOW - 16, 32, INDIRECT, 0)), "indirect table is not in guest memory"),
    ("indirect table around", descriptors((2**64 - 16, 32, INDIRECT, 0)), "indirect table is not in guest memory"),
    ("nested", indirect((BUFFER, 16, INDIRECT, 0)), "indirect descriptor in an indirect table"),
    (
        "nested further on",
        indirect((BUFFER, 4, NEXT, 1), (BUFFER, 16, INDIRECT, 0)),
        "indirect descriptor in an indirect table",
    ),
    ("next outside the indirect table", indirect((BUFFER, 4, NEXT, 1)), "next field is outside"),
    ("indirect table that loops", indirect((BUFFER, 4, NEXT, 1), (BUFFER, 4, NEXT, 0)), "loops or is too long"),
    ("empty buffer in an indirect table", indirect((BUFFER, 0, WRITE, 0)), "a buffer has no length"),
    ("bad buffer in an indirect table", indirect((LOW, 1, WRITE, 0)), "a buffer is not in guest memory"),
    (
        "readable after writable in an indirect table",
        indirect((BUFFER, 4, WRITE | NEXT, 1), (BUFFER, 4, 0, 0)),
        "a buffer to read comes after one to write",
    ),
]


@pytest.mark.parametrize(
    ("break_it", "rule"), [(break_it, rule) for _, break_it, rule in BAD_RINGS], ids=[name for name, *_ in BAD_RINGS]
)
def test_a_broken_ring_raises_its_rule_and_nothing_is_written(break_it: Callable[[RingBench], None], rule: str) -> None:
    with RingBench(SIZE) as bench:
        break_it(bench)
        before = bench.snapshot()

        with pytest.raises(QueueError, match=f"queue 0: .*{rule}"):
            bench.take()

        assert bench.snapshot() == before
        assert bench.ring.used_idx == 0
        assert not bench.interrupt.wait(0)


def test_what_came_before_a_broken_chain_is_still_served() -> None:
    with RingBench(SIZE) as bench:
        available(3, 5, SIZE, 6)(bench)

        chains = [bench.queue.pop(), bench.queue.pop()]

        assert [chain.head for chain in chains if chain] == [3, 5]
        for _ in range(2):
            with pytest.raises(QueueError, match="head of a chain is outside"):
                bench.queue.pop()
        for chain in chains:
            assert chain is not None
            chain.complete()
        bench.queue.publish()
        assert [used.head for used in bench.ring.take_used()] == [3, 5]


def test_a_head_that_is_in_flight_cannot_be_made_available_again() -> None:
    with RingBench(SIZE) as bench:
        bench.ring.add([b"slow"])
        (chain,) = bench.take()
        bench.ring.make_available(chain.head)
        with pytest.raises(QueueError, match="made available again"):
            bench.take()


def test_a_head_that_was_completed_can_be_made_available_again() -> None:
    with RingBench(SIZE) as bench:
        chain = bench.ring.add([b"x"])
        for _ in range(3 * SIZE):
            (taken,) = bench.take()
            taken.complete()
            bench.queue.publish()
            bench.ring.make_available(chain.head)


def test_indirect_tables_need_the_feature() -> None:
    with RingBench(SIZE, indirect=False) as bench:
        bench.ring.add([b"a", b"b"], indirect=True)
        with pytest.raises(QueueError, match="without VIRTIO_F_INDIRECT_DESC"):
            bench.take()


def test_a_chain_of_4_gib_or_more_is_refused() -> None:
    with RingBench(SIZE, ranges=[(0, 0xD000_0000)]) as bench:
        descriptors((0, 0xC000_0000, NEXT, 1), (0, 0x4000_0000, 0, 0))(bench)
        with pytest.raises(QueueError, match="4 GiB or more"):
            bench.take()


def test_a_chain_of_one_byte_less_than_4_gib_is_served() -> None:
    with RingBench(SIZE, ranges=[(0, 0xD000_0000)]) as bench:
        descriptors((0, 0xC000_0000, NEXT, 1), (0, 0x3FFF_FFFF, WRITE, 0))(bench)
        (chain,) = bench.take()
        assert chain.readable_length + chain.writable_length == 0xFFFF_FFFF


# --- what looks odd and is right


def test_a_write_flag_at_an_indirect_table_is_ignored() -> None:
    # "The device MUST ignore the write-only flag in the descriptor that refers to an indirect table" (2.7.5.3.2).
    with RingBench(SIZE) as bench:
        indirect((BUFFER + 16, 4, 0, 0))(bench)
        bench.ring.write_descriptor(0, BUFFER, 16, INDIRECT | WRITE)
        (chain,) = bench.take()
        assert (chain.readable_length, chain.writable_length) == (4, 0)


def test_buffers_may_come_before_an_indirect_table() -> None:
    # "A driver MUST NOT set both INDIRECT and NEXT", but a chain may end with an indirect table (2.7.5.3.1).
    with RingBench(SIZE) as bench:
        bench.memory.write(BUFFER, struct.pack("<QIHH", BUFFER + 0x100, 3, WRITE, 0))
        bench.ring.write_descriptor(0, BUFFER + 0x200, 5, NEXT, 7)
        bench.ring.write_descriptor(7, BUFFER, 16, INDIRECT)
        bench.ring.make_available(0)
        (chain,) = bench.take()
        assert (chain.readable_length, chain.writable_length) == (5, 3)


@pytest.mark.parametrize("shift", [1, 2, 4, 8, 15])
def test_an_indirect_table_may_be_at_any_address(shift: int) -> None:
    with RingBench(SIZE) as bench:
        bench.memory.write(BUFFER + shift, struct.pack("<QIHH", BUFFER + 0x100, 3, WRITE, 0))
        bench.ring.write_descriptor(0, BUFFER + shift, 16, INDIRECT)
        bench.ring.make_available(0)
        (chain,) = bench.take()
        assert chain.writable_length == 3


def test_flags_that_nobody_knows_are_ignored() -> None:
    with RingBench(SIZE) as bench:
        descriptors((BUFFER, 4, 0xFFF8 | WRITE, 0xFFFF))(bench)
        (chain,) = bench.take()
        assert chain.writable_length == 4


@pytest.mark.parametrize(
    ("address", "length"),
    [(LOW - 7, 7), (0, LOW), (HIGH_BASE, 1), (HIGH_BASE + HIGH - 1, 1), (HIGH_BASE, HIGH)],
)
def test_a_buffer_that_just_fits_is_served(address: int, length: int) -> None:
    with RingBench(SIZE) as bench:
        bench.ring.write_descriptor(0, address, length, WRITE)
        bench.ring.make_available(0)
        (chain,) = bench.take()
        assert [len(view) for view in chain.writable] == [length]
        chain.write(length - 1, b"\x5a")
        assert bench.memory.read_u8(address + length - 1) == 0x5A


def test_an_index_that_was_taken_back_to_where_it_was_is_an_empty_ring() -> None:
    with RingBench(SIZE) as bench:
        bench.ring.add([b"x"])
        bench.ring.avail_idx = 0
        assert bench.take() == []
