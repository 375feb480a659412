"""A disk whose process is killed again and again, while its driver reads and writes: nothing is lost, nothing old comes
back."""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm.device_process.parent import DeviceProcess, DeviceProcesses
from pyvmm.options import parse_device
from pyvmm.plugins import Plugins
from pyvmm.testing.driver_ring import DriverChain
from pyvmm.testing.virtio_driver import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VirtioDriver
from pyvmm.testing.waiting import PATIENCE

SECTOR = 512
SECTORS = 4096
BLOCK = 8
"""Sectors of a request at most."""
IN, OUT, FLUSH = 0, 1, 4
DEPTH = 24
KILLS = (60, 7, 0, 31)
"""How many requests a process has done when it is killed; 0: as soon as there is one, which has not started yet."""


class Writer:
    """Has requests under way whose sectors do not overlap, and knows what each sector has to be."""

    def __init__(self, driver: VirtioDriver, contents: bytearray, seed: int) -> None:
        self.driver = driver
        self.contents = contents
        self.random = random.Random(seed)
        self.under_way: dict[int, tuple[DriverChain, int, int, bytes]] = {}
        self.busy: set[int] = set()
        self.done = 0

    def fill(self) -> None:
        """Make requests until there are enough of them."""
        ring = self.driver.rings[0]
        while len(self.under_way) < DEPTH:
            if not self.under_way:
                self.driver.heap.reset()  # nobody has a buffer
            count = self.random.randint(1, BLOCK)
            sector = self.random.randrange(SECTORS - count)
            if self.busy.intersection(range(sector, sector + count)):
                continue
            type_ = self.random.choice((IN, IN, OUT, OUT, OUT, FLUSH))
            if type_ == FLUSH:
                sector = count = 0
            header = struct.pack("<IIQ", type_, 0, sector)
            data = self.random.randbytes(count * SECTOR) if type_ == OUT else b""
            try:
                if type_ == IN:
                    chain = ring.add([header], [count * SECTOR, 1])
                else:
                    chain = ring.add([header, data] if data else [header], [1])
            except MemoryError:
                break  # the heap is used up, until all are done
            self.under_way[chain.head] = chain, type_, sector, data
            self.busy.update(range(sector, sector + count))
        ring.kick()

    def take(self) -> None:
        """Check what is done."""
        for used in self.driver.rings[0].take_used():
            assert used.chain is not None, "a request was done twice, or was never made"
            chain, type_, sector, data = self.under_way.pop(used.chain.head)
            answer = chain.written()
            assert answer[-1] == 0
            size = len(answer) - 1 if type_ == IN else len(data)
            at = sector * SECTOR
            if type_ == IN:
                assert answer[:-1] == self.contents[at : at + size], f"sector {sector} is not what was written"
            elif type_ == OUT:
                self.contents[at : at + size] = data
            self.busy.difference_update(range(sector, sector + size // SECTOR))
            self.done += 1


@pytest.mark.parametrize("features", [[], [VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC]], ids=["plain", "both"])
@pytest.mark.parametrize("aio", ["io_uring", "threads"])
def test_nothing_is_lost_when_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: list[int], aio: str
) -> None:
    monkeypatch.setenv("PYVMM_AIO", aio)
    path = tmp_path / "disk.img"
    contents = bytearray(random.Random("disk").randbytes(SECTORS * SECTOR))
    path.write_bytes(contents)
    [request] = Plugins().request_devices([parse_device(f"block:{path},process=on,restart=on")])
    with DeviceProcesses() as pool:
        pool.start([request])
        device = pool.take("block0")
        assert device is not None
        process = device._source
        assert isinstance(process, DeviceProcess)
        with VirtioDriver(device, name="block0") as driver:
            driver.start(features, indirect=bool(features))
            writer = Writer(driver, contents, seed=len(aio))
            kills = list(KILLS)
            killed = [-1]
            done_before, last = 0, time.monotonic()
            while kills or writer.under_way:
                done = writer.done
                writer.take()
                if kills:
                    writer.fill()
                if writer.done != done:
                    last = time.monotonic()
                assert not driver.needs_reset
                assert time.monotonic() - last < PATIENCE, f"{len(writer.under_way)} stuck, {len(kills)} kills to come"
                child = process.child
                if kills and child and child.pid != killed[-1] and writer.done - done_before >= kills[0]:
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
                    kills.pop(0)
                    done_before = writer.done
                driver.loop.run_once(0.0005)
        assert path.read_bytes() == contents


def test_a_write_past_the_limit_of_a_files_size_fails_alone(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, as ``ulimit -f`` sets it: by default its signal ends a process (setrlimit(2))."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(SECTORS * SECTOR))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    [request] = Plugins().request_devices([parse_device(f"block:{image},process=on")])
    with DeviceProcesses() as processes:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (SECTORS * SECTOR // 2, before[1]))
            processes.start([request])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        device = processes.take(request.id)
        assert device is not None
        driver = VirtioDriver(device, name="disk0", size=8 << 20)
        driver.start([])
        statuses = []
        for sector in (SECTORS - 1, 1):
            chain = driver.rings[0].add([struct.pack("<IIQ", OUT, 0, sector), b"x" * SECTOR], [1])
            driver.rings[0].kick()
            driver.wait_used(0, 1)
            statuses += chain.written()
        driver.close()
    assert statuses == [1, 0]
    assert image.read_bytes()[SECTOR : 2 * SECTOR] == b"x" * SECTOR


@pytest.fixture
def restarting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[VirtioDriver, DeviceProcess]]:
    """A disk by a relative name with restart=on, and the process's working directory changed since."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/disk.img").write_bytes(bytes(SECTORS * SECTOR))
    monkeypatch.chdir(tmp_path / "here")
    [request] = Plugins().request_devices([parse_device("block:disk.img,process=on,restart=on")])
    with DeviceProcesses() as processes:
        processes.start([request])
        device = processes.take(request.id)
        assert device is not None and isinstance(device._source, DeviceProcess)
        driver = VirtioDriver(device, name="disk0", size=8 << 20)
        driver.start([])
        monkeypatch.chdir(tmp_path)
        yield driver, device._source
        driver.close()


def write_and_wait(driver: VirtioDriver) -> bytes:
    chain = driver.rings[0].add([struct.pack("<IIQ", OUT, 0, 1), b"x" * SECTOR], [1])
    driver.rings[0].kick()
    driver.wait_used(0, 1)
    return chain.written()


def test_the_next_process_finds_the_disk_by_a_relative_name(
    restarting: tuple[VirtioDriver, DeviceProcess], tmp_path: Path
) -> None:
    driver, source = restarting
    assert source.child is not None
    os.kill(source.child.pid, signal.SIGKILL)
    assert write_and_wait(driver) == b"\0"
    assert (tmp_path / "here/disk.img").read_bytes()[SECTOR : 2 * SECTOR] == b"x" * SECTOR


def test_the_next_process_takes_no_other_file_by_that_name(
    restarting: tuple[VirtioDriver, DeviceProcess],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyvmm.vhost_user.front_end.RESTART_TIMEOUT", 0.1)  # one attempt is enough
    driver, source = restarting
    other = tmp_path / "here/other.img"
    other.write_bytes(bytes(SECTORS * SECTOR))
    other.replace(tmp_path / "here/disk.img")
    assert source.child is not None
    os.kill(source.child.pid, signal.SIGKILL)
    driver.rings[0].add([struct.pack("<IIQ", OUT, 0, 1), b"x" * SECTOR], [1])
    driver.rings[0].kick()
    driver.run_until(lambda: driver.needs_reset)
    assert "the device is not the same as before" in caplog.text
    assert not any((tmp_path / "here/disk.img").read_bytes())
