"""What every virtio device has to do, done by one that another process serves.

Rules of the ring and what the device's state is are the back end's business.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm._native import lib
from pyvmm.testing.contract import ConfigSpaceContract, LifeContract, NegotiationContract, VcpuContract
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm_vhost_user import VhostUserOptions
from pyvmm_vhost_user.device import ForeignDevice


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of an entropy device that ``pyvmm serve`` serves."""
    path = tmp_path_factory.mktemp("backend") / "rng.sock"
    with subprocess.Popen(
        [sys.executable, "-m", "pyvmm", "serve", "rng", "--socket", str(path), "-v"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while not path.exists():
            assert process.poll() is None, process.stderr.read()
        yield path
        process.terminate()


class TestForeignRng(NegotiationContract, ConfigSpaceContract, LifeContract, VcpuContract):
    """An entropy device behind a socket."""

    cycles = 100  # each is some forty messages between two processes

    @pytest.fixture(autouse=True)
    def _backend(self, backend: Path) -> None:
        self.path = backend

    def make(self) -> ForeignDevice:
        return ForeignDevice(VhostUserOptions(self.path, lib.VIRTIO_ID_RNG, queue_size=16))

    def exercise(self, driver: QueueDriver) -> None:
        chain = driver.rings[0].add([], [512])
        used = driver.exchange()[-1]
        assert (used.chain, used.length) == (chain, 512)
