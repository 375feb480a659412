"""The part of virtio-net that is the same for tap and passt: configuration, control queue, queue pairs (section
5.1)."""

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
    """A network card. A subclass makes its queue pairs, by :meth:`make_pair`, and reports changes of its link."""

    device_type = VIRTIO_ID_NET

    def __init__(self, *, mac: str, mtu: int, pairs: int = 1, features: int = 0) -> None:
        """``pairs``: the most queue pairs. ``features``: the features in addition to those that every card has."""
        self.queue_max_sizes = (QUEUE_SIZE,) * 2 * pairs + (CONTROL_QUEUE_SIZE,)
        self.device_features = _FEATURES | features | (1 << net.VIRTIO_NET_F_MQ if pairs > 1 else 0)
        self.mac = mac
        """The address that the card offers. The driver may have set another one (:attr:`own_mac`)."""
        self.mtu = mtu
        self.max_pairs = pairs
        self.link_up = self.has_link()
        self._control = Control(self)
        self._control_index = -1
        self._pairs: list[Pair] = []
        self._started: list[Pair] = []
        self._forget_driver()

    # A subclass defines these.

    def has_link(self) -> bool:
        """Whether frames can be moved."""
        raise NotImplementedError

    def make_pair(self, index: int, receiveq: Queue, transmitq: Queue) -> Pair:
        """Make the object that moves the frames of pair ``index`` during one activation. It is not started yet."""
        raise NotImplementedError

    def pair_running(self, index: int, running: bool) -> None:
        """Called before pair ``index`` is started, and after it was stopped."""

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
        """Serve a kick: frames to send, buffers for received frames, or a control request."""
        if queue.index == self._control_index:
            for chain in queue:
                self._control.answer(chain)
        elif queue.index // 2 < len(self._started):
            self._started[queue.index // 2].on_kick(queue)

    def reset(self) -> bool:
        """Stop moving frames. Frames that wait in a tap are dropped when a driver is back."""
        self._start_pairs(0)
        for index, pair in enumerate(self._pairs):
            log.info("%s: queues %d and %d: %s", self.name, 2 * index, 2 * index + 1, pair)
        self._pairs = []
        self._forget_driver()
        return super().reset()

    def set_own_mac(self, mac: bytes) -> None:
        """Set the address that the driver gives to the card, until the next reset."""
        self.own_mac = mac.hex(":")
        self.fill_config()
        self.interrupt.signal_config_change()

    def set_pairs(self, count: int) -> None:
        """Use ``count`` queue pairs, as the driver asks."""
        self.pairs = count
        self._start_pairs(count)

    def fill_config(self) -> None:
        """Update the configuration space."""
        status = net.VIRTIO_NET_S_LINK_UP if self.link_up else 0
        self.config = _CONFIG.pack(bytes.fromhex(self.own_mac.replace(":", "")), status, self.max_pairs, self.mtu)

    def tell_link(self, what: str) -> None:
        """Report the current state of the link to the driver (section 5.1.4.2). ``what``: the link's name in the
        log."""
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
        """The number of queue pairs that the driver has set; 0 before that."""
        self.fill_config()

    def _pairs_at_start(self) -> int:
        """The number of pairs that run before the driver sets it: one, except in two cases."""
        if self._control_index < 0:
            return len(self._pairs)  # a front end handles these requests itself, and enables the queues that it wants
        # A process that died served more: the pairs that were in use. The driver does not repeat its request for them.
        used = [self.queues[2 * i] for i in range(1, len(self._pairs)) if self.queues[2 * i].used_idx()]
        return 1 + max((queue.index // 2 for queue in used), default=0)

    def _start_pairs(self, count: int) -> None:
        """Run the first ``count`` pairs, and no others."""
        while len(self._started) > count:
            self._started.pop().stop()
            self.pair_running(len(self._started), False)
        for pair in self._pairs[len(self._started) : count]:
            self.pair_running(len(self._started), True)
            self._started.append(pair)  # first, so that a pair that fails to start is stopped
            pair.start()
