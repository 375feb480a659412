"""A driver for a device that is served over vhost-user, as from a process of its own, but on a thread of this
process."""

from __future__ import annotations

import socket

from pyvmm.host.loop_thread import LoopThread
from pyvmm.memory import GuestMemory
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.vhost_user.backend import Backend
from pyvmm.vhost_user.connection import Connection
from pyvmm.vhost_user.front_end import VhostUserDevice
from pyvmm.vhost_user.protocol import MAX_CONFIG_SIZE
from pyvmm.vhost_user.source import BackendSource
from pyvmm.virtio.device import VirtioDevice

__all__ = ["ServedDriver"]


class _ThreadSource(BackendSource):
    """Serves a device on a thread."""

    def __init__(self, device: VirtioDevice, name: str) -> None:
        self.loop = LoopThread(f"{name}-served")
        self.loop.start()
        try:
            self.backend = self.loop.call(lambda: Backend(device, name, self.loop))
        except BaseException:
            self.loop.close()
            raise

    def connect(self) -> Connection:
        ours, theirs = socket.socketpair()
        self.loop.call(lambda: self.backend.serve(theirs))
        return Connection(ours)

    def close(self) -> None:
        self.loop.call(self.backend.close)
        self.loop.close()


class ServedDriver(VirtioDriver):
    """Like :class:`VirtioDriver`, but ``device`` is served over vhost-user, and :attr:`device` is its front end.

    ``device`` runs on a thread of its own. ``memory`` needs a memfd.
    """

    def __init__(self, device: VirtioDevice, *, memory: GuestMemory | None = None, name: str = "device0") -> None:
        front_end = VhostUserDevice(
            _ThreadSource(device, name),
            device_type=device.device_type,
            queue_max_sizes=device.queue_max_sizes,
            config_size=min(len(device.config), MAX_CONFIG_SIZE),
        )
        super().__init__(front_end, memory=memory, name=name)
