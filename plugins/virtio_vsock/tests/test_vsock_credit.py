"""Nobody sends more than the other side has room for, and nothing waits for ever (virtio 1.2, section 5.10.6.3)."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from pyvmm_virtio_vsock import muxer
from vsock_guest import BOTH, CREDIT_REQUEST, CREDIT_UPDATE, RESPONSE, RST, RW, SHUTDOWN, Guest, Stream
from vsock_host import Host, receive

Pair = tuple[Stream, socket.socket]
BIG = bytes(range(256)) * 4096


def fill(client: socket.socket) -> int:
    """Send until no more goes; how many bytes did."""
    total = 0
    try:
        while True:
            total += client.send(BIG[:65536])
    except BlockingIOError:
        return total


def test_device_sends_no_more_than_the_guest_has_room_for(guest: Guest, host: Host) -> None:
    stream, client = host.open(guest, 1234, buf_alloc=10_000)
    fill(client)

    *packets, ask = guest.packets()

    assert len(stream.read(packets)) == 10_000
    assert ask.op == CREDIT_REQUEST
    assert guest.run() == 0
    stream.send(CREDIT_UPDATE, fwd_cnt=1)
    one, ask = guest.packets()
    assert (len(one.data), ask.op) == (1, CREDIT_REQUEST)
    assert guest.packets() == []


def test_device_asks_once_for_credit_and_takes_an_answer_with_none(guest: Guest, host: Host) -> None:
    stream, client = host.open(guest, 1234, buf_alloc=0)
    client.sendall(b"hello")

    assert guest.packet().op == CREDIT_REQUEST
    for _ in range(5):
        stream.send(CREDIT_UPDATE)
    assert guest.packets() == []
    assert guest.run() == 0
    stream.buf_alloc = 3
    stream.send(CREDIT_UPDATE)

    data, ask = guest.packets()
    assert (data.data, ask.op) == (b"hel", CREDIT_REQUEST)


def test_guest_that_takes_room_back_is_sent_nothing(guest: Guest, host: Host) -> None:
    stream, client = host.open(guest, 1234, buf_alloc=1000)
    client.sendall(bytes(900))
    assert len(guest.packet().data) == 900
    stream.send(CREDIT_UPDATE, buf_alloc=500)
    client.sendall(bytes(900))

    assert guest.packet().op == CREDIT_REQUEST
    stream.send(CREDIT_UPDATE, buf_alloc=1000, fwd_cnt=900)
    assert len(guest.packet().data) == 900


@pytest.mark.parametrize("fwd_cnt", [1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_guest_that_says_it_took_what_it_was_not_sent(guest: Guest, host: Host, fwd_cnt: int) -> None:
    stream, client = host.open(guest, 1234, buf_alloc=1000)
    stream.send(CREDIT_UPDATE, fwd_cnt=fwd_cnt)
    fill(client)

    packets = guest.packets()

    assert sum(len(packet.data) for packet in packets) <= 1000 + 1
    assert guest.run() == 0


def test_counters_wrap(guest: Guest, stream: Pair) -> None:
    end, client = stream
    [connection] = guest.muxer._connections.values()
    connection._tx_cnt = connection._peer_fwd_cnt = end.fwd_cnt = 0xFFFFFFFF - 1000
    connection.fwd_cnt = connection._told_fwd_cnt = 0xFFFFFFFF - 1000
    for _ in range(10):
        client.sendall(bytes(1000))
        assert len(end.read(guest.packets())) == 1000
        end.send(CREDIT_UPDATE)
        end.send(RW, bytes(60000))
        receive(client)
        guest.post(64 - guest.rx.in_flight)

    updates = [packet for packet in guest.packets() if packet.op == CREDIT_UPDATE]
    assert connection.fwd_cnt == 600_000 - 1001
    assert all(packet.header.fwd_cnt < 600_000 for packet in updates)


def test_guest_is_told_of_room_before_it_has_none(stream: Pair, guest: Guest) -> None:
    end, client = stream
    sent = 0
    while sent < 4 << 20:
        size = min(50_000, end.credit)
        assert size > 0, "the guest would stop here"
        end.send(RW, bytes(size))
        sent += size
        receive(client)
        for packet in guest.packets():
            assert end.hear(packet).op == CREDIT_UPDATE
        guest.post(64 - guest.rx.in_flight)


def test_guest_that_asks_for_credit_is_told(stream: Pair, guest: Guest) -> None:
    end, _ = stream
    end.send(RW, b"12345")

    end.send(CREDIT_REQUEST)

    update = guest.packet()
    assert (update.op, update.header.fwd_cnt) == (CREDIT_UPDATE, 5)


def test_host_that_does_not_read_holds_the_guest_and_no_more_memory_than_its_credit(stream: Pair, guest: Guest) -> None:
    end, client = stream
    sent = 0
    while end.credit:
        size = min(50_000, end.credit)
        end.send(RW, BIG[:size])
        end.send(CREDIT_REQUEST)
        sent += size
        for packet in guest.packets():
            end.hear(packet)
        guest.post(64 - guest.rx.in_flight)
    [connection] = guest.muxer._connections.values()
    assert len(connection._unsent) == connection.buf_alloc == end.peer_buf_alloc
    assert guest.run() == 0

    got = 0
    while got < sent:
        got += len(receive(client, 1000))
        guest.run()

    assert end.hear(guest.packets()[-1]).op == CREDIT_UPDATE
    assert end.credit > end.peer_buf_alloc // 2


def test_guest_that_sends_more_than_its_credit_loses_the_stream(stream: Pair, guest: Guest) -> None:
    end, _ = stream
    [connection] = guest.muxer._connections.values()
    while not connection._unsent:
        end.send(RW, bytes(60_000))
    left = connection.buf_alloc - len(connection._unsent)
    end.send(RW, bytes(left))
    assert len(connection._unsent) == connection.buf_alloc
    guest.packets()

    end.send(RW, b"x")

    assert guest.packet().op == RST
    assert len(connection._unsent) == connection.buf_alloc


def test_full_ring_holds_the_host_and_nothing_is_kept_or_lost(make_guest: Callable[..., Guest], host: Host) -> None:
    guest = make_guest()
    guest.up(2)
    stream, client = host.open(guest, 1234)
    total = fill(client)
    assert guest.run() <= 2
    assert guest.loop.run_once(0) == 0, "what has no room must not keep the loop busy"

    got = 0
    while got < total:
        got += len(stream.read(guest.packets()))
        stream.send(CREDIT_UPDATE)
        guest.post(2 - guest.rx.in_flight)

    assert got == total


def test_full_ring_and_a_host_that_leaves(make_guest: Callable[..., Guest], host: Host) -> None:
    guest = make_guest()
    guest.up(1)
    stream, client = host.open(guest, 1234)
    client.sendall(bytes(100_000))
    guest.run()
    client.close()

    assert guest.run() == 0, "a hang-up must not keep the loop busy"
    got = 0
    while got < 100_000:
        got += len(stream.read(guest.packets()))
        guest.post(1)
    assert [packet.header.flags for packet in guest.packets()] == [BOTH]


def test_no_credit_and_a_host_that_leaves(guest: Guest, host: Host) -> None:
    stream, client = host.open(guest, 1234, buf_alloc=0)
    client.sendall(b"last words")
    client.close()
    assert [packet.op for packet in guest.packets()] == [CREDIT_REQUEST]
    assert guest.run() == 0

    stream.buf_alloc = 1000
    stream.send(CREDIT_UPDATE)

    data, shutdown = guest.packets()
    assert (data.data, shutdown.op) == (b"last words", SHUTDOWN)


def test_first_streams_get_much_credit_and_all_together_little(
    make_guest: Callable[..., Guest], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muxer, "LARGE_BUFFERS", 3)
    guest = make_guest()
    guest.up()
    host.listen(80)
    streams = [Stream(guest, 80, 5000 + number) for number in range(5)]
    sizes = []
    for stream in streams:
        stream.send(1)
        packet = stream.hear(guest.packet())
        assert packet.op == RESPONSE
        sizes.append(packet.header.buf_alloc)
    assert sizes == [muxer.LARGE_BUFFER] * 3 + [muxer.SMALL_BUFFER] * 2

    streams[0].send(RST)
    streams[0].send(1)

    assert streams[0].hear(guest.packet()).header.buf_alloc == muxer.LARGE_BUFFER


def test_what_waits_of_streams_that_have_ended_counts(
    make_guest: Callable[..., Guest], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a guest could have the host keep a buffer of each of 512 streams."""
    monkeypatch.setattr(muxer, "LARGE_BUFFERS", 1)
    guest = make_guest()
    guest.up()
    host.listen(80)
    sizes = []
    for _ in range(2):
        stream = Stream(guest, 80, 5000)
        stream.send(1)
        sizes.append(stream.hear(guest.packet()).header.buf_alloc)
        while stream.credit:
            stream.send(RW, bytes(min(50_000, stream.credit)))
            for packet in guest.packets():
                stream.hear(packet)
            guest.post(64 - guest.rx.in_flight)
        stream.send(RST)

    assert sizes == [muxer.LARGE_BUFFER, muxer.SMALL_BUFFER]
    assert guest.muxer.streams == 2
