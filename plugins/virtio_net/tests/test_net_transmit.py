"""From the guest to the tap."""

from __future__ import annotations

import random

import pytest
from net_frames import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    NEEDS_CSUM,
    NO_OFFLOAD,
    TCP_CSUM,
    UDP_CSUM,
    checksum_is_good,
    header,
    plain,
    tcp,
    tso,
    udp,
)
from net_guest import Card, Guest
from net_host import Wire, ip
from pyvmm.testing.driver_ring import GuestBuffer

OFFLOADS = [0, 11, 12, 13]
EVENT_IDX = [29]
LARGE = tcp(bytes(range(256)) * 255)


def transmit(guest: Guest, card: Card, *messages: bytes) -> None:
    """Send messages and see that all chains come back."""
    heads = [card.send(message) for message in messages]
    guest.transmitq.kick()
    guest.run()
    assert card.sent() == heads


@pytest.mark.parametrize("features", [[], OFFLOADS, OFFLOADS + EVENT_IDX], ids=["none", "offloads", "event-idx"])
@pytest.mark.parametrize("size", [14, 60, 61, 1514])
def test_frame_reaches_the_host(guest: Guest, wire: Wire, features: list[int], size: int) -> None:
    guest.start(features)

    transmit(guest, Card(guest), NO_OFFLOAD + plain(size))

    assert [frame for _, frame in wire.receive()] == [plain(size)]
    assert guest.take_interrupt()


@pytest.mark.parametrize("cuts", [(12,), (1, 2, 3, 12, 13), (5, 40), tuple(range(10, 600, 7))])
def test_chain_may_be_cut_anywhere(guest: Guest, wire: Wire, cuts: tuple[int, ...]) -> None:
    guest.start([])
    card = Card(guest)
    head = card.send(NO_OFFLOAD + plain(1000), *cuts)

    guest.transmitq.kick()
    guest.run()

    assert card.sent() == [head]
    assert [frame for _, frame in wire.receive()] == [plain(1000)]


@pytest.mark.parametrize(("frame", "head"), [(tcp(b"abc"), TCP_CSUM), (udp(b"abc"), UDP_CSUM)], ids=["tcp", "udp"])
def test_partial_checksum_is_known_to_the_host(guest: Guest, wire: Wire, frame: bytes, head: bytes) -> None:
    guest.start(OFFLOADS)

    transmit(guest, Card(guest), head + frame)

    [(got, data)] = wire.receive()
    assert got[0] == NEEDS_CSUM and got[6:10] == head[6:10]
    assert data == frame and not checksum_is_good(data)


def test_large_segment_of_64_kib_stays_whole(guest: Guest, wire: Wire) -> None:
    guest.start(OFFLOADS)

    transmit(guest, Card(guest), tso() + LARGE)

    [(got, data)] = wire.receive()
    assert data == LARGE
    assert (got[0], got[1], got[4:6]) == (NEEDS_CSUM, GSO_TCPV4, (1448).to_bytes(2, "little"))


def test_many_frames_in_order(guest: Guest, wire: Wire) -> None:
    guest.start(EVENT_IDX)
    card = Card(guest)
    for start in range(0, 2000, 250):
        frames = [plain(60 + number % 1400, number) for number in range(start, start + 250)]
        transmit(guest, card, *(NO_OFFLOAD + frame for frame in frames))
        assert [frame for _, frame in wire.receive()] == frames


@pytest.mark.parametrize(
    "message",
    [
        b"\0",
        NO_OFFLOAD[:11],
        NO_OFFLOAD,
        NO_OFFLOAD + plain(13),
        NO_OFFLOAD + bytes(65551),
        NO_OFFLOAD + bytes(200000),
    ],
    ids=["one byte", "part of a header", "no frame", "part of an address", "a byte too large", "far too large"],
)
def test_frame_that_is_none_is_dropped(guest: Guest, wire: Wire, message: bytes) -> None:
    guest.start([])
    card = Card(guest)

    transmit(guest, card, message, NO_OFFLOAD + plain(60))

    assert [frame for _, frame in wire.receive()] == [plain(60)]


@pytest.mark.parametrize("gso_type", [GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, 2, 6, 0x7F, 0x80, 0x84, 0xFF])
@pytest.mark.parametrize(
    "numbers",
    [(0, 0, 0, 0), (54, 0, 34, 16), (0xFFFF, 1448, 34, 16), (54, 1, 0xFFFF, 0xFFFF), (54, 0xFFFF, 34, 0xFFFF)],
)
def test_offload_that_makes_no_sense_harms_nobody(
    guest: Guest, wire: Wire, gso_type: int, numbers: tuple[int, int, int, int]
) -> None:
    guest.start(OFFLOADS)
    card = Card(guest)
    hdr_len, gso_size, start, offset = numbers

    for flags in (0, NEEDS_CSUM, 2, 0xFF):
        head = header(flags, gso_type, hdr_len, gso_size, start, offset)
        transmit(guest, card, head + plain(60), head + tcp(b"abc" * 400), head + LARGE)
    wire.receive()
    transmit(guest, card, NO_OFFLOAD + plain(60))

    assert [frame for _, frame in wire.receive()] == [plain(60)]


def test_random_headers_harm_nobody(guest: Guest, wire: Wire) -> None:
    guest.start(OFFLOADS)
    card = Card(guest)
    choose = random.Random(1)

    for _ in range(20):
        messages = [
            choose.randbytes(12) + choose.choice([plain(60), tcp(b"x" * 3000), udp(b"y" * 500)]) for _ in range(50)
        ]
        transmit(guest, card, *messages)
    wire.receive()
    transmit(guest, card, NO_OFFLOAD + plain(60))

    assert [frame for _, frame in wire.receive()] == [plain(60)]


def test_buffer_for_the_device_to_write_is_not_sent(guest: Guest, wire: Wire) -> None:
    guest.start([])
    guest.transmitq.add([NO_OFFLOAD + plain(60)], [100])
    guest.transmitq.add([], [100])
    guest.transmitq.kick()
    guest.run()

    assert [used.length for used in guest.transmitq.take_used()] == [0, 0]
    assert [frame for _, frame in wire.receive()] == [plain(60)]


def test_broken_ring_stops_the_device_and_what_came_before_is_sent(guest: Guest, wire: Wire) -> None:
    guest.start([])
    card = Card(guest)
    card.send(NO_OFFLOAD + plain(60))
    guest.transmitq.add([GuestBuffer(guest.memory, guest.memory.end, 100)])
    guest.transmitq.kick()

    guest.run()

    assert guest.needs_reset
    assert len(card.sent()) == 1
    assert [frame for _, frame in wire.receive()] == [plain(60)]


def test_frames_for_a_tap_that_is_down_are_dropped(guest: Guest, wire: Wire) -> None:
    guest.start([])
    card = Card(guest)

    ip("link set tap0 down")
    transmit(guest, card, *[NO_OFFLOAD + plain(60)] * 100)
    ip("link set tap0 up")
    transmit(guest, card, NO_OFFLOAD + plain(61))


def test_frames_for_a_tap_that_is_gone_are_dropped(guest: Guest) -> None:
    guest.start([])
    card = Card(guest)

    ip("link del tap0")
    transmit(guest, card, *[NO_OFFLOAD + plain(60)] * 100)
