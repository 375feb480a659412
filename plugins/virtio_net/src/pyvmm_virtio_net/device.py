"""virtio-net: a network card whose other side is a tap of the host (virtio 1.2, section 5.1)."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pyvmm.memory import GuestMemory
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import Queue

from pyvmm_virtio_net import constants as net
from pyvmm_virtio_net import tap as tun
from pyvmm_virtio_net.link import LinkEvents
from pyvmm_virtio_net.names import default_mac
from pyvmm_virtio_net.queue_pair import QueuePair
from pyvmm_virtio_net.tap import Tap

if TYPE_CHECKING:
    from pyvmm_virtio_net import NetOptions

log = logging.getLogger(__name__)

_FEATURES: Final = (
    1 << net.VIRTIO_NET_F_CSUM
    | 1 << net.VIRTIO_NET_F_GUEST_CSUM
    | 1 << net.VIRTIO_NET_F_MTU
    | 1 << net.VIRTIO_NET_F_MAC
    | 1 << net.VIRTIO_NET_F_GUEST_TSO4
    | 1 << net.VIRTIO_NET_F_GUEST_TSO6
    | 1 << net.VIRTIO_NET_F_GUEST_ECN
    | 1 << net.VIRTIO_NET_F_HOST_TSO4
    | 1 << net.VIRTIO_NET_F_HOST_TSO6
    | 1 << net.VIRTIO_NET_F_HOST_ECN
    | 1 << net.VIRTIO_NET_F_MRG_RXBUF
    | 1 << net.VIRTIO_NET_F_STATUS
)
_USO_FEATURES: Final = (
    1 << net.VIRTIO_NET_F_GUEST_USO4 | 1 << net.VIRTIO_NET_F_GUEST_USO6 | 1 << net.VIRTIO_NET_F_HOST_USO
)
_OFFLOADS: Final = {
    net.VIRTIO_NET_F_GUEST_CSUM: tun.TUN_F_CSUM,
    net.VIRTIO_NET_F_GUEST_TSO4: tun.TUN_F_TSO4,
    net.VIRTIO_NET_F_GUEST_TSO6: tun.TUN_F_TSO6,
    net.VIRTIO_NET_F_GUEST_ECN: tun.TUN_F_TSO_ECN,
    net.VIRTIO_NET_F_GUEST_USO4: tun.TUN_F_USO4,
    net.VIRTIO_NET_F_GUEST_USO6: tun.TUN_F_USO6,
}
_CONFIG: Final = struct.Struct("<6sHHH")  # mac, status, max_virtqueue_pairs, mtu (section 5.1.4)


class Net(VirtioDevice):
    """A network card with one pair of queues.

    The tap is open from the start, so that a second machine on it is refused at once; frames move only while
    the driver is there.
    """

    device_type = net.VIRTIO_ID_NET
    queue_max_sizes = (256, 256)

    def __init__(self, options: NetOptions) -> None:
        """Open or make the tap; raises :class:`~pyvmm.errors.HostError`."""
        self._link_events = LinkEvents()
        try:
            self.tap = Tap(options.tap, options.mtu)
        except BaseException:
            self._link_events.close()
            raise
        self.mac = options.mac or default_mac(options.tap)
        self.mtu = options.mtu or self.tap.mtu
        self.link_up = self.tap.has_link()
        self._pair: QueuePair | None = None
        self.device_features = _FEATURES | (_USO_FEATURES if self.tap.has_uso else 0)
        self._fill_config()
        if not self.tap.was_up:
            log.warning("net: tap %s is down; bring it up with: sudo ip link set %s up", options.tap, options.tap)
        if self.tap.mtu < self.mtu:
            log.warning(
                "net: tap %s has an MTU of %d and the guest one of %d; mend it with: sudo ip link set %s mtu %d",
                *(options.tap, self.tap.mtu, self.mtu, options.tap, self.mtu),
            )

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        """Start to move frames."""
        super().activate(mem, interrupt, queues)
        self.context.loop.add(self._link_events.fd, self._link_changed)
        self.link_up = self.tap.has_link()
        self._fill_config()
        try:
            self.tap.set_offload(self._offload())
        except OSError:
            if self.tap.current_name() is not None:  # else it went while there was no driver: the link is down
                raise
        self._pair = QueuePair(
            self.context.loop,
            self.tap,
            queues[net.RECEIVEQ],
            queues[net.TRANSMITQ],
            merge=self.has_feature(net.VIRTIO_NET_F_MRG_RXBUF),
            max_frame_size=self._max_frame_size(),
            checksums=self.has_feature(net.VIRTIO_NET_F_GUEST_CSUM),
            on_gone=self._tap_gone,
        )
        self._pair.start()

    def on_kick(self, queue: Queue) -> None:
        """The driver has frames to send, or room for some to come."""
        if self._pair is not None:
            self._pair.on_kick(queue)

    def reset(self) -> bool:
        """Stop to move frames. What waits in the tap is thrown away when a driver is back."""
        if self._pair is not None:
            self._pair.stop()
            received, sent = self._pair.received, self._pair.sent
            log.info(
                "%s: %d frames received, %d dropped; %d sent, %d dropped",
                *(self.name, received.messages, received.dropped, sent.messages, sent.dropped),
            )
            self._pair = None
        self.context.loop.remove(self._link_events.fd)
        return super().reset()

    def close(self) -> None:
        """Let go of the tap."""
        self._link_events.close()
        self.tap.close()

    def _fill_config(self) -> None:
        status = net.VIRTIO_NET_S_LINK_UP if self.link_up else 0
        self.config = _CONFIG.pack(bytes.fromhex(self.mac.replace(":", "")), status, 1, self.mtu)

    def _offload(self) -> int:
        """TUN_F_* for what the driver can take, without what the kernel refuses."""
        flags = sum(flag for bit, flag in _OFFLOADS.items() if self.has_feature(bit))
        if not flags & tun.TUN_F_CSUM:
            return 0
        if not flags & (tun.TUN_F_TSO4 | tun.TUN_F_TSO6):
            flags &= ~tun.TUN_F_TSO_ECN
        uso = tun.TUN_F_USO4 | tun.TUN_F_USO6
        return flags if flags & uso == uso else flags & ~uso

    def _max_frame_size(self) -> int:
        """Bytes of the largest frame to expect from the tap, with its header."""
        if self._offload() & ~tun.TUN_F_CSUM:
            return net.MAX_FRAME_SIZE
        return net.HEADER_SIZE + net.ETHERNET_HEADER_SIZE + net.VLAN_TAG_SIZE + self.mtu

    def _link_changed(self, _: int) -> None:
        self._link_events.drain()
        self._tell_link()

    def _tell_link(self) -> None:
        """Show the driver the link as it is now (section 5.1.4.2)."""
        link_up = self.tap.has_link()
        if link_up == self.link_up:
            return
        self.link_up = link_up
        self._fill_config()
        log.info("%s: tap %s: link %s", self.name, self.tap.given_name, "up" if link_up else "down")
        if self.has_feature(net.VIRTIO_NET_F_STATUS):
            self.interrupt.signal_config_change()

    def _tap_gone(self) -> None:
        log.error("%s: tap %s is gone from the host; the guest has no link", self.name, self.tap.given_name)
        self._tell_link()
