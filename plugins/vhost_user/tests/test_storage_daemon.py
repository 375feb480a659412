"""Our front end with a back end that nobody here wrote: the vhost-user-blk export of QEMU's storage daemon."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm.errors import HostError, UsageError
from pyvmm.options import parse_device
from pyvmm.plugins import Plugins
from pyvmm.testing.mmio_driver import FAILED, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.testing.waiting import wait_until
from pyvmm.vhost_user.front_end import VhostUserDevice

from tests.system.listening import is_listening

pytestmark = pytest.mark.skipif(
    not shutil.which("qemu-storage-daemon"), reason="no qemu-storage-daemon: tests/system/require test"
)

SECTOR = 512
SIZE = 8 << 20
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk of random bytes."""
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random("storage daemon").randbytes(SIZE))
    return path


class StorageDaemon:
    """One that exports an image."""

    def __init__(self, image: Path, sock: Path, queues: int = 1) -> None:
        self.image = image
        self.sock = sock
        self.queues = queues
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.sock.unlink(missing_ok=True)
        self.process = process = subprocess.Popen(
            [
                "qemu-storage-daemon",
                *("--blockdev", f"driver=file,node-name=file,filename={self.image}"),
                *("--blockdev", "driver=raw,node-name=disk,file=file,discard=unmap"),
                "--export",
                f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={self.sock},writable=on,"
                f"num-queues={self.queues}",
            ]
        )
        wait_until(lambda: is_listening(self.sock) or process.poll() is not None)
        assert process.poll() is None, f"the daemon ended with status {process.returncode}"

    def kill(self) -> None:
        """End it as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture
def daemon(image: Path, tmp_path: Path) -> Iterator[StorageDaemon]:
    """A storage daemon that runs."""
    daemon = StorageDaemon(image, tmp_path / "blk.sock")
    yield daemon
    daemon.kill()


def make(spec: str) -> VhostUserDevice:
    [request] = Plugins().request_devices([parse_device(spec)])
    device = request.kind.make(request.options)
    assert isinstance(device, VhostUserDevice)
    return device


@pytest.fixture
def driver(daemon: StorageDaemon) -> Iterator[VirtioDriver]:
    """A driver of the disk, started."""
    with VirtioDriver(make(f"vhost-user:{daemon.sock},type=block"), name="disk0") as driver:
        driver.start()
        yield driver


def request(driver: VirtioDriver, type_: int, sector: int = 0, data: bytes = b"", size: int = 0) -> tuple[int, bytes]:
    """One request, with its status and what was read."""
    readable = [struct.pack("<IIQ", type_, 0, sector), *([data] if data else [])]
    chain = driver.rings[0].add(readable, [size, 1] if size else [1])
    driver.exchange()
    written = chain.written()
    return written[-1], written[:-1]


def test_capacity_is_the_images(driver: VirtioDriver) -> None:
    assert driver.probe() == 2
    assert driver.read_config(0, 8) == struct.pack("<Q", SIZE // SECTOR)
    assert driver.read_config(0, 8, width=1) == struct.pack("<Q", SIZE // SECTOR)


@pytest.mark.parametrize(
    "features", [[], [VIRTIO_F_INDIRECT_DESC], [VIRTIO_F_EVENT_IDX], [VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX]]
)
def test_disk_reads_as_the_image(driver: VirtioDriver, image: Path, features: list[int]) -> None:
    driver.start(features, indirect=VIRTIO_F_INDIRECT_DESC in features)
    digest = hashlib.sha256()
    ring = driver.rings[0]
    for start in range(0, SIZE, 1 << 20):
        driver.heap.reset()
        chains = [
            ring.add([struct.pack("<IIQ", IN, 0, offset // SECTOR)], [1 << 16, 1])
            for offset in range(start, start + (1 << 20), 1 << 16)
        ]
        driver.exchange()
        for chain in chains:
            data = chain.written()
            assert data[-1] == OK
            digest.update(data[:-1])
    assert digest.hexdigest() == hashlib.sha256(image.read_bytes()).hexdigest()
    assert driver.interrupt_status == 1


def test_writes_reach_the_image_with_a_flush(driver: VirtioDriver, image: Path) -> None:
    generator = random.Random("writes")
    expected = bytearray(image.read_bytes())
    for _ in range(100):
        driver.heap.reset()
        sector, data = generator.randrange(SIZE // SECTOR - 64), generator.randbytes(SECTOR * generator.randint(1, 64))
        assert request(driver, OUT, sector, data) == (OK, b"")
        expected[sector * SECTOR : sector * SECTOR + len(data)] = data
    assert request(driver, FLUSH) == (OK, b"")
    assert image.read_bytes() == expected


def test_requests_that_cannot_be_are_refused_by_the_back_end(driver: VirtioDriver) -> None:
    assert request(driver, IN, SIZE // SECTOR, size=SECTOR)[0] == IOERR
    assert request(driver, 99)[0] == UNSUPP
    assert request(driver, GET_ID, size=20)[0] == OK


def test_discard_and_write_zeroes(driver: VirtioDriver, image: Path) -> None:
    range_ = struct.pack("<QII", 0, 128, 0)
    assert request(driver, WRITE_ZEROES, 0, range_)[0] == OK
    assert request(driver, DISCARD, 0, range_)[0] == OK
    assert request(driver, FLUSH)[0] == OK
    assert image.read_bytes()[: 128 * SECTOR] == bytes(128 * SECTOR)


def test_driver_comes_and_goes(driver: VirtioDriver) -> None:
    for size in (8, 256, 16):
        driver.reset()
        assert driver.status == 0
        driver.start(queue_sizes=[size])
        assert request(driver, IN, 0, size=SECTOR)[0] == OK


def test_machines_come_and_go(daemon: StorageDaemon) -> None:
    for _ in range(3):
        with VirtioDriver(make(f"vhost-user:{daemon.sock},type=2"), name="disk0") as driver:
            driver.start()
            assert request(driver, IN, 0, size=SECTOR)[0] == OK


def test_several_queues(image: Path, tmp_path: Path) -> None:
    daemon = StorageDaemon(image, tmp_path / "mq.sock", queues=4)
    try:
        device = make(f"vhost-user:{daemon.sock},type=block,queues=4,queue-size=64")
        with VirtioDriver(device, name="disk0") as driver:
            driver.start()
            assert driver.read_config(34, 2) == b"\4\0"
            for ring in driver.rings:
                chain = ring.add([struct.pack("<IIQ", IN, 0, 7)], [SECTOR, 1])
                driver.exchange(driver.rings.index(ring))
                assert chain.written()[:-1] == image.read_bytes()[7 * SECTOR : 8 * SECTOR]
    finally:
        daemon.kill()


def test_daemon_that_is_killed_fails_the_disk(
    driver: VirtioDriver, daemon: StorageDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.kill()
    driver.run_until(lambda: driver.needs_reset)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert lines == [
        f"disk0: the back end at {daemon.sock}: the other side has disconnected; "
        "it is not served until the driver resets it"
    ]
    driver.reset()
    assert driver.status & FAILED


def test_daemon_that_is_started_again_is_found_again(daemon: StorageDaemon, image: Path) -> None:
    device = make(f"vhost-user:{daemon.sock},type=block,reconnect=on")
    with VirtioDriver(device, name="disk0") as driver:
        driver.start()
        assert request(driver, IN, 0, size=SECTOR)[0] == OK
        assert daemon.process is not None
        os.kill(daemon.process.pid, signal.SIGSTOP)
        ring = driver.rings[0]
        chains = [ring.add([struct.pack("<IIQ", IN, 0, i)], [SECTOR, 1]) for i in range(10)]
        ring.kick()
        daemon.kill()
        daemon.start()
        driver.wait_used(0, 10)
        contents = image.read_bytes()
        for i, chain in enumerate(chains):
            assert chain.written() == contents[i * SECTOR : (i + 1) * SECTOR] + b"\0"
        assert request(driver, IN, 3, size=SECTOR) == (OK, contents[3 * SECTOR : 4 * SECTOR])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{tmp}/none,type=block", "there is no such socket; start the back end first"),
        ("{tmp}/disk.img,type=block", "no program listens there"),
        ("{sock},type=block,queues=3", "it has 1 queues, not 3"),
        ("{sock},type=block,config-size=256", "no 256 bytes of configuration space"),
        ("{sock},type=disk", "is no type of device"),
        ("{sock},type=0", "is no type of device"),
        ("{sock}", "'type' is missing"),
        ("{sock},type=block,queue-size=100", "no power of two"),
    ],
)
def test_what_is_wrong_is_one_line(daemon: StorageDaemon, tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises((UsageError, HostError), match=message) as caught:
        make("vhost-user:" + spec.format(tmp=tmp_path, sock=daemon.sock))
    assert "\n" not in str(caught.value)
