"""virtio-net, whatever carries its frames on the host: configuration, control queue, pairs of queues (section 5.1)."""

from __future__ import annotations

import struct

from pyvmm.logs import logger
from pyvmm.virtio.constants import VIRTIO_ID_NET
from pyvmm.virtio.device import VirtioDevice

from pyvmm_virtio_net import constants as net
from pyvmm_virtio_net.control import Control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.interrupt import Interrupt
    from pyvmm.virtio.queue import Queue

    from pyvmm_virtio_net.queue_pair import Pair

log = logger(__name__)

QUEUE_SIZE: Final = 256
CONTROL_QUEUE_SIZE: Final = 64

_FEATURES: Final = (
    1 << net.VIRTIO_NET_F_MTU
    | 1 << net.VIRTIO_NET_F_MAC
    | 1 << net.VIRTIO_NET_F_MRG_RXBUF
    | 1 << net.VIRTIO_NET_F_STATUS
    | 1 << net.VIRTIO_NET_F_CTRL_VQ
    | 1 << net.VIRTIO_NET_F_CTRL_RX
    | 1 << net.VIRTIO_NET_F_CTRL_MAC_ADDR
)
_CONFIG: Final = struct.Struct("<6sHHH")  # mac, status, max_virtqueue_pairs, mtu (section 5.1.4)


class Card(VirtioDevice):
    """A network card. A subclass gives it pairs, by :meth:`make_pair`, and says when its link changes."""

    device_type = VIRTIO_ID_NET

    def __init__(self, *, mac: str, mtu: int, pairs: int = 1, features: int = 0) -> None:
        """``pairs``: of queues, at most. ``features``: those beside the ones that every card has."""
        self.queue_max_sizes = (QUEUE_SIZE,) * 2 * pairs + (CONTROL_QUEUE_SIZE,)
        self.device_features = _FEATURES | features | (1 << net.VIRTIO_NET_F_MQ if pairs > 1 else 0)
        self.mac = mac
        """The address that the guest is given; the one that it has may be another (:attr:`own_mac`)."""
        self.mtu = mtu
        self.max_pairs = pairs
        self.link_up = self.has_link()
        self._control = Control(self)
        self._control_index = -1
        self._pairs: list[Pair] = []
        self._started: list[Pair] = []
        self._forget_driver()

    # What a subclass says.

    def has_link(self) -> bool:
        """Whether frames can come and go."""
        raise NotImplementedError

    def make_pair(self, index: int, receiveq: Queue, transmitq: Queue) -> Pair:
        """What moves the frames of pair ``index``, for one activation; not started yet."""
        raise NotImplementedError

    def pair_running(self, index: int, running: bool) -> None:
        """Pair ``index`` is about to be started, or was stopped."""

    # The device.

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        """Start to move frames."""
        super().activate(mem, interrupt, queues)
        self.link_up = self.has_link()
        self.fill_config()
        multi = self.has_feature(net.VIRTIO_NET_F_MQ)
        count = self.max_pairs if multi else 1
        self._control_index = 2 * count if self.has_feature(net.VIRTIO_NET_F_CTRL_VQ) else -1
        self._pairs = [self.make_pair(i, queues[2 * i], queues[2 * i + 1]) for i in range(count)]
        self._start_pairs(self.pairs or self._pairs_at_start())

    def on_kick(self, queue: Queue) -> None:
        """The driver has frames to send, or room for some to come, or asks for something."""
        if queue.index == self._control_index:
            for chain in queue:
                self._control.answer(chain)
        elif queue.index // 2 < len(self._started):
            self._started[queue.index // 2].on_kick(queue)

    def reset(self) -> bool:
        """Stop to move frames. What waits in a tap is thrown away when a driver is back."""
        self._start_pairs(0)
        for index, pair in enumerate(self._pairs):
            log.info("%s: queues %d and %d: %s", self.name, 2 * index, 2 * index + 1, pair)
        self._pairs = []
        self._forget_driver()
        return super().reset()

    def set_own_mac(self, mac: bytes) -> None:
        """The driver gives the card another address, until it resets it."""
        self.own_mac = mac.hex(":")
        self.fill_config()
        self.interrupt.signal_config_change()

    def set_pairs(self, count: int) -> None:
        """The driver uses ``count`` pairs of queues."""
        self.pairs = count
        self._start_pairs(count)

    def fill_config(self) -> None:
        """Write the configuration space anew."""
        status = net.VIRTIO_NET_S_LINK_UP if self.link_up else 0
        self.config = _CONFIG.pack(bytes.fromhex(self.own_mac.replace(":", "")), status, self.max_pairs, self.mtu)

    def tell_link(self, what: str) -> None:
        """Show the driver the link as it is now (section 5.1.4.2); ``what`` it is of, for the log."""
        link_up = self.has_link()
        if link_up == self.link_up:
            return
        self.link_up = link_up
        self.fill_config()
        log.info("%s: %s: link %s", self.name, what, "up" if link_up else "down")
        if self.queues and self.has_feature(net.VIRTIO_NET_F_STATUS):
            self.interrupt.signal_config_change()

    def _forget_driver(self) -> None:
        self.own_mac = self.mac
        self.promiscuous = True
        self.all_multicast = False
        self.mac_table: list[bytes] = []
        self.pairs = 0
        """How many the driver said that it uses; 0 before it did."""
        self.fill_config()

    def _pairs_at_start(self) -> int:
        """How many pairs run before the driver says so: one, but for two cases."""
        if self._control_index < 0:
            return len(self._pairs)  # a front end takes the requests itself, and enables the queues that it wants
        # A process that died served more: the pairs that were in use. The request for them will not come again.
        used = [self.queues[2 * i] for i in range(1, len(self._pairs)) if self.queues[2 * i].used_idx()]
        return 1 + max((queue.index // 2 for queue in used), default=0)

    def _start_pairs(self, count: int) -> None:
        """Have the first ``count`` pairs run, and no others."""
        while len(self._started) > count:
            self._started.pop().stop()
            self.pair_running(len(self._started), False)
        for pair in self._pairs[len(self._started) : count]:
            self.pair_running(len(self._started), True)
            self._started.append(pair)  # first, so that one that does not start is stopped
            pair.start()
