"""A host that has no more descriptors, or cannot watch any more: one stream is reset, and all others go on."""

from __future__ import annotations

import errno
import logging
import os
import socket

import pytest
from pyvmm.host.eventloop import EventLoop
from pyvmm.testing.resources import descriptors_left
from vsock_guest import REQUEST, RESPONSE, RST, RW, Guest, Stream
from vsock_host import Host, has_ended, receive

Pair = tuple[Stream, socket.socket]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def assert_goes_on(pair: Pair) -> None:
    stream, program = pair
    stream.send(RW, b"still there")
    assert receive(program) == b"still there"


def test_a_stream_that_no_descriptor_is_left_for_is_reset(
    guest: Guest, host: Host, stream: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    server = host.listen(80)
    with descriptors_left(0):
        for port in (5000, 5001):
            Stream(guest, 80, port).send(REQUEST)
            assert guest.packet().op == RST
    assert_goes_on(stream)
    assert len(warnings_in(caplog)) == 1, "one line for both"
    assert "ulimit -n" in warnings_in(caplog)[0]

    Stream(guest, 80, 5002).send(REQUEST)  # when there are some again

    assert guest.packet().op == RESPONSE
    host.accept(server)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
def test_a_stream_that_cannot_be_watched_is_reset(
    guest: Guest,
    host: Host,
    stream: Pair,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    server = host.listen(80)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(EventLoop, "add", refuse)
        for port in (5000, 5001):
            Stream(guest, 80, port).send(REQUEST)
            assert [packet.op for packet in guest.packets()][-1] == RST
            assert has_ended(host.accept(server))
    assert_goes_on(stream)
    assert len(warnings_in(caplog)) == 1
    assert guest.muxer.streams == 1


def test_a_program_that_cannot_be_watched_is_turned_away(
    guest: Guest, host: Host, stream: Pair, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(EventLoop, "add", refuse)
        clients = [host.connect(b"CONNECT 52\n") for _ in range(2)]
        assert guest.packets() == []
        assert all(has_ended(client) for client in clients)
    assert_goes_on(stream)
    assert len(warnings_in(caplog)) == 1
