"""What every virtio device has to do, done by a socket device."""

from __future__ import annotations

import socket

from pyvmm.testing.contract import VirtioDeviceContract
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm_virtio_vsock import VsockOptions
from pyvmm_virtio_vsock.constants import EVENTQ, RXQ, TXQ, VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RST
from pyvmm_virtio_vsock.device import Vsock
from pyvmm_virtio_vsock.packet import HEADER_SIZE, Header, pack


class TestVsock(VirtioDeviceContract):
    """A socket device that nobody listens behind."""

    idle_queues = (EVENTQ,)  # used after a driver that was not reset only

    def make(self) -> Vsock:
        return Vsock(VsockOptions(self.tmp_path / "vm.sock", 3))

    def exercise(self, driver: QueueDriver) -> None:
        """A connection to a port where nobody listens is refused."""
        answer = driver.rings[RXQ].add([], [HEADER_SIZE])
        driver.rings[RXQ].kick()
        driver.rings[TXQ].add([pack(*Header(3, 2, 1234, 80, 0, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 1 << 16, 0))])
        driver.exchange(TXQ)
        used = driver.wait_used(RXQ)[-1]
        assert used.chain is answer
        header = Header.unpack(answer.written())
        assert (header.op, header.src_port, header.dst_port) == (VIRTIO_VSOCK_OP_RST, 80, 1234)

    def provoke(self, driver: VirtioDriver, queue: int) -> None:
        """A program of the host connects, of which the guest is told."""
        if queue == RXQ:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.tmp_path / "vm.sock"))
                client.sendall(b"CONNECT 1234\n")
                driver.run()
