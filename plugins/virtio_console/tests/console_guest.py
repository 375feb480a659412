"""The guest's side of a console for tests: what its driver does with the two rings, and the host's ends."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from pathlib import Path

from pyvmm.device_context import DeviceContext
from pyvmm.exit_reason import ExitReason
from pyvmm.testing.driver_ring import DriverRing
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.testing.waiting import PATIENCE
from pyvmm_virtio_console import ConsoleOptions
from pyvmm_virtio_console.device import Console


class _Console(Console):
    """A console that records requests to end its machine."""

    def __init__(self, options: ConsoleOptions) -> None:
        self.stops: list[ExitReason] = []
        super().__init__(options)

    def attach(self, context: DeviceContext) -> None:
        super().attach(context.replace(stop=self.stops.append))


class Guest(VirtioDriver):
    """A machine with nothing but the console, and its driver."""

    def __init__(self, options: ConsoleOptions) -> None:
        self.console = _Console(options)
        super().__init__(self.console, name="console0")

    def __enter__(self) -> Guest:
        return self

    @property
    def receiveq(self) -> DriverRing:
        return self.rings[0]

    @property
    def transmitq(self) -> DriverRing:
        return self.rings[1]

    def up(self, buffers: int = 32, size: int = 4096, features: Sequence[int] | None = None) -> None:
        """Start, with so many buffers of ``size`` for input."""
        self.start(features)
        self.post(*[size] * buffers)

    def post(self, *sizes: int) -> None:
        """Give buffers for input."""
        for size in sizes:
            self.receiveq.add((), [size])
        self.receiveq.kick()
        self.run()

    def say(self, *buffers: bytes) -> None:
        """Send ``buffers`` as one chain, and let the device take it."""
        self.transmitq.add(buffers)
        self.transmitq.kick()
        self.run()

    @property
    def unwritten(self) -> int:
        """The number of chains that the host has not taken completely."""
        for used in self.transmitq.take_used():
            assert used.length == 0
        return self.transmitq.in_flight

    def typed(self) -> bytes:
        """The input that has come since the last time; its buffers are gone."""
        self.run()
        data = b""
        for used in self.receiveq.take_used():
            assert used.chain is not None
            data += used.chain.written()[: used.length]
        return data

    def receive(self, size: int) -> bytes:
        """``size`` bytes of input; buffers are given back meanwhile."""
        data = b""
        while len(data) < size:
            self.post(*[4096] * (32 - self.receiveq.in_flight))
            got = self.typed()
            assert got or self.loop.run_once(PATIENCE), "nothing comes"
            data += got
        return data


def read(fd: int, size: int) -> bytes:
    """``size`` bytes, or less where nothing comes for a long time or the end does."""
    data = bytearray()
    while len(data) < size and select.select([fd], [], [], PATIENCE)[0]:
        if not (chunk := os.read(fd, size - len(data))):
            break
        data += chunk
    return bytes(data)


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client
