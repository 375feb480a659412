"""Guest memory of the host's huge pages."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pyvmm.errors import HostError
from pyvmm.limits import PAGE_SIZE
from pyvmm.memory import GuestMemory

from core.tests.huge_pages import POOL, SIZE, reserved


def test_memory_is_of_huge_pages_and_goes_back_in_whole_ones() -> None:
    with reserved(3), GuestMemory.create([(0, 2 * SIZE), (4 << 30, SIZE)], huge_page_size=SIZE) as memory:
        assert os.fstatvfs(memory.fd).f_bsize == SIZE
        for region in memory.regions:
            memory.write(region.base, b"\x5a" * region.size)
        memory.discard(PAGE_SIZE, SIZE)  # covers none
        assert os.fstat(memory.fd).st_blocks * 512 == 3 * SIZE
        memory.discard(SIZE, SIZE)
        assert os.fstat(memory.fd).st_blocks * 512 == 2 * SIZE
        assert memory.read(SIZE, 16) == bytes(16)
        assert memory.read(4 << 30, SIZE) == b"\x5a" * SIZE


def test_too_few_are_said_with_how_to_reserve_them() -> None:
    if not POOL.exists():
        pytest.skip("this kernel has no huge pages")
    pages = (1 << 40) // SIZE
    expected = f"{pages} huge pages of 2 MiB are needed, and [0-9]+ are free; reserve them with: echo {pages} > {POOL}"
    with pytest.raises(HostError, match=re.sub(r"/", "[/]", expected)):
        GuestMemory.create([(0, 1 << 40)], huge_page_size=SIZE)


def test_a_size_that_the_host_does_not_have_is_said() -> None:
    with pytest.raises(HostError, match="the host has no huge pages of 8 MiB; leave out hugepages"):
        GuestMemory.create([(0, 8 << 20)], huge_page_size=8 << 20)


def test_other_memory_wishes_for_huge_pages_of_hosts_that_give_them() -> None:
    with GuestMemory.create([(0, 4 * SIZE)]) as memory:
        start = f"{memory.host_address(memory.regions[0]):x}-"
        smaps = Path("/proc/self/smaps").read_text()
        mapping = smaps[smaps.index(f"\n{start}") :]
        flags = mapping[mapping.index("VmFlags:") :].splitlines()[0].split()
        assert "hg" in flags or not Path("/sys/kernel/mm/transparent_hugepage").exists()
