"""Guest memory that is the process's alone: huge pages from the first use on, given to nobody, not even to a fork."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm._native import lib
from pyvmm.errors import HostError
from pyvmm.limits import PAGE_SIZE
from pyvmm.machine.huge_pages import at_first_use
from pyvmm.memory import GuestMemory, GuestMemoryError

HUGE = 2 << 20
LOW = 4 * HUGE
HIGH_BASE = 4 << 30
HIGH = 2 * HUGE


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """8 MiB at 0 and 4 MiB from 4 GiB on."""
    with GuestMemory.private([(0, LOW), (HIGH_BASE, HIGH)]) as memory:
        yield memory


def mapping(memory: GuestMemory, region: int) -> dict[str, int]:
    """What smaps says of a region, in bytes (proc(5))."""
    start = memory.host_address(memory.regions[region])
    text = Path("/proc/self/smaps").read_text()
    [entry] = re.findall(rf"^{start:x}-[0-9a-f]+ rw-p .*\n((?:\w+: .*\n)+)", text, re.MULTILINE)
    return {name: int(value) << 10 for name, value in re.findall(r"^(\w+): +(\d+) kB$", entry, re.MULTILINE)}


def is_mapped(address: int) -> bool:
    spans = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return any(int(start, 16) <= address < int(end, 16) for start, end in spans)


def test_it_is_memory_as_any_but_has_no_descriptor(memory: GuestMemory) -> None:
    assert (memory.fds, memory.fd, memory.size, memory.end) == ((), -1, LOW + HIGH, HIGH_BASE + HIGH)
    assert memory.read(0, LOW) == bytes(LOW)
    memory.write(HIGH_BASE + HIGH - 4, b"high")
    memory.write_u64(8, 0x0102030405060708)
    assert memory.read(HIGH_BASE + HIGH - 4, 4) == b"high"
    assert bytes(memory.slice(8, 2)) == b"\x08\x07"
    for address, length in [(LOW - 1, 2), (LOW, 1), (HIGH_BASE - 1, 2), (HIGH_BASE + HIGH, 1)]:
        with pytest.raises(GuestMemoryError):
            memory.read(address, length)


def test_native_code_finds_it_and_makes_nothing_of_it(memory: GuestMemory) -> None:
    native = memory.native()
    assert [native.regions[i].fd for i in range(native.count)] == [-1, -1]
    memory.join(0, LOW)
    assert mapping(memory, 0)["Rss"] == 0
    lib.pyvmm_memory_join(native, native.regions[1].host, HIGH)
    assert mapping(memory, 1)["Rss"] == 0


def test_a_first_use_makes_a_huge_page_where_the_host_has_them(memory: GuestMemory) -> None:
    if not at_first_use():
        pytest.skip("this host makes no huge pages (transparent_hugepage is never)")
    assert mapping(memory, 0)["Rss"] == 0
    memory.write_u8(HUGE + 5, 1)
    found = mapping(memory, 0)
    assert (found["Rss"], found["AnonHugePages"]) in ((HUGE, HUGE), (PAGE_SIZE, 0))  # it may have none left just now


def test_the_host_is_asked_for_huge_pages_and_forks_are_not_to_have_it(memory: GuestMemory) -> None:
    for region in memory.regions:
        start = memory.host_address(region)
        [flags] = re.findall(
            rf"^{start:x}-(?:.*\n)(?:\w+: .*\n)*?VmFlags: (.*)$", Path("/proc/self/smaps").read_text(), re.MULTILINE
        )
        assert {"hg", "dc"} <= set(flags.split())


def test_what_is_given_back_costs_nothing_and_reads_as_zeros(memory: GuestMemory) -> None:
    memory.write(0, b"\x5a" * LOW)
    memory.write(HIGH_BASE, b"\x5a" * HIGH)
    assert (mapping(memory, 0)["Rss"], mapping(memory, 1)["Rss"]) == (LOW, HIGH)
    memory.discard(HIGH_BASE, HUGE)
    assert (mapping(memory, 0)["Rss"], mapping(memory, 1)["Rss"]) == (LOW, HUGE)
    memory.discard(PAGE_SIZE + 1, 3 * PAGE_SIZE)
    assert memory.read(0, 5 * PAGE_SIZE).count(0x5A) == 3 * PAGE_SIZE
    assert memory.read(2 * PAGE_SIZE, 2 * PAGE_SIZE) == bytes(2 * PAGE_SIZE)
    assert memory.read(HIGH_BASE, HIGH) == bytes(HUGE) + b"\x5a" * HUGE
    with pytest.raises(GuestMemoryError):
        memory.discard(LOW - PAGE_SIZE, 2 * PAGE_SIZE)


def test_a_fork_does_not_get_it(memory: GuestMemory) -> None:
    program = """if True:
        import os, sys
        from pyvmm.memory import GuestMemory
        memory = GuestMemory.private([(0, 8 << 20)])
        memory.write(0, b"mine")
        if child := os.fork():
            assert memory.read(0, 4) == b"mine"
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        else:
            memory.read(0, 4)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{-signal.SIGSEGV}\n"


def test_close_unmaps_it() -> None:
    memory = GuestMemory.private([(0, LOW)])
    address = memory.host_address(memory.regions[0])
    memory.write(0, b"once")
    memory.close()
    memory.close()
    assert not is_mapped(address)


@pytest.mark.parametrize("ranges", [[(0, 0)], [(0, PAGE_SIZE + 1)], [(1, PAGE_SIZE)]])
def test_a_range_that_is_not_whole_pages_is_refused(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="not a range of whole pages"):
        GuestMemory.private(ranges)


def test_a_process_that_may_map_no_more_gets_a_host_error() -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE_SIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), limits[1]))
    try:
        with pytest.raises(HostError, match="cannot map 1024 MiB for the guest; give a smaller --memory"):
            GuestMemory.private([(0, 1 << 30)])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize(
    ("all_sizes", "two_mib", "expected"),
    [
        ("always [madvise] never", None, True),
        ("[always] madvise never", None, True),
        ("always madvise [never]", None, False),
        ("always [madvise] never", "always [inherit] madvise never", True),
        ("always [madvise] never", "always inherit madvise [never]", False),
        (None, None, False),
    ],
)
def test_the_hosts_settings_say_whether_a_first_use_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_sizes: str | None, two_mib: str | None, expected: bool
) -> None:
    monkeypatch.setattr("pyvmm.machine.huge_pages._SETTINGS", str(tmp_path))
    (tmp_path / "hugepages-2048kB").mkdir()
    for name, setting in (("enabled", all_sizes), ("hugepages-2048kB/enabled", two_mib)):
        if setting is not None:
            (tmp_path / name).write_text(setting + "\n")
    assert at_first_use() == expected
