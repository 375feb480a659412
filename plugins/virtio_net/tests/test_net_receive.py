"""From the tap to the guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from net_frames import (
    DATA_VALID,
    GSO_TCPV4,
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
from net_host import Wire
from pyvmm.testing.driver_ring import GuestBuffer
from pyvmm_virtio_net.constants import (
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_MRG_RXBUF,
)

CSUM = [VIRTIO_NET_F_GUEST_CSUM]
TSO = [VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN]
MERGE = [*TSO, VIRTIO_NET_F_MRG_RXBUF]
EVENT_IDX = [29]
LARGE = tcp(bytes(range(256)) * 255)


def post(guest: Guest, count: int, *lengths: int) -> Card:
    """A driver that has posted ``count`` chains with buffers of ``lengths``."""
    card = Card(guest)
    for _ in range(count):
        card.post(*lengths)
    guest.receiveq.kick()
    guest.run()
    return card


def used_sizes(guest: Guest) -> list[int]:
    return [used.length for used in guest.receiveq.take_used()]


@pytest.mark.parametrize("features", [[], CSUM, MERGE, MERGE + EVENT_IDX], ids=["none", "csum", "merge", "event-idx"])
@pytest.mark.parametrize("size", [60, 61, 1514])
def test_frame_arrives_with_a_header_of_one_buffer(guest: Guest, wire: Wire, features: list[int], size: int) -> None:
    guest.start(features)
    card = post(guest, 16, 1526)

    wire.send(plain(size))
    guest.run()

    assert card.received() == [header()[:10] + b"\1\0" + plain(size)]
    assert guest.take_interrupt()


def test_frame_goes_over_all_buffers_of_a_chain(guest: Guest, wire: Wire) -> None:
    guest.start([])
    card = post(guest, 1, 5, 7, 1, 30, 2000)

    wire.send(plain(1000))
    guest.run()

    assert card.received() == [NO_OFFLOAD[:10] + b"\1\0" + plain(1000)]


@pytest.mark.parametrize(("frame", "head"), [(tcp(b"abc"), TCP_CSUM), (udp(b"abc"), UDP_CSUM)], ids=["tcp", "udp"])
def test_partial_checksum_is_passed_on_to_who_takes_it(guest: Guest, wire: Wire, frame: bytes, head: bytes) -> None:
    guest.start(CSUM)
    card = post(guest, 4, 2048)

    wire.send(frame, head[:10])
    guest.run()

    [got] = card.received()
    assert got == head[:10] + b"\1\0" + frame
    assert not checksum_is_good(got[12:])


@pytest.mark.parametrize(("frame", "head"), [(tcp(b"abc"), TCP_CSUM), (udp(b"abc"), UDP_CSUM)], ids=["tcp", "udp"])
def test_checksum_is_completed_for_who_does_not(guest: Guest, wire: Wire, frame: bytes, head: bytes) -> None:
    guest.start([])
    card = post(guest, 4, 2048)

    wire.send(frame, head[:10])
    wire.send(frame, header(DATA_VALID)[:10])
    guest.run()

    got, valid = card.received()
    assert got[:12] == valid[:12] == NO_OFFLOAD[:10] + b"\1\0"
    assert checksum_is_good(got[12:])


def test_large_segment_of_64_kib_goes_over_merged_buffers(guest: Guest, wire: Wire) -> None:
    guest.start(MERGE)
    card = post(guest, 256, 1536)

    wire.send(LARGE, tso()[:10])
    guest.run()

    [got] = card.received()
    assert got[12:] == LARGE
    assert got[:10] == tso()[:10]
    assert int.from_bytes(got[10:12], "little") == -(-len(got) // 1536)


def test_large_segment_goes_into_one_large_buffer(guest: Guest, wire: Wire) -> None:
    guest.start(TSO)
    card = post(guest, 4, 65562)

    wire.send(LARGE, tso()[:10])
    guest.run()

    assert card.received() == [tso()[:10] + b"\1\0" + LARGE]


def test_large_segment_is_cut_for_a_guest_that_takes_none(guest: Guest, wire: Wire) -> None:
    guest.start(CSUM)
    card = post(guest, 64, 1526)

    wire.send(LARGE, tso()[:10])
    guest.run()

    frames = card.received()
    assert b"".join(frame[12 + 54 :] for frame in frames) == LARGE[54:]
    assert all(frame[:12] == NO_OFFLOAD[:10] + b"\1\0" or frame[0] in (NEEDS_CSUM, DATA_VALID) for frame in frames)
    assert all(frame[1] != GSO_TCPV4 for frame in frames)


def test_merged_frame_leaves_no_buffer_out(guest: Guest, wire: Wire) -> None:
    """Buffers of very different sizes, many frames: what is in the used ring is all there was, in order."""
    guest.start(MERGE)
    card = Card(guest)
    sizes = [12, 13, 600, 4096, 1, 30000, 65562, 100]
    for i in range(200):
        card.post(max(12, sizes[i % len(sizes)]))
    guest.receiveq.kick()
    sent = []
    for number, size in enumerate([60, 1514, 300, 1000, 61, 1514]):
        sent.append(plain(size, number))
        wire.send(sent[-1])
    wire.send(LARGE, tso()[:10])
    wire.send(plain(60, 99))

    guest.run()

    assert [frame[12:] for frame in card.received()] == [*sent, LARGE, plain(60, 99)]


def test_many_frames_in_order_while_buffers_come_back(guest: Guest, wire: Wire) -> None:
    guest.start(MERGE + EVENT_IDX)
    card = post(guest, 256, 1536)
    got = []
    for start in range(0, 3000, 100):
        for number in range(start, start + 100):
            wire.send(plain(60 + number % 1400, number))
        guest.run()
        frames = card.received()
        got += [frame[12:] for frame in frames]
        for _ in frames:
            card.post(1536)
        guest.receiveq.kick()

    assert got == [plain(60 + number % 1400, number) for number in range(3000)]


@pytest.mark.parametrize("features", [CSUM, [*CSUM, VIRTIO_NET_F_MRG_RXBUF]], ids=["plain", "merge"])
def test_frame_too_large_for_its_buffers_is_dropped_whole(guest: Guest, wire: Wire, features: list[int]) -> None:
    guest.start(features)
    card = post(guest, 1, 200)

    wire.send(plain(188, 1))
    guest.run()
    assert [frame[12:] for frame in card.received()] == [plain(188, 1)]

    card.post(200)
    guest.receiveq.kick()
    wire.send(plain(189, 2))
    wire.send(plain(1514, 3))
    wire.send(plain(100, 4))
    guest.run()
    assert [frame[12:] for frame in card.received()] == [plain(100, 4)]


@pytest.mark.parametrize("features", [MERGE, MERGE + EVENT_IDX], ids=["flags", "event-idx"])
def test_large_frame_does_not_stall_a_driver_with_little_room(guest: Guest, wire: Wire, features: list[int]) -> None:
    guest.start(features)
    card = post(guest, 20, 1536)

    wire.send(LARGE, tso()[:10])
    wire.send(plain(60))
    guest.run()

    assert [frame[12:] for frame in card.received()] == [plain(60)]


@pytest.mark.parametrize("features", [MERGE, MERGE + EVENT_IDX], ids=["flags", "event-idx"])
def test_large_frame_waits_for_a_driver_that_holds_buffers_back(guest: Guest, wire: Wire, features: list[int]) -> None:
    guest.start(features)
    card = post(guest, 64, 1536)
    for number in range(50):
        wire.send(plain(60, number))
    wire.send(LARGE, tso()[:10])
    assert guest.run() <= 3
    frames = card.received()
    assert 32 <= len(frames) < 50

    for _ in frames:
        card.post(1536)
    assert guest.receiveq.kick(), "the device must want to hear of new buffers"
    guest.run()
    frames += card.received()
    assert len(frames) >= 50
    for _ in range(64):
        card.post(1536)
    guest.receiveq.kick()
    guest.run()
    frames += card.received()
    assert [frame[12:] for frame in frames] == [*(plain(60, number) for number in range(50)), LARGE]


@pytest.mark.parametrize("features", [[], MERGE, EVENT_IDX, MERGE + EVENT_IDX])
def test_no_stall_when_tap_and_ring_are_both_full(guest: Guest, wire: Wire, features: list[int]) -> None:
    """Firecracker's CVE-2020-16843: the tap's queue and the receive ring full at once, then buffers again."""
    guest.start(features)
    card = post(guest, 4, 1526)
    for number in range(2000):  # a tap keeps 1000
        wire.send(plain(60, number))

    assert guest.run() <= 3, "a full ring must not keep the loop busy"
    total = len(card.received())
    assert 2 <= total <= 4
    count = 100
    while count:
        for _ in range(count):
            card.post(1526)
        assert guest.receiveq.kick() or total > 900, "the device must want to hear of new buffers"
        guest.run()
        count = len(card.received())
        total += count
    assert total >= 1000
    wire.send(plain(60, 9999))
    guest.run()
    assert [frame[12:] for frame in card.received()] == [plain(60, 9999)]


@pytest.mark.parametrize("features", [[], [VIRTIO_NET_F_MRG_RXBUF]], ids=["plain", "merge"])
def test_buffer_without_room_for_a_header_comes_back_empty(guest: Guest, wire: Wire, features: list[int]) -> None:
    guest.start(features)
    card = Card(guest)
    for length in (11, 1, 2000, 5, 2000):
        card.post(length)
    guest.receiveq.kick()

    for number in range(2):
        wire.send(plain(1000, number))
    guest.run()

    assert used_sizes(guest) == [0, 0, 1012, 0, 1012]


def test_chain_that_the_device_shall_read_comes_back_empty(guest: Guest, wire: Wire) -> None:
    guest.start([])
    guest.receiveq.add([bytes(2000)])
    guest.receiveq.add([bytes(12)], [2000])
    guest.receiveq.add([], [2000])
    guest.receiveq.kick()

    wire.send(plain(60))
    guest.run()

    assert used_sizes(guest) == [0, 0, 72]


@pytest.mark.parametrize("features", [[], MERGE], ids=["plain", "merge"])
def test_broken_ring_stops_the_device_until_a_reset(guest: Guest, wire: Wire, features: list[int]) -> None:
    guest.start(features)
    card = post(guest, 2, 2000)
    guest.receiveq.add([], [GuestBuffer(guest.memory, guest.memory.end - 10, 2000)])
    guest.receiveq.kick()
    for number in range(3):
        wire.send(plain(60, number))

    guest.run()

    assert guest.needs_reset
    wire.send(plain(60, 4))
    assert guest.run() == 0
    guest.start(features)
    card = post(guest, 2, 2000)
    wire.send(plain(60, 5))
    guest.run()
    assert [frame[12:] for frame in card.received()] == [plain(60, 5)]


def test_reset_with_frames_and_buffers_waiting(guest: Guest, wire: Wire) -> None:
    for features in ([], MERGE, EVENT_IDX, MERGE):
        guest.start(features)
        card = post(guest, 3, 2000)
        for number in range(5):
            wire.send(plain(60, number))
        guest.loop.run_once(0)
        assert 2 <= len(used_sizes(guest)) <= 3

    guest.reset()
    assert guest.run() == 0
    guest.start(MERGE)
    card = post(guest, 8, 2000)
    guest.run()
    assert card.received() == [], "frames of an earlier life must not come back"
    wire.send(plain(60, 7))
    guest.run()
    assert [frame[12:] for frame in card.received()] == [plain(60, 7)]


def test_large_segments_that_waited_do_not_reach_a_driver_that_takes_none(guest: Guest, wire: Wire) -> None:
    guest.start(MERGE)
    wire.send(LARGE, tso()[:10])
    guest.run()

    guest.start(CSUM)
    card = post(guest, 8, 65562)
    guest.run()

    assert card.received() == []


def test_offloads_follow_the_driver(make_guest: Callable[..., Guest], caplog: pytest.LogCaptureFixture) -> None:
    """Every subset of what a driver may take, also senseless ones, can be activated."""
    guest = make_guest()
    bits = [0, 1, 7, 8, 9, 54, 55]
    offered = guest.offered_features()
    for choice in range(1 << len(bits)):
        features = [bit for i, bit in enumerate(bits) if choice >> i & 1 and offered >> bit & 1]
        guest.start(features)
        assert not guest.needs_reset, features
