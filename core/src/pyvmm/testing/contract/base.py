"""A test class's description of its virtio device, and the helpers with which the suite drives the device."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from pyvmm.memory import GuestMemory
from pyvmm.testing.hostile_ring import memory_with_hole
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.virtio.device import VirtioDevice

NAME: Final = "dut0"
"""The device's id in all tests; its log lines begin with it."""


class VirtioContractBase:
    """The description of a device. Each class defines :meth:`make`, and overrides other members where needed."""

    idle_queues: Sequence[int] = ()
    """Queues from which the device takes nothing at a kick or by :meth:`provoke`. The device cannot notice broken rules
    in them."""

    writable_config: Sequence[int] = ()
    """The offsets of the bytes of the configuration space that a driver may change."""

    cycles: int = 1000
    """The number of drivers that come and go in the test for leaks."""

    tmp_path: Path
    """A folder of the test's own, for the device to use."""

    def make(self) -> VirtioDevice:
        """Return a fresh device, always from the same options. The previous one is closed by then."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its device is made: def make(self)")

    def exercise(self, driver: QueueDriver) -> None:
        """Make a started device do its work, and check the result: a request or two by ``driver.rings``.

        By default each queue gets a buffer to read and one to write, and the device must not fail. ``driver`` may be a
        guest on a real vCPU, so wait only by :meth:`QueueDriver.exchange` or :meth:`QueueDriver.wait_used`.
        """
        for ring in driver.rings:
            ring.take_used()
            if ring.room:
                ring.add([bytes(16)] if ring.room > 1 else [], [64])
                ring.kick()
        driver.wait(0)
        assert not driver.needs_reset

    def provoke(self, driver: VirtioDriver, queue: int) -> None:
        """Make the device take a chain from ``queue`` by an action of the host, if a kick alone does not."""

    def visible_state(self, driver: QueueDriver) -> object:
        """The device's state as a driver sees it, which must be the same after save and load. By default, the
        configuration space."""
        return driver.read_config(0, 256, width=4)

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    @contextmanager
    def driven(self, *, memory: GuestMemory | None = None) -> Iterator[VirtioDriver]:
        """A fresh device with a driver, not started; both are closed at the end."""
        driver = VirtioDriver(self.make(), memory=memory or memory_with_hole(), name=NAME)
        try:
            yield driver
        finally:
            driver.close()

    @contextmanager
    def started(self) -> Iterator[VirtioDriver]:
        """Like :meth:`driven`, but started with all offered features except EVENT_IDX."""
        with self.driven() as driver:
            driver.start()
            yield driver

    def assert_works(self, driver: VirtioDriver) -> None:
        """Assert that the device works after a reset, whatever came before."""
        driver.start()
        assert not driver.needs_reset, "a fresh start is needed after a fresh start"
        self.exercise(driver)
        assert not driver.needs_reset


def settle(driver: VirtioDriver, turns: int = 1000) -> None:
    """Run the device's loop until nothing is ready, for at most ``turns`` turns, since a device may have much to do."""
    for _ in range(turns):
        if not driver.loop.run_once(0):
            return


def error_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log's messages from level ERROR on."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
