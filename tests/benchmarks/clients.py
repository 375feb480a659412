"""Programs of the host that talk to a device."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.harness import BenchError

PATIENCE = 60.0
"""Seconds."""


def connect(path: Path) -> socket.socket:
    """A client of the Unix socket at ``path``, as soon as a process listens there."""

    def attempt() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            raise
        return client

    return until_done(attempt)


def until_done(attempt: Callable[[], socket.socket]) -> socket.socket:
    """Repeat ``attempt`` until it no longer raises OSError, and return its socket, which has a timeout."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client = attempt()
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"nobody listens: {error}") from error
            time.sleep(0.02)
        else:
            client.settimeout(PATIENCE)
            return client


def receive(client: socket.socket, length: int) -> bytes:
    """So many bytes."""
    parts = []
    while length:
        part = client.recv(min(length, 1 << 20))
        if not part:
            raise BenchError(f"a connection ended, {length} bytes too early")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def echo(client: socket.socket) -> float:
    """Seconds that a byte takes to the guest, which sends it back, and to here again."""
    start = time.monotonic()
    client.sendall(b".")
    receive(client, 1)
    return time.monotonic() - start
