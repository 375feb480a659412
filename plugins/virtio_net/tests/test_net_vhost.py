"""A card whose frames the kernel moves, and what is said where it cannot."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable

import pytest
from net_frames import NO_OFFLOAD, plain, tcp, tso
from net_guest import Card, Guest
from net_host import Wire, ip
from pyvmm.errors import HostError
from pyvmm.testing.driver_ring import GuestBuffer
from pyvmm_virtio_net import constants as net
from pyvmm_virtio_net import vhost
from pyvmm_virtio_net.tap_card import Net

MakeGuest = Callable[..., Guest]
MERGE = [net.VIRTIO_NET_F_MRG_RXBUF]
EVENT_IDX, INDIRECT = 29, 28
LARGE = tcp(bytes(range(256)) * 255)

with_vhost = pytest.mark.skipif(not os.path.exists(vhost.PATH), reason=f"needs {vhost.PATH}: modprobe vhost_net")


@pytest.fixture
def guest(make_guest: MakeGuest) -> Guest:
    return make_guest(vhost="on")


def post(guest: Guest, count: int, pair: int = 0) -> None:
    for _ in range(count):
        guest.rings[2 * pair].add([], [2000])
    guest.rings[2 * pair].kick()


def receive(guest: Guest, count: int, pair: int = 0) -> list[bytes]:
    frames = []
    for used in guest.wait_used(2 * pair, count):
        assert used.chain is not None
        frames.append(used.chain.written()[12 : used.length])
    return frames


def send(guest: Guest, wire: Wire, *messages: bytes, pair: int = 0) -> list[bytes]:
    """Frames as they come out."""
    for message in messages:
        guest.rings[2 * pair + 1].add([message[:12], message[12:]])
    guest.exchange(2 * pair + 1)
    return [frame for _, frame in wire.receive()]


@with_vhost
@pytest.mark.parametrize("features", [[], MERGE, [*MERGE, EVENT_IDX], [*MERGE, EVENT_IDX, INDIRECT]])
def test_frames_go_both_ways(guest: Guest, wire: Wire, features: list[int]) -> None:
    guest.start(features, indirect=INDIRECT in features)
    post(guest, 100)

    for start in range(0, 50, 10):
        frames = [plain(60 + 100 * number % 1400, number) for number in range(start, start + 10)]
        assert send(guest, wire, *(NO_OFFLOAD + frame for frame in frames)) == frames
        for frame in frames:
            wire.send(frame)
        assert receive(guest, 10) == frames


@with_vhost
def test_kernel_interrupts_and_the_register_says_why(guest: Guest, wire: Wire) -> None:
    guest.start(MERGE)
    post(guest, 10)
    guest.transport.interrupt_event.drain()

    wire.send(plain(60))

    assert guest.transport.interrupt_event.wait(10)
    assert guest.read_register(0x60) == 1
    guest.write_register(0x64, 1)
    assert guest.read_register(0x60) == 0


@with_vhost
def test_large_segments_go_both_ways(guest: Guest, wire: Wire) -> None:
    guest.start([*MERGE, net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_HOST_TSO4, net.VIRTIO_NET_F_GUEST_CSUM, 7])
    card = Card(guest)
    for _ in range(100):
        card.post(2000)
    guest.receiveq.kick()

    assert send(guest, wire, tso() + LARGE) == [LARGE]
    wire.send(LARGE, tso()[:10])
    frames: list[bytes] = []

    def came() -> bool:
        frames.extend(card.received())
        return bool(frames)

    guest.run_until(came)
    assert [frame[12:] for frame in frames] == [LARGE]


@with_vhost
def test_reset_and_activation_again_and_again(guest: Guest, wire: Wire) -> None:
    for number in range(20):
        guest.start([*MERGE, EVENT_IDX] if number % 2 else [])
        post(guest, 50)
        for _ in range(number):
            wire.send(plain(60))
        assert plain(61, number) in send(guest, wire, NO_OFFLOAD + plain(61, number))
    guest.reset()
    wire.send(plain(60, 99))
    guest.start(MERGE)
    post(guest, 10)
    wire.send(plain(60, 7))
    assert receive(guest, 1) == [plain(60, 7)], "frames of an earlier life must not come back"


@with_vhost
def test_broken_ring_needs_a_reset_and_then_works(guest: Guest, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    guest.start([])
    guest.transmitq.add([GuestBuffer(guest.memory, guest.memory.end, 100)])
    guest.transmitq.kick()

    guest.run_until(lambda: guest.needs_reset)

    assert "vhost-net found a ring or a buffer that breaks the rules" in caplog.text
    guest.start([])
    assert send(guest, wire, NO_OFFLOAD + plain(60)) == [plain(60)]


@with_vhost
def test_broken_control_queue_stops_the_kernel_too(guest: Guest, wire: Wire) -> None:
    guest.start([net.VIRTIO_NET_F_CTRL_VQ])
    guest.rings[2].add([GuestBuffer(guest.memory, guest.memory.end, 3)], [1])
    guest.rings[2].kick()
    guest.run_until(lambda: guest.needs_reset)

    assert not any(queue.handed_over for queue in guest.transport.queues)
    guest.start([])
    assert send(guest, wire, NO_OFFLOAD + plain(60)) == [plain(60)]


@with_vhost
def test_several_pairs(make_guest: MakeGuest) -> None:
    guest = make_guest(vhost="on", queues=2)
    with Wire("tap0") as wire:
        for _ in range(3):
            guest.start([net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_MQ])
            post(guest, 10, pair=1)
            for count in (2, 1, 2):
                chain = guest.rings[4].add([struct.pack("<BBH", 4, 0, count)], [1])
                guest.exchange(4)
                assert chain.written() == b"\0"
            for pair in range(2):
                assert send(guest, wire, NO_OFFLOAD + plain(60, pair), pair=pair) == [plain(60, pair)]


@with_vhost
def test_tap_that_is_deleted_takes_the_link_and_nothing_else(guest: Guest, caplog: pytest.LogCaptureFixture) -> None:
    guest.start([net.VIRTIO_NET_F_STATUS])

    ip("link del tap0")
    guest.run_until(lambda: not guest.read_config(6, 2)[0] & 1)

    assert "net0: tap tap0 was removed from the host" in caplog.text
    assert not guest.needs_reset
    guest.start([])


@with_vhost
def test_vhost_is_used_by_itself(make_guest: MakeGuest) -> None:
    guest = make_guest(vhost="auto")

    assert isinstance(guest.device, Net)
    assert len(guest.device.tap.vhosts) == 1


@pytest.mark.parametrize(
    ("number", "phrase"),
    [
        (errno.ENOENT, "No such file or directory; load the kernel's driver: sudo modprobe vhost_net"),
        (errno.EACCES, "Permission denied; allow this user to read and write it"),
    ],
)
def test_no_vhost(make_guest: MakeGuest, monkeypatch: pytest.MonkeyPatch, number: int, phrase: str) -> None:
    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(vhost, "VhostNet", refuse)

    with pytest.raises(HostError, match=f"net: cannot use /dev/vhost-net: {phrase}"):
        make_guest(vhost="on")
    for wanted in ("auto", "off"):
        guest = make_guest(f"tap-{wanted}", vhost=wanted)
        assert isinstance(guest.device, Net) and guest.device.tap.vhosts == []
