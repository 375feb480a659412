"""What every virtio device has to do, done by a file system, as far as virtiofsd leaves it to us.

Whoever sends it what is no request loses it: what is in the rings is between the guest and virtiofsd.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from pyvmm.testing.contract import ConfigSpaceContract, NegotiationContract, VcpuContract
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.resources import Resources

sys.path.append(str(Path(__file__).parent))

from fuse import Fuse
from pyvmm_virtio_fs import FsOptions, daemon
from pyvmm_virtio_fs.device import Fs

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs root for its sandbox"),
    pytest.mark.skipif(
        not any(os.access(path, os.X_OK) for path in daemon.PATHS),
        reason="no virtiofsd on this machine: tests/system/require lab",
    ),
]


class TestFs(NegotiationContract, ConfigSpaceContract, VcpuContract):
    """A directory with a file."""

    def make(self) -> Fs:
        tree = self.tmp_path / "tree"
        tree.mkdir(exist_ok=True)
        (tree / "hello.txt").write_text("hello from the host\n")
        return Fs(FsOptions(tree))

    def exercise(self, driver: QueueDriver) -> None:
        assert Fuse(driver).read("hello.txt") == b"hello from the host\n"

    def test_drivers_come_and_go_and_leave_nothing_behind(self) -> None:
        before = Resources.now()
        with self.driven() as driver:
            self.assert_works(driver)
            driver.reset()
            used = Resources.now()
            for _ in range(20):
                self.assert_works(driver)
                driver.reset()
            used.assert_no_more_now()
        before.assert_no_more_now()
