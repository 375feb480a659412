"""Devices that pyvmm's back end serves on a thread, for tests of the front end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyvmm._native import lib
from pyvmm.host.loop_thread import LoopThread
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.testing.waiting import PATIENCE
from pyvmm.vhost_user.backend import Backend
from pyvmm.vhost_user.connection import Connection
from pyvmm.vhost_user.front_end import VhostUserDevice
from pyvmm.vhost_user.protocol import VhostUserError
from pyvmm.vhost_user.source import BackendSource
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.queue import Queue

CONFIG_SIZE = 16


class Mirror(VirtioDevice):
    """Answers each request with its bytes in reverse; its configuration space can be written."""

    device_type = 4
    queue_max_sizes = (64, 128)
    device_features = 0b101

    def __init__(self) -> None:
        self.config = bytearray(range(CONFIG_SIZE))
        self.held: list[object] = []
        self.hold = False
        """Whether requests are kept, not answered."""
        self.served = 0

    def write_config(self, offset: int, data: memoryview) -> None:
        assert isinstance(self.config, bytearray)
        self.config[offset : offset + len(data)] = data

    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            if self.hold:
                self.held.append(chain)
                continue
            self.served += 1
            chain.complete(chain.write(0, chain.read(0, 1 << 16)[::-1]))


class Threaded(BackendSource):
    """A back end on a thread of this process. Each connection gets a new one, with a device from ``make()``."""

    def __init__(self, make: Callable[[], VirtioDevice] = Mirror, *, restartable: bool = False) -> None:
        self.make = make
        self.restartable = restartable
        self.loop = LoopThread("back end")
        self.loop.start()
        self.backends: list[Backend] = []
        self.devices: list[VirtioDevice] = []

    @property
    def device(self) -> VirtioDevice:
        """The device that is served."""
        return self.devices[-1]

    @property
    def is_started(self) -> bool:
        """Whether the driver has said DRIVER_OK."""
        return bool(self.backends[-1]._served.status & lib.VIRTIO_CONFIG_S_DRIVER_OK)

    def connect(self) -> Connection:
        ours, theirs = socket.socketpair()

        def start() -> None:
            self.devices.append(self.make())
            self.backends.append(Backend(self.devices[-1], "device0", self.loop))
            self.backends[-1].serve(theirs)

        self.loop.call(start)
        return Connection(ours, timeout=PATIENCE)

    def die(self) -> None:
        """End as a killed process does: nothing is given back, and only the closed socket tells of the end."""

        def die() -> None:
            backend = self.backends[-1]
            connection = backend._connection
            assert connection is not None
            # What a kill leaves behind: the connection's end, and rings that nobody serves.
            for vring in backend._served.vrings:
                vring.queue.paused = True
                if vring.kick is not None:
                    self.loop.remove(vring.kick.fd)
            self.loop.remove(connection.fileno())
            connection._socket.shutdown(socket.SHUT_RDWR)

        self.loop.call(die)

    def end(self, error: VhostUserError) -> str:
        return f"the test's back end: {error}"

    def close(self) -> None:
        for backend in self.backends:
            self.loop.call(backend.close)
        self.loop.close()


@contextmanager
def driver_of(source: BackendSource, **arguments: object) -> Iterator[VirtioDriver]:
    """A driver of a front end to ``source``."""
    with VirtioDriver(front_end(source, **arguments)) as driver:
        yield driver


def front_end(source: BackendSource, **arguments: object) -> VhostUserDevice:
    """A front end with the type and queues of a :class:`Mirror`."""
    wanted: dict[str, object] = {"device_type": 4, "queue_max_sizes": (64, 128), "config_size": CONFIG_SIZE}
    return VhostUserDevice(source, **{**wanted, **arguments})  # type: ignore[arg-type]
