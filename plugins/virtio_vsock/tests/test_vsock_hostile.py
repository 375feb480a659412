"""Packets, rings and programs that break the rules; the device goes on."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyvmm.testing.driver_ring import GuestBuffer
from pyvmm_virtio_vsock import muxer
from pyvmm_virtio_vsock.packet import HEADER_SIZE, Header, pack
from vsock_guest import (
    BOTH,
    CREDIT_REQUEST,
    CREDIT_UPDATE,
    REQUEST,
    RESPONSE,
    RST,
    RW,
    SEND,
    SHUTDOWN,
    Guest,
    Stream,
)
from vsock_host import Host, has_ended, receive

Pair = tuple[Stream, socket.socket]
U16, U32, U64 = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


@pytest.fixture(autouse=True)
def unharmed(guest: Guest, host: Host) -> Iterator[None]:
    """Whatever the test does, a stream can be made and used then."""
    yield
    assert not guest.needs_reset
    guest.packets()
    guest.post(64 - guest.rx.in_flight)
    guest.packets()
    guest.post(64 - guest.rx.in_flight)
    stream, client = host.open(guest, 77)
    client.sendall(b"still")
    stream.send(RW, b"here")
    assert stream.read([packet for packet in guest.packets() if packet.op == RW]) == b"still"
    assert receive(client) == b"here"


# Lengths (Firecracker's CVE-2019-18960).


@pytest.mark.parametrize("length", [1, 10, HEADER_SIZE - 1])
def test_packet_shorter_than_a_header(guest: Guest, length: int) -> None:
    guest.send_raw(bytes(length))

    assert guest.packets() == []


def test_packet_that_has_only_buffers_to_write_to(guest: Guest) -> None:
    guest.tx.add((), [44, 4096])
    guest.tx.kick()

    assert guest.packets() == []
    assert [used.length for used in guest.tx.take_used()] == [0]


@pytest.mark.parametrize("length", [5, 4096, 65536, 1 << 31, U32])
def test_length_beyond_the_packets_end(guest: Guest, outgoing: Pair, length: int) -> None:
    stream, client = outgoing
    guest.send(stream.header(RW, length), b"1234")

    assert guest.packets() == []
    assert receive(client) == b""
    stream.send(RW, b"next")
    assert receive(client) == b"next"


def test_length_that_only_a_buffer_to_write_to_would_cover(guest: Guest, outgoing: Pair) -> None:
    stream, client = outgoing
    guest.tx.add([pack(*stream.header(RW, 100))], [4096])
    guest.tx.kick()
    guest.run()

    assert guest.packets() == []
    assert receive(client) == b""


def test_payload_of_a_packet_that_has_none_is_ignored(guest: Guest, outgoing: Pair) -> None:
    stream, client = outgoing
    for op in (CREDIT_UPDATE, CREDIT_REQUEST):
        guest.send(stream.header(op, 5), b"12345")

    assert [packet.op for packet in guest.packets()] == [CREDIT_UPDATE]
    assert receive(client) == b""


def test_data_of_no_length(guest: Guest, outgoing: Pair) -> None:
    stream, client = outgoing
    for _ in range(3):
        guest.send(stream.header(RW, 0))

    assert guest.packets() == []
    assert not has_ended(client)


@pytest.mark.parametrize("lengths", [(1,), (43,), (20, 23)])
def test_receive_buffers_with_no_room_for_a_header(guest: Guest, host: Host, lengths: tuple[int, ...]) -> None:
    guest.up(0)
    guest.post(3, *lengths)
    guest.post(1)

    host.connect(b"CONNECT 5\n")

    assert [packet.op for packet in guest.packets()] == [REQUEST]


def test_receive_buffers_with_room_for_a_header_alone(guest: Guest, host: Host) -> None:
    guest.up(8, HEADER_SIZE)
    stream, client = host.open(guest, 5)
    client.sendall(b"data")

    assert guest.packets() == []
    guest.post(1, HEADER_SIZE)
    guest.post(1, HEADER_SIZE + 2)
    guest.post(2, HEADER_SIZE, 1)
    assert stream.read(guest.packets()) == b"data"


def test_receive_buffers_that_are_to_be_read(guest: Guest, host: Host) -> None:
    guest.up(0)
    guest.rx.add([bytes(4096)])
    guest.rx.add([bytes(44)], [44, 4096])
    guest.rx.kick()

    host.connect(b"CONNECT 5\n")
    guest.run()

    assert [used.length for used in guest.rx.take_used()] == [0, HEADER_SIZE]


# Addresses, types and operations.


@pytest.mark.parametrize("cid", [0, 1, 2, 4, U32, 3 | 1 << 32, U64])
def test_packet_from_somebody_else(guest: Guest, outgoing: Pair, cid: int) -> None:
    stream, client = outgoing
    stream.send(RW, b"forged", src_cid=cid)
    stream.send(RST, src_cid=cid)

    assert guest.packets() == []
    assert receive(client) == b"" and not has_ended(client)


@pytest.mark.parametrize("cid", [0, 1, 3, 4, U32, 2 | 1 << 32, U64])
@pytest.mark.parametrize("op", [REQUEST, RW, SHUTDOWN])
def test_packet_to_somebody_else_is_reset(guest: Guest, outgoing: Pair, cid: int, op: int) -> None:
    stream, client = outgoing
    stream.send(op, b"" if op == REQUEST else b"x", flags=BOTH, dst_cid=cid)

    reset = guest.packet()
    assert (reset.op, reset.header.src_cid, reset.header.dst_cid) == (RST, cid, 3)
    assert receive(client) == b"" and not has_ended(client)


@pytest.mark.parametrize("type_", [0, 2, 3, U16])
def test_packet_of_another_type_is_reset_with_that_type(guest: Guest, outgoing: Pair, type_: int) -> None:
    stream, client = outgoing
    stream.send(RW, b"x", type=type_)
    stream.send(REQUEST, type=type_, src_port=1)

    assert [(packet.op, packet.header.type) for packet in guest.packets()] == [(RST, type_)] * 2
    assert receive(client) == b"" and not has_ended(client)


@pytest.mark.parametrize("op", [0, 8, 100, U16])
def test_unknown_operation_ends_the_stream(guest: Guest, outgoing: Pair, op: int) -> None:
    stream, client = outgoing
    stream.send(op)

    assert guest.packet().op == RST
    assert has_ended(client)


@pytest.mark.parametrize("op", [0, RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 8, U16])
def test_packet_of_no_stream_is_reset(guest: Guest, op: int) -> None:
    stream = Stream(guest, 80, 5000)
    stream.send(op, flags=BOTH)

    reset = guest.packet()
    assert (reset.op, reset.header.src_port, reset.header.dst_port) == (RST, 80, 5000)


def test_reset_of_no_stream_is_not_answered(guest: Guest) -> None:
    for type_ in (1, 2, 0):
        Stream(guest, 80, 5000).send(RST, type=type_, dst_cid=2 + type_)

    assert guest.packets() == []


@pytest.mark.parametrize("op", [REQUEST, RESPONSE])
def test_stream_is_not_made_twice(guest: Guest, outgoing: Pair, op: int) -> None:
    stream, client = outgoing
    stream.send(op)

    assert guest.packet().op == RST
    assert has_ended(client)


@pytest.mark.parametrize("op", [REQUEST, RW, SHUTDOWN, 0])
def test_guest_does_not_answer_as_it_should(guest: Guest, host: Host, op: int) -> None:
    client = host.connect(b"CONNECT 5\n")
    stream = Stream(guest, guest.packet().header.src_port, 5)

    stream.send(op, b"x" if op == RW else b"", flags=SEND)

    assert guest.packet().op == RST
    assert receive(client) == b"" and has_ended(client)


def test_guest_answers_before_it_was_asked(guest: Guest, host: Host) -> None:
    guest.up(0)
    client = host.connect(b"CONNECT 5\n")
    guest.run()

    Stream(guest, 1 << 30, 5).send(RESPONSE)

    guest.post(5)
    assert [packet.op for packet in guest.packets()] == [RST]
    assert has_ended(client)


def test_data_after_the_guest_has_said_that_there_is_none(guest: Guest, outgoing: Pair) -> None:
    stream, client = outgoing
    stream.send(SHUTDOWN, flags=SEND)
    stream.send(RW, b"x")

    assert guest.packet().op == RST
    assert receive(client) == b""


@pytest.mark.parametrize("flags", [0, 4, 0xFFFFFFFC])
def test_shutdown_of_nothing(guest: Guest, outgoing: Pair, flags: int) -> None:
    stream, client = outgoing
    stream.send(SHUTDOWN, flags=flags)

    assert guest.packets() == []
    stream.send(RW, b"x")
    assert receive(client) == b"x"


# Numbers.


def test_guest_that_gives_no_room_makes_the_device_wait_and_not_grow(guest: Guest) -> None:
    guest.up(0)
    taken = 0
    for round_ in range(4):
        for port in range(100):
            guest.tx.add([pack(*Stream(guest, 80, round_ * 100 + port).header(REQUEST))])
        guest.tx.kick()
        guest.run()
        taken += len(guest.tx.take_used())

    assert taken == muxer.MAX_REPLIES == len(guest.muxer._replies)
    assert guest.run() == 0
    got = 0
    while got < taken:
        guest.post(64)
        got += len(guest.packets())
        taken += len(guest.tx.take_used())
    assert guest.tx.in_flight == 0


def test_no_more_streams_than_there_may_be(guest: Guest, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "MAX_STREAMS", 5)
    host.listen(80)
    waiting = host.connect()
    answers = []
    for port in range(10):
        Stream(guest, 80, port).send(REQUEST)
        answers.append(guest.packet().op)

    assert answers == [RESPONSE] * 4 + [RST] * 6
    turned_away = host.connect(b"CONNECT 5\n")
    guest.run()
    assert has_ended(turned_away)
    waiting.close()
    guest.run()
    Stream(guest, 80, 11).send(REQUEST)
    assert guest.packet().op == RESPONSE
    for port in range(12):
        Stream(guest, 80, port).send(RST)
    assert guest.packets() == []


def test_chain_of_more_buffers_than_a_system_call_takes(guest: Guest, outgoing: Pair) -> None:
    stream, client = outgoing
    data = random.Random(0).randbytes(1500)
    text = guest.heap.allocate(len(data))
    text.write(data)
    header = pack(*stream.header(RW, len(data)))
    ones = [GuestBuffer(guest.memory, text.address + i, 1) for i in range(len(data))]
    guest.tx.add([header, *ones[:1000]], indirect=True)
    guest.tx.kick()
    guest.run()
    assert guest.packets() == [], "what the header promises is not there"

    guest.tx.add([pack(*stream.header(RW, 1000)), *ones[:1000]], indirect=True)
    guest.tx.kick()
    guest.run()

    assert receive(client) == data[:1000]


# Anything.

_u = st.sampled_from
HEADERS = st.builds(
    Header,
    src_cid=st.one_of(_u([3, 3, 3, 3, 3, 3, 3, 3, 2, 0, U64]), st.integers(0, U64)),
    dst_cid=st.one_of(_u([2, 2, 2, 2, 2, 2, 2, 2, 3, 0, U64]), st.integers(0, U64)),
    src_port=st.one_of(_u([5, 6, 1000, 1001]), st.integers(0, U32)),
    dst_port=st.one_of(_u([80, 81, 1 << 30, (1 << 30) + 1]), st.integers(0, U32)),
    len=_u([0, 0, 5, 5, 6, 100, U32]),
    type=_u([1, 1, 1, 1, 1, 1, 1, 1, 2, 0, U16]),
    op=st.one_of(_u([1, 2, 3, 4, 5, 5, 5, 6, 7]), st.integers(0, U16)),
    flags=st.one_of(_u([0, 1, 2, 3]), st.integers(0, U32)),
    buf_alloc=st.one_of(_u([0, 1, 1000, 1 << 18, U32]), st.integers(0, U32)),
    fwd_cnt=st.one_of(_u([0, 1, 5, U32]), st.integers(0, U32)),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("packet"), HEADERS),
        st.tuples(st.just("packet"), HEADERS),
        st.tuples(st.just("packet"), HEADERS),
        st.tuples(st.just("raw"), st.binary(min_size=1, max_size=100)),
        st.tuples(st.just("post"), st.lists(st.integers(1, 5000), min_size=1, max_size=3)),
        st.tuples(st.just("connect"), _u([b"CONNECT 5\n", b"CONNECT 6\nhello", b"x\n", b""])),
        st.tuples(st.just("send"), st.binary(min_size=1, max_size=300)),
        st.tuples(st.just("shut"), _u([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])),
        st.tuples(st.just("close"), st.integers(0, 3)),
        st.tuples(st.just("reset"), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_sequence_of_packets_and_of_what_programs_do(
    guest: Guest, host: Host, listeners: list[socket.socket], steps: list[tuple[str, object]]
) -> None:
    guest.up(3)
    programs: list[socket.socket] = []
    for what, how in steps:
        for listener in listeners:
            try:
                programs.append(listener.accept()[0])
                programs[-1].setblocking(False)
            except BlockingIOError:
                pass
        _do(guest, host, programs, what, how)
        assert guest.run() < 50
        assert not guest.needs_reset
        guest.packets()
        guest.tx.take_used()

        assert guest.muxer.streams <= len(steps)
        assert all(len(c._unsent) <= c.buf_alloc for c in guest.muxer._connections.values())
    for program in programs:
        program.close()
    guest.run()
    for listener in listeners:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            pass


@pytest.fixture
def listeners(host: Host) -> list[socket.socket]:
    return [host.listen(80), host.listen(81)]


def _do(guest: Guest, host: Host, programs: list[socket.socket], what: str, how: object) -> None:
    match what, how:
        case "packet", Header() as header:
            guest.send(header, b"hello" * (header.len > 0))
        case "raw", bytes() as data:
            guest.send_raw(data)
        case "post", list() as lengths:
            guest.post(1, *lengths)
        case "connect", bytes() as line:
            programs.append(host.connect(line))
        case "reset", _:
            guest.up(3)
        case _ if programs:
            program = programs[-1]
            try:
                if isinstance(how, bytes):
                    program.send(how)
                elif what == "shut" and isinstance(how, int):
                    program.shutdown(how)
                else:
                    programs.pop().close()
            except OSError:
                pass


def test_socket_file_of_a_port_may_be_anything(guest: Guest, make_guest: Callable[..., Guest], path: Path) -> None:
    Path(f"{path}_90").mkdir()
    Path(f"{path}_91").symlink_to("nowhere")
    Path(f"{path}_92").symlink_to(f"{path}_92")
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram.bind(f"{path}_93")
    for port in range(90, 94):
        Stream(guest, port, 5000).send(REQUEST)
        assert guest.packet().op == RST
    datagram.close()


def test_port_that_is_the_devices_own_socket(guest: Guest, path: Path) -> None:
    """A guest that gets back to itself, by way of a link, is a program like others."""
    Path(f"{path}_90").symlink_to(path)
    stream = Stream(guest, 90, 5000)
    stream.send(REQUEST)
    assert guest.packet().op == RESPONSE

    stream.send(RW, b"CONNECT 6\n")
    request = guest.packet()
    assert (request.op, request.header.dst_port) == (REQUEST, 6)
    Stream(guest, request.header.src_port, 6).send(RESPONSE)

    assert stream.read(guest.packets()) == b"OK %d\n" % request.header.src_port
    stream.send(RST)
    assert guest.packet().op == SHUTDOWN
