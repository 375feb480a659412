"""A chain's bytes: read, written, and cut into views, whatever buffers they are in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tests.virtio.ring_bench import RingBench

READABLE = [b"ab", b"c", b"defgh"]
WRITABLE = [3, 1, 4]


@pytest.fixture(params=[False, True], ids=["direct", "indirect"])
def bench(request: pytest.FixtureRequest) -> Iterator[RingBench]:
    with RingBench() as bench:
        bench.ring.indirect = request.param
        yield bench


def test_a_chain_has_its_buffers_in_order(bench: RingBench) -> None:
    bench.ring.add(READABLE, WRITABLE)
    (chain,) = bench.take()
    assert [bytes(view) for view in chain.readable] == READABLE
    assert [len(view) for view in chain.writable] == WRITABLE
    assert (chain.readable_length, chain.writable_length) == (8, 8)


@pytest.mark.parametrize(("readable", "writable"), [([b"only"], []), ([], [7])])
def test_a_chain_may_have_buffers_of_one_sort(bench: RingBench, readable: list[bytes], writable: list[int]) -> None:
    bench.ring.add(readable, writable)
    (chain,) = bench.take()
    assert (chain.read(0, 100), chain.writable_length) == (b"".join(readable), sum(writable))


@pytest.mark.parametrize("offset", range(10))
def test_any_part_can_be_read(bench: RingBench, offset: int) -> None:
    bench.ring.add(READABLE)
    (chain,) = bench.take()
    whole = b"".join(READABLE)
    for length in range(12):
        assert chain.read(offset, length) == whole[offset : offset + length]


@pytest.mark.parametrize("offset", range(10))
def test_any_part_can_be_written(bench: RingBench, offset: int) -> None:
    made = bench.ring.add([], WRITABLE)
    (chain,) = bench.take()
    data = b"0123456789ab"
    room = max(0, 8 - offset)
    assert chain.write(offset, data) == min(room, len(data))
    expected = (b"\xa5" * min(offset, 8) + data)[:8]
    assert made.written() == expected


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), offset=st.integers(0, 60), length=st.integers(0, 60))
def test_views_end_to_end_are_the_part_that_was_asked_for(sizes: list[int], offset: int, length: int) -> None:
    with RingBench() as bench:
        content = bytes(range(sum(sizes)))
        parts, start = [], 0
        for size in sizes:
            parts.append(content[start : start + size])
            start += size
        bench.ring.add(parts, sizes)
        (chain,) = bench.take()
        assert b"".join(chain.readable_views(offset, length)) == content[offset : offset + length]
        assert sum(map(len, chain.writable_views(offset, length))) == len(content[offset : offset + length])
        assert all(len(view) for view in chain.readable_views(offset, length))


def test_what_was_read_is_a_copy(bench: RingBench) -> None:
    made = bench.ring.add([b"before"])
    (chain,) = bench.take()
    copy = chain.read(0, 6)
    made.readable[0].write(b"after!")
    assert copy == b"before"
    assert bytes(chain.readable[0]) == b"after!"


def test_a_chain_that_was_put_back_comes_again_and_first(bench: RingBench) -> None:
    for _ in range(3):
        bench.ring.add([b"x"])
    first = bench.queue.pop()
    assert first is not None
    bench.queue.unpop(first)
    again = bench.take()
    assert again[0] is first
    assert len(again) == 3


def test_a_reset_forgets_chains_and_what_is_done_with_them_later(bench: RingBench) -> None:
    bench.ring.add([b"old"])
    bench.ring.add([b"older"])
    first, second = bench.take()
    bench.queue.reset()
    assert bench.queue.pop() is None

    bench.ring.connect(bench.queue)
    bench.ring.avail_idx = 0
    bench.memory.write_u16(bench.ring.used_ring + 2, 0)
    bench.activate()
    first.complete()
    bench.queue.unpop(second)
    bench.queue.publish()

    assert bench.ring.used_idx == 0
    assert bench.queue.pop() is None
