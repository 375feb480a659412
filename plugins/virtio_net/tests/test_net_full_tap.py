"""A tap that takes no more for a while: a pair of sockets in its place, since a tap that is full is hard to have."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from net_frames import NO_OFFLOAD, plain
from net_guest import Card, Guest
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.queue import Queue
from pyvmm_virtio_net.queue_pair import QueuePair

FRAMES = [plain(1000, number) for number in range(200)]


class SocketCard(VirtioDevice):
    """The data path of the network card on a socket."""

    device_type = 1
    queue_max_sizes = (256, 256)

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        for end in (self.near, self.far):
            end.setblocking(False)
        self.pair: QueuePair | None = None
        self.gone = 0

    def activate(self, *arguments: object) -> None:
        super().activate(*arguments)  # type: ignore[arg-type]
        self.pair = QueuePair(
            self.context.loop,
            self.near.fileno(),
            self.queues[0],
            self.queues[1],
            merge=False,
            max_frame_size=2000,
            checksums=True,
            is_gone=lambda: False,
            on_gone=self._on_gone,
        )
        self.pair.start()

    def on_kick(self, queue: Queue) -> None:
        assert self.pair
        self.pair.on_kick(queue)

    def reset(self) -> bool:
        assert self.pair
        self.pair.stop()
        return super().reset()

    def close(self) -> None:
        self.near.close()
        self.far.close()

    def received(self) -> list[bytes]:
        """The frames that have come out of the guest."""
        frames = []
        while True:
            try:
                frames.append(self.far.recv(100000)[12:])
            except BlockingIOError:
                return frames

    def _on_gone(self) -> None:
        self.gone += 1


@pytest.fixture
def device() -> SocketCard:
    return SocketCard()


@pytest.fixture
def guest(device: SocketCard) -> Iterator[Guest]:
    with Guest(device, name="net0") as guest:
        guest.start([])
        yield guest


def test_frames_wait_for_a_full_tap_and_none_is_lost(guest: Guest, device: SocketCard) -> None:
    card = Card(guest)
    for frame in FRAMES:
        card.send(NO_OFFLOAD + frame)
    guest.transmitq.kick()

    assert guest.run() <= 5, "a full tap must not keep the loop busy"
    got = device.received()
    assert 0 < len(got) < len(FRAMES)
    while len(got) < len(FRAMES):
        assert guest.loop.run_once(1), "the loop must hear of the tap's room"
        got += device.received()
    guest.run()

    assert got == FRAMES
    assert len(card.sent()) == len(FRAMES)


def test_kick_while_the_tap_is_full_changes_nothing(guest: Guest, device: SocketCard) -> None:
    card = Card(guest)
    for frame in FRAMES:
        card.send(NO_OFFLOAD + frame)
    guest.transmitq.kick()
    guest.run()

    guest.transport.queues[1].event.signal()
    assert guest.run() <= 1


def test_receiving_goes_on_while_sending_waits(guest: Guest, device: SocketCard) -> None:
    card = Card(guest)
    for frame in FRAMES:
        card.send(NO_OFFLOAD + frame)
    guest.transmitq.kick()
    guest.run()

    for number in range(10):
        card.post(2000)
        guest.receiveq.kick()
        device.far.send(NO_OFFLOAD + plain(60, number))
        guest.run()
        assert [frame[12:] for frame in card.received()] == [plain(60, number)]


def test_reset_while_sending_waits(guest: Guest, device: SocketCard) -> None:
    for _ in range(3):
        card = Card(guest)
        for frame in FRAMES:
            card.send(NO_OFFLOAD + frame)
        guest.transmitq.kick()
        guest.run()
        guest.reset()
        before = device.received()
        assert guest.run() == 0
        guest.start([])
        assert before == FRAMES[: len(before)]

    card = Card(guest)
    card.send(NO_OFFLOAD + plain(61))
    guest.transmitq.kick()
    guest.run()
    assert device.received() == [plain(61)]
    assert len(card.sent()) == 1


def test_other_side_that_goes_while_sending_waits(guest: Guest, device: SocketCard) -> None:
    card = Card(guest)
    for frame in FRAMES:
        card.send(NO_OFFLOAD + frame)
    guest.transmitq.kick()
    guest.run()

    device.far.close()
    guest.run()

    assert device.gone == 1
    assert len(card.sent()) == len(FRAMES), "what the guest has sent is dropped, not kept"
