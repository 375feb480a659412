"""Whole messages over a socket whose other side does what it likes."""

from __future__ import annotations

import array
import os
import resource
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyvmm.testing.waiting import PATIENCE
from pyvmm.vhost_user.connection import Connection, Message
from pyvmm.vhost_user.protocol import (
    NEED_REPLY,
    REPLY,
    DisconnectedError,
    FrontendRequest,
    Header,
    VhostUserError,
    pack_u64,
)

from core.tests.vhost_user.front_end import no_fd_leaks

HEADER = Header(FrontendRequest.SET_FEATURES, 1, 8).pack()
WHOLE = HEADER + bytes(8)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the other side's bare socket."""
    with no_fd_leaks():
        mine, other = socket.socketpair()
        connection = Connection(mine, timeout=0.05)
        yield connection, other
        connection.close()
        other.close()


def send_fds(sock: socket.socket, data: bytes, count: int) -> None:
    """Send ``data`` with ``count`` descriptors."""
    fds = [os.memfd_create("x") for _ in range(count)]
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    for fd in fds:
        os.close(fd)


def test_a_message_in_pieces_is_one_message(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    for i in range(len(WHOLE) - 1):
        other.send(WHOLE[i : i + 1])
        assert connection.receive_available() is None
    other.send(WHOLE[-1:])

    assert connection.receive_available() == Message(FrontendRequest.SET_FEATURES, 1, bytes(8), [])


def test_two_messages_at_once_are_two(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    other.send(WHOLE + HEADER + b"\1" * 8)

    assert connection.receive().payload == bytes(8)
    assert connection.receive().payload == b"\1" * 8
    assert connection.receive_available() is None


def test_descriptors_come_with_their_message_and_close_on_exec(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    send_fds(other, WHOLE, 2)
    other.send(WHOLE)

    with connection.receive() as message:
        assert len(message.fds) == 2
        assert not any(map(os.get_inheritable, message.fds))
    assert connection.receive().fds == []


def test_descriptors_on_any_byte_of_a_message_belong_to_it(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    other.send(WHOLE[:5])
    send_fds(other, WHOLE[5:13], 1)
    send_fds(other, WHOLE[13:], 3)

    with connection.receive() as message:
        assert len(message.fds) == 4


@pytest.mark.parametrize("counts", [[9], [8, 1], [250], [4, 4, 4]])
def test_too_many_descriptors_are_refused_and_closed(pair: tuple[Connection, socket.socket], counts: list[int]) -> None:
    connection, other = pair
    for i, count in enumerate(counts):
        send_fds(other, WHOLE[i : i + 1] if i + 1 < len(counts) else WHOLE[i:], count)

    with pytest.raises(VhostUserError, match="descriptors"):
        connection.receive()


def test_descriptors_that_this_process_has_no_room_for_are_an_error(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    send_fds(other, WHOLE, 8)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(other.fileno())
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 3, hard))
        with pytest.raises(VhostUserError):
            connection.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_of_half_a_message_are_closed_with_the_connection(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    send_fds(other, WHOLE[:15], 3)

    assert connection.receive_available() is None
    connection.close()


def test_one_that_stalls_amid_a_message_is_given_up(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    other.send(WHOLE[:15])

    with pytest.raises(VhostUserError, match="does not answer"):
        connection.receive()


def test_one_that_takes_nothing_is_given_up(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    with pytest.raises(VhostUserError, match="takes no data"):
        for _ in range(10_000):
            connection.send(FrontendRequest.SET_CONFIG, bytes(4000))


@pytest.mark.parametrize("sent", [b"", WHOLE[:3], HEADER, WHOLE[:15]], ids=["nothing", "3", "header", "15"])
def test_one_that_goes_away_is_an_error(pair: tuple[Connection, socket.socket], sent: bytes) -> None:
    connection, other = pair
    other.send(sent)
    other.close()

    with pytest.raises(DisconnectedError):
        connection.receive()


def test_sending_to_one_that_has_gone_is_an_error(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    other.close()

    with pytest.raises(DisconnectedError):
        connection.send(FrontendRequest.SET_OWNER)


def test_a_long_message_gets_through_a_narrow_socket(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    connection.timeout = PATIENCE
    connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    received = bytearray()

    def read() -> None:
        while len(received) < 100 * 4012:
            received.extend(other.recv(100))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(100):
        connection.send(FrontendRequest.SET_CONFIG, bytes([i]) * 4000)
    reader.join()

    assert received[-4000:] == bytes([99]) * 4000


def test_an_answer_is_told_from_anything_else(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    for answer in (
        Header(FrontendRequest.GET_STATUS, 1 | REPLY, 8),
        Header(FrontendRequest.GET_FEATURES, 1, 8),
    ):
        send_fds(other, answer.pack() + bytes(8), 1)
        with pytest.raises(VhostUserError):
            connection.exchange(FrontendRequest.GET_FEATURES)


def test_an_acknowledgement_of_failure_is_an_error(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    other.send(Header(FrontendRequest.SET_FEATURES, 1 | REPLY, 8).pack() + pack_u64(1))

    with pytest.raises(VhostUserError, match="SET_FEATURES was refused"):
        connection.exchange_ack(FrontendRequest.SET_FEATURES, pack_u64(0))
    assert other.recv(100) == Header(FrontendRequest.SET_FEATURES, 1 | NEED_REPLY, 8).pack() + bytes(8)


def test_what_cannot_be_sent_is_a_mistake(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    with pytest.raises(ValueError, match="descriptors"):
        connection.send(1, fds=[0] * 9)
    with pytest.raises(ValueError, match="bytes"):
        connection.send(1, bytes(4097))


def test_a_descriptor_that_is_no_unix_stream_socket_is_refused_and_closed() -> None:
    with no_fd_leaks():
        for fd in (
            os.memfd_create("x"),
            socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach(),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(),
        ):
            with pytest.raises(VhostUserError):
                Connection.from_fd(fd)


def test_descriptors_that_are_not_what_a_message_has_are_refused() -> None:
    with Message(1, fds=[os.memfd_create("x"), os.memfd_create("y")]) as message:
        with pytest.raises(VhostUserError, match="2 descriptors, not 1"):
            message.take_fd()
        with pytest.raises(VhostUserError, match="2 descriptors, not 3"):
            message.take_fds(3)
        for fd in message.take_fds(2):
            os.close(fd)
    assert message.fds == []


PIECE = st.tuples(
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.builds(
            lambda r, f, n: struct.pack("<III", r, f, n), st.integers(0, 50), st.integers(0, 15), st.integers(0, 64)
        ),
        st.just(WHOLE),
    ),
    st.integers(0, 12),
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PIECE, max_size=20))
def test_whatever_comes_is_a_message_or_an_error_and_no_descriptor_is_lost(pieces: list[tuple[bytes, int]]) -> None:
    with no_fd_leaks():
        mine, other = socket.socketpair()
        with Connection(mine, timeout=0.01) as connection, other:
            try:
                for data, fds in pieces:
                    send_fds(other, data, fds)
                    while (message := connection.receive_available()) is not None:
                        with message:
                            assert message.flags & 3 == 1
                            assert len(message.fds) <= 8
            except VhostUserError:
                pass
