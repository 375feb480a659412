"""Huge pages for a test, if this machine allows reserving some."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

SIZE: Final = 2 << 20
POOL: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


@contextmanager
def reserved(count: int) -> Iterator[None]:
    """A context within which at least ``count`` huge pages of 2 MiB are free, for one test at a time. Skips if there
    are none."""
    with open("/tmp/pyvmm-huge-pages.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            before = int((POOL / "nr_hugepages").read_text())
            (POOL / "nr_hugepages").write_text(str(before + count))
        except OSError as error:
            pytest.skip(f"no huge pages can be reserved here: {error}")
        try:
            if int((POOL / "free_hugepages").read_text()) < count:
                pytest.skip("this machine's memory has no room for huge pages")
            yield
        finally:
            (POOL / "nr_hugepages").write_text(str(before))
