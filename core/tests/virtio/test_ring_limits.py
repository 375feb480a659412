"""The ring's native calls at their limits: batches, long chains, large queues, many regions."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyvmm._native import ffi, lib
from pyvmm.limits import PAGE_SIZE
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE
from pyvmm.virtio.queue import MAX_QUEUE_SIZE, QueueError

from core.tests.virtio.ring_bench import RingBench

BATCH = 64
MAX_CHAIN: int = lib.PYVMM_MAX_CHAIN


def entries(count: int, address: int, writable_from: int | None = None) -> bytes:
    """A table of ``count`` linked entries of one byte each; the device writes those from ``writable_from`` on."""
    first_writable = count if writable_from is None else writable_from
    return b"".join(
        struct.pack(
            "<QIHH",
            address,
            1,
            (VRING_DESC_F_NEXT if index + 1 < count else 0) | (VRING_DESC_F_WRITE if index >= first_writable else 0),
            (index + 1) % count,
        )
        for index in range(count)
    )


# --- batches


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, 2 * BATCH + 1, 256])
def test_chains_are_served_over_the_ends_of_batches(count: int) -> None:
    with RingBench(256) as bench:
        made = [bench.ring.add([index.to_bytes(2, "little")]) for index in range(count)]

        chains = bench.take()

        assert [chain.head for chain in chains] == [chain.head for chain in made]
        assert [int.from_bytes(chain.read(0, 2), "little") for chain in chains] == list(range(count))


def test_chains_that_do_not_fit_into_one_batch_come_in_the_next() -> None:
    with RingBench(256, max_size=256, ranges=[(0, 8 << 20)]) as bench:
        table = bench.heap.allocate(16 * MAX_CHAIN)
        table.write(entries(MAX_CHAIN, 0x10000, writable_from=MAX_CHAIN // 2))
        for index in range(8):
            bench.ring.write_descriptor(index, table.address, table.length, VRING_DESC_F_INDIRECT)
            bench.ring.make_available(index)

        chains = bench.take()

        assert [chain.head for chain in chains] == list(range(8))
        assert {(len(chain.readable), len(chain.writable)) for chain in chains} == {(MAX_CHAIN // 2, MAX_CHAIN // 2)}


def test_a_chain_of_the_whole_descriptor_table_is_served() -> None:
    with RingBench(256) as bench:
        bench.ring.add([b"x"] * 128, [1] * 128)
        (chain,) = bench.take()
        assert (chain.readable_length, chain.writable_length) == (128, 128)


@pytest.mark.parametrize(("size", "longest"), [(2, MAX_CHAIN), (256, MAX_CHAIN), (2048, 2048)])
def test_an_indirect_table_may_be_as_long_as_the_ring_or_1024_entries(size: int, longest: int) -> None:
    with RingBench(size, max_size=size, ranges=[(0, 8 << 20)]) as bench:
        table = bench.heap.allocate(16 * (longest + 1))
        table.write(entries(longest, 0x100))
        bench.ring.write_descriptor(0, table.address, 16 * longest, VRING_DESC_F_INDIRECT)
        bench.ring.make_available(0)
        (chain,) = bench.take()
        assert len(chain.readable) == longest

        bench.ring.write_descriptor(1, table.address, 16 * (longest + 1), VRING_DESC_F_INDIRECT)
        bench.ring.make_available(1)
        with pytest.raises(QueueError, match="too long"):
            bench.take()


def test_the_longest_chain_of_the_largest_queue_is_served() -> None:
    """32,767 descriptors, then an indirect table of 32,768: 65,535 buffers, the most that 16 bits count."""
    size = MAX_QUEUE_SIZE
    with RingBench(size, max_size=size, ranges=[(0, 8 << 20)]) as bench:
        table = bench.heap.allocate(16 * size)
        table.write(entries(size, 0x100))
        bench.memory.write(bench.ring.descriptor_table, entries(size, 0x200))
        bench.ring.write_descriptor(size - 1, table.address, table.length, VRING_DESC_F_INDIRECT)
        bench.ring.make_available(0)

        (chain,) = bench.take()

        assert chain.readable_length == len(chain.readable) == 2 * size - 1
        assert not chain.writable


def test_a_full_ring_of_the_largest_queue_is_served() -> None:
    size = MAX_QUEUE_SIZE
    with RingBench(size, max_size=size, ranges=[(0, 8 << 20)]) as bench:
        bench.memory.write(bench.ring.descriptor_table, struct.pack("<QIHH", 0x100, 1, 0, 0) * size)
        bench.memory.write(bench.ring.available_ring + 4, b"".join(i.to_bytes(2, "little") for i in range(size)))
        bench.ring.avail_idx = size

        for chain in bench.queue:
            chain.complete(chain.head)
        bench.queue.publish()

        assert bench.ring.used_idx == size
        used = bench.memory.read(bench.ring.used_ring + 4, 8 * size)
        assert list(struct.iter_unpack("<II", used)) == [(head, head) for head in range(size)]


# --- the calls themselves


class Native:
    """Raw calls, without what :class:`Queue` makes of them."""

    def __init__(self, bench: RingBench, max_chains: int = 16, max_buffers: int = 64) -> None:
        self.queue: Any = bench.queue.native
        self.chains: Any = ffi.new("struct pyvmm_chain[]", max(max_chains, 1))
        self.iov: Any = ffi.new("struct iovec[]", max(max_buffers, 1))
        self.addresses: Any = ffi.new("uint64_t[]", max(max_buffers, 1))
        self.max_chains, self.max_buffers = max_chains, max_buffers

    def take(self, *, addresses: bool = True) -> int:
        where = self.addresses if addresses else ffi.NULL
        return int(lib.pyvmm_queue_take(self.queue, self.chains, self.max_chains, self.iov, where, self.max_buffers))


def test_no_more_chains_are_taken_than_there_is_room_for() -> None:
    with RingBench() as bench:
        for _ in range(5):
            bench.ring.add([b"x"])
        native = Native(bench, max_chains=2)
        assert [native.take(), native.take(), native.take(), native.take()] == [2, 2, 1, 0]


def test_room_for_no_chain_takes_none() -> None:
    with RingBench() as bench:
        bench.ring.add([b"x"])
        assert Native(bench, max_chains=0).take() == 0
        assert len(bench.take()) == 1


def test_a_batch_ends_before_the_chain_whose_buffers_do_not_fit() -> None:
    with RingBench() as bench:
        for _ in range(3):
            bench.ring.add([b"x", b"y", b"z"])
        native = Native(bench, max_buffers=7)
        assert [native.take(), native.take()] == [2, 1]
        assert native.chains[0].first == 0


@pytest.mark.parametrize("max_buffers", [0, 2])
def test_a_chain_that_can_never_fit_breaks_a_rule(max_buffers: int) -> None:
    with RingBench() as bench:
        bench.ring.add([b"x", b"y", b"z"])
        assert Native(bench, max_buffers=max_buffers).take() == -lib.PYVMM_RULE_CHAIN_LENGTH


def test_buffers_stand_end_to_end_with_their_guest_addresses() -> None:
    with RingBench() as bench:
        first = bench.ring.add([b"ab"], [3])
        second = bench.ring.add([], [5])
        native = Native(bench)
        assert native.take() == 2
        made = [*first.readable, *first.writable, *second.writable]
        assert [native.addresses[i] for i in range(3)] == [buffer.address for buffer in made]
        assert [native.iov[i].iov_len for i in range(3)] == [2, 3, 5]
        host = bench.memory.host_address(bench.memory.regions[0])
        assert [int(ffi.cast("uintptr_t", native.iov[i].iov_base)) - host for i in range(3)] == [
            buffer.address for buffer in made
        ]
        assert [(native.chains[i].first, native.chains[i].readable, native.chains[i].writable) for i in range(2)] == [
            (0, 1, 1),
            (2, 0, 1),
        ]


def test_guest_addresses_need_not_be_asked_for() -> None:
    with RingBench() as bench:
        bench.ring.add([b"ab"])
        assert Native(bench).take(addresses=False) == 1


def test_what_was_taken_can_be_given_back_from_the_last_one_on() -> None:
    with RingBench() as bench:
        made = [bench.ring.add([b"x"]) for _ in range(3)]
        native = Native(bench)
        assert native.take() == 3
        for chain in reversed(made[1:]):
            lib.pyvmm_queue_untake(native.queue, chain.head)
        assert native.take() == 2
        assert [native.chains[i].head for i in range(2)] == [chain.head for chain in made[1:]]


@pytest.mark.parametrize("head", [5, 16, 0xFFFF])
def test_a_head_that_is_not_in_flight_is_neither_given_back_nor_completed(head: int) -> None:
    with RingBench() as bench:
        before = bench.queue.next_avail
        lib.pyvmm_queue_untake(bench.queue.native, head)
        assert lib.pyvmm_queue_complete(bench.queue.native, head, 0) == -1
        assert bench.queue.next_avail == before
        assert bench.queue.native.next_used == 0


# --- memory


def test_buffers_at_the_ends_of_all_regions_are_served_and_those_over_an_end_are_not() -> None:
    ranges = [(index << 20, PAGE_SIZE) for index in range(1, 8)]
    with RingBench(32, ranges=[(0, 1 << 16), *ranges]) as bench:
        for base, size in ranges:
            bench.ring.write_descriptor(0, base + size - 3, 3, VRING_DESC_F_WRITE)
            bench.ring.make_available(0)
            (chain,) = bench.take()
            chain.write(0, b"end")
            chain.complete(3)
            bench.queue.publish()
            assert bench.memory.read(base + size - 3, 3) == b"end"
        for base, size in ranges:
            for address, length in ((base + size - 3, 4), (base - 1, 1), (base - 1, 2), (base + size, 1)):
                bench.ring.write_descriptor(0, address, length, VRING_DESC_F_WRITE)
                bench.ring.make_available(0)
                with pytest.raises(QueueError, match="a buffer is not in guest memory"):
                    bench.take()
                bench.ring.avail_idx -= 1


def test_neighbouring_regions_are_still_two() -> None:
    with RingBench(ranges=[(0, 1 << 16), (1 << 16, 1 << 16)]) as bench:
        bench.ring.write_descriptor(0, (1 << 16) - 1, 2)
        bench.ring.make_available(0)
        with pytest.raises(QueueError, match="a buffer is not in guest memory"):
            bench.take()


def test_more_regions_than_native_code_knows_are_refused() -> None:
    with pytest.raises(ValueError, match="regions"):
        GuestMemory.create([(index << 20, PAGE_SIZE) for index in range(lib.PYVMM_MAX_REGIONS + 1)])


def test_the_largest_queue_costs_the_host_little(request: pytest.FixtureRequest) -> None:
    """What a driver can make a device hold of host memory: less than 4 MiB a queue."""
    size = MAX_QUEUE_SIZE
    with RingBench(size, max_size=size, ranges=[(0, 8 << 20)]) as bench:
        held = (bench.queue._iov, bench.queue._addresses, bench.queue._chains, bench.queue.native[0])
        assert sum(ffi.sizeof(part) for part in held) < 4 << 20
