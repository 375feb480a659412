"""Messages between a ring and a stream socket, each behind its length."""

from __future__ import annotations

import errno
import random
import socket
import struct
from collections.abc import Iterator

import pytest
from pyvmm.host.eventfd import EventFd
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.messages import FromDescriptor, Stop, Stream, ToDescriptor
from pyvmm.virtio.queue import Queue

MEMORY = 16 << 20
HEADER = 12
MAX_SIZE = 3000


class Bench:
    """A queue, its driver, and a stream: ``far`` is the test's end."""

    def __init__(self) -> None:
        self.memory = GuestMemory.create([(0, MEMORY)])
        self.ring = DriverRing(GuestHeap(self.memory, 0, MEMORY), size=256)
        self.queue = Queue(0, 256, EventFd())
        self.ring.connect(self.queue)
        self.interrupt = EventFd()
        self.queue.activate(self.memory, Interrupt(self.interrupt), False, False)
        self.near, self.far = socket.socketpair()
        for end in (self.near, self.far):
            end.setblocking(False)
        self.stream = Stream(self.near.fileno(), header=HEADER, max_size=MAX_SIZE)
        limits = {"min_size": HEADER, "max_size": HEADER + MAX_SIZE}
        self.to = ToDescriptor(self.queue, self.stream, **limits)
        self.merged = FromDescriptor(self.queue, self.stream, merge=True, count_offset=10, **limits)

    def receive(self) -> bytes:
        """All that has come out at the far end."""
        data = b""
        while True:
            try:
                part = self.far.recv(1 << 20)
            except BlockingIOError:
                return data
            if not part:
                return data
            data += part

    def written(self) -> list[bytes]:
        done = []
        for used in self.ring.take_used():
            assert used.chain is not None
            done.append(used.chain.written()[: used.length])
        return done

    def close(self) -> None:
        for each in (self.near, self.far, self.queue.event, self.interrupt, self.memory):
            each.close()


@pytest.fixture
def b() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(message)) + message for message in messages)


def test_message_goes_without_its_header_and_with_its_length(b: Bench) -> None:
    b.ring.add([bytes(HEADER), b"one"])
    b.ring.add([bytes(HEADER) + b"tw", b"o"])
    b.ring.add([bytes(5), bytes(HEADER - 5) + b"th", b"ree"])
    b.ring.add([bytes(HEADER)])

    assert b.to.move() is Stop.EMPTY

    assert b.receive() == framed(b"one", b"two", b"three", b"")
    assert b.written() == [b""] * 4


def test_message_comes_with_a_header_of_zeros(b: Bench) -> None:
    for _ in range(10):
        b.ring.add([], [2000])
    b.far.sendall(framed(b"one", b"", b"x" * MAX_SIZE))

    assert b.merged.move() is Stop.WAIT

    one, empty, *large = b.written()
    assert one == bytes(10) + b"\1\0" + b"one"
    assert empty == bytes(10) + b"\1\0"
    assert b"".join(large) == bytes(10) + b"\2\0" + b"x" * MAX_SIZE


def test_header_may_be_cut_over_buffers(b: Bench) -> None:
    for _ in range(3):
        b.ring.add([], [5, 3, 5, 1, 4000])
    b.far.sendall(framed(b"abcdefgh"))

    b.merged.move()

    assert b.written() == [bytes(10) + b"\1\0" + b"abcdefgh"]


def test_messages_come_in_any_pieces(b: Bench) -> None:
    choose = random.Random(3)
    messages = [bytes([number]) * choose.choice([0, 1, 60, 1500, MAX_SIZE]) for number in range(100)]
    data = framed(*messages)
    got: list[bytes] = []
    parts: list[bytes] = []
    while data or len(got) < len(messages):
        size = choose.choice([1, 3, 4, 100, 5000])
        sent, data = data[:size], data[size:]
        b.far.sendall(sent)
        while b.ring.in_flight < 20:
            b.ring.add([], [1600])
        while b.merged.move() is Stop.BUDGET:
            pass
        parts += b.written()
        while parts:
            count = int.from_bytes(parts[0][10:12], "little")
            if len(parts) < count:
                break
            got.append(b"".join(parts[:count])[HEADER:])
            parts = parts[count:]

    assert got == messages


def test_full_socket_keeps_the_rest_of_a_message(b: Bench) -> None:
    b.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    messages = [bytes([number]) * (1000 + 17 * number) for number in range(100)]
    for message in messages:
        b.ring.add([bytes(HEADER) + message])

    got = b""
    stop = b.to.move()
    assert stop is Stop.WAIT
    for _ in range(1000):
        got += b.receive()
        if stop is Stop.EMPTY:
            break
        stop = b.to.move()

    assert got + b.receive() == framed(*messages)
    assert len(b.written()) == len(messages)


def test_what_was_read_and_has_no_room_is_told(b: Bench) -> None:
    b.far.sendall(framed(b"one", b"two"))
    b.ring.add([], [4000])

    assert b.merged.move() is Stop.EMPTY
    assert b.stream.has_more
    b.ring.add([], [4000])
    b.merged.move()
    assert not b.stream.has_more
    assert [message[HEADER:] for message in b.written()] == [b"one", b"two"]


@pytest.mark.parametrize("length", [MAX_SIZE + 1, 0xFFFFFFFF])
def test_message_that_is_too_long_ends_the_stream(b: Bench, length: int) -> None:
    b.ring.add([], [4000])
    b.far.sendall(framed(b"one") + struct.pack(">I", length) + bytes(100))

    b.ring.add([], [4000])
    assert b.merged.move() is Stop.ERROR
    assert b.merged.error == errno.EPROTO
    assert [message[HEADER:] for message in b.written()] == [b"one"]


def test_end_of_the_stream(b: Bench) -> None:
    b.ring.add([], [4000])
    b.far.close()

    assert b.merged.move() is Stop.ERROR
    assert b.merged.error == errno.ECONNRESET


def test_message_for_a_stream_that_has_ended_is_dropped(b: Bench) -> None:
    b.far.close()
    b.ring.add([bytes(HEADER) + b"one"])

    assert b.to.move() is Stop.EMPTY
    assert (b.to.messages, b.to.dropped, b.to.error) == (0, 1, errno.EPIPE)
