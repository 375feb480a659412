"""The device as a whole: configuration, the path of its socket, resets and events."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm.errors import UsageError
from pyvmm.options import parse_options
from pyvmm.testing.driver_ring import DriverRing
from pyvmm_virtio_vsock import VsockOptions, pyvmm_device_kinds
from vsock_guest import REQUEST, RESPONSE, RST, RW, SHUTDOWN, Guest, Stream
from vsock_host import Host, has_ended, receive

MakeGuest = Callable[..., Guest]


# Options.


def test_options() -> None:
    [kind] = pyvmm_device_kinds()

    assert parse_options(kind.options, kind.name, "/run/vm.sock") == VsockOptions(Path("/run/vm.sock"), 3)
    assert parse_options(kind.options, kind.name, "vm.sock,cid=4294967294").cid == 2**32 - 2


@pytest.mark.parametrize("text", ["", "vm.sock,cid=2", "vm.sock,cid=4294967295", "vm.sock,cid=-1", "vm.sock,port=5"])
def test_options_that_cannot_be(text: str) -> None:
    [kind] = pyvmm_device_kinds()

    with pytest.raises(UsageError, match=r"^vsock: "):
        parse_options(kind.options, kind.name, text)


def test_configuration_is_the_cid_also_byte_by_byte(make_guest: MakeGuest) -> None:
    guest = make_guest(cid=0x12345678)

    assert guest.read_config(0, 8) == bytes.fromhex("7856341200000000")
    assert guest.read_config(0, 16, width=1) == bytes.fromhex("7856341200000000") + bytes(8)
    assert guest.read_config(4, 4) == bytes(4)


def test_streams_are_the_only_type_that_is_offered(make_guest: MakeGuest) -> None:
    assert make_guest().offered_features() & 0xFFFFFF == 1


# The path.


def test_socket_is_there_from_the_start_and_gone_at_the_end(make_guest: MakeGuest, path: Path) -> None:
    guest = make_guest()
    assert stat.S_ISSOCK(path.lstat().st_mode)

    guest.close()

    assert not path.exists()


def test_socket_that_a_killed_process_left_is_replaced(make_guest: MakeGuest, path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()

    make_guest()

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_that_somebody_listens_on_is_left_alone(make_guest: MakeGuest, path: Path) -> None:
    make_guest()

    with pytest.raises(UsageError, match=f"^vsock: {path}: another process listens there; give another path$"):
        make_guest()

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_file_that_is_no_socket_is_left_alone(make_guest: MakeGuest, path: Path) -> None:
    path.write_text("precious")

    with pytest.raises(UsageError, match=r"something that is no socket is there; give another path$"):
        make_guest()

    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/vm.sock", "No such file or directory; give a path where a socket can be made"),
        ("x" * 100, r"longer than \d+ bytes; give a shorter path"),
    ],
)
def test_path_where_no_socket_can_be(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"^vsock: {tmp_path / name}: {reason}$"):
        Guest(tmp_path / name)


def test_longest_path_leaves_room_for_the_longest_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("x" * 96)
    with Guest(path) as guest, Host(path) as host:
        guest.up()
        host.listen(4294967295)
        Stream(guest, 4294967295, 1).send(REQUEST)
        assert guest.packet().op == RESPONSE


def test_path_that_is_another_socket_by_now_is_not_removed(make_guest: MakeGuest, path: Path) -> None:
    guest = make_guest()
    path.unlink()
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(path))

    guest.close()

    assert path.exists()
    other.close()


# Life.


def test_program_that_comes_before_the_driver_waits_for_it(make_guest: MakeGuest, host: Host) -> None:
    guest = make_guest()
    client = host.connect(b"CONNECT 5\n")
    assert guest.run() == 0

    guest.up()

    assert guest.packet().op == REQUEST
    assert not has_ended(client)


@pytest.mark.parametrize("lost", [errno.EMFILE, errno.ENFILE])
def test_host_without_descriptors_turns_programs_away(
    guest: Guest, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lost: int
) -> None:
    real = socket.socket.accept
    calls: list[int] = []

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        calls.append(1)
        if len(calls) % 2:
            raise OSError(lost, os.strerror(lost))
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    clients = [host.connect(b"CONNECT 5\n") for _ in range(3)]
    guest.run()

    assert all(has_ended(client) for client in clients)
    assert guest.packets() == []
    assert len(caplog.records) == 1
    monkeypatch.undo()
    host.open(guest, 5)


def test_reset_ends_all_streams_and_new_ones_can_be_made(guest: Guest, host: Host) -> None:
    host.listen(80)
    for _ in range(3):
        _, client = host.open(guest, 1234)
        stream = Stream(guest, 80, 5000)
        stream.send(REQUEST)
        halfway = host.connect(b"CONNECT 5\n")
        silent = host.connect()
        guest.run()
        client.sendall(b"unread")

        guest.reset()

        assert guest.run() == 0
        assert all(map(has_ended, (client, halfway, silent)))
        guest.up()
        assert guest.packets() == []


def test_reset_with_work_under_way(guest: Guest, host: Host) -> None:
    for count in (0, 1, 2, 5):
        guest.up(count + 1)
        stream, client = host.open(guest, 1234)
        client.sendall(bytes(100_000))
        guest.tx.add([bytes(44)])
        guest.tx.kick()
        guest.loop.run_once(0)
        guest.reset()
        assert guest.run() <= 1
        client.close()
    guest.up()
    stream, client = host.open(guest, 1234)
    stream.send(RW, b"x")
    assert receive(client) == b"x"


def test_broken_ring_stops_the_device_until_a_reset(guest: Guest, host: Host) -> None:
    _, client = host.open(guest, 1234, buf_alloc=1 << 30)
    guest.rx.write_available(guest.rx.avail_idx, 9999)
    guest.rx.avail_idx += 1
    guest.rx.kick()
    for _ in range(5):
        client.send(bytes(1 << 16))
        guest.run()

    assert guest.needs_reset
    assert guest.run() == 0
    guest.up()
    assert has_ended(client)
    host.open(guest, 1234)


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_queue_that_the_driver_left_out(make_guest: MakeGuest, host: Host, left_out: int) -> None:
    guest = make_guest()
    guest.start([], queue_sizes=[0 if index == left_out else 16 for index in range(3)])
    client = host.connect(b"CONNECT 5\n")
    if left_out != 0:
        guest.post(4)
    if left_out != 1:
        guest.tx.add([bytes(44)])
        guest.tx.kick()
    guest.run()

    assert not guest.needs_reset
    assert guest.run() == 0
    assert not has_ended(client)


# Events.


def event_buffers(guest: Guest) -> list[int]:
    return [int.from_bytes(used.chain.written(), "little") for used in guest.events.take_used() if used.chain]


def test_new_driver_hears_of_no_event(guest: Guest) -> None:
    guest.events.add((), [4])
    guest.events.kick()
    guest.run()

    assert event_buffers(guest) == []


def test_driver_that_was_served_before_is_told_that_its_streams_are_gone(guest: Guest, host: Host) -> None:
    """As another process finds it that takes the place of one that has died, or a machine that was saved."""
    host.open(guest, 1234)
    bases = [queue.next_avail for queue in guest.transport.queues]
    guest.events.add((), [4])
    take_over(guest, bases)

    guest.run()

    assert event_buffers(guest) == [0]
    Stream(guest, 1 << 30, 1234).send(RW, b"x")
    assert guest.packet().op == RST


@pytest.mark.parametrize("lengths", [[1, 3, 4], [8]])
def test_event_waits_for_a_buffer_that_takes_it(guest: Guest, host: Host, lengths: list[int]) -> None:
    host.open(guest, 1234)
    take_over(guest, [queue.next_avail for queue in guest.transport.queues])
    guest.run()
    assert guest.events.used_idx == 0

    for length in lengths:
        guest.events.add((), [length])
        guest.events.kick()
        guest.run()
    guest.events.add((), [4])
    guest.events.kick()
    guest.run()

    used = guest.events.take_used()
    assert [one.length for one in used] == [0] * (len(lengths) - 1) + [4]


def take_over(guest: Guest, bases: list[int]) -> None:
    """Have the device begin with rings that somebody else has served up to ``bases``."""
    queues = guest.transport.queues
    interrupt = queues[0].interrupt
    assert interrupt is not None
    guest.vsock.reset()
    for queue, base in zip(queues, bases, strict=True):
        queue.stop()
        queue.activate(guest.memory, interrupt, False, False, base=base)
    guest.vsock.activate(guest.memory, interrupt, queues)
    for queue in queues:
        queue.event.signal()


def test_shutdown_is_of_no_use_to_the_event_queue(guest: Guest) -> None:
    ring: DriverRing = guest.events
    ring.add([bytes(44)])
    ring.kick()
    guest.run()
    Stream(guest, 1, 1).send(SHUTDOWN)

    assert guest.packet().op == RST
