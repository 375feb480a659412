"""A balloon with a driver, and what the host holds of the guest's memory."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyvmm.limits import PAGE_SIZE
from pyvmm.memory import GuestMemory
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm_virtio_balloon import BalloonOptions
from pyvmm_virtio_balloon import constants as c
from pyvmm_virtio_balloon.device import Balloon

INFLATE, DEFLATE, STATS = 0, 1, 2
FIRST = (16 << 20) // PAGE_SIZE
"""The first of the pages that tests give away: rings and buffers are below."""

ALL = [
    c.VIRTIO_BALLOON_F_STATS_VQ,
    c.VIRTIO_BALLOON_F_DEFLATE_ON_OOM,
    c.VIRTIO_BALLOON_F_PAGE_POISON,
    c.VIRTIO_BALLOON_F_REPORTING,
]


class Bench:
    """A balloon in 64 MiB of guest memory and, past a hole, 1 MiB more."""

    def __init__(self, options: BalloonOptions) -> None:
        self.device = Balloon(options)
        self.memory = GuestMemory.create([(0, 64 << 20), (4 << 30, 1 << 20)])
        self.driver = VirtioDriver(self.device, memory=self.memory, name="balloon0")

    def start(self, features: Iterable[int] = ALL) -> None:
        """Have a driver come up."""
        self.driver.start(features)

    def give(self, *pages: int, queue: int = INFLATE) -> None:
        """Put the numbers of pages into a queue, and wait until the device has taken them."""
        self.driver.rings[queue].add([struct.pack(f"<{len(pages)}I", *pages)])
        self.driver.exchange(queue)

    def touch(self, first: int, count: int) -> None:
        """Write to pages."""
        self.memory.write(first * PAGE_SIZE, b"\x5a" * count * PAGE_SIZE)

    def pages(self) -> int:
        """The number of pages from the first one on that the host holds."""
        count, at, end = 0, FIRST * PAGE_SIZE, os.fstat(self.memory.fd).st_size
        while at < end:
            try:
                start = os.lseek(self.memory.fd, at, os.SEEK_DATA)
            except OSError:  # there is no more
                break
            at = os.lseek(self.memory.fd, start, os.SEEK_HOLE)
            count += (at - start) // PAGE_SIZE
        return count

    def config(self) -> tuple[int, ...]:
        """num_pages, actual, free_page_hint_cmd_id, poison_val, as the driver reads them."""
        return struct.unpack("<4I", self.driver.read_config(0, 16))

    def say(self, *stats: tuple[int, int]) -> None:
        """Send statistics, as (tag, value), and let the device take them."""
        self.driver.rings[STATS].add([b"".join(struct.pack("<HQ", *stat) for stat in stats)])
        self.driver.rings[STATS].kick()
        self.driver.run()


class Client:
    """A client of the control socket."""

    def __init__(self, bench: Bench, path: Path) -> None:
        self.bench = bench
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.fspath(path))
        self.socket.setblocking(False)

    def send(self, line: str) -> None:
        """A command."""
        self.socket.send(line.encode() + b"\n")
        self.bench.driver.run()

    def answer(self) -> dict[str, Any]:
        """The answer to the oldest command."""
        return dict(json.loads(self.socket.recv(65536)))

    def ask(self, line: str) -> dict[str, Any]:
        """A command and its answer."""
        self.send(line)
        return self.answer()
