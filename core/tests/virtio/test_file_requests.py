"""Plain transfers between a ring and a file, for a device that is nobody's: its own header, types, unit and status."""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyvmm.host.aio import IoEngine, IoFile
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverChain, UsedChain
from pyvmm.testing.virtio_driver import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VirtioDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.file_requests import TransferError, TransferFormat, Transfers
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import DescriptorChain, Queue

CONTENT = random.Random(5).randbytes(64 * 1024)
READ, WRITE = 0x70000007, 9
DONE, FAILED, OTHER = 0x55, 0xAA, 0x33
FORMAT = TransferFormat(
    header_size=24,
    type_offset=5,
    position_offset=11,
    unit=4,
    read_type=READ,
    write_type=WRITE,
    done=DONE,
    failed=FAILED,
)


def header(type_: int, position: int) -> bytes:
    return b"\xee" * 5 + struct.pack("<I", type_) + b"\xee" * 2 + struct.pack("<Q", position) + b"\xee" * 5


class Store(VirtioDevice):
    """Answers every request that is no transfer with OTHER."""

    device_type = 42
    queue_max_sizes = (128,)

    def __init__(self, file: IoFile, depth: int, backend: str) -> None:
        self.file = file
        self.engine = IoEngine(depth, backend=backend)
        self.others: list[DescriptorChain] = []

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        self.transfers = Transfers(queues[0], mem, self.engine, self.file, FORMAT, end=len(CONTENT))
        self.transfers.writable = True
        self.context.loop.add(self.engine.fd, self.serve)
        super().activate(mem, interrupt, queues)

    def on_kick(self, queue: Queue) -> None:
        self.serve()

    def serve(self, _: int = 0) -> None:
        for chain in self.transfers.serve():
            self.others.append(chain)
            if chain.writable:
                chain.writable[-1][-1] = OTHER
            chain.complete(chain.writable_length)

    def reset(self) -> bool:
        self.context.loop.remove(self.engine.fd)
        self.engine.drain(cancel=True)
        return super().reset()

    def close(self) -> None:
        self.engine.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(params=["io_uring", "threads"])
def backend(request: pytest.FixtureRequest) -> str:
    from pyvmm.errors import HostError

    try:
        IoEngine(1, backend=request.param).close()
    except HostError as error:
        pytest.skip(str(error))
    return str(request.param)


@pytest.fixture(params=[128, 3], ids=["room-for-all", "room-for-three"])
def driver(path: Path, backend: str, request: pytest.FixtureRequest) -> Iterator[VirtioDriver]:
    """A started driver; the engine has room for the whole ring, or is always full."""
    fd = os.open(path, os.O_RDWR)
    with VirtioDriver(Store(IoFile(fd, cached=request.param == 128), request.param, backend)) as driver:
        driver.start(indirect=True)
        yield driver
    os.close(fd)


def status(used: UsedChain) -> int:
    assert used.chain is not None and used.length == len(used.chain.written())
    return used.chain.written()[-1]


def one(driver: VirtioDriver, readable: list[Any], writable: list[Any]) -> tuple[int, bytes]:
    driver.rings[0].add(readable, writable)
    (used,) = driver.exchange()
    assert used.chain is not None
    return status(used), used.chain.written()[:-1]


def test_read_and_write(driver: VirtioDriver, path: Path) -> None:
    assert one(driver, [header(READ, 5)], [3, 97, 1]) == (DONE, CONTENT[20:120])
    assert one(driver, [header(WRITE, 6), b"ab", b"cdefgh"], [1]) == (DONE, b"")
    assert path.read_bytes() == CONTENT[:24] + b"abcdefgh" + CONTENT[32:]
    assert not driver.device.others  # type: ignore[attr-defined]


@pytest.mark.parametrize("cut", [1, 9, 23, 24, 25])
def test_header_cut_anywhere(driver: VirtioDriver, path: Path, cut: int) -> None:
    whole = header(WRITE, 0) + b"12345678"
    assert one(driver, [whole[:cut], whole[cut:]], [1]) == (DONE, b"")
    assert path.read_bytes() == b"12345678" + CONTENT[8:]
    assert one(driver, [header(READ, 0)[: cut - 1] or b"\xee", header(READ, 0)[cut - 1 or 1 :] or b"x"], [9]) == (
        DONE,
        b"12345678",
    )


@pytest.mark.parametrize(
    ("readable", "writable"),
    [
        ([header(1, 0)], [4, 1]),
        ([header(READ, 0)[:23]], [4, 1]),
        ([], [4, 1]),
        ([header(READ, 0)], [1]),
        ([header(READ, 0)], [3, 1]),
        ([header(WRITE, 0)], [4, 1]),
        ([header(WRITE, 0), b"abc"], [1]),
        ([header(READ, len(CONTENT) // 4)], [4, 1]),
        ([header(READ, len(CONTENT) // 4 - 1)], [8, 1]),
        ([header(READ, 2**64 - 1)], [4, 1]),
        ([header(READ, 2**62)], [4, 1]),
        ([header(READ, 0)], [len(CONTENT) + 4, 1]),
    ],
)
def test_what_is_no_plain_transfer_is_the_devices(
    driver: VirtioDriver, path: Path, readable: Any, writable: Any
) -> None:
    sent = b"".join(readable)
    assert one(driver, readable, writable) == (OTHER, b"\xa5" * (sum(writable) - 1))
    (chain,) = driver.device.others  # type: ignore[attr-defined]
    assert chain.read(0, 1000) == sent and chain.writable_length == sum(writable)
    assert path.read_bytes() == CONTENT
    assert one(driver, [header(READ, 0)], [5]) == (DONE, CONTENT[:4])


def test_no_status(driver: VirtioDriver) -> None:
    driver.rings[0].add([header(WRITE, 0), b"abcd"])
    (used,) = driver.exchange()
    assert used.length == 0 and len(driver.device.others) == 1  # type: ignore[attr-defined]


def test_writes_are_the_devices_while_it_wants_them(driver: VirtioDriver, path: Path) -> None:
    driver.device.transfers.writable = False  # type: ignore[attr-defined]
    assert one(driver, [header(WRITE, 0), b"abcd"], [1]) == (OTHER, b"")
    assert one(driver, [header(READ, 0)], [5]) == (DONE, CONTENT[:4])
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("features", [[VIRTIO_F_INDIRECT_DESC], [VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX]])
def test_a_full_ring_again_and_again(driver: VirtioDriver, features: list[int]) -> None:
    driver.start(features, indirect=True)
    for _ in range(4):
        sent: dict[DriverChain, int] = {}
        for i in range(128):
            sent[driver.rings[0].add([header(READ if i % 9 else 1, i)], [4, 1])] = i
        for used in driver.exchange():
            assert used.chain is not None
            i = sent[used.chain]
            expected = CONTENT[4 * i : 4 * i + 4] + bytes([DONE]) if i % 9 else b"\xa5" * 4 + bytes([OTHER])
            assert used.chain.written() == expected
        assert driver.take_interrupt()
    assert not driver.needs_reset


def test_end_of_file_fails_and_is_told(driver: VirtioDriver, path: Path) -> None:
    transfers = driver.device.transfers  # type: ignore[attr-defined]
    assert transfers.take_error() is None
    os.truncate(path, 10)
    assert one(driver, [header(READ, 2)], [4, 1])[0] == FAILED
    assert one(driver, [header(READ, 9)], [4, 1])[0] == FAILED
    assert transfers.take_error() == TransferError(False, 36, errno.ENODATA)
    assert transfers.take_error() is None
    assert one(driver, [header(READ, 0)], [8, 1]) == (DONE, CONTENT[:8])


def test_error_of_the_host(driver: VirtioDriver) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, driver.device.file.fd)  # type: ignore[attr-defined]
    os.close(full)
    assert one(driver, [header(WRITE, 1), b"abcd"], [1]) == (FAILED, b"")
    assert driver.device.transfers.take_error() == TransferError(True, 4, errno.ENOSPC)  # type: ignore[attr-defined]


def test_reset_with_requests_under_way(driver: VirtioDriver) -> None:
    for _ in range(10):
        for i in range(100):
            driver.rings[0].add([header(READ, i)], [4096, 1])
        driver.rings[0].kick()
        driver.loop.run_once(1)
        driver.reset()
        assert driver.device.engine.in_use == 0  # type: ignore[attr-defined]
        driver.start(indirect=True)
    assert one(driver, [header(READ, 0)], [5]) == (DONE, CONTENT[:4])


def test_broken_ring(driver: VirtioDriver) -> None:
    ring = driver.rings[0]
    ring.add([header(READ, 0)], [4, 1])
    ring.make_available(9999)
    ring.kick()
    driver.run()
    assert driver.needs_reset
    driver.start(indirect=True)
    assert one(driver, [header(READ, 0)], [5]) == (DONE, CONTENT[:4])


class LateStore(Store):
    """One whose ring is not enabled yet when it is activated: a vhost-user front end enables them in turn."""

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        queues[0].paused = True
        super().activate(mem, interrupt, queues)


def test_a_queue_that_is_paused_at_the_activation_is_served_when_it_goes_on(path: Path, backend: str) -> None:
    fd = os.open(path, os.O_RDWR)
    store = LateStore(IoFile(fd), 128, backend)
    with VirtioDriver(store) as driver:
        driver.start()
        driver.rings[0].add([header(READ, 5)], [100, 1])
        driver.rings[0].kick()
        driver.loop.settle()
        assert not driver.rings[0].take_used()
        queue = driver.transport.queues[0]
        queue.paused = False
        queue.event.signal()
        (used,) = driver.wait_used()
        assert used.chain is not None
        assert (status(used), used.chain.written()[:-1]) == (DONE, CONTENT[20:120])
    os.close(fd)
