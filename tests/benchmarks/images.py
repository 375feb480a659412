"""Disk images to be read and written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tests.system.prepared import CACHE

SIZE: Final = 256 << 20
"""Bytes of an image: it fits into the page cache, and takes more than a guest's memory to read."""


def directory() -> Path:
    """The directory for images: on a disk, since a tmpfs has no O_DIRECT in older kernels."""
    path = CACHE / "benchmarks"
    path.mkdir(parents=True, exist_ok=True)
    return path


def random_image(path: Path, size: int = SIZE) -> Path:
    """An image of incompressible data, with all blocks allocated and in the page cache."""
    with path.open("wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    return path


def read(path: Path) -> None:
    """Have all of an image in the page cache, whatever else filled it meanwhile."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def has_direct(path: Path) -> bool:
    """Whether this file can be read without the page cache."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True
