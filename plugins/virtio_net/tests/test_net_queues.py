"""A card with several pairs of queues on one tap."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from net_frames import NO_OFFLOAD, plain
from net_guest import Guest
from net_host import Wire, ip
from pyvmm.errors import PyvmmError
from pyvmm.limits import MAX_CPUS
from pyvmm_virtio_net import constants as net
from pyvmm_virtio_net.tap import Tap

MakeGuest = Callable[..., Guest]
FEATURES = [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_MQ]
PAIRS = 3
CONTROL = 2 * PAIRS


@pytest.fixture
def guest(make_guest: MakeGuest, request: pytest.FixtureRequest) -> Guest:
    return make_guest(queues=getattr(request, "param", PAIRS))


def set_pairs(guest: Guest, count: int, queue: int = CONTROL) -> bool:
    chain = guest.rings[queue].add([struct.pack("<BBH", 4, 0, count)], [1])
    guest.exchange(queue)
    return chain.written() == b"\0"


def send(guest: Guest, pair: int, frame: bytes) -> None:
    ring = guest.rings[2 * pair + 1]
    ring.add([NO_OFFLOAD + frame])
    ring.kick()
    guest.run()


def post(guest: Guest, pair: int, count: int) -> None:
    for _ in range(count):
        guest.rings[2 * pair].add([], [2000])
    guest.rings[2 * pair].kick()
    guest.run()


def received(guest: Guest, pair: int) -> list[bytes]:
    frames = []
    for used in guest.rings[2 * pair].take_used():
        assert used.chain is not None
        frames.append(used.chain.written()[12 : used.length])
    return frames


def flow(number: int) -> bytes:
    """A frame of a UDP flow of its own, by which a tap chooses the queue."""
    ethernet = bytes.fromhex("ffffffffffff 020000000001 0800")
    addresses = struct.pack(">II", 0x0A000001, 0x0A000002)
    ipv4 = struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 17, 0) + addresses
    return ethernet + ipv4 + struct.pack(">HHHH", 1000 + number, 2000, 20, 0) + bytes(12)


def test_configuration_and_features_say_how_many(guest: Guest) -> None:
    assert guest.read_config(8, 2) == bytes([PAIRS, 0])
    assert guest.offered_features() >> net.VIRTIO_NET_F_MQ & 1


def test_one_pair_has_no_multiqueue_feature(make_guest: MakeGuest) -> None:
    assert not make_guest().offered_features() >> net.VIRTIO_NET_F_MQ & 1


def test_one_pair_runs_until_the_driver_asks_for_more(guest: Guest, wire: Wire) -> None:
    guest.start(FEATURES)
    for pair in range(PAIRS):
        post(guest, pair, 64)
    for number in range(64):
        wire.send(flow(number))
    guest.run()

    assert [len(received(guest, pair)) for pair in range(PAIRS)] == [64, 0, 0]


def test_frames_are_spread_over_the_pairs(guest: Guest, wire: Wire) -> None:
    guest.start(FEATURES)
    for pair in range(PAIRS):
        post(guest, pair, 200)

    assert set_pairs(guest, PAIRS)
    for number in range(100):
        wire.send(flow(number))
    guest.run()

    counts = [len(received(guest, pair)) for pair in range(PAIRS)]
    assert sum(counts) == 100 and all(counts)
    post(guest, 0, counts[0])
    assert set_pairs(guest, 1)
    for number in range(100):
        wire.send(flow(number))
    guest.run()
    assert len(received(guest, 0)) == 100


def test_every_pair_sends(guest: Guest, wire: Wire) -> None:
    guest.start(FEATURES)
    ring = guest.rings[5]
    ring.add([NO_OFFLOAD + plain(60, 99)])
    ring.kick()
    guest.run()
    assert wire.receive() == [], "the driver has not asked for the third pair"

    assert set_pairs(guest, PAIRS)
    guest.run()
    assert [frame for _, frame in wire.receive()] == [plain(60, 99)]
    for pair in range(PAIRS):
        send(guest, pair, plain(60, pair))
        assert [frame for _, frame in wire.receive()] == [plain(60, pair)]


@pytest.mark.parametrize("count", [0, PAIRS + 1, 0x8000, 0xFFFF])
def test_number_of_pairs_out_of_range_is_refused(guest: Guest, count: int) -> None:
    guest.start(FEATURES)

    assert not set_pairs(guest, count)
    assert set_pairs(guest, 2)


def test_reset_and_activation_begin_with_one_pair(guest: Guest, wire: Wire) -> None:
    for _ in range(3):
        guest.start(FEATURES)
        assert set_pairs(guest, PAIRS)
        send(guest, 2, plain(60, 2))
        assert [frame for _, frame in wire.receive()] == [plain(60, 2)]
        guest.start(FEATURES)
        post(guest, 0, 64)
        for number in range(50):
            wire.send(flow(number))
        guest.run()
        assert len(received(guest, 0)) == 50


def test_driver_without_multiqueue_has_its_control_queue_third(guest: Guest) -> None:
    guest.start([net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_RX])
    chain = guest.rings[2].add([b"\0\0\1"], [1])
    guest.exchange(2)

    assert chain.written() == b"\0"
    assert not set_pairs(guest, 1, queue=2)


def test_all_pairs_run_where_somebody_else_has_the_control_queue(guest: Guest, wire: Wire) -> None:
    guest.start([net.VIRTIO_NET_F_MQ])

    for pair in range(PAIRS):
        send(guest, pair, plain(60, pair))
    assert [frame for _, frame in wire.receive()] == [plain(60, pair) for pair in range(PAIRS)]


@pytest.mark.parametrize("guest", [MAX_CPUS], indirect=True)
def test_as_many_pairs_as_a_machine_can_have_cpus_send_and_receive(guest: Guest, wire: Wire) -> None:
    guest.start(FEATURES)
    assert guest.read_config(8, 2) == bytes([MAX_CPUS, 0])
    assert set_pairs(guest, MAX_CPUS, queue=2 * MAX_CPUS)

    for pair in range(MAX_CPUS):
        send(guest, pair, plain(60, pair))
        post(guest, pair, 100)
    assert sorted(frame for _, frame in wire.receive()) == sorted(plain(60, pair) for pair in range(MAX_CPUS))
    for number in range(100):
        wire.send(flow(number))
    guest.run()
    counts = [len(received(guest, pair)) for pair in range(MAX_CPUS)]
    assert sum(counts) == 100
    assert any(counts[PAIRS:])


def test_existing_tap_with_many_queues(namespace: None, make_guest: MakeGuest) -> None:
    ip("tuntap add dev tap0 mode tap multi_queue")
    ip("link set tap0 up")

    guest = make_guest(queues=2)
    guest.start(FEATURES)
    assert set_pairs(guest, 2, queue=4)


def test_existing_tap_with_one_queue_is_refused(namespace: None) -> None:
    ip("tuntap add dev tap0 mode tap")
    ip("tuntap add dev tun0 mode tun")

    with pytest.raises(
        PyvmmError, match="tap tap0 has one queue; leave queues=N out, or delete it and make it again: "
    ):
        Tap("tap0", queues=2)
    with pytest.raises(PyvmmError, match="interface tun0 is not a tap"):
        Tap("tun0", queues=2)


def test_tap_that_is_deleted_takes_all_pairs(guest: Guest) -> None:
    guest.start([*FEATURES, net.VIRTIO_NET_F_STATUS])
    assert set_pairs(guest, PAIRS)

    ip("link del tap0")
    guest.run()

    assert not guest.read_config(6, 2)[0] & 1
    for pair in range(PAIRS):
        send(guest, pair, plain(60))
        assert len(guest.rings[2 * pair + 1].take_used()) == 1
    assert set_pairs(guest, 1)
    assert guest.run() == 0
