"""Who tells whom and when: kicks and interrupts, with EVENT_IDX and without, around the index's end too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.tests.virtio.ring_bench import RingBench

SIZE = 8


@pytest.fixture(params=[False, True], ids=["flags", "event_idx"])
def bench(request: pytest.FixtureRequest) -> Iterator[RingBench]:
    with RingBench(SIZE, event_idx=request.param) as bench:
        yield bench


@pytest.fixture
def flags() -> Iterator[RingBench]:
    with RingBench(SIZE) as bench:
        yield bench


@pytest.fixture
def event_idx() -> Iterator[RingBench]:
    with RingBench(SIZE, event_idx=True) as bench:
        yield bench


def interrupted(bench: RingBench) -> bool:
    return bench.interrupt.drain() > 0


def serve(bench: RingBench, count: int = 1) -> None:
    """Make ``count`` chains available and complete them, without a word to the driver."""
    for _ in range(count):
        bench.ring.make_available(0)
        (chain,) = bench.take()
        chain.complete()


def move_to(bench: RingBench, index: int) -> None:
    """Make it as if ``index`` chains had been served."""
    native = bench.queue.native
    native.next_avail = native.next_used = native.published = index
    bench.memory.write_u16(bench.ring.used_ring + 2, index)
    bench.ring.avail_idx = index
    bench.ring._kicked_idx = bench.ring._last_used = index
    bench.ring.write_descriptor(0, 0x8000, 4)


# --- what the driver is told


def test_completed_chains_are_seen_when_they_are_published(bench: RingBench) -> None:
    bench.ring.add([b"a"])
    bench.ring.add([b"b"])
    first, second = bench.take()
    second.complete()
    first.complete()
    assert bench.ring.take_used() == []
    bench.queue.publish()
    assert [used.head for used in bench.ring.take_used()] == [second.head, first.head]
    assert interrupted(bench)


def test_one_interrupt_is_enough_for_a_batch(bench: RingBench) -> None:
    for _ in range(SIZE):
        bench.ring.add([b"a"])
    for chain in bench.queue:
        chain.complete()
    bench.queue.publish()
    assert bench.interrupt.drain() == 1


def test_nothing_to_publish_is_no_interrupt(bench: RingBench) -> None:
    bench.ring.add([b"a"])
    bench.take()
    bench.queue.publish()
    bench.queue.publish()
    assert not interrupted(bench)
    assert bench.ring.used_idx == 0


def test_the_bytes_that_were_written_are_in_the_used_ring(bench: RingBench) -> None:
    bench.ring.add([b"a"], [10])
    (chain,) = bench.take()
    chain.complete(chain.write(0, b"1234567"))
    bench.queue.publish()
    (used,) = bench.ring.take_used()
    assert used.length == 7
    assert used.chain is not None
    assert used.chain.written()[:7] == b"1234567"


def test_a_chain_cannot_be_completed_twice(bench: RingBench) -> None:
    bench.ring.add([b"a"])
    (chain,) = bench.take()
    chain.complete()
    with pytest.raises(RuntimeError, match="was completed before"):
        chain.complete()


def test_no_interrupt_flag_suppresses_interrupts(flags: RingBench) -> None:
    flags.ring.write_descriptor(0, 0x8000, 4)
    flags.ring.interrupts = False
    serve(flags)
    flags.queue.publish()
    assert not interrupted(flags)

    flags.ring.interrupts = True
    serve(flags)
    flags.queue.publish()
    assert interrupted(flags)


def test_with_event_idx_the_no_interrupt_flag_says_nothing(event_idx: RingBench) -> None:
    event_idx.ring.write_descriptor(0, 0x8000, 4)
    event_idx.ring.interrupts = False
    event_idx.ring.used_event = 0
    serve(event_idx)
    event_idx.queue.publish()
    assert interrupted(event_idx)


@pytest.mark.parametrize("start", [0, 1, 65535 - SIZE, 65533, 65534, 65535])
@pytest.mark.parametrize("count", [1, 2, SIZE])
def test_with_event_idx_there_is_an_interrupt_when_the_used_index_passes_the_event(start: int, count: int) -> None:
    for distance in range(-2, count + 3):
        with RingBench(SIZE, event_idx=True) as bench:
            move_to(bench, start)
            bench.ring.used_event = start + distance

            serve(bench, count)
            bench.queue.publish()

            # The entry with index used_event is among the new ones (section 2.7.7.2).
            assert interrupted(bench) == (0 <= distance < count), distance


def test_with_event_idx_a_driver_that_does_not_look_is_interrupted_once(event_idx: RingBench) -> None:
    event_idx.ring.write_descriptor(0, 0x8000, 4)
    interrupts = 0
    for _ in range(3 * SIZE):
        serve(event_idx)
        event_idx.queue.publish()
        interrupts += event_idx.interrupt.drain()
    assert interrupts == 1


# --- what the device is told


def test_an_empty_ring_asks_for_a_kick(bench: RingBench) -> None:
    assert bench.take() == []
    bench.ring.add([b"a"])
    assert bench.ring.kick()
    assert bench.queue.event.drain() == 1


def test_while_the_device_is_at_work_it_wants_no_kick(bench: RingBench) -> None:
    bench.take()
    bench.ring.add([b"a"])
    bench.ring.kick()
    assert bench.queue.pop() is not None

    bench.ring.add([b"b"])
    assert not bench.ring.kick()

    assert bench.queue.pop() is not None
    assert bench.queue.pop() is None
    bench.ring.add([b"c"])
    assert bench.ring.kick()


def test_a_chain_that_came_with_the_last_look_is_not_missed(bench: RingBench) -> None:
    from pyvmm._native import lib

    assert lib.pyvmm_queue_enable_kick(bench.queue.native) == 0
    bench.ring.add([b"a"])
    assert lib.pyvmm_queue_enable_kick(bench.queue.native) == 1
    assert bench.queue.pop() is not None


@pytest.mark.parametrize("start", [0, 65535 - SIZE, 65533, 65534, 65535])
def test_around_the_end_of_the_index_every_kick_comes_and_none_is_lost(start: int) -> None:
    for event_idx in (False, True):
        with RingBench(SIZE, event_idx=event_idx) as bench:
            move_to(bench, start)
            assert bench.take() == []
            for _ in range(3 * SIZE):
                bench.ring.add([b"a"])
                assert bench.ring.kick(), bench.ring.avail_idx
                (chain,) = bench.take()
                chain.complete()
                bench.queue.publish()
                (used,) = bench.ring.take_used()
                assert used.head == chain.head


@pytest.mark.parametrize("start", [65535 - SIZE // 2, 65535])
def test_a_full_ring_is_taken_around_the_end_of_the_index(start: int) -> None:
    with RingBench(SIZE) as bench:
        move_to(bench, start)
        made = [bench.ring.add([bytes([i])]) for i in range(SIZE)]
        chains = bench.take()
        assert [chain.head for chain in chains] == [chain.head for chain in made]
        for chain in chains:
            chain.complete()
        bench.queue.publish()
        assert bench.ring.used_idx == (start + SIZE) & 0xFFFF
        assert [used.head for used in bench.ring.take_used()] == [chain.head for chain in made]


def test_iteration_lets_others_have_their_turn(bench: RingBench) -> None:
    bench.ring.write_descriptor(0, 0x8000, 4)
    bench.ring.make_available(0)
    served = 0
    for chain in bench.queue:
        chain.complete()
        bench.queue.publish()
        bench.ring.make_available(0)  # a driver that is as fast as the device
        served += 1
    assert served == 2 * SIZE
    assert bench.queue.event.drain() == 1  # the queue's own kick: there is more


def test_the_queue_says_how_far_it_has_come(bench: RingBench) -> None:
    for _ in range(3):
        bench.ring.add([b"a"])
    assert bench.queue.next_avail == 0
    chain = bench.queue.pop()
    assert chain is not None
    assert bench.queue.next_avail == 1
    bench.queue.unpop(chain)
    assert bench.queue.next_avail == 0
