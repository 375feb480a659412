"""Where the initrd goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyvmm.errors import UsageError
from pyvmm.memory import GuestMemory
from pyvmm.x86_64.boot import initrd
from pyvmm.x86_64.boot.image import LoadedKernel
from pyvmm.x86_64.layout import MIB, MMIO_BASE


def kernel(end: int = 8 * MIB, initrd_addr_max: int = 0x7FFFFFFF) -> LoadedKernel:
    return LoadedKernel(MIB, MIB, end, "ELF", initrd_addr_max=initrd_addr_max)


def test_it_goes_to_the_end_of_memory_at_a_page(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x" * 5000)
    with GuestMemory.create([(0, 32 * MIB)]) as mem:
        loaded = initrd.load(mem, path, kernel())

        assert loaded == initrd.LoadedInitrd(32 * MIB - 8192, 5000)
        assert mem.read(loaded.address, 5001) == b"x" * 5000 + b"\0"


def test_it_stays_below_what_the_kernel_allows(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x" * 4096)
    with GuestMemory.create([(0, 32 * MIB)]) as mem:
        assert initrd.load(mem, path, kernel(initrd_addr_max=16 * MIB - 1)).address == 16 * MIB - 4096


def test_it_stays_below_the_hole(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x" * 4096)
    with GuestMemory.create([(0, 32 * MIB), (1 << 32, 32 * MIB)]) as mem:
        assert initrd.load(mem, path, kernel(initrd_addr_max=0xFFFFFFFF)).address == 32 * MIB - 4096


def test_it_may_touch_the_kernel_but_not_overlap_it(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    with GuestMemory.create([(0, 32 * MIB)]) as mem:
        path.write_bytes(b"x" * (2 * MIB))
        assert initrd.load(mem, path, kernel(end=30 * MIB)).address == 30 * MIB

        path.write_bytes(b"x" * (2 * MIB + 1))
        with pytest.raises(UsageError, match=f"^initrd {path}: is too large: 3 MiB, and behind the kernel 2 MiB"):
            initrd.load(mem, path, kernel(end=30 * MIB))


@pytest.mark.parametrize("limit", [0, 1, 4 * MIB])
def test_a_limit_below_the_kernel_leaves_no_room(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x")
    with GuestMemory.create([(0, 32 * MIB)]) as mem, pytest.raises(UsageError, match="0 MiB are free"):
        initrd.load(mem, path, kernel(initrd_addr_max=limit))


def test_one_that_is_larger_than_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with GuestMemory.create([(0, 32 * MIB)]) as mem, pytest.raises(UsageError, match="is too large: 1048576 MiB"):
        initrd.load(mem, path, kernel())


def test_the_way_out_is_one(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x" * (4 * MIB))
    with GuestMemory.create([(0, 10 * MIB)]) as mem:
        with pytest.raises(UsageError, match=r"give at least 12 MiB with --memory$"):
            initrd.load(mem, path, kernel())
        with pytest.raises(UsageError, match=r"takes one up to 9 MiB of memory, so make it smaller$"):
            initrd.load(mem, path, kernel(initrd_addr_max=9 * MIB - 1))
        os.truncate(path, MMIO_BASE)
        with pytest.raises(UsageError, match=r"takes one up to 3328 MiB of memory, so make it smaller$"):
            initrd.load(mem, path, kernel(initrd_addr_max=(1 << 32) - 1))
    with GuestMemory.create([(0, 12 * MIB)]) as mem:
        os.truncate(path, 4 * MIB)
        assert initrd.load(mem, path, kernel()).address == 8 * MIB


def test_paths_that_are_no_file_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with GuestMemory.create([(0, 32 * MIB)]) as mem:
        for path, says in (
            (tmp_path, "is a directory"),
            (tmp_path / "missing", "No such file"),
            (empty, "is empty"),
        ):
            with pytest.raises(UsageError, match=f"^initrd {path}: .*{says}"):
                initrd.load(mem, path, kernel())
