"""Streams, made from both sides, used, and brought to their end."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyvmm_virtio_vsock import handshake, muxer
from pyvmm_virtio_vsock.packet import pack
from vsock_guest import BOTH, BUF_ALLOC, CREDIT_UPDATE, RCV, REQUEST, RESPONSE, RST, RW, SEND, SHUTDOWN, Guest, Stream
from vsock_host import Host, has_ended, receive

Pair = tuple[Stream, socket.socket]


# Streams are made.


def test_host_connects_and_hears_of_its_port_when_the_guest_has_accepted(guest: Guest, host: Host) -> None:
    client = host.connect(b"CONNECT 52\n")

    request = guest.packet()

    assert (request.op, request.header.dst_port, request.header.len) == (REQUEST, 52, 0)
    assert request.header.buf_alloc >= 64 << 10
    assert not receive(client)
    Stream(guest, request.header.src_port, 52).send(RESPONSE)
    assert receive(client) == b"OK %d\n" % request.header.src_port


def test_guest_refuses_and_the_host_sees_the_end(guest: Guest, host: Host) -> None:
    client = host.connect(b"CONNECT 52\n")
    request = guest.packet()

    Stream(guest, request.header.src_port, 52).send(RST)

    assert has_ended(client)


def test_what_is_said_behind_connect_is_for_the_guest_and_waits_for_it(guest: Guest, host: Host) -> None:
    host.connect(b"CONNECT 52\nhello\nCONNECT 53\n")
    request = guest.packet()
    assert guest.packets() == []

    stream = Stream(guest, request.header.src_port, 52)
    stream.send(RESPONSE)

    assert stream.read(guest.packets()) == b"hello\nCONNECT 53\n"


@pytest.mark.parametrize("line", [b"connect 7\n", b"  CONNECT   7  \n", b"Connect 7\r\n", b"CONNECT 0000000007\n"])
def test_ways_to_say_connect(guest: Guest, host: Host, line: bytes) -> None:
    host.connect(line)

    assert guest.packet().header.dst_port == 7


def test_connect_in_pieces(guest: Guest, host: Host) -> None:
    client = host.connect()
    for byte in b"CONNECT 4294967295":
        client.send(bytes([byte]))
        assert guest.packets() == []
    client.send(b"\n")

    assert guest.packet().header.dst_port == 4294967295


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"CONNECT\n",
        b"CONNECT \n",
        b"CONNECT -1\n",
        b"CONNECT 4294967296\n",
        b"CONNECT 99999999999999999999\n",
        b"CONNECT 5x\n",
        b"CONNECT 5 6\n",
        b"LISTEN 5\n",
        b"CONNECT \xd9\xa1\n",
        b"x" * 32,
        b"CONNECT 5" + b" " * 1000,
        b"\0" * 5 + b"\n",
    ],
)
def test_anything_else_is_turned_away(guest: Guest, host: Host, line: bytes) -> None:
    client = host.connect(line)
    guest.run()

    assert has_ended(client)
    assert guest.packets() == []


def test_client_that_leaves_without_a_word(guest: Guest, host: Host) -> None:
    for _ in range(3):
        host.connect(b"CONN").close()
        host.connect().close()

    assert guest.packets() == []
    assert guest.run() == 0


def test_client_that_leaves_before_the_guest_has_answered(guest: Guest, host: Host) -> None:
    host.connect(b"CONNECT 52\n").close()

    ops = [packet.op for packet in guest.packets()]

    assert ops in ([], [REQUEST, RST])
    assert guest.run() == 0


def test_client_that_leaves_early_has_what_it_sent_delivered(guest: Guest, host: Host) -> None:
    client = host.connect(b"CONNECT 52\nlast words")
    request = guest.packet()
    client.close()
    assert guest.run() <= 2
    assert guest.packets() == []

    stream = Stream(guest, request.header.src_port, 52)
    stream.send(RESPONSE)

    *data, end = guest.packets()
    while data and data[0].op == SHUTDOWN:  # that the answer could not be told
        assert data.pop(0).header.flags == RCV
    assert stream.read(data) == b"last words"
    assert (end.op, end.header.flags) == (SHUTDOWN, BOTH)


def test_guest_connects_to_the_socket_of_the_port(guest: Guest, host: Host) -> None:
    listener = host.listen(1024)
    stream = Stream(guest, 1024, 7000)

    stream.send(REQUEST)

    response = guest.packet()
    assert (response.op, response.header.src_port, response.header.dst_port) == (RESPONSE, 1024, 7000)
    client = host.accept(listener)
    stream.send(RW, b"hello")
    assert receive(client) == b"hello"
    client.sendall(b"hello yourself")
    assert stream.read(guest.packets()) == b"hello yourself"


def test_guest_connects_where_nobody_listens(guest: Guest, host: Host) -> None:
    host.listen(81).close()
    host.path.with_name(f"{host.path.name}_82").write_text("no socket")
    for port in (80, 81, 82):
        Stream(guest, port, 7000).send(REQUEST)

        reset = guest.packet()

        assert (reset.op, reset.header.src_port, reset.header.dst_port) == (RST, port, 7000)


def test_guest_connects_where_as_many_wait_as_can(guest: Guest, host: Host) -> None:
    host.listen(80, backlog=0)
    for port in range(7000, 7003):
        Stream(guest, 80, port).send(REQUEST)

    assert [packet.op for packet in guest.packets()].count(RST) == 2


# Streams are used.


def pump(guest: Guest, stream: Stream, client: socket.socket, data: bytes, *, step: int = 60000) -> bytes:
    """Send ``data`` from the host to the guest, whose driver gives buffers and credit as it takes the data."""
    sent, got = 0, b""
    while len(got) < len(data):
        if sent < len(data):
            try:
                sent += client.send(data[sent : sent + step])
            except BlockingIOError:
                pass
        packets = [packet for packet in guest.packets() if packet.op == RW]
        got += stream.read(packets) if packets else b""
        stream.send(CREDIT_UPDATE)
        guest.post(64 - guest.rx.in_flight)
    return got


def push(guest: Guest, stream: Stream, client: socket.socket, data: bytes, *, step: int = 60000) -> bytes:
    """Send ``data`` from the guest to the host, within the credit that the device gives."""
    sent, got = 0, b""
    while len(got) < len(data):
        size = min(step, len(data) - sent, stream.credit)
        if size > 0:
            stream.send(RW, data[sent : sent + size])
            sent += size
        got += receive(client)
        for packet in guest.packets():
            assert stream.hear(packet).op == CREDIT_UPDATE
        guest.post(64 - guest.rx.in_flight)
    return got


@pytest.mark.parametrize("features", [[], [29]], ids=["flags", "event-idx"])
def test_megabytes_both_ways(make_guest: Callable[..., Guest], host: Host, features: list[int]) -> None:
    guest = make_guest()
    guest.up(features=features)
    stream, client = host.open(guest, 1234)
    data = random.Random(0).randbytes(3 << 20)

    assert pump(guest, stream, client, data) == data
    assert push(guest, stream, client, data) == data


@pytest.mark.parametrize("lengths", [(4140,), (44, 1), (1, 43, 100), (45,), (20, 60000), (100,) * 9, (44, 65536)])
def test_receive_buffers_of_all_shapes(make_guest: Callable[..., Guest], host: Host, lengths: tuple[int, ...]) -> None:
    guest = make_guest()
    guest.up(25, *lengths)
    stream, client = host.open(guest, 1234)
    data = random.Random(0).randbytes(3000)
    client.sendall(data)

    got = b""
    while len(got) < len(data):
        got += stream.read(guest.packets())
        stream.send(CREDIT_UPDATE)
        guest.post(25 - guest.rx.in_flight, *lengths)

    assert got == data


def test_packet_of_the_guests_in_many_buffers(guest: Guest, outgoing: Pair) -> None:
    stream, client = outgoing
    data = random.Random(0).randbytes(100)
    raw = pack(*stream.header(RW, len(data))) + data

    guest.send_raw(*(raw[i : i + 7] for i in range(0, len(raw), 7)))
    guest.send_raw(pack(*stream.header(RW, 5)) + b"12345 and more than the header says")

    assert receive(client) == data + b"12345"


def test_many_streams_keep_their_data_apart(guest: Guest, host: Host) -> None:
    listener = host.listen(9)
    pairs = [host.open(guest, 100 + number) for number in range(20)]
    for number in range(20):
        stream = Stream(guest, 9, 500 + number)
        stream.send(REQUEST)
        guest.post()
        pairs.append((stream, host.accept(listener)))
    guest.packets()
    generator = random.Random(0)
    texts = [generator.randbytes(generator.randrange(1, 20000)) for _ in pairs]

    for (stream, client), text in zip(pairs, texts, strict=True):
        client.sendall(text)
        stream.send(RW, text[::-1])

    got: dict[tuple[int, int], bytes] = {}
    while sum(map(len, got.values())) < sum(map(len, texts)):
        for packet in guest.packets():
            if packet.op == RW:
                key = packet.header.src_port, packet.header.dst_port
                got[key] = got.get(key, b"") + packet.data
        guest.post(64 - guest.rx.in_flight)
    for (stream, client), text in zip(pairs, texts, strict=True):
        assert got[stream.host_port, stream.guest_port] == text
        assert receive(client) == text[::-1]


def test_streams_take_turns_when_there_is_little_room(make_guest: Callable[..., Guest], host: Host) -> None:
    guest = make_guest()
    guest.up(4)
    pairs = [host.open(guest, 100 + number) for number in range(3)]
    guest.packets()
    for _, client in pairs:
        client.sendall(bytes(40000))
    seen = []
    for _ in range(12):
        guest.post(4 - guest.rx.in_flight)
        seen += [packet.header.dst_port for packet in guest.packets()]

    assert {seen.count(100 + number) for number in range(3)} <= {len(seen) // 3, len(seen) // 3 + 1, len(seen) // 3 - 1}


# Streams end.


def test_host_shuts_down_its_sending_half_and_still_receives(stream: Pair, guest: Guest) -> None:
    end, client = stream
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)

    data, shutdown = guest.packets()
    assert end.read([data]) == b"question"
    assert (shutdown.op, shutdown.header.flags) == (SHUTDOWN, SEND)
    end.send(RW, b"answer")
    assert receive(client) == b"answer"
    assert guest.run() == 0

    client.close()
    last = guest.packet()
    assert (last.op, last.header.flags) == (SHUTDOWN, BOTH)


def test_host_closes_and_the_guest_gets_all_and_then_both_ends(stream: Pair, guest: Guest) -> None:
    end, client = stream
    data = random.Random(0).randbytes(50000)
    client.sendall(data)
    client.close()

    *packets, shutdown = guest.packets()

    assert end.read(packets) == data
    assert (shutdown.op, shutdown.header.flags) == (SHUTDOWN, BOTH)
    assert guest.run() == 0
    end.send(RST)
    end.send(RW, b"x")
    assert guest.packet().op == RST, "the stream is gone"


def test_guest_sends_what_the_host_that_has_closed_does_not_want(stream: Pair, guest: Guest) -> None:
    end, client = stream
    client.close()
    assert guest.packet().header.flags == BOTH

    for _ in range(20):
        end.send(RW, bytes(60000))

    assert {packet.op for packet in guest.packets()} <= {CREDIT_UPDATE}
    end.send(SHUTDOWN, flags=BOTH)
    assert guest.packet().op == RST


def test_host_that_has_closed_is_found_out_by_sending(stream: Pair, guest: Guest) -> None:
    end, client = stream
    client.shutdown(socket.SHUT_RD)

    end.send(RW, b"x")

    shutdown = guest.packet()
    assert (shutdown.op, shutdown.header.flags) == (SHUTDOWN, RCV)
    client.sendall(b"still sending")
    assert end.read(guest.packets()) == b"still sending"
    client.close()
    assert guest.packet().header.flags == BOTH


def test_guest_shuts_down_its_sending_half_and_still_receives(stream: Pair, guest: Guest) -> None:
    end, client = stream
    end.send(RW, b"question")
    end.send(SHUTDOWN, flags=SEND)

    assert receive(client) == b"question"
    assert has_ended(client)
    client.sendall(b"answer")
    assert end.read(guest.packets()) == b"answer"
    client.close()
    assert guest.packet().header.flags == BOTH


def test_guest_receives_no_more_and_the_host_can_send_no_more(stream: Pair, guest: Guest) -> None:
    end, client = stream
    end.send(SHUTDOWN, flags=RCV)

    with pytest.raises(BrokenPipeError):
        client.send(b"x")
    end.send(RW, b"still sending")
    assert receive(client) == b"still sending"
    assert guest.run() == 0
    end.send(SHUTDOWN, flags=SEND)  # with what was said before, the end
    assert guest.packet().op == RST
    assert has_ended(client)


def test_guest_closes_and_gets_a_reset(stream: Pair, guest: Guest) -> None:
    end, client = stream
    end.send(RW, b"last words")
    end.send(SHUTDOWN, flags=BOTH)

    assert guest.packet().op == RST
    assert receive(client) == b"last words"
    assert has_ended(client)
    end.send(RW, b"x")
    assert guest.packet().op == RST


@pytest.mark.parametrize("how", ["shutdown", "reset", "driver", "machine"])
def test_what_the_guest_sent_before_its_end_is_not_lost(guest: Guest, stream: Pair, how: str) -> None:
    end, client = stream
    data = random.Random(0).randbytes(400_000)
    sent = 0
    while end.credit > 20000:  # the program does not read, and its socket gets full
        end.send(RW, data[sent : sent + 20000])
        sent += 20000
        for packet in guest.packets():
            end.hear(packet)
    assert sent > 256 << 10
    got = []
    reader = threading.Thread(target=lambda: got.append(read_all(client)))

    match how:
        case "shutdown":
            end.send(SHUTDOWN, flags=BOTH)
            assert guest.packet().op == RST
        case "reset":
            end.send(RST)
            assert guest.packets() == []
        case "driver":
            guest.reset()
    reader.start()
    if how == "machine":
        guest.close()
    else:
        guest.run_until(lambda: not guest.vsock._drains)
    reader.join()

    assert got == [data[:sent]]


def read_all(sock: socket.socket) -> bytes:
    sock.setblocking(True)
    with sock.makefile("rb") as file:
        return file.read()


def test_guest_that_never_answers_is_given_up(make_guest: Callable[..., Guest], host: Host) -> None:
    guest = make_guest()
    guest.up()
    client = host.connect(b"CONNECT 52\n")
    guest.run()
    assert guest.muxer.streams == 1

    guest.loop.advance(muxer.ANSWER_TIMEOUT)

    assert has_ended(client)
    assert [packet.op for packet in guest.packets()] == [REQUEST, RST]
    assert guest.muxer.streams == 0


def test_clients_that_say_nothing_do_not_use_up_the_streams(
    guest: Guest, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muxer, "MAX_STREAMS", 5)
    silent = [host.connect(b"" if i % 2 else b"CONNECT ") for i in range(5)]
    guest.run()
    turned_away = host.connect(b"CONNECT 52\n")
    guest.run()
    assert has_ended(turned_away) and not any(map(has_ended, silent))

    guest.loop.advance(handshake.TIMEOUT)

    assert all(map(has_ended, silent))
    assert guest.muxer.streams == 0
    host.open(guest, 52)


def test_client_that_has_said_where_to_is_not_given_up(guest: Guest, host: Host) -> None:
    stream, client = host.open(guest, 52)

    guest.loop.advance(2 * handshake.TIMEOUT)

    client.sendall(b"x")
    assert stream.read(guest.packets()) == b"x"


def test_guest_that_answers_in_time_is_not_given_up(make_guest: Callable[..., Guest], host: Host) -> None:
    guest = make_guest()
    guest.up()
    stream, client = host.open(guest, 52)

    guest.loop.advance(muxer.ANSWER_TIMEOUT)

    client.sendall(b"x")
    assert stream.read(guest.packets()) == b"x"


def test_guest_that_does_not_let_go_of_a_stream_is_reset(make_guest: Callable[..., Guest], host: Host) -> None:
    guest = make_guest()
    guest.up()
    _, client = host.open(guest, 52)
    client.close()
    assert guest.packet().op == SHUTDOWN

    guest.loop.advance(muxer.CLOSE_TIMEOUT / 2)
    assert guest.muxer.streams == 1
    guest.loop.advance(muxer.CLOSE_TIMEOUT / 2)

    assert guest.muxer.streams == 0
    assert guest.packet().op == RST


# Anything that both sides may do.

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["host sends", "guest sends", "host receives"]), st.integers(1, 70_000)),
        st.tuples(st.just("guest gives buffers"), st.integers(1, 8)),
        st.tuples(st.just("guest gives credit"), st.integers(0, 100_000)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, buf_alloc=st.sampled_from([1, 4096, 50_000, 256 << 10]))
def test_data_arrives_as_it_was_sent(guest: Guest, host: Host, steps: list[tuple[str, int]], buf_alloc: int) -> None:
    guest.up(4)
    stream, client = host.open(guest, 1234, buf_alloc=buf_alloc)
    text = random.Random(0).randbytes(6 << 20)
    host_sent = guest_sent = host_got = guest_got = 0

    def settle() -> int:
        nonlocal guest_got
        got = 0
        for packet in guest.packets():
            stream.hear(packet)
            assert packet.data == text[guest_got : guest_got + len(packet.data)]
            guest_got += len(packet.data)
            got += len(packet.data)
        assert guest_got - stream.fwd_cnt <= stream.buf_alloc
        return got

    for what, count in steps:
        match what:
            case "host sends":
                try:
                    host_sent += client.send(text[host_sent : host_sent + count])
                except BlockingIOError:
                    pass
            case "guest sends":
                count = min(count, stream.credit)
                if count:
                    stream.send(RW, text[guest_sent : guest_sent + count])
                    guest_sent += count
            case "host receives":
                got = receive(client, count)
                assert got == text[host_got : host_got + len(got)]
                host_got += len(got)
            case "guest gives buffers":
                guest.post(min(count, 64 - guest.rx.in_flight))
            case "guest gives credit":
                stream.fwd_cnt = min(guest_got, stream.fwd_cnt + count)
                stream.send(CREDIT_UPDATE)
        settle()

    stream.buf_alloc = BUF_ALLOC
    while host_got < guest_sent or guest_got < host_sent:
        host_got += len(receive(client))
        guest.post(64 - guest.rx.in_flight)
        stream.fwd_cnt = guest_got
        stream.send(CREDIT_UPDATE)
        settle()
    assert (host_got, guest_got) == (guest_sent, host_sent)
