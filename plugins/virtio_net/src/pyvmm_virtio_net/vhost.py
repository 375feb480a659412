"""Queue pairs that the kernel serves, by vhost-net."""

from __future__ import annotations

import errno

from pyvmm.errors import HostError
from pyvmm.host.eventfd import EventFd
from pyvmm.logs import logger
from pyvmm.virtio.constants import VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC
from pyvmm.virtio.vhost import VhostNet

from pyvmm_virtio_net import constants as net
from pyvmm_virtio_net.queue_pair import throw_away

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.host.eventloop import LoopScope
    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.queue import Queue

log = logger(__name__)

PATH: Final = "/dev/vhost-net"

_NEEDED: Final = (
    1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << net.VIRTIO_NET_F_MRG_RXBUF
)
"""Features that the card may offer and the kernel therefore must support. Linux 3.19 has all of them."""


def open_vhost(wanted: str, count: int) -> list[VhostNet]:
    """A vhost-net for each of ``count`` queue pairs. None if ``wanted`` is ``off``, or if it is ``auto`` and vhost-net
    is not available. Raises :class:`HostError` if ``wanted`` is ``on`` and vhost-net is not available.
    """
    if wanted == "off":
        return []
    opened: list[VhostNet] = []
    try:
        for _ in range(count):
            opened.append(VhostNet(PATH))
        if missing := _NEEDED & ~opened[0].features:
            raise OSError(errno.EOPNOTSUPP, f"it lacks the features {missing:#x}")
    except OSError as error:
        for vhost in opened:
            vhost.close()
        if wanted == "auto":
            log.debug("net: without vhost: %s: %s", PATH, error.strerror)
            return []
        if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            hint = "load the kernel's driver: sudo modprobe vhost_net; or leave vhost=on out"
        elif error.errno in (errno.EACCES, errno.EPERM):
            hint = "allow this user to read and write it (group kvm), run as root, or leave vhost=on out"
        else:
            hint = "leave vhost=on out"
        raise HostError(f"net: cannot use {PATH}: {error.strerror}; {hint}") from error
    return opened


class VhostPair:
    """Lets the kernel move the frames between two queues and a tap, for one activation of the device."""

    def __init__(
        self,
        loop: LoopScope,
        vhost: VhostNet,
        tap_fd: int,
        queues: tuple[Queue, Queue],
        memory: GuestMemory,
        features: int,
        on_broken: Callable[[str], None],
    ) -> None:
        """``queues``: the queues to receive and to send. ``features``: the features that the driver accepted.
        ``on_broken``: called with a reason when the kernel finds a ring broken and stops serving it."""
        self._loop = loop
        self._vhost = vhost
        self._tap_fd = tap_fd
        self._queues = queues
        self._memory = memory
        self._features = features
        self._on_broken = on_broken
        self._error: EventFd | None = None

    def start(self) -> None:
        """Start. Raises OSError if the kernel refuses."""
        throw_away(self._tap_fd)
        self._error = EventFd()
        self._vhost.set_up(self._memory, self._features)
        for index, queue in enumerate(self._queues):
            self._loop.remove(queue.event.fd)  # the kernel takes the kicks
            base = queue.hand_over(lambda index=index: self._vhost.stop(index))  # type: ignore[misc]
            self._vhost.set_up_ring(index, queue, base, self._error.fd)
        for index, queue in enumerate(self._queues):
            self._vhost.start(index, self._tap_fd)
            queue.event.signal()  # serve chains that are there already
        self._loop.add(self._error.fd, self._broken)

    def stop(self) -> None:
        """Stop. After the return the kernel does not touch the queues."""
        for queue in self._queues:
            queue.take_back()
        if self._error is not None:
            self._loop.remove(self._error.fd)
            self._error.close()
            self._error = None

    def on_kick(self, queue: Queue) -> None:
        """Do nothing: the kernel takes the kicks."""

    def __str__(self) -> str:
        return "by vhost-net"

    def _broken(self, _: int) -> None:
        self.stop()
        self._on_broken("vhost-net found a ring or a buffer that breaks the rules")
