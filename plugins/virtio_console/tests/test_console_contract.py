"""What every virtio device has to do, done by a console."""

from __future__ import annotations

import socket

from pyvmm.testing.contract import VirtioDeviceContract
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.testing.waiting import PATIENCE
from pyvmm_virtio_console import ConsoleOptions
from pyvmm_virtio_console.constants import RECEIVEQ, TRANSMITQ
from pyvmm_virtio_console.device import Console


class TestConsole(VirtioDeviceContract):
    """A console at a socket."""

    def make(self) -> Console:
        return Console(ConsoleOptions(unix=self.tmp_path / "socket"))

    def exercise(self, driver: QueueDriver) -> None:
        with self._connect() as client:
            client.sendall(b"typed")
            while self._typed(driver) != b"typed":
                pass  # what somebody typed before
            driver.rings[TRANSMITQ].add([b"hello, ", b"host"])
            driver.exchange(TRANSMITQ)
            assert client.recv(100) == b"hello, host"

    def provoke(self, driver: VirtioDriver, queue: int) -> None:
        """Somebody types."""
        if queue == RECEIVEQ:
            with self._connect() as client:
                client.sendall(b"before")
                driver.run()

    def _typed(self, driver: QueueDriver) -> bytes:
        chain = driver.rings[RECEIVEQ].add([], [64])
        driver.rings[RECEIVEQ].kick()
        used = driver.wait_used(RECEIVEQ)[-1]
        assert used.chain is chain
        return chain.written()[: used.length]

    def _connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(str(self.tmp_path / "socket"))
        return client
