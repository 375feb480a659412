"""Messages both ways in one call, for as long as nothing else has work."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap
from pyvmm.testing.waiting import PATIENCE
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.messages import BothWays, FromDescriptor, Stop, ToDescriptor
from pyvmm.virtio.queue import Queue, QueueError

MEMORY = 16 << 20


class Loop(EventLoop):
    """Says that there is time, as one that runs."""

    def idle_until(self) -> int:
        return time.monotonic_ns() + 50_000_000


class Bench:
    """Two queues, and a pair of sockets that keep messages apart: ``far`` is the test's end."""

    def __init__(self) -> None:
        self.memory = GuestMemory.create([(0, MEMORY)])
        heap = GuestHeap(self.memory, 0, MEMORY)
        self.interrupt = Interrupt(EventFd())
        self.loop = Loop()
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.rings = [DriverRing(heap, size=256) for _ in range(2)]
        self.queues = [Queue(index, 256, EventFd()) for index in range(2)]
        for end in (self.near, self.far):
            end.setblocking(False)
        for ring, queue in zip(self.rings, self.queues, strict=True):
            ring.connect(queue)
            queue.activate(self.memory, self.interrupt, False, False)
            self.loop.add(queue.event.fd, lambda ready: None)
        self.loop.add(self.near.fileno(), lambda ready: None)
        self.to = ToDescriptor(self.queues[0], self.near.fileno(), min_size=1, max_size=65536)
        self.back = FromDescriptor(self.queues[1], self.near.fileno(), min_size=1, max_size=2000)
        self.both = BothWays(self.to, self.back, self.loop)
        self.both._native.max_ms = 60_000  # a machine that is busy with others is no reason to return

    def post(self, count: int) -> None:
        for _ in range(count):
            self.rings[1].add([], [2000])

    def received(self) -> list[bytes]:
        done = []
        for used in self.rings[1].take_used():
            assert used.chain is not None
            done.append(used.chain.written()[: used.length])
        return done

    def close(self) -> None:
        for each in (self.loop, self.near, self.far, self.interrupt.event, *(queue.event for queue in self.queues)):
            each.close()
        self.memory.close()


@pytest.fixture(params=[1, 2], ids=["one CPU", "two CPUs"])
def b(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(request.param)))
    bench = Bench()
    yield bench
    bench.close()


def test_both_directions_are_moved_and_the_driver_is_told(b: Bench) -> None:
    b.post(3)
    b.rings[0].add([b"out"])
    b.far.send(b"in")

    assert b.both.move() == (Stop.EMPTY, Stop.WAIT)

    assert b.far.recv(100) == b"out"
    assert b.received() == [b"in"]
    assert b.interrupt.used_signals == 1  # one line is for both
    assert b.interrupt.event.drain() == 1


def test_each_line_is_signalled_where_the_directions_have_their_own(b: Bench) -> None:
    with closing(EventFd()) as own:
        b.queues[1].interrupt = back = Interrupt(own)
        b.post(1)
        b.rings[0].add([b"out"])
        b.far.send(b"in")

        b.both.move()

        assert (b.interrupt.event.drain(), own.drain()) == (1, 1)
        assert (b.interrupt.used_signals, back.used_signals) == (1, 1)


def test_what_comes_while_it_waits_is_moved_without_a_return(b: Bench) -> None:
    b.post(200)
    answers = 0

    def answer() -> None:
        nonlocal answers
        b.far.setblocking(True)
        b.far.settimeout(PATIENCE)
        while b.far.recv(100) != b"end":
            answers += 1
            b.far.send(b"answer")

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(50):
        b.rings[0].add([b"ask"])
        b.rings[0].kick()
        assert b.both.move() == (Stop.EMPTY, Stop.WAIT)
    b.rings[0].add([b"end"])
    b.both.move()
    thread.join()
    b.both.move()

    assert answers == 50
    assert b.received() == [b"answer"] * 50


@pytest.mark.parametrize("kick", [0, 1])
def test_kicks_are_taken(b: Bench, kick: int) -> None:
    b.post(1)
    b.queues[kick].event.signal()

    b.both.move()

    assert b.queues[kick].event.drain() == 0


def test_what_is_others_is_left_to_them(b: Bench) -> None:
    b.post(10)
    with closing(EventFd()) as other:
        b.loop.add(other.fd, lambda ready: None)
        other.signal()
        b.both.move()
        assert other.drain() == 1
        b.loop.remove(other.fd)


def test_end_of_buffers_and_full_descriptor_are_told(b: Bench) -> None:
    looks_again = len(os.sched_getaffinity(0)) > 1  # and has not asked the driver to kick yet
    assert b.both.move() == (Stop.BUDGET if looks_again else Stop.EMPTY, Stop.EMPTY)
    b.post(1)
    b.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    for _ in range(100):
        b.rings[0].add([b"x" * 1000])
    assert b.both.move() == (Stop.WAIT, Stop.WAIT)


@pytest.mark.parametrize("queue", [0, 1])
def test_broken_ring(b: Bench, queue: int) -> None:
    b.post(1)
    b.memory.write_u16(b.rings[queue].available_ring + 2, 1000)

    with pytest.raises(QueueError, match="available index"):
        b.both.move()


def test_paused_queue_is_left_alone(b: Bench) -> None:
    b.post(1)
    b.rings[0].add([b"out"])
    b.queues[0].paused = True

    assert b.both.move() == (Stop.EMPTY, Stop.WAIT)
    b.queues[0].paused = False
    b.both.move()
    assert b.far.recv(100) == b"out"
