"""Tests with drivers that break the ring's rules: the device stops, logs the reason once, and works after a reset."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from typing import Final

import pytest

from pyvmm._native import lib
from pyvmm.testing.contract.base import NAME, VirtioContractBase, error_lines, settle
from pyvmm.testing.driver_ring import Descriptor, DriverRing
from pyvmm.testing.hostile_ring import (
    CHAINS,
    HEAD_TWICE,
    INDIRECT,
    MEMORY_SIZE,
    NEXT,
    PLACEMENTS,
    WRITE,
    Misbehaviour,
)
from pyvmm.testing.virtio_driver import VIRTIO_F_INDIRECT_DESC, VirtioDriver
from pyvmm.x86_64.layout import MMIO_BASE

_MEMORY_LIMIT: Final = 16 << 20
"""The most bytes that a device may allocate for one request of any size."""

_STEPS: Final = 50
"""The number of changes to a ring while the device reads it."""


class RingContract(VirtioContractBase):
    """Each queue of the device meets each misbehaviour."""

    @pytest.mark.parametrize("wrong", PLACEMENTS, ids=str)
    def test_ring_in_the_wrong_place(self, wrong: Misbehaviour, caplog: pytest.LogCaptureFixture) -> None:
        with self.driven() as driver:
            for index in range(len(driver.queue_sizes)):
                if driver.queue_sizes[index] < wrong.min_size:
                    continue
                rings = driver.prepare()
                wrong.act(rings[index])
                for at, ring in enumerate(rings):
                    driver.set_up_queue(at, ring)
                driver.driver_ok()
                self._assert_failed(driver, index, wrong, caplog)
            self.assert_works(driver)

    @pytest.mark.parametrize("wrong", CHAINS, ids=str)
    def test_chain_that_breaks_the_rules(self, wrong: Misbehaviour, caplog: pytest.LogCaptureFixture) -> None:
        with self.driven() as driver:
            for index in self._served_queues(driver):
                if driver.queue_sizes[index] < wrong.min_size:
                    continue
                driver.start()
                ring = driver.rings[index]
                wrong.act(ring)
                ring.force_kick()
                self._run(driver, index)
                self._assert_failed(driver, index, wrong, caplog)
                assert ring.used_idx == 0, "it gave back a chain that breaks the rules"
                self._assert_served_no_more(driver, index)
            self.assert_works(driver)

    def test_indirect_chain_that_was_not_negotiated(self, caplog: pytest.LogCaptureFixture) -> None:
        wrong = Misbehaviour(
            "not negotiated",
            "an indirect descriptor without VIRTIO_F_INDIRECT_DESC",
            lambda ring: ring.submit(Descriptor(ring.write_table(Descriptor(0, 64)).address, 16, INDIRECT)),
        )
        with self.driven() as driver:
            features = driver.offered_features() & ~(1 << VIRTIO_F_INDIRECT_DESC)
            for index in self._served_queues(driver):
                driver.start([bit for bit in range(128) if features >> bit & 1])
                wrong.act(driver.rings[index])
                driver.rings[index].force_kick()
                self._run(driver, index)
                self._assert_failed(driver, index, wrong, caplog)
            self.assert_works(driver)

    def test_head_that_is_made_available_twice(self) -> None:
        """Whether or not the device still has the chain, it gives nothing back twice."""
        with self.driven() as driver:
            for index in self._served_queues(driver):
                driver.start()
                ring = driver.rings[index]
                HEAD_TWICE.act(ring)
                ring.force_kick()
                self._run(driver, index)
                assert driver.needs_reset or ring.used_idx <= 2
            self.assert_works(driver)

    def test_broken_queue_fails_after_good_requests_too(self, caplog: pytest.LogCaptureFixture) -> None:
        wrong = CHAINS[0]
        with self.driven() as driver:
            for index in self._served_queues(driver):
                driver.start()
                self.exercise(driver)
                ring = driver.rings[index]
                caplog.clear()
                ring.make_available(ring.size)
                ring.force_kick()
                self._run(driver, index)
                self._assert_failed(driver, index, wrong, caplog)
            self.assert_works(driver)

    def test_requests_of_4_gib_take_no_memory_of_the_host(self) -> None:
        """A correct chain of the greatest length, to read and to write."""
        count = (1 << 32) // MEMORY_SIZE - 1
        buffers = [(address, MEMORY_SIZE - address) for address in [4096] * count]
        with self.driven() as driver:
            for index in self._served_queues(driver):
                for flags in (0, WRITE):
                    driver.start()
                    ring = driver.rings[index]
                    entries = [
                        Descriptor(address, length, flags | (NEXT if at < count else 0), at)
                        for at, (address, length) in enumerate(buffers, 1)
                    ]
                    table = ring.write_table(*entries)
                    tracemalloc.start()
                    try:
                        ring.submit(Descriptor(table.address, table.length, INDIRECT))
                        ring.force_kick()
                        settle(driver, 3)
                        _, peak = tracemalloc.get_traced_memory()
                    finally:
                        tracemalloc.stop()
                    assert peak < _MEMORY_LIMIT, f"{peak >> 20} MiB were allocated for one request"
            self.assert_works(driver)

    def test_ring_that_changes_while_it_is_read(self) -> None:
        """Another vCPU rewrites the chain while the device reads it. The device sees the old one, the new one, or a
        broken one."""
        with self.driven() as driver:
            interval = sys.getswitchinterval()
            sys.setswitchinterval(1e-5)
            try:
                for index in self._served_queues(driver):
                    self._race(driver, index)
            finally:
                sys.setswitchinterval(interval)
            self.assert_works(driver)

    def _race(self, driver: VirtioDriver, index: int) -> None:
        driver.start()
        ring, done = driver.rings[index], threading.Event()
        good = ring.buffer(b"\xa5" * 64)

        def scribble() -> None:
            while not done.is_set():
                for descriptor in (
                    Descriptor(good.address, 64, WRITE),
                    Descriptor(MMIO_BASE, 0xFFFF_FFFF),
                    Descriptor(good.address, 16, INDIRECT | NEXT, 0xFFFF),
                ):
                    ring.write_descriptor(0, *descriptor)

        thread = threading.Thread(target=scribble)
        thread.start()
        try:
            for _ in range(_STEPS):
                ring.make_available(0)
                ring.force_kick()
                settle(driver, 10)
                if driver.needs_reset:
                    driver.reset()
                    driver.start()
                    ring = driver.rings[index]
        finally:
            done.set()
            thread.join()
        driver.reset()
        assert driver.status == 0

    def _served_queues(self, driver: VirtioDriver) -> list[int]:
        return [index for index in range(len(driver.queue_sizes)) if index not in self.idle_queues]

    def _run(self, driver: VirtioDriver, index: int) -> None:
        settle(driver)
        if not driver.needs_reset:
            self.provoke(driver, index)
            settle(driver)

    def _assert_failed(
        self, driver: VirtioDriver, index: int, wrong: Misbehaviour, caplog: pytest.LogCaptureFixture
    ) -> None:
        driver.run_until(lambda: driver.needs_reset)
        assert driver.take_interrupt(), "the driver was not interrupted"
        assert driver.interrupt_status & lib.VIRTIO_MMIO_INT_CONFIG
        lines = error_lines(caplog)
        assert len(lines) == 1, f"one line is to say what is wrong: {lines}"
        assert lines[0].startswith(f"{NAME}: queue {index}: {wrong.rule}"), lines[0]
        assert caplog.records[-1].exc_info is None, "a driver's fault is no bug: it has no traceback"
        caplog.clear()

    def _assert_served_no_more(self, driver: VirtioDriver, broken: int) -> None:
        before = [ring.used_idx for ring in driver.rings]
        for at, ring in enumerate(driver.rings):
            if at != broken:
                ring.add([], [64])
            ring.force_kick()
        settle(driver)
        assert [_used(ring) for ring in driver.rings] == before, "it serves queues although it needs a reset"


def _used(ring: DriverRing) -> int:
    return ring.used_idx
