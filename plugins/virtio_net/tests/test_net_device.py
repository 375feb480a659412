"""The card as a whole: features, configuration, link and life."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from net_frames import NO_OFFLOAD, plain
from net_guest import Card, Guest
from net_host import Wire, ip
from pyvmm_virtio_net import constants
from pyvmm_virtio_net.names import default_mac

MakeGuest = Callable[..., Guest]
STATUS = [constants.VIRTIO_NET_F_STATUS]


def link_is_up(guest: Guest) -> bool:
    return bool(int.from_bytes(guest.read_config(6, 2), "little") & constants.VIRTIO_NET_S_LINK_UP)


def test_features_are_those_of_the_readme(guest: Guest) -> None:
    offered = guest.offered_features()

    names = "CSUM GUEST_CSUM MTU MAC GUEST_TSO4 GUEST_TSO6 GUEST_ECN HOST_TSO4 HOST_TSO6 HOST_ECN MRG_RXBUF STATUS"
    for name in names.split():
        assert offered >> getattr(constants, f"VIRTIO_NET_F_{name}") & 1, name


def test_mac_is_the_one_that_was_asked_for_also_byte_by_byte(make_guest: MakeGuest) -> None:
    guest = make_guest(mac="52:54:00:12:34:56")

    assert guest.read_config(0, 6) == bytes.fromhex("525400123456")
    assert [guest.read_config(i, 1) for i in range(6)] == [bytes([byte]) for byte in bytes.fromhex("525400123456")]


def test_mac_is_otherwise_made_of_the_taps_name(guest: Guest) -> None:
    assert guest.read_config(0, 6).hex(":") == default_mac("tap0")


def test_mtu_is_the_taps(namespace: None, make_guest: MakeGuest) -> None:
    ip("tuntap add dev tap0 mode tap")
    ip("link set tap0 mtu 4000 up")

    assert int.from_bytes(make_guest().read_config(10, 2), "little") == 4000


def test_mtu_that_was_asked_for_is_given_to_a_tap_made_here(make_guest: MakeGuest) -> None:
    guest = make_guest(mtu=9000)

    assert int.from_bytes(guest.read_config(10, 2), "little") == 9000
    assert "mtu 9000" in ip("link show tap0")


def test_mtu_beyond_that_of_an_existing_tap_is_warned_of(
    make_guest: MakeGuest, caplog: pytest.LogCaptureFixture
) -> None:
    ip("tuntap add dev tap0 mode tap")
    ip("link set tap0 up")

    guest = make_guest(mtu=9000)

    assert int.from_bytes(guest.read_config(10, 2), "little") == 9000
    assert "sudo ip link set tap0 mtu 9000" in caplog.text
    assert "mtu 1500" in ip("link show tap0")


def test_existing_tap_that_is_down_is_warned_of_and_left_alone(
    make_guest: MakeGuest, caplog: pytest.LogCaptureFixture
) -> None:
    ip("tuntap add dev tap0 mode tap")

    guest = make_guest()

    assert "sudo ip link set tap0 up" in caplog.text
    assert "state DOWN" in ip("link show tap0")
    guest.start(STATUS)
    assert not link_is_up(guest)


def test_configuration_ends_with_zeros(guest: Guest) -> None:
    assert guest.read_config(8, 2) == b"\1\0"
    assert guest.read_config(12, 8) == bytes(8)
    assert guest.read_config(3000, 4) == bytes(4)


def test_configuration_is_not_written(guest: Guest) -> None:
    guest.start([])
    before = guest.read_config(0, 12)

    guest.write_config(0, b"\xff" * 12)

    assert guest.read_config(0, 12) == before


def test_link_follows_the_tap(guest: Guest) -> None:
    guest.start(STATUS)
    guest.run()
    assert link_is_up(guest)

    for command, up in [
        ("link set tap0 down", False),
        ("link set tap0 up", True),
        ("link set tap0 carrier off", False),
        ("link set tap0 carrier on", True),
    ]:
        guest.take_interrupt()
        generation = guest.read_register(0xFC)
        ip(command)
        guest.run_until(lambda up=up: link_is_up(guest) is up)  # type: ignore[misc]
        assert guest.take_interrupt()
        assert guest.read_register(0x60) & 2, "a change of the configuration"
        assert guest.read_register(0xFC) != generation
        guest.write_register(0x64, 2)


def test_link_that_changes_while_there_is_no_driver(guest: Guest) -> None:
    ip("link set tap0 down")
    guest.run()

    guest.start(STATUS)

    assert not link_is_up(guest)


def test_link_follows_a_tap_that_is_renamed(guest: Guest) -> None:
    guest.start(STATUS)

    ip("link set tap0 name other")
    guest.run()
    assert link_is_up(guest)
    ip("link set other down")
    guest.run_until(lambda: not link_is_up(guest))


def test_other_interfaces_are_nothing_to_us(guest: Guest) -> None:
    guest.start(STATUS)
    guest.run()

    ip("tuntap add dev tap9 mode tap")
    ip("link del tap9")
    guest.run()

    assert link_is_up(guest)
    assert not guest.take_interrupt()


def test_tap_that_is_deleted_takes_the_link_and_nothing_else(
    guest: Guest, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start(STATUS)
    card = Card(guest)
    for _ in range(4):
        card.post(2000)
    guest.receiveq.kick()
    guest.run()

    ip("link del tap0")
    guest.run_until(lambda: not link_is_up(guest))

    assert guest.take_interrupt()
    assert guest.run() == 0, "a tap that is gone must not keep the loop busy"
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1
    assert "net0: tap tap0 was removed from the host" in caplog.text
    card.send(NO_OFFLOAD + plain(60))
    guest.transmitq.kick()
    card.post(2000)
    guest.receiveq.kick()
    guest.run()
    assert len(card.sent()) == 1
    assert not guest.needs_reset


def test_tap_that_is_deleted_while_receiving_is_paused(guest: Guest, wire: Wire) -> None:
    guest.start(STATUS)
    wire.send(plain(60))
    guest.run()

    ip("link del tap0")
    guest.run_until(lambda: not link_is_up(guest))

    assert guest.run() == 0
    card = Card(guest)
    card.post(2000)
    guest.receiveq.kick()
    guest.run()
    assert card.received() == []


def test_driver_comes_back_after_the_tap_has_gone(guest: Guest) -> None:
    ip("link del tap0")

    for _ in range(2):
        guest.start([*STATUS, 1, 7, 15])
        card = Card(guest)
        card.post(2000)
        guest.receiveq.kick()
        card.send(NO_OFFLOAD + plain(60))
        guest.transmitq.kick()
        guest.run()

        assert not link_is_up(guest)
        assert len(card.sent()) == 1
        assert not guest.needs_reset


def test_queue_that_the_driver_left_out(guest: Guest, wire: Wire) -> None:
    """DRIVER_OK with the transmit queue alone: sending works, and receiving waits for ever, quietly."""
    guest.start([], queue_sizes=[0, 256, 64])
    wire.send(plain(60))
    card = Card(guest)
    card.send(NO_OFFLOAD + plain(61))
    guest.transmitq.kick()

    assert guest.run() <= 3
    assert [frame for _, frame in wire.receive()] == [plain(61)]


def test_two_cards_on_two_taps(make_guest: MakeGuest) -> None:
    one, two = make_guest("tap0"), make_guest("tap1")
    ip("link add br0 type bridge")
    for name in ("tap0", "tap1"):
        ip(f"link set {name} master br0")
    ip("link set br0 up")
    cards = []
    for guest in (one, two):
        guest.start([1, 7, 15])
        cards.append(Card(guest))
        for _ in range(16):
            cards[-1].post(2000)
        guest.receiveq.kick()

    cards[0].send(NO_OFFLOAD + plain(500))
    one.transmitq.kick()
    one.run()
    two.run()

    assert plain(500) in [frame[12:] for frame in cards[1].received()]
    assert one.read_config(0, 6) != two.read_config(0, 6)


def test_close_gives_the_tap_back(make_guest: MakeGuest) -> None:
    ip("tuntap add dev tap1 mode tap")
    made, existing = make_guest("tap0"), make_guest("tap1")
    made.start([])
    existing.start([])

    made.close()
    existing.close()

    assert "tap0" not in ip("link show")
    assert "tap1" in ip("link show")
    make_guest("tap1").start([])
