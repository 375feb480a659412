"""Errors of the host fail the request that met them, and no other."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from pyvmm_virtio_block import constants as c

IOERR = c.VIRTIO_BLK_S_IOERR


def replace_descriptor(disk: Any, path: str, flags: int) -> None:
    """Let the device's descriptor be another file, whose errors are real."""
    fd = os.open(path, flags)
    os.dup2(fd, disk.device.image.fd, inheritable=False)
    os.close(fd)


def test_disk_full(disk: Any, caplog: pytest.LogCaptureFixture) -> None:
    replace_descriptor(disk, "/dev/full", os.O_RDWR)
    assert disk.write(4, b"x" * 512) == IOERR
    assert disk.write(5, b"x" * 100, b"y" * 412) == IOERR
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        f"disk0: {disk.path}: write at byte 2048 failed: No space left on device"
    ]


def test_read_error(disk: Any, image: Path, caplog: pytest.LogCaptureFixture) -> None:
    replace_descriptor(disk, "/", os.O_RDONLY | os.O_DIRECTORY)
    assert disk.request(c.VIRTIO_BLK_T_IN, 0, (), [512]) == (IOERR, b"\xa5" * 512)
    assert "Is a directory" in caplog.text
    replace_descriptor(disk, str(image), os.O_RDWR)
    assert disk.read(0, 512) == image.read_bytes()[:512]


def test_flush_error(disk: Any, caplog: pytest.LogCaptureFixture) -> None:
    replace_descriptor(disk, "/proc/self/status", os.O_RDONLY)
    assert disk.request(c.VIRTIO_BLK_T_FLUSH)[0] == IOERR
    assert "flush" in caplog.text


def test_truncated_image_fails_what_is_behind_its_new_end(
    disk: Any, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.truncate(image, 1024)
    assert disk.read(0, 1024) == image.read_bytes()
    assert disk.request(c.VIRTIO_BLK_T_IN, 1, (), [1024])[0] == IOERR
    assert disk.request(c.VIRTIO_BLK_T_IN, 2, (), [512])[0] == IOERR
    assert disk.request(c.VIRTIO_BLK_T_IN, 200, (), [512])[0] == IOERR
    assert "shorter than it was" in caplog.text
    assert disk.read(0, 512) == image.read_bytes()[:512]


def test_write_to_a_read_only_disk(make_disk: Any, image: Path, backend: str) -> None:
    disk = make_disk(image, ro=True)
    before = image.read_bytes()
    assert disk.write(0, b"x" * 512) == IOERR
    assert disk.request(c.VIRTIO_BLK_T_DISCARD, 0, [bytes(8) + b"\1\0\0\0" + bytes(4)])[0] == IOERR
    assert disk.request(c.VIRTIO_BLK_T_WRITE_ZEROES, 0, [bytes(8) + b"\1\0\0\0" + bytes(4)])[0] == IOERR
    assert image.read_bytes() == before


def test_logged_once_an_activation(disk: Any, image: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.truncate(image, 512)
    for _ in range(2):
        for sector in range(1, 20):
            assert disk.request(c.VIRTIO_BLK_T_IN, sector, (), [512])[0] == IOERR
        disk.driver.start()
    assert caplog.text.count("shorter than it was") == 2
