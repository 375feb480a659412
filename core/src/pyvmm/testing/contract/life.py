"""Tests of the device's life: it can be reset at any moment and activated again, and leaks no resources of the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from pyvmm.device_context import DeviceContext
from pyvmm.host.eventfd import EventFd
from pyvmm.memory import GuestMemory
from pyvmm.testing.contract.base import NAME, VirtioContractBase, settle
from pyvmm.testing.driver_ring import DriverRing
from pyvmm.testing.mmio_driver import ACKNOWLEDGE, DRIVER
from pyvmm.testing.resources import Resources
from pyvmm.testing.served_driver import ServedDriver
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import Queue

_REQUESTS: Final = 8


class LifeContract(VirtioContractBase):
    """Drivers come and go at any moment."""

    def test_works(self) -> None:
        with self.started() as driver:
            self.exercise(driver)
            assert not driver.needs_reset

    def test_works_again_after_each_of_many_resets(self) -> None:
        with self.driven() as driver:
            for _ in range(5):
                self.assert_works(driver)

    def test_can_be_reset_at_each_step_of_initialization(self) -> None:
        with self.driven() as driver:

            def set_up() -> None:
                for index, ring in enumerate(driver.prepare()):
                    driver.set_up_queue(index, ring)

            for steps in (
                [driver.reset],
                [driver.reset, lambda: setattr(driver, "status", ACKNOWLEDGE)],
                [driver.begin],
                [driver.begin, driver.offered_features],
                [driver.prepare],
                [set_up],
                [driver.start],
            ):
                for step in steps:
                    step()
                driver.reset()
                assert driver.status == 0
            self.assert_works(driver)

    def test_queues_that_are_left_out_are_left_alone(self) -> None:
        with self.driven() as driver:
            driver.start(queue_sizes=[0] * len(driver.queue_sizes))
            for index in range(len(driver.queue_sizes) + 1):
                driver.notify(index)
            settle(driver)
            assert not driver.needs_reset
            self.assert_works(driver)

    def test_queues_do_not_move_while_it_is_active(self) -> None:
        with self.started() as driver:
            for index, size in enumerate(driver.queue_sizes):
                driver.write_queue(index, max(size // 2, 1), 0, 0, 0)
                driver.write_queue(index, 0, 0, 0, 0)
            self.exercise(driver)
            assert not driver.needs_reset

    def test_kicks_before_driver_ok_are_harmless(self) -> None:
        with self.driven() as driver:
            for index, ring in enumerate(driver.prepare()):
                driver.set_up_queue(index, ring)
                driver.notify(index)
            driver.notify(len(driver.queue_sizes))
            driver.notify(0xFFFF_FFFF)
            settle(driver)
            assert driver.status & DRIVER and not driver.needs_reset
            self.assert_works(driver)

    def test_kicks_without_a_request_are_harmless(self) -> None:
        with self.started() as driver:
            for ring in driver.rings:
                for _ in range(3):
                    ring.force_kick()
                    settle(driver)
            assert not driver.needs_reset
            assert [ring.used_idx for ring in driver.rings] == [0] * len(driver.rings)
            self.exercise(driver)

    def test_a_reset_amid_requests_ends_all_access_to_memory(self) -> None:
        with self.driven() as driver:
            for turns in (0, 1, 2):
                driver.start()
                for ring in driver.rings:
                    _fill(ring)
                    ring.force_kick()
                settle(driver, turns)
                driver.reset()
                assert driver.status == 0
                driver.memory.write(0, _PATTERN)  # rings and buffers are the driver's again
                settle(driver)
                assert driver.memory.read(0, len(_PATTERN)) == _PATTERN, "the device wrote after it was reset"
                assert not driver.take_interrupt()
                self.assert_works(driver)

    @pytest.mark.parametrize("served", [False, True], ids=["in the VMM's process", "served over vhost-user"])
    def test_what_it_adds_to_its_loop_in_attach_lasts(self, served: bool) -> None:
        """A failure removes callbacks that were added while the device was active, and no others; so does a reset."""
        device = self.make()
        if served and device.own_loop is not None:
            device.close()
            pytest.skip("another process serves it already")
        added = _Added(device)
        driver = (ServedDriver if served else VirtioDriver)(device, name=NAME)
        try:
            driver.start()
            assert added.heard_of(driver, added.active) and added.heard_of(driver, added.lasting)
            device.context.loop.post(_fail)
            driver.run_until(lambda: driver.needs_reset)
            assert added.heard_of(driver, added.lasting), "a failure ends what it added in attach"
            assert not added.heard_of(driver, added.active), "a failure does not end what it added while active"
            driver.start()
            assert not driver.needs_reset
            assert added.heard_of(driver, added.active) and added.heard_of(driver, added.lasting)
            driver.reset()
            assert added.heard_of(driver, added.lasting), "a reset ends what it added in attach"
            assert not added.heard_of(driver, added.active), "a reset does not end what it added while active"
            self.assert_works(driver)
        finally:
            driver.close()
            added.close()

    def test_smallest_queues_work(self) -> None:
        with self.driven() as driver:
            driver.start(queue_sizes=[min(size, 4) for size in driver.queue_sizes])
            for ring in driver.rings:
                ring.add([], [64])
                ring.kick()
            settle(driver)
            assert not driver.needs_reset
            self.assert_works(driver)

    def test_closing_it_amid_requests_leaves_nothing_behind(self) -> None:
        before = Resources.now()
        for is_started in (False, True):
            with self.driven() as driver:
                if is_started:
                    driver.start()
                    for ring in driver.rings:
                        _fill(ring)
                        ring.force_kick()
                    settle(driver, 1)
        before.assert_no_more_now()

    def test_many_drivers_leave_nothing_behind(self) -> None:
        with self.driven() as driver:
            self._come_and_go(driver)
            self.assert_works(driver)
            driver.reset()
            before = Resources.now()
            for _ in range(self.cycles):
                self._come_and_go(driver)
            before.assert_no_more_now()
            self.assert_works(driver)

    def _come_and_go(self, driver: VirtioDriver) -> None:
        driver.start()
        for ring in driver.rings:
            ring.add([], [64])
            ring.force_kick()
        driver.loop.run_once(0)
        driver.reset()


class _Added:
    """Two further events for which a device waits: one is added in its ``attach``, one in its ``activate``."""

    def __init__(self, device: VirtioDevice) -> None:
        self.lasting, self.active, self._last = EventFd(), EventFd(), EventFd()
        self._heard: set[EventFd] = set()
        attach, activate = device.attach, device.activate

        def attach_too(context: DeviceContext) -> None:
            attach(context)
            self._add(device, self.lasting)
            self._add(device, self._last)

        def activate_too(mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
            activate(mem, interrupt, queues)
            self._add(device, self.active)

        device.attach = attach_too  # type: ignore[method-assign]
        device.activate = activate_too  # type: ignore[method-assign]

    def _add(self, device: VirtioDevice, event: EventFd) -> None:
        def hear(_: int) -> None:
            event.drain()
            self._heard.add(event)

        device.context.loop.add(event.fd, hear)

    def heard_of(self, driver: VirtioDriver, event: EventFd) -> bool:
        """Whether the device is called for ``event``, before it is called for two later events."""
        self._heard.clear()
        event.signal()
        for _ in range(2):
            self._heard.discard(self._last)
            self._last.signal()
            driver.run_until(lambda: self._last in self._heard)
        event.drain()
        return event in self._heard

    def close(self) -> None:
        for event in (self.lasting, self.active, self._last):
            event.close()


def _fail() -> None:
    raise RuntimeError("it went wrong on purpose")


_PATTERN: Final = bytes(range(256)) * (8 << 10)
"""2 MiB, which cover the driver's rings and the first of its buffers."""


def _fill(ring: DriverRing) -> None:
    """Add a few meaningless requests."""
    for _ in range(_REQUESTS):
        if ring.in_flight + 2 > ring.size:
            return
        ring.add([b"\xa5" * 16], [512])
