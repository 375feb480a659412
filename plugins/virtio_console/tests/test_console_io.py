"""Output and input, with hosts and guests that are slow, hostile or gone."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from console_guest import Guest, connect, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyvmm.testing.driver_ring import GuestBuffer
from pyvmm_virtio_console.port import MAX_BYTES

TEXT = random.Random(0).randbytes(400_000)
MakeGuest = Callable[..., Guest]


def fill(guest: Guest) -> int:
    """Have the guest write until the host's end is full: how many bytes, of which a part waits in the ring."""
    sent = 0
    while not guest.unwritten:
        guest.say(TEXT[sent : sent + 10_000])
        sent += 10_000
    return sent


# Output.


def test_file_takes_the_output(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest(file=tmp_path / "log")
    guest.up()

    for at in range(0, len(TEXT), 1000):
        guest.say(TEXT[at : at + 1000])
        assert not guest.unwritten

    assert (tmp_path / "log").read_bytes() == TEXT


def test_output_in_many_buffers_and_many_chains(guest: Guest, client: socket.socket) -> None:
    for at in range(0, 30_000, 3000):
        guest.transmitq.add([TEXT[at + i : at + i + 500] for i in range(0, 3000, 500)])
    guest.transmitq.kick()
    guest.run()

    assert read(client.fileno(), 30_000) == TEXT[:30_000]
    assert not guest.unwritten


def test_chain_without_output(guest: Guest, client: socket.socket) -> None:
    guest.transmitq.add((), [100])
    guest.transmitq.add([b"text"], [100])
    guest.transmitq.kick()
    guest.run()

    assert read(client.fileno(), 4) == b"text"
    assert not guest.unwritten


def test_guest_waits_for_a_host_that_does_not_read_and_loses_nothing(guest: Guest, client: socket.socket) -> None:
    sent = fill(guest)
    assert guest.run() == 0

    guest.transmitq.add([b"more"])
    guest.transmitq.kick()
    guest.run()
    assert guest.unwritten == 2

    got = b""
    while guest.unwritten:
        got += client.recv(1 << 20)
        guest.run()
    got += read(client.fileno(), sent + 4 - len(got))
    assert got == TEXT[:sent] + b"more"
    assert guest.run() == 0, "a host that takes more is told of only while something waits"


def test_guest_that_does_not_want_to_wait_loses_what_is_not_read(
    make_guest: MakeGuest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = make_guest(unix=tmp_path / "socket", overflow="drop")
    guest.up()
    with connect(tmp_path / "socket") as client:
        guest.run()
        for at in range(0, len(TEXT), 10_000):
            guest.say(TEXT[at : at + 10_000])
            assert not guest.unwritten
        got = client.recv(1 << 20)
        assert TEXT.startswith(got)
        guest.say(b"and on")
        assert read(client.fileno(), 6) == b"and on"

    lost = guest.console.port.lost
    assert 0 < lost <= len(TEXT) - len(got)
    guest.close()
    assert caplog.messages == [f"console0: {lost} bytes of output were lost, since the host did not read them in time"]


@pytest.mark.parametrize("left", ["no client yet", "client has left", "client leaves"])
def test_socket_without_a_client_holds_up_no_guest(guest: Guest, tmp_path: Path, left: str) -> None:
    if left != "no client yet":
        client = connect(tmp_path / "socket")
        guest.run()
        if left == "client leaves":
            fill(guest)
        client.close()
        guest.run()

    for at in range(0, len(TEXT), 10_000):
        guest.say(TEXT[at : at + 10_000])

    assert not guest.unwritten
    with connect(tmp_path / "socket") as client:
        guest.run()
        guest.say(b"hello")
        assert read(client.fileno(), 5) == b"hello"


def test_chain_of_a_gibibyte_is_written_in_turns_and_not_copied(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest(file=tmp_path / "log")
    guest.up()
    whole = GuestBuffer(guest.memory, 0, 64 << 20)
    guest.transmitq.add([whole] * 2)
    guest.transmitq.kick()

    guest.loop.run_once(0)

    assert MAX_BYTES <= (tmp_path / "log").stat().st_size < 2 * MAX_BYTES
    assert guest.unwritten == 1
    guest.run()
    assert (tmp_path / "log").stat().st_size == 128 << 20
    assert not guest.unwritten
    os.truncate(tmp_path / "log", 0)


def test_gibibytes_do_not_hold_up_the_end(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest(file=tmp_path / "log")
    guest.up()
    for _ in range(16):
        guest.transmitq.add([GuestBuffer(guest.memory, 0, 64 << 20)] * 4)

    guest.close()

    assert (tmp_path / "log").stat().st_size <= 2 << 20


# Input.


def test_input_arrives(guest: Guest, client: socket.socket) -> None:
    for text in (b"x", b"hello\r", bytes(range(256))):
        client.sendall(text)
        guest.run()
        assert guest.typed() == text
        assert guest.take_interrupt()


def test_a_lot_of_input_arrives_as_the_guest_takes_it(guest: Guest, client: socket.socket) -> None:
    thread = threading.Thread(target=client.sendall, args=(TEXT,))
    thread.start()

    assert guest.receive(len(TEXT)) == TEXT

    thread.join()


def test_input_waits_with_the_host_while_the_guest_has_no_buffers(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest(unix=tmp_path / "socket")
    guest.up(buffers=0)
    with connect(tmp_path / "socket") as client:
        client.setblocking(False)
        guest.run()
        sent = 0
        try:
            while True:
                sent += client.send(TEXT[sent:])
                guest.run()
        except BlockingIOError:
            pass
        assert guest.run() == 0, "what cannot be read must not keep the loop busy"
        assert sent < len(TEXT)

        assert guest.receive(sent) == TEXT[:sent]


@pytest.mark.parametrize("when", ["before the driver", "between two drivers"])
def test_input_waits_for_a_driver(make_guest: MakeGuest, tmp_path: Path, when: str) -> None:
    guest = make_guest(unix=tmp_path / "socket")
    if when == "between two drivers":
        guest.up()
    with connect(tmp_path / "socket") as client:
        guest.run()
        guest.reset()
        client.sendall(b"early")
        guest.run()

        guest.up()

        assert guest.typed() == b"early"


def test_input_buffers_of_all_sizes(guest: Guest, client: socket.socket) -> None:
    guest.up(buffers=0)
    guest.receiveq.add([b"to read"])
    guest.receiveq.add([b"to read"], [3])
    guest.receiveq.add((), [1, 1, 2])
    guest.post(1, 5000)

    client.sendall(b"hello world, and more")
    guest.run()

    assert [used.length for used in guest.receiveq.take_used()] == [0, 3, 4, 1, 13]


def test_client_that_has_shut_down_its_sending_half_still_gets_output(guest: Guest, client: socket.socket) -> None:
    client.sendall(b"uname\n")
    client.shutdown(socket.SHUT_WR)
    assert guest.typed() == b"uname\n"

    guest.say(b"Linux\r\n")

    assert read(client.fileno(), 7) == b"Linux\r\n"


# Both, on a pty.


def test_pty_carries_all_bytes_both_ways(make_guest: MakeGuest, capsys: pytest.CaptureFixture[str]) -> None:
    guest = make_guest(backend="pty")
    guest.up()
    path = capsys.readouterr().err.removeprefix("console0: ").strip()
    guest.say(b"to nobody")
    for _ in range(2):
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        everything = bytes(range(256))
        guest.run()
        guest.say(everything)
        assert read(fd, 256) == everything
        os.write(fd, everything)
        assert guest.receive(256) == everything
        os.close(fd)
        guest.run()


# Resets, failures and ends.


def test_reset_with_output_that_waits(guest: Guest, client: socket.socket) -> None:
    fill(guest)

    guest.reset()

    assert guest.run() == 0
    guest.up()
    got = client.recv(1 << 20)
    guest.say(b"again")
    while not got.endswith(b"again"):
        got += client.recv(1 << 20)
    assert TEXT.startswith(got[:-5])


def test_output_that_was_not_served_yet_is_written_at_a_reset(guest: Guest, client: socket.socket) -> None:
    guest.transmitq.add([b"last words"])
    guest.transmitq.kick()

    guest.reset()

    assert read(client.fileno(), 10) == b"last words"


def test_output_at_the_end_waits_for_a_reader_that_goes_on(guest: Guest, client: socket.socket) -> None:
    sent = fill(guest)
    guest.transmitq.add([b"last words"])
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(read(client.fileno(), sent + 10)))
    thread.start()

    guest.close()

    thread.join()
    assert got == [TEXT[:sent] + b"last words"]


@pytest.mark.parametrize("ring", ["receiveq", "transmitq"])
def test_broken_ring_stops_the_device_until_a_reset(guest: Guest, client: socket.socket, ring: str) -> None:
    broken = getattr(guest, ring)
    broken.add(*([], [10])[:: 1 if ring == "receiveq" else -1])
    broken.write_descriptor(broken._chains and max(broken._chains), guest.memory.end, 10)
    for _ in range(40):
        client.sendall(bytes(4096))
        broken.kick()
        guest.run()

    assert guest.needs_reset
    assert guest.run() == 0
    guest.up()
    guest.say(b"again")
    assert read(client.fileno(), 5) == b"again"
    assert guest.typed()


# Emergency writes.


def test_emergency_write_needs_no_queue(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest(file=tmp_path / "log")
    guest.begin()

    for width in (1, 2, 4):
        guest.write_config(8, b"!abc"[:width])
    guest.write_config(0, b"xxxx")
    guest.write_config(9, b"x")
    guest.write_config(12, b"x")

    assert (tmp_path / "log").read_bytes() == b"!!!"


def test_emergency_write_to_nobody_and_to_a_host_that_does_not_read(guest: Guest, tmp_path: Path) -> None:
    guest.write_config(8, b"x")
    with connect(tmp_path / "socket"):
        guest.run()
        fill(guest)
        guest.write_config(8, b"x")
    guest.run()

    assert not guest.needs_reset


# Anything.

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=3)),
        st.tuples(st.just("post"), st.lists(st.integers(1, 5000), min_size=1, max_size=3)),
        st.tuples(st.just("type"), st.binary(min_size=1, max_size=20000)),
        st.tuples(st.just("read"), st.integers(1, 100_000)),
        st.tuples(st.just("leave"), st.none()),
        st.tuples(st.just("reset"), st.none()),
        st.tuples(st.just("emergency"), st.binary(min_size=1, max_size=4)),
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_sequence(guest: Guest, tmp_path: Path, steps: list[tuple[str, object]]) -> None:
    guest.up(0)
    clients = [_new_client(guest, tmp_path)]
    try:
        for what, how in steps:
            try:
                _do(guest, clients[-1], what, how)
            except BlockingIOError:
                pass
            if what == "leave":
                _leave(guest, clients.pop())
                clients.append(_new_client(guest, tmp_path))
            assert guest.run() < 50
            assert not guest.needs_reset
            guest.transmitq.take_used()
            guest.receiveq.take_used()
    finally:
        for client in clients:
            _leave(guest, client)


def _leave(guest: Guest, client: socket.socket) -> None:
    client.close()
    guest.up(0)
    guest.post(4096)
    while guest.typed():  # or else the next one waits
        guest.post(4096)


def _new_client(guest: Guest, tmp_path: Path) -> socket.socket:
    client = connect(tmp_path / "socket")
    client.setblocking(False)
    guest.run()
    return client


def _do(guest: Guest, client: socket.socket, what: str, how: object) -> None:
    match what, how:
        case "write", list() as buffers if guest.transmitq.in_flight < 60:
            guest.say(*buffers)
        case "post", list() as sizes if guest.receiveq.in_flight < 60:
            guest.post(*sizes)
        case "type", bytes() as data:
            client.send(data)
        case "read", int() as size:
            client.recv(size)
        case "emergency", bytes() as data:
            guest.write_config(8, data)
        case "reset", _:
            guest.up(0)
