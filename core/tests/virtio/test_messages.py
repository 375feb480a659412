"""Messages between a ring and a descriptor: one end of a pair of sockets that keep messages apart."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyvmm.host.eventfd import EventFd
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestBuffer, GuestHeap
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.messages import MAX_BYTES, MAX_MESSAGES, FromDescriptor, Stop, ToDescriptor
from pyvmm.virtio.queue import Queue, QueueError

MEMORY = 16 << 20


class Bench:
    """A queue, its driver, and a pair of sockets: ``near`` for the device, ``far`` for the test."""

    def __init__(self, size: int = 256, max_size: int = 1024, event_idx: bool = False, indirect: bool = False) -> None:
        self.memory = GuestMemory.create([(0, MEMORY)])
        self.heap = GuestHeap(self.memory, 0, MEMORY)
        self.ring = DriverRing(self.heap, size=size, event_idx=event_idx)
        self.queue = Queue(0, max_size, EventFd())
        self.ring.connect(self.queue)
        self.interrupt = EventFd()
        self.queue.activate(self.memory, Interrupt(self.interrupt), event_idx, indirect)
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.near, self.far):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def to_descriptor(self, min_size: int = 1, max_size: int = 65536) -> ToDescriptor:
        return ToDescriptor(self.queue, self.near.fileno(), min_size=min_size, max_size=max_size)

    def from_descriptor(self, min_size: int = 4, max_size: int = 2048, **options: int) -> FromDescriptor:
        return FromDescriptor(self.queue, self.near.fileno(), min_size=min_size, max_size=max_size, **options)  # type: ignore[arg-type]

    def sent(self) -> list[bytes]:
        """What has come out at the far end."""
        messages = []
        while True:
            try:
                messages.append(self.far.recv(1 << 20))
            except BlockingIOError:
                return messages

    def used(self) -> list[bytes]:
        """What the device has written, chain by chain."""
        done = []
        for used in self.ring.take_used():
            assert used.chain is not None
            done.append(used.chain.written()[: used.length])
        return done

    def close(self) -> None:
        self.near.close()
        self.far.close()
        self.queue.event.close()
        self.interrupt.close()
        self.memory.close()


@contextmanager
def bench(**options: int) -> Iterator[Bench]:
    one = Bench(**options)  # type: ignore[arg-type]
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def b() -> Iterator[Bench]:
    with bench() as one:
        yield one


def test_each_chain_is_one_message(b: Bench) -> None:
    b.ring.add([b"one"])
    b.ring.add([b"t", b"w", b"o"])
    b.ring.add([b"3"], [100])

    assert b.to_descriptor().move() == Stop.EMPTY

    assert b.sent() == [b"one", b"two", b"3"]
    assert b.used() == [b"", b"", b""]
    assert b.interrupt.drain()
    assert b.ring.add([b"more"]) and b.ring.kick(), "at the end the device asks for a kick"


def test_message_of_wrong_size_or_for_the_device_to_write_is_dropped(b: Bench) -> None:
    mover = b.to_descriptor(min_size=3, max_size=5)
    for message in (b"12", b"123", b"12345", b"123456"):
        b.ring.add([message])
    b.ring.add([], [100])

    mover.move()

    assert b.sent() == [b"123", b"12345"]
    assert (mover.messages, mover.dropped) == (2, 3)
    assert len(b.used()) == 5


def test_message_that_the_descriptor_refuses_is_dropped(b: Bench) -> None:
    mover = b.to_descriptor()
    b.far.close()
    b.ring.add([b"one"])

    assert mover.move() == Stop.EMPTY

    assert (mover.messages, mover.dropped, mover.error) == (0, 1, errno.EPIPE)
    assert b.used() == [b""]


@pytest.mark.parametrize("event_idx", [False, True])
def test_full_descriptor_loses_and_repeats_nothing(event_idx: bool) -> None:
    with bench(event_idx=event_idx) as b:
        b.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        mover = b.to_descriptor()
        messages = [b"%04d" % i * 100 for i in range(200)]
        for message in messages:
            b.ring.add([message])

        got, stops = [], set()
        for _ in range(1000):
            stops.add(mover.move())
            got += b.sent()
            if len(got) == len(messages):
                break

        assert got == messages
        assert Stop.WAIT in stops and mover.dropped == 0
        assert len(b.used()) == len(messages)


def test_one_call_has_a_budget_of_messages() -> None:
    with bench(size=1024) as b:
        mover = b.to_descriptor()
        for _ in range(MAX_MESSAGES + 10):
            b.ring.add([b"x"])

        assert mover.move() == Stop.BUDGET
        assert len(b.sent()) == MAX_MESSAGES
        assert mover.move() == Stop.EMPTY
        assert len(b.sent()) == 10


def test_one_call_has_a_budget_of_bytes(b: Bench) -> None:
    mover = b.to_descriptor(max_size=1000)
    large = b.ring.buffer(MAX_BYTES // 4)
    for _ in range(10):
        b.ring.add([large])

    assert mover.move() == Stop.BUDGET
    assert mover.dropped == 4


def test_chain_of_more_buffers_than_one_call_of_the_kernel_takes_is_dropped() -> None:
    with bench(size=2048, max_size=2048) as b:
        mover = b.to_descriptor()
        b.ring.add([b"x"] * 1024)
        b.ring.add([b"x"] * 1020)
        b.ring.add([b"end"])
        mover.move()
        assert [len(message) for message in b.sent()] == [1024, 1020, 3]
        b.used()
        b.ring.add([b"x"] * 1025)
        b.ring.add([b"end"])

        mover.move()

        assert b.sent() == [b"end"]
        assert (mover.dropped, mover.error) == (1, errno.EINVAL)


def test_broken_rule_ends_the_call_after_what_came_before(b: Bench) -> None:
    b.ring.add([b"one"])
    b.ring.add([GuestBuffer(b.memory, MEMORY, 10)])

    with pytest.raises(QueueError, match="a buffer is not in guest memory"):
        b.to_descriptor().move()

    assert b.sent() == [b"one"]
    assert b.used() == [b""]


def test_queue_that_is_not_active_is_empty(b: Bench) -> None:
    sending, receiving = b.to_descriptor(), b.from_descriptor()
    b.ring.add([b"one"])
    b.queue.reset()

    assert sending.move() == Stop.EMPTY
    assert receiving.move() == Stop.EMPTY
    assert b.sent() == []


def test_message_goes_over_the_buffers_of_one_chain(b: Bench) -> None:
    b.ring.add([], [3, 1, 2000])
    b.far.send(b"message")

    assert b.from_descriptor().move() == Stop.EMPTY

    assert b.used() == [b"message"]
    assert b.interrupt.drain()


def test_descriptor_without_messages_leaves_the_ring_as_it_was(b: Bench) -> None:
    for _ in range(10):
        b.ring.add([], [100])
    mover = b.from_descriptor(merge=True)

    for _ in range(3):
        assert mover.move() == Stop.WAIT

    assert b.queue.next_avail == 0
    assert b.ring.used_idx == 0
    assert not b.interrupt.drain()


def test_message_larger_than_its_chain_is_dropped_and_the_chain_kept(b: Bench) -> None:
    mover = b.from_descriptor()
    b.ring.add([], [8])
    b.far.send(b"123456789")
    b.far.send(b"12345678")

    mover.move()

    assert b.used() == [b"12345678"]
    assert (mover.messages, mover.dropped) == (1, 1)


def test_message_that_is_too_short_is_dropped(b: Bench) -> None:
    mover = b.from_descriptor()
    b.ring.add([], [8])
    b.far.send(b"123")
    b.far.send(b"1234")

    mover.move()

    assert b.used() == [b"1234"]


def test_count_and_cleared_bytes_are_stored_wherever_buffers_are_cut(b: Bench) -> None:
    for cut in range(1, 8):
        b.ring.add([], [cut, 8 - cut])
        b.far.send(b"abcdefgh")

    b.from_descriptor(min_size=6, count_offset=4, clear=3).move()

    assert b.used() == [b"\0\0\0d\1\0gh"] * 7


def test_descriptor_that_fails_is_reported(b: Bench) -> None:
    read_end, write_end = os.pipe()
    try:
        mover = FromDescriptor(b.queue, write_end, min_size=4, max_size=100)
        b.ring.add([], [100])

        assert mover.move() == Stop.ERROR

        assert mover.error == errno.EBADF
        assert b.queue.next_avail == 0
    finally:
        os.close(read_end)
        os.close(write_end)


def test_chains_without_use_are_given_back_and_have_a_budget() -> None:
    with bench(size=1024) as b:
        mover = b.from_descriptor()
        for _ in range(MAX_MESSAGES + 1):
            b.ring.add([], [3])
        b.ring.add([b"read"], [100])
        b.ring.add([], [100])
        b.far.send(b"1234")

        assert mover.move() == Stop.BUDGET
        assert b.used() == [b""] * MAX_MESSAGES
        assert mover.move() == Stop.EMPTY
        assert b.used() == [b"", b"", b"1234"]


def test_merged_message_takes_more_chains_than_one_call_of_the_kernel_has_buffers() -> None:
    """1024 chains of 4 bytes: 1023 of them can be read into at once."""
    with bench(size=1024) as b:
        mover = b.from_descriptor(max_size=65536, merge=True)
        for _ in range(1024):
            b.ring.add([], [4])
        b.far.send(bytes(4 * 1023 + 1))
        b.far.send(b"x" * 4 * 1023)

        mover.move()

        assert mover.dropped == 1
        assert b"".join(b.used()) == b"x" * 4 * 1023


def test_merged_message_waits_while_the_driver_holds_most_chains_back(b: Bench) -> None:
    mover = b.from_descriptor(max_size=1000, merge=True)
    for _ in range(10):
        b.ring.add([], [100])
    for _ in range(8):
        b.far.send(b"1234")

    assert mover.move() == Stop.EMPTY
    assert len(b.used()) == 6, "at 5 of 10 the last is read"
    b.ring.add([], [900])
    assert b.ring.kick()
    assert mover.move() == Stop.WAIT
    assert b.used() == [b"1234"] * 2


@pytest.mark.parametrize("options", [{"count_offset": 3}, {"clear": 5}])
def test_nothing_is_stored_outside_a_message(b: Bench, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="within its shortest"):
        b.from_descriptor(min_size=4, **options)


@given(
    chains=st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=5), min_size=1, max_size=60),
    sizes=st.lists(st.integers(4, 1500), max_size=40),
    merge=st.booleans(),
    event_idx=st.booleans(),
)
@settings(deadline=None)
def test_what_arrives_is_what_was_sent(chains: list[list[int]], sizes: list[int], merge: bool, event_idx: bool) -> None:
    """Whatever the chains: each message arrives once, whole and in order, or not at all."""
    with bench(event_idx=event_idx) as b:
        mover = b.from_descriptor(max_size=1500, merge=merge, count_offset=2)
        posted = 0
        waiting = list(chains)
        for number, size in enumerate(sizes):
            b.far.send((number.to_bytes(2, "little") + b"\0\0" + bytes([number]) * size)[:size])
            if waiting and len(b.ring._free) > 5:
                b.ring.add([], waiting.pop(0))
                posted += 1
            mover.move()
        while waiting and len(b.ring._free) > 5:
            b.ring.add([], waiting.pop(0))
            posted += 1
            mover.move()

        parts = [part for part in b.used() if part]
        numbers = []
        while parts:
            number, count = int.from_bytes(parts[0][:2], "little"), int.from_bytes(parts[0][2:4], "little")
            message, parts = b"".join(parts[:count]), parts[count:]
            assert count == 1 or merge
            assert message[4:] == bytes([number]) * (sizes[number] - 4)
            numbers.append(number)
        assert numbers == sorted(set(numbers))
        assert mover.messages == len(numbers)
        assert b.queue.next_avail == b.ring.used_idx, "every chain is back in the ring or used"
