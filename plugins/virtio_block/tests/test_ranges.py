"""DISCARD and WRITE_ZEROES with a real fallocate(2)."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from pyvmm_virtio_block import constants as c

UNMAP = c.VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
SIZE = 4 << 20


def segment(sector: int, count: int, flags: int = 0) -> bytes:
    return struct.pack("<QII", sector, count, flags)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """4 MiB without holes."""
    path = tmp_path / "large.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    with path.open("r+b") as file:
        os.fsync(file.fileno())  # delayed allocation over: blocks count
    return path


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def zeroed(content: bytes, sector: int, count: int) -> bytes:
    return content[: sector * 512] + bytes(count * 512) + content[(sector + count) * 512 :]


def test_discard_frees_space_and_reads_as_zeros(disk: Any, image: Path) -> None:
    content, before = image.read_bytes(), allocated(image)
    assert disk.request(c.VIRTIO_BLK_T_DISCARD, 0, [segment(2048, 4096)]) == (0, b"")
    assert image.read_bytes() == zeroed(content, 2048, 4096)
    assert allocated(image) <= before - (2 << 20)


def test_discard_of_several_ranges(disk: Any, image: Path) -> None:
    content = image.read_bytes()
    ranges = segment(0, 8) + segment(100, 1) + segment(8184, 8)
    assert disk.request(c.VIRTIO_BLK_T_DISCARD, 0, [ranges[:20], ranges[20:]]) == (0, b"")
    for sector, count in ((0, 8), (100, 1), (8184, 8)):
        content = zeroed(content, sector, count)
    assert image.read_bytes() == content


def test_most_ranges_that_a_request_may_have(disk: Any, image: Path) -> None:
    content = image.read_bytes()
    assert disk.request(c.VIRTIO_BLK_T_DISCARD, 0, [b"".join(segment(16 * i, 8) for i in range(32))]) == (0, b"")
    for i in range(32):
        content = zeroed(content, 16 * i, 8)
    assert image.read_bytes() == content


@pytest.mark.parametrize("flags", [0, UNMAP])
def test_write_zeroes(disk: Any, image: Path, flags: int) -> None:
    content = image.read_bytes()
    ranges = segment(1, 1, flags) + segment(1000, 3000, flags)
    assert disk.request(c.VIRTIO_BLK_T_WRITE_ZEROES, 0, [ranges]) == (0, b"")
    assert image.read_bytes() == zeroed(zeroed(content, 1, 1), 1000, 3000)


def test_write_zeroes_keeps_the_space_unless_it_may_unmap(disk: Any, image: Path) -> None:
    before = allocated(image)
    disk.request(c.VIRTIO_BLK_T_WRITE_ZEROES, 0, [segment(0, 4096)])
    assert allocated(image) >= before - 8192
    disk.request(c.VIRTIO_BLK_T_WRITE_ZEROES, 0, [segment(0, 4096, UNMAP)])
    assert allocated(image) <= before - (2 << 20) + 8192


@pytest.mark.parametrize("flags", [0, UNMAP])
@pytest.mark.parametrize("refused", [{0x11}, {0x11, 0x03}])
def test_write_zeroes_where_the_file_system_cannot(
    disk: Any, image: Path, monkeypatch: pytest.MonkeyPatch, refused: set[int], flags: int
) -> None:
    import errno

    engine = disk.device.engine
    fallocate, tried = engine.fallocate, []

    def refusing(file: Any, mode: int, offset: int, length: int, on_done: Any) -> None:
        tried.append(mode)
        if mode in refused:
            on_done(-errno.EOPNOTSUPP)
        else:
            fallocate(file, mode, offset, length, on_done)

    monkeypatch.setattr(engine, "fallocate", refusing)
    content = image.read_bytes()
    request = [segment(3, 5, flags) + segment(100, 8000, flags)]
    for _ in range(2):
        assert disk.request(c.VIRTIO_BLK_T_WRITE_ZEROES, 0, request) == (0, b"")
    assert image.read_bytes() == zeroed(zeroed(content, 3, 5), 100, 8000)
    assert len([mode for mode in tried if mode in refused]) <= len(refused), "a refused mode was tried again"


def test_discard_where_the_file_system_cannot_is_no_error(
    disk: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    monkeypatch.setattr(disk.device.engine, "fallocate", lambda f, m, o, n, done: done(-errno.EOPNOTSUPP))
    content = image.read_bytes()
    assert disk.request(c.VIRTIO_BLK_T_DISCARD, 0, [segment(0, 8)]) == (0, b"")
    assert image.read_bytes() == content


def test_empty_range(disk: Any, image: Path) -> None:
    content = image.read_bytes()
    for type_ in (c.VIRTIO_BLK_T_DISCARD, c.VIRTIO_BLK_T_WRITE_ZEROES):
        assert disk.request(type_, 0, [segment(0, 0) + segment(8, 8)]) == (0, b"")
    assert image.read_bytes() == zeroed(content, 8, 8)


@pytest.mark.parametrize("features", [[], [c.VIRTIO_BLK_F_FLUSH]])
def test_write_zeroes_is_on_the_disk_in_write_through(
    make_disk: Any, image: Path, monkeypatch: pytest.MonkeyPatch, features: list[int]
) -> None:
    disk = make_disk(image, [*features, c.VIRTIO_BLK_F_WRITE_ZEROES])
    synced = []
    fdatasync = disk.device.engine.fdatasync
    monkeypatch.setattr(disk.device.engine, "fdatasync", lambda file, done: (synced.append(1), fdatasync(file, done)))
    assert disk.request(c.VIRTIO_BLK_T_WRITE_ZEROES, 0, [segment(0, 8)]) == (0, b"")
    assert len(synced) == (not features)
