"""Native code waits for the next request in the loop's place: for as long as nobody else has work."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from pyvmm.host.aio import IoEngine, IoFile
from pyvmm.host.eventfd import EventFd
from pyvmm.memory import GuestMemory
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.testing.waiting import PATIENCE, wait_until
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.file_requests import TransferFormat, Transfers
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import DescriptorChain, Queue

FORMAT = TransferFormat(
    header_size=12, type_offset=0, position_offset=4, unit=1, read_type=1, write_type=2, done=0, failed=1
)
READ = (1).to_bytes(4, "little") + bytes(8)
SYNC = (9).to_bytes(4, "little") + bytes(8)


NO_LIMIT: Final = 3600 * 10**9
"""Nanoseconds that a loop leaves to native code, in place of its own limit: no test waits so long."""

EPOLL_WAIT: Final = ("232", "281")
"""The system calls epoll_wait and epoll_pwait of x86-64."""


class Store(VirtioDevice):
    """A file of 4 KiB; what is no read is answered when the file is synced."""

    device_type = 42
    queue_max_sizes = (128,)

    def __init__(self, file: IoFile, backend: str) -> None:
        self.file = file
        self.engine = IoEngine(8, backend=backend)
        self.served = 0
        self.serves = False
        self.errors: list[int] = []

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        loop = self.context.loop
        self.transfers = Transfers(queues[0], mem, self.engine, self.file, FORMAT, end=4096, loop=loop)
        loop.add(self.engine.fd, self.serve)
        super().activate(mem, interrupt, queues)

    def on_kick(self, queue: Queue) -> None:
        self.serve()

    def serve(self, _: int = 0) -> None:
        self.served += 1
        self.serves = True
        for chain in self.transfers.serve():
            self.engine.fdatasync(self.file, lambda result, chain=chain: self.synced(chain))  # type: ignore[misc]
        self.serves = False
        error = self.transfers.take_error()
        if error is not None:
            self.errors.append(error.error)
        if self.engine.pending:
            self.engine.dispatch()
            self.transfers.publish()

    def synced(self, chain: DescriptorChain) -> None:
        chain.write(0, b"\7")
        chain.complete()

    def reset(self) -> bool:
        self.context.loop.remove(self.engine.fd)
        self.engine.drain(cancel=True)
        return super().reset()

    def close(self) -> None:
        self.engine.close()


class Running:
    """A driver of it, with the loop on a thread of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.driver = VirtioDriver(store)
        self.driver.start()
        self.loop = self.driver.loop
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def request(self, header: bytes = READ, size: int = 65) -> bytes:
        """One request, to its end; its status."""
        [ring] = self.driver.rings
        ring.add([header], [size])
        ring.kick()
        assert self.driver.transport.interrupt_event.wait(PATIENCE)
        [used] = ring.take_used()
        assert used.chain is not None
        return used.chain.written()[-1:]

    def wait_until_native_code_waits(self) -> None:
        """Until the loop's thread is asleep in epoll_wait(2), and it was the device that went there."""
        call = Path(f"/proc/self/task/{self._thread.native_id}/syscall")

        def waits() -> bool:
            served = self.store.served
            sleeps = self.store.serves and call.read_text().split()[0] in EPOLL_WAIT
            return sleeps and self.store.serves and self.store.served == served

        wait_until(waits, lambda: f"{self.store.served=} {self.store.serves=}, system call {call.read_text()}")

    def stop(self) -> None:
        self.loop.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.driver.close()


@pytest.fixture(params=["io_uring", "threads"])
def running(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # no looking before
    monkeypatch.setattr("pyvmm.host.eventloop._LONGEST_WAIT", NO_LIMIT)
    path = tmp_path / "store"
    path.write_bytes(bytes(4096))
    fd = os.open(path, os.O_RDWR)
    running = Running(Store(IoFile(fd), request.param))
    yield running
    running.stop()
    os.close(fd)


def test_requests_one_after_the_other_are_served_without_a_return_to_python(running: Running) -> None:
    for _ in range(30):
        assert running.request() == b"\0"
    assert running.store.served <= 5
    running.loop.call(lambda: None)  # the call returns, and counts
    wait_until(lambda: running.store.interrupt.used_signals == 30)


def test_what_is_no_transfer_is_answered_meanwhile(running: Running) -> None:
    for _ in range(5):
        assert running.request() == b"\0"
        assert running.request(SYNC, 1) == b"\7"


def test_results_that_come_later_are_taken_in_without_a_return_to_python(running: Running) -> None:
    """Where the page cache is on a disk: io_uring's then interrupt the wait (IORING_SETUP_COOP_TASKRUN)."""
    fd = running.store.file.fd
    for _ in range(30):
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert running.request() == b"\0"
    assert running.store.served <= 10


def test_what_failed_is_told_at_once(running: Running) -> None:
    running.request()
    running.wait_until_native_code_waits()
    os.ftruncate(running.store.file.fd, 0)
    assert running.request() == b"\1"
    wait_until(lambda: running.store.errors == [errno.ENODATA])


@pytest.mark.parametrize("how", ["call", "descriptor", "timer"])
def test_others_on_the_loop_are_not_kept_waiting(running: Running, how: str) -> None:
    running.request()
    running.wait_until_native_code_waits()
    done, loop = threading.Event(), running.loop
    if how == "call":
        loop.post(done.set)
    elif how == "descriptor":
        event = EventFd()

        def ready(_: int) -> None:
            event.drain()
            done.set()

        loop.call(lambda: loop.add(event.fd, ready))
        running.request()
        running.wait_until_native_code_waits()
        event.signal()
    else:
        due = []
        loop.call(lambda: due.append(loop.call_later(0.05, done.set)))
        running.request()
    assert done.wait(PATIENCE)
    assert running.request() == b"\0"
    if how == "descriptor":
        loop.call(lambda: loop.remove(event.fd))
        event.close()


def test_others_have_their_turn_while_a_driver_kicks_for_ever(running: Running) -> None:
    running.request()
    queue, event, heard, over = running.driver.transport.queues[0], EventFd(), threading.Event(), threading.Event()

    def kick() -> None:
        while not over.is_set():
            queue.event.signal()

    def ready(_: int) -> None:
        event.drain()
        heard.set()

    running.loop.call(lambda: running.loop.add(event.fd, ready))
    thread = threading.Thread(target=kick)
    thread.start()
    try:
        for _ in range(20):
            heard.clear()
            event.signal()
            assert heard.wait(PATIENCE)
    finally:
        over.set()
        thread.join()
        running.loop.call(lambda: running.loop.remove(event.fd))
        event.close()


def test_a_reset_meanwhile(running: Running) -> None:
    running.request()
    running.wait_until_native_code_waits()
    running.driver.reset()
    assert running.store.transfers._queue.native is None
    running.driver.start()
    assert running.request() == b"\0"


def test_until_when_a_loop_needs_no_thread(running: Running) -> None:
    loop = running.loop

    def is_at_its_limit() -> bool:
        before, until, after = time.monotonic_ns(), loop.idle_until(), time.monotonic_ns()
        return before + NO_LIMIT <= until <= after + NO_LIMIT

    assert loop.call(is_at_its_limit)
    timer = loop.call(lambda: loop.call_later(1800, lambda: None))
    assert loop.call(loop.idle_until) == int(timer.deadline * 1e9)
    loop.call(timer.cancel)
    assert loop.call(is_at_its_limit)
    running.driver.loop.stop()
    wait_until(lambda: loop.idle_until() == 0)
