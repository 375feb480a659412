"""Requests of the control queue, good and hostile."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from net_guest import Guest
from pyvmm.testing.driver_ring import GuestBuffer
from pyvmm_virtio_net import constants as net
from pyvmm_virtio_net.tap_card import Net

CTRL = [net.VIRTIO_NET_F_CTRL_VQ]
ALL = [*CTRL, net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_MAC_ADDR]
RX, MAC, VLAN, ANNOUNCE, MQ = range(5)
OK, ERR = b"\0", b"\1"
MAC_A, MAC_B, GROUP = bytes.fromhex("020000000001"), bytes.fromhex("020000000002"), bytes.fromhex("01005e000001")


def table(*addresses: bytes, count: int | None = None) -> bytes:
    return struct.pack("<I", len(addresses) if count is None else count) + b"".join(addresses)


@pytest.fixture
def started(guest: Guest) -> Guest:
    guest.start(ALL)
    return guest


def ask(guest: Guest, class_: int, command: int, data: bytes = b"") -> bytes:
    """Send one request; its answer."""
    chain = guest.rings[2].add([bytes([class_, command]), *([data] if data else [])], [1])
    [used] = guest.exchange(2)
    assert used.length == 1
    return chain.written()


def card(guest: Guest) -> Net:
    assert isinstance(guest.device, Net)
    return guest.device


def test_receive_modes_and_table_are_taken(started: Guest) -> None:
    assert ask(started, RX, 0, b"\0") == OK
    assert ask(started, RX, 1, b"\1") == OK
    assert ask(started, MAC, 0, table(MAC_A) + table(GROUP, GROUP)) == OK

    net0 = card(started)
    assert not net0.promiscuous and net0.all_multicast
    assert net0.mac_table == [MAC_A, GROUP, GROUP]
    assert ask(started, MAC, 0, table() + table()) == OK
    assert net0.mac_table == []


def test_address_is_set_shown_and_gone_with_the_driver(started: Guest) -> None:
    before = started.read_config(0, 6)

    assert ask(started, MAC, 1, MAC_B) == OK

    assert started.read_config(0, 6) == MAC_B
    started.start(ALL)
    assert started.read_config(0, 6) == before


@pytest.mark.parametrize(
    ("class_", "command", "data"),
    [
        (RX, 0, b""),
        (RX, 0, b"\2"),
        (RX, 0, b"\1\0"),
        (RX, 2, b"\1"),
        (RX, 255, b"\1"),
        (MAC, 0, b""),
        (MAC, 0, table()),
        (MAC, 0, table(count=1) + table()),
        (MAC, 0, table(count=0xFFFFFFFF) + table()),
        (MAC, 0, table(MAC_A) + table(count=2) + GROUP),
        (MAC, 0, table(MAC_A) + table(GROUP) + b"x"),
        (MAC, 1, b""),
        (MAC, 1, MAC_A[:5]),
        (MAC, 1, MAC_A + b"\0"),
        (MAC, 1, GROUP),
        (MAC, 1, bytes(6)),
        (VLAN, 0, b"\1\0"),
        (ANNOUNCE, 0, b""),
        (MQ, 0, b"\1\0"),
        (5, 0, bytes(8)),
        (255, 255, b"\xff" * 100),
    ],
)
def test_bad_request_is_refused(started: Guest, class_: int, command: int, data: bytes) -> None:
    assert ask(started, class_, command, data) == ERR
    assert ask(started, RX, 0, b"\1") == OK, "the next one is served"


@pytest.mark.parametrize(("class_", "data"), [(RX, b"\1"), (MAC, table() + table()), (MQ, b"\1\0")])
def test_request_without_its_feature_is_refused(guest: Guest, class_: int, data: bytes) -> None:
    guest.start(CTRL)

    assert ask(guest, class_, 0, data) == ERR


def test_long_table_is_taken_and_cut(started: Guest) -> None:
    assert ask(started, MAC, 0, table(*[MAC_A] * 1000) + table()) == OK

    assert len(card(started).mac_table) == 64


@pytest.mark.parametrize(
    ("readable", "writable", "answer"),
    [
        ([b"\0"], [1], ERR),
        ([], [1], ERR),
        ([b"\0\0\1"], [], b""),
        ([b"\0", b"\0", b"\1"], [1], OK),
        ([b"\0\0", b"\1"], [100], OK),
        ([bytes(20000)], [1], ERR),
    ],
    ids=["a byte", "nothing", "no room", "in pieces", "much room", "too long"],
)
def test_request_of_another_shape_is_answered(
    started: Guest, readable: list[bytes], writable: list[int], answer: bytes
) -> None:
    chain = started.rings[2].add(readable, writable)
    [used] = started.exchange(2)

    assert used.length == len(answer)
    assert chain.written()[: used.length] == answer
    assert not started.needs_reset


def test_many_requests_at_once_are_all_answered(started: Guest) -> None:
    chains = [started.rings[2].add([bytes([RX, 0, i % 3])], [1]) for i in range(30)]
    started.exchange(2)

    assert [chain.written() for chain in chains] == [OK, OK, ERR] * 10


def test_broken_control_queue_stops_the_device_until_a_reset(started: Guest) -> None:
    started.rings[2].add([GuestBuffer(started.memory, started.memory.end, 3)], [1])
    started.rings[2].kick()
    started.run()

    assert started.needs_reset
    started.start(ALL)
    assert ask(started, RX, 0, b"\1") == OK


def test_queue_is_dead_without_its_feature(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.start([])
    guest.rings[2].add([b"\0\0\1"], [1])
    guest.rings[2].kick()

    guest.run()

    assert guest.rings[2].take_used() == []
    assert not guest.needs_reset
