"""Requests for entropy, and sources of all sorts."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyvmm.errors import UsageError
from pyvmm.options import Size, parse_options
from pyvmm.testing.driver_ring import UsedChain
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm_virtio_rng import RngOptions, pyvmm_device_kinds
from pyvmm_virtio_rng.device import MAX_REQUEST, QUEUE_SIZE, Rng
from pyvmm_virtio_rng.rate import RateLimit

UNTOUCHED = b"\xa5"

Start = Callable[..., VirtioDriver]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a device with options; it is closed at the end, and must leave no descriptor."""
    drivers: list[VirtioDriver] = []
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))

    def start(**options: object) -> VirtioDriver:
        drivers.append(VirtioDriver(Rng(RngOptions(**options)), name="rng0"))  # type: ignore[arg-type]
        drivers[-1].start()
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def data(used: UsedChain) -> bytes:
    """What the device says that it wrote; what is behind that is as it was."""
    assert used.chain is not None
    written = used.chain.written()
    assert set(written[used.length :]) <= set(UNTOUCHED)
    return written[: used.length]


# --- requests


def test_a_buffer_is_filled_with_bytes_that_are_never_the_same(start: Start) -> None:
    driver = start()
    driver.rings[0].add([], [64])
    driver.rings[0].add([], [64])
    first, second = (data(used) for used in driver.exchange())
    assert len(first) == len(second) == 64
    assert first != second
    assert driver.take_interrupt()


def test_a_request_of_several_buffers_is_filled_through(start: Start, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(range(200)))
    driver = start(source=tmp_path / "source")
    driver.rings[0].add([], [1, 2, 100])
    (used,) = driver.exchange()
    assert data(used) == bytes(range(103))


def test_it_has_one_queue_and_no_features_of_its_own(start: Start) -> None:
    driver = start()
    assert driver.probe() == 4
    assert driver.queue_size_max(0) == QUEUE_SIZE
    assert driver.queue_size_max(1) == 0
    assert driver.offered_features() & (1 << 24) - 1 == 0
    assert driver.read_config(0, 8) == bytes(8)


@pytest.mark.parametrize(("readable", "writable"), [([b"x"], []), ([b"x" * 4096] * 3, [])])
def test_a_request_without_a_buffer_to_write_is_given_back(
    start: Start, readable: list[bytes], writable: list[int]
) -> None:
    driver = start()
    driver.rings[0].add(readable, writable)
    (used,) = driver.exchange()
    assert used.length == 0
    assert not driver.needs_reset


def test_a_buffer_to_read_does_not_matter(start: Start) -> None:
    driver = start()
    driver.rings[0].add([b"seed"], [16])
    (used,) = driver.exchange()
    assert used.length == 16


def test_a_guest_that_asks_for_gigabytes_gets_a_page(start: Start) -> None:
    driver = start()
    buffer = driver.heap.allocate(48 << 20)
    for _ in range(QUEUE_SIZE):
        driver.rings[0].add([], [buffer])
    assert [used.length for used in driver.exchange()] == [MAX_REQUEST] * QUEUE_SIZE
    assert buffer.memory.read(buffer.address + MAX_REQUEST, 1 << 20) == bytes(1 << 20)
    # The host keeps what was written and no more: rings and one page.
    assert os.fstat(driver.memory.fd).st_blocks * 512 < 2 << 20


def test_a_broken_chain_fails_the_device_until_it_is_reset(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    driver = start()
    driver.rings[0].make_available(QUEUE_SIZE)
    driver.rings[0].kick()
    driver.run()
    assert driver.needs_reset
    assert "rng0: queue 0: the head of a chain" in caplog.text
    driver.start()
    driver.rings[0].add([], [8])
    assert driver.exchange()[0].length == 8


# --- sources that have nothing


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_a_source_that_has_nothing_holds_up_the_guest_and_not_the_loop(start: Start, fifo: Path) -> None:
    driver = start(source=fifo)
    driver.rings[0].add([], [16])
    driver.rings[0].add([], [16])
    driver.rings[0].kick()
    driver.run()
    assert driver.rings[0].take_used() == []

    writer = os.open(fifo, os.O_WRONLY)
    os.write(writer, b"first")
    (used,) = driver.wait_used()
    assert data(used) == b"first"

    os.write(writer, b"x" * 20)
    os.close(writer)
    (used,) = driver.wait_used()
    assert data(used) == b"x" * 16
    driver.rings[0].add([], [16])
    assert data(driver.exchange()[0]) == b"x" * 4

    driver.rings[0].add([], [16])
    driver.rings[0].kick()
    driver.run()
    assert not driver.needs_reset  # the last writer left, and another may come


def test_a_kick_while_the_source_has_nothing_changes_nothing(start: Start, fifo: Path) -> None:
    driver = start(source=fifo)
    for _ in range(3):
        driver.rings[0].add([], [4])
        driver.rings[0].queue.event.signal()  # type: ignore[union-attr]
        driver.run()
    with fifo.open("wb") as writer:
        writer.write(b"abcdefghijkl")
    assert [data(used) for used in driver.wait_used(count=3)] == [b"abcd", b"efgh", b"ijkl"]


def test_a_reset_while_the_source_has_nothing_loses_nothing_of_it(start: Start, fifo: Path) -> None:
    driver = start(source=fifo)
    for _ in range(10):
        driver.rings[0].add([], [16])
        driver.rings[0].kick()
        driver.run()
        driver.start()
    with fifo.open("wb") as writer:
        writer.write(b"late")
    driver.run()
    driver.rings[0].add([], [16])
    (used,) = driver.exchange()
    assert data(used) == b"late"


def test_a_source_that_cannot_tell_when_it_has_something_is_tried_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hwrng").write_bytes(b"at last")  # epoll refuses a regular file as it does /dev/hwrng
    driver = start(source=tmp_path / "hwrng")
    tries, read = [], driver.device.source.read_into  # type: ignore[attr-defined]

    def sometimes(views: list[memoryview]) -> int | None:
        tries.append(1)
        return None if len(tries) < 4 else read(views)

    monkeypatch.setattr(driver.device.source, "read_into", sometimes)  # type: ignore[attr-defined]
    driver.rings[0].add([], [16])
    (used,) = driver.exchange()
    assert (data(used), len(tries)) == (b"at last", 4)


def test_a_source_that_ends_fails_the_device_in_one_line(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "source").write_bytes(b"four")
    driver = start(source=tmp_path / "source")
    driver.rings[0].add([], [16])
    assert data(driver.exchange()[0]) == b"four"
    with caplog.at_level(logging.WARNING):
        driver.rings[0].add([], [16])
        driver.rings[0].kick()
        driver.run()
    assert driver.needs_reset
    assert [record.getMessage() for record in caplog.records] == [
        f"rng0: {tmp_path}/source is at its end; it is not served until the driver resets it"
    ]

    for _ in range(5):  # a driver that tries again and again does not fill the log
        driver.start()
        driver.rings[0].add([], [16])
        driver.rings[0].kick()
        driver.run()
        assert driver.rings[0].take_used() == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("source", ["empty", "/dev/null"])
def test_a_source_that_has_nothing_from_the_start_is_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").touch()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError, match="has no data; give a file such as /dev/urandom"):
        Rng(RngOptions(source=tmp_path / source))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_the_kernel_makes_when_it_is_read_is_a_source(start: Start) -> None:
    # Its size is 0, and so is its contents only where it says so.
    driver = start(source=Path("/proc/sys/kernel/random/uuid"))
    driver.rings[0].add([], [37])
    assert data(driver.exchange()[0])[-1:] == b"\n"


@pytest.mark.parametrize("text", ["/nowhere", "/", "/dev/nothing-like-this"])
def test_a_source_that_cannot_be_one_is_the_users_mistake(text: str) -> None:
    with pytest.raises(UsageError, match=r"^rng: .*; give a file such as /dev/urandom$"):
        Rng(RngOptions(source=Path(text)))


# --- the rate


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_no_more_than_the_rate_passes_in_any_second() -> None:
    clock = Clock()
    limit = RateLimit(1000, clock)
    passed = 0
    for _ in range(100):
        count = limit.available(64)
        limit.take(count)
        passed += count
        clock.now += 0.01
    assert 1900 <= passed <= 2000  # what was saved up, and a second's

    clock.now += 3600
    assert limit.available(10**9) == 1000


@pytest.mark.parametrize("rate", [1, 10, 64, 1000, 1 << 30])
def test_after_the_wait_something_passes(rate: int) -> None:
    clock = Clock()
    limit = RateLimit(rate, clock)
    limit.take(limit.available(rate))
    assert limit.available(64) == 0
    assert 0 < limit.delay <= 1
    clock.now += limit.delay * 1.001
    assert limit.available(64) >= 1


def test_a_guest_beyond_its_rate_waits_and_is_served(start: Start) -> None:
    driver = start(rate=Size(2000))
    driver.rings[0].add([], [4096])
    assert driver.exchange()[0].length == 2000
    driver.rings[0].add([], [4096])
    driver.rings[0].kick()
    driver.loop.run_once(0)
    assert driver.rings[0].take_used() == []
    (used,) = driver.wait_used()
    assert 60 <= used.length <= 2000


def test_a_reset_while_the_rate_holds_it_up(start: Start) -> None:
    driver = start(rate=Size(1))
    for _ in range(3):
        for _ in range(2):
            driver.rings[0].add([], [1])
        driver.rings[0].kick()
        driver.loop.run_once(0)
        driver.start()
    assert not driver.needs_reset


# --- options


def test_options() -> None:
    assert parse_options(RngOptions, "rng", "") == RngOptions(Path("/dev/urandom"), None)
    assert parse_options(RngOptions, "rng", "/dev/hwrng,rate=64K") == RngOptions(Path("/dev/hwrng"), Size(65536))
    with pytest.raises(UsageError, match="rng: a rate of 0"):
        parse_options(RngOptions, "rng", ",rate=0")


def test_one_kind_that_names_the_guests_driver() -> None:
    (kind,) = pyvmm_device_kinds()
    assert (kind.name, kind.kernel_config) == ("rng", "CONFIG_HW_RANDOM_VIRTIO")
