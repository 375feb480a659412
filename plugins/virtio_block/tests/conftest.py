"""A disk with a driver: real files, a real engine, and the driver's side of a ring."""

from __future__ import annotations

import gc
import os
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyvmm.testing.driver_ring import GuestBuffer, UsedChain
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm_virtio_block import BlockOptions
from pyvmm_virtio_block.device import Block

SECTORS = 256


class Disk:
    """A block device, started, and what a driver does with it."""

    def __init__(self, options: BlockOptions, features: Sequence[int] | None = None, **start: Any) -> None:
        self.path = options.path
        self.device = Block(options)
        self.driver = VirtioDriver(self.device, name="disk0")
        self.driver.start(features, **start)

    def request(
        self,
        type_: int,
        sector: int = 0,
        readable: Sequence[GuestBuffer | bytes] = (),
        writable: Sequence[GuestBuffer | int] = (),
    ) -> tuple[int, bytes]:
        """One request, by itself: its status, and what is in the writable buffers before the status."""
        chain = self.add(type_, sector, readable, writable)
        (used,) = self.driver.exchange()
        assert used.chain is chain
        return self.answer(used)

    def add(
        self,
        type_: int,
        sector: int = 0,
        readable: Sequence[GuestBuffer | bytes] = (),
        writable: Sequence[GuestBuffer | int] = (),
    ) -> object:
        """Make a request available, not kicked."""
        header = struct.pack("<IIQ", type_, 0, sector)
        return self.driver.rings[0].add([header, *readable], [*writable, 1])

    def raw(
        self, readable: Sequence[GuestBuffer | bytes] = (), writable: Sequence[GuestBuffer | int] = ()
    ) -> UsedChain:
        """A request that may be nonsense, by itself."""
        self.driver.rings[0].add(readable, writable)
        (used,) = self.driver.exchange()
        return used

    @staticmethod
    def answer(used: UsedChain) -> tuple[int, bytes]:
        """A finished request's status and data."""
        assert used.chain is not None
        written = used.chain.written()
        assert used.length == len(written)
        return written[-1], written[:-1]

    def read(self, sector: int, *lengths: int) -> bytes:
        """The data of a successful IN request into buffers of ``lengths``."""
        status, data = self.request(0, sector, (), lengths)
        assert status == 0
        return data

    def write(self, sector: int, *parts: bytes) -> int:
        """The status of an OUT request."""
        return self.request(1, sector, parts)[0]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """128 KiB that are all different."""
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(0).randbytes(SECTORS * 512))
    return path


@pytest.fixture(params=["io_uring", "threads"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the engine's backends; skips, saying so, where the host has no io_uring."""
    from pyvmm.errors import HostError
    from pyvmm.host.aio import IoEngine

    try:
        IoEngine(1, backend=request.param).close()
    except HostError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("PYVMM_AIO", request.param)
    return str(request.param)


@pytest.fixture
def make_disk() -> Iterator[Callable[..., Disk]]:
    """Makes disks of ``(path, features, **options)``; they are closed at the end, and must leave no descriptor."""
    disks: list[Disk] = []
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))

    def make(
        path: Path, features: Sequence[int] | None = None, *, start: dict[str, Any] | None = None, **options: Any
    ) -> Disk:
        disks.append(Disk(BlockOptions(path, **options), features, **(start or {})))
        return disks[-1]

    yield make
    for disk in disks:
        disk.driver.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def disk(make_disk: Callable[..., Disk], image: Path, backend: str) -> Disk:
    """A read-write disk on ``image``, once with each backend."""
    return make_disk(image)
