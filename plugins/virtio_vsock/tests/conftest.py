"""Fixtures: guests with a socket device, streams, and the host's programs."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from vsock_guest import REQUEST, RESPONSE, Guest, Stream
from vsock_host import Host


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the device's socket is."""
    return tmp_path / "vm.sock"


@pytest.fixture
def make_guest(path: Path) -> Iterator[Callable[..., Guest]]:
    """Makes guests, not started; at the end they must leave no descriptor."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    guests = []

    def make(cid: int = 3) -> Guest:
        guests.append(Guest(path, cid))
        return guests[-1]

    yield make
    for guest in guests:
        guest.close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def host(path: Path, make_guest: Callable[..., Guest]) -> Iterator[Host]:
    """The programs of the host."""
    with Host(path) as host:
        yield host


@pytest.fixture
def guest(make_guest: Callable[..., Guest], host: Host) -> Guest:
    """A guest whose driver is up, with 64 receive buffers like Linux's."""
    guest = make_guest()
    guest.up()
    return guest


@pytest.fixture
def stream(guest: Guest, host: Host) -> tuple[Stream, socket.socket]:
    """A stream that a program of the host has opened to port 1234, and the program's socket."""
    return host.open(guest, 1234)


@pytest.fixture
def outgoing(guest: Guest, host: Host) -> tuple[Stream, socket.socket]:
    """A stream that the guest has opened to port 80 of the host, and the socket of who listens there."""
    listener = host.listen(80)
    stream = Stream(guest, 80, 5000)
    stream.send(REQUEST)
    assert stream.hear(guest.packet()).op == RESPONSE
    return stream, host.accept(listener)
