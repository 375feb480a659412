"""Fixtures: consoles with a driver, on every end that the host may have but the terminal."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from console_guest import Guest, connect
from pyvmm_virtio_console import ConsoleOptions


@pytest.fixture
def make_guest() -> Iterator[Callable[..., Guest]]:
    """Makes guests with a console, not started; at the end they must leave no descriptor."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    guests = []

    def make(**options: object) -> Guest:
        guests.append(Guest(ConsoleOptions(**options)))  # type: ignore[arg-type]
        return guests[-1]

    yield make
    for guest in guests:
        guest.close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def guest(make_guest: Callable[..., Guest], tmp_path: Path) -> Guest:
    """A guest whose driver is up, on a socket."""
    guest = make_guest(unix=tmp_path / "socket")
    guest.up()
    return guest


@pytest.fixture
def client(guest: Guest, tmp_path: Path) -> Iterator[socket.socket]:
    """A client of the socket."""
    with connect(tmp_path / "socket") as client:
        guest.run()
        yield client
