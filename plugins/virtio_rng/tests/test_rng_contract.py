"""What every virtio device has to do, done by an entropy device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyvmm.testing.contract import VirtioDeviceContract
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm_virtio_rng import RngOptions
from pyvmm_virtio_rng.device import Rng


class TestRng(VirtioDeviceContract):
    """A source that always has something."""

    def make(self) -> Rng:
        return Rng(RngOptions())

    def exercise(self, driver: QueueDriver) -> None:
        chain = driver.rings[0].add([], [512])
        used = driver.exchange()[-1]
        assert (used.chain, used.length) == (chain, 512)
        assert chain.written() != b"\xa5" * 512


class TestSlowRng(VirtioDeviceContract):
    """A source that has nothing yet, so that requests wait for it."""

    @pytest.fixture(autouse=True)
    def _source(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "source")

    def make(self) -> Rng:
        return Rng(RngOptions(self.tmp_path / "source"))

    def provoke(self, driver: VirtioDriver, queue: int) -> None:
        """The source has something."""
        with open(self.tmp_path / "source", "wb") as source:
            source.write(bytes(4096))
