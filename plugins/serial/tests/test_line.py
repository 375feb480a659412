"""The cable between the UART and the host: its bounds, and who is told what."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm_serial.cable import INPUT_LIMIT, OUTPUT_FULL, OUTPUT_LIMIT, OUTPUT_ROOM, Line


class Host:
    """An output that takes ``room`` bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.got = bytearray()
        self.callback: Callable[[int], None] | None = None

    def write(self, data: bytes) -> int:
        taken = data[: self.room]
        self.room -= len(taken)
        self.got += taken
        return len(taken)

    def watch(self, loop: LoopScope, callback: Callable[[int], None]) -> bool:
        self.callback = callback
        return True

    def unwatch(self, loop: LoopScope) -> None:
        self.callback = None


class Port:
    def __init__(self) -> None:
        self.transmitter, self.receiver, self.resumed = 0, 0, 0
        self.send_all: Callable[[], object] = lambda: None

    def transmitter_ready(self) -> None:
        self.transmitter += 1

    def receiver_ready(self) -> None:
        self.receiver += 1

    def resume(self) -> None:
        self.resumed += 1


class Wired:
    def __init__(self) -> None:
        self.loop, self.line, self.port = EventLoop(), Line(), Port()
        self.line.attach(self.port, LoopScope(self.loop, self._raise), self.port.resume)

    def host(self, room: int) -> Host:
        host = Host(room)
        self.line.connect(host)
        return host

    def turn(self) -> None:
        """Run what was posted to the loop."""
        while self.loop.run_once(0):
            pass

    @staticmethod
    def _raise(error: BaseException) -> None:
        raise error


@pytest.fixture(name="w")
def _wired() -> Iterator[Wired]:
    wired = Wired()
    yield wired
    wired.loop.close()


def test_output_is_with_the_host_at_once(w: Wired) -> None:
    host = w.host(room=10)

    w.line.send(b"hello")

    assert host.got == b"hello"
    assert not w.loop.run_once(0)  # and the loop was not woken


def test_output_without_a_host_is_lost_and_never_full(w: Wired) -> None:
    for _ in range(100):
        w.line.send(bytes(8192))

    assert not w.line.full


def test_output_that_the_host_does_not_take_is_kept_in_order(w: Wired) -> None:
    host = w.host(room=3)
    w.line.send(b"hel")
    w.line.send(b"lo ")
    host.room = 2
    w.turn()
    assert host.callback is not None
    host.callback(0)
    assert host.got == b"hello"
    w.line.send(b"you")
    assert host.got == b"hello"

    host.room = 100
    host.callback(0)

    assert host.got == b"hello you"
    assert host.callback is None


def test_output_is_bounded_and_the_first_of_it_is_kept(w: Wired) -> None:
    host = w.host(room=0)
    sent = bytes(i % 251 for i in range(OUTPUT_LIMIT + 1000))
    for at in range(0, len(sent), 500):
        w.line.send(sent[at : at + 500])
    assert w.line.lost == 1000

    host.room = 1 << 30
    w.line.drain(lambda: False)

    assert host.got == sent[:OUTPUT_LIMIT]


def test_the_end_of_a_line_begins_with_what_the_uart_still_holds(w: Wired) -> None:
    host = w.host(room=0)
    w.line.send(b"written, ")
    w.port.send_all = lambda: w.line.send(b"and collected")

    host.room = 1 << 30
    w.line.drain(lambda: False)

    assert host.got == b"written, and collected"


def test_full_from_the_mark_on_until_there_is_room(w: Wired) -> None:
    host = w.host(room=0)
    w.line.send(bytes(OUTPUT_FULL - 1))
    assert not w.line.full
    w.line.send(b"x")
    assert w.line.full
    host.room = OUTPUT_ROOM - 1
    w.line.flush()
    assert w.line.full and w.port.transmitter == 0

    host.room = 1
    w.line.flush()

    assert not w.line.full and w.port.transmitter == 1


def test_disconnecting_makes_room(w: Wired) -> None:
    w.host(room=0)
    w.line.send(bytes(OUTPUT_FULL))
    assert w.line.full

    w.line.disconnect()

    assert not w.line.full and w.port.transmitter == 1
    assert w.host(room=100).got == b""


def test_a_second_host_gets_nothing_of_the_first_ones(w: Wired) -> None:
    w.host(room=0)
    w.line.send(b"for the first")
    w.line.disconnect()

    second = w.host(room=100)
    w.line.send(b"for the second")
    w.turn()

    assert second.got == b"for the second"


def test_input_is_taken_as_wanted(w: Wired) -> None:
    w.line.deliver(b"hello")

    assert (w.line.take(2), w.line.take(16), w.line.take(16)) == (b"he", b"llo", b"")


def test_port_hears_of_input_only_where_there_was_none(w: Wired) -> None:
    w.line.deliver(b"a")
    w.line.deliver(b"b")
    assert w.port.receiver == 1
    w.line.take(16)

    w.line.deliver(b"c")

    assert w.port.receiver == 2


def test_input_is_bounded(w: Wired) -> None:
    for _ in range(10):
        w.line.deliver(bytes(INPUT_LIMIT - 1))

    assert len(w.line.take(1 << 30)) == INPUT_LIMIT


def test_paused_input_resumes_once_when_half_was_taken(w: Wired) -> None:
    w.line.deliver(bytes(INPUT_LIMIT))
    assert w.line.input_room() == 0
    w.line.take(INPUT_LIMIT // 2 - 1)
    w.turn()
    assert w.port.resumed == 0

    while w.line.take(16):
        pass
    w.turn()

    assert w.port.resumed == 1
    assert w.line.input_room() == INPUT_LIMIT
