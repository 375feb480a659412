"""virtio-net on a tap of the host."""

from __future__ import annotations

from pyvmm.logs import logger

from pyvmm_virtio_net import constants as net
from pyvmm_virtio_net import tap as tun
from pyvmm_virtio_net.card import Card
from pyvmm_virtio_net.link import LinkEvents
from pyvmm_virtio_net.names import default_mac
from pyvmm_virtio_net.queue_pair import Pair, QueuePair
from pyvmm_virtio_net.tap import Tap
from pyvmm_virtio_net.vhost import VhostPair, open_vhost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.interrupt import Interrupt
    from pyvmm.virtio.queue import Queue

    from pyvmm_virtio_net import NetOptions

log = logger(__name__)

_FEATURES: Final = (
    1 << net.VIRTIO_NET_F_CSUM
    | 1 << net.VIRTIO_NET_F_GUEST_CSUM
    | 1 << net.VIRTIO_NET_F_GUEST_TSO4
    | 1 << net.VIRTIO_NET_F_GUEST_TSO6
    | 1 << net.VIRTIO_NET_F_GUEST_ECN
    | 1 << net.VIRTIO_NET_F_HOST_TSO4
    | 1 << net.VIRTIO_NET_F_HOST_TSO6
    | 1 << net.VIRTIO_NET_F_HOST_ECN
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


class Net(Card):
    """A network card on a tap, with vhost-net or without.

    The tap is opened by the constructor, so that a second machine on it is refused immediately. Frames are moved only
    while there is a driver.
    """

    def __init__(self, options: NetOptions) -> None:
        """Open or make the tap; raises :class:`~pyvmm.errors.HostError`."""
        name = options.tap_name
        self._link_events = LinkEvents()
        try:
            self.tap = Tap(name, options.mtu, options.queues)
            try:
                self.tap.vhosts = open_vhost(options.vhost, options.queues)
            except BaseException:
                self.tap.close()
                raise
        except BaseException:
            self._link_events.close()
            raise
        super().__init__(
            mac=options.mac or default_mac(name),
            mtu=options.mtu or self.tap.mtu,
            pairs=options.queues,
            features=_FEATURES | (_USO_FEATURES if self.tap.has_uso else 0),
        )
        if not self.tap.was_up:
            log.warning("net: tap %s is down; bring it up with: sudo ip link set %s up", name, name)
        if self.tap.mtu < self.mtu:
            log.warning(
                "net: tap %s has an MTU of %d and the guest one of %d; fix it with: sudo ip link set %s mtu %d",
                *(name, self.tap.mtu, self.mtu, name, self.mtu),
            )

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        """Start to move frames."""
        self.context.loop.add(self._link_events.fd, self._link_changed)
        try:
            self.tap.set_offload(self._offload())
        except OSError:
            if self.tap.current_name() is not None:  # otherwise it was removed meanwhile: the link is down
                raise
        super().activate(mem, interrupt, queues)
        served_by = "the kernel, by vhost-net" if any(isinstance(p, VhostPair) for p in self._pairs) else "this process"
        log.info("%s: tap %s: frames are moved by %s", self.name, self.tap.given_name, served_by)

    def reset(self) -> bool:
        self.context.loop.remove(self._link_events.fd)
        return super().reset()

    def close(self) -> None:
        """Close the tap."""
        self._link_events.close()
        self.tap.close()

    def has_link(self) -> bool:
        return self.tap.has_link()

    def make_pair(self, index: int, receiveq: Queue, transmitq: Queue) -> Pair:
        fd = self.tap.fds[index]
        # This process serves a ring in which another process left requests, since the kernel does not know them.
        plain = receiveq.ready and transmitq.ready and not receiveq.to_resubmit and not transmitq.to_resubmit
        if self.tap.vhosts and plain:
            return VhostPair(
                self.context.loop,
                self.tap.vhosts[index],
                fd,
                (receiveq, transmitq),
                self.memory,
                self.acked_features,
                on_broken=lambda reason: self.interrupt.signal_needs_reset(reason),
            )
        return QueuePair(
            self.context.loop,
            fd,
            receiveq,
            transmitq,
            merge=self.has_feature(net.VIRTIO_NET_F_MRG_RXBUF),
            max_frame_size=self._max_frame_size(),
            checksums=self.has_feature(net.VIRTIO_NET_F_GUEST_CSUM),
            is_gone=lambda: self.tap.current_name() is None,
            on_gone=self._tap_gone,
        )

    def pair_running(self, index: int, running: bool) -> None:
        """Attach or detach the queue. The first one stays attached, since a tap without a queue has no carrier."""
        if index > 0:
            self.tap.attach_queue(index, running)

    def _offload(self) -> int:
        """The TUN_F_* that the driver accepts, without combinations that the kernel refuses."""
        flags = sum(flag for bit, flag in _OFFLOADS.items() if self.has_feature(bit))
        if not flags & tun.TUN_F_CSUM:
            return 0
        if not flags & (tun.TUN_F_TSO4 | tun.TUN_F_TSO6):
            flags &= ~tun.TUN_F_TSO_ECN
        uso = tun.TUN_F_USO4 | tun.TUN_F_USO6
        return flags if flags & uso == uso else flags & ~uso

    def _max_frame_size(self) -> int:
        """The size of the largest expected frame from the tap with its header, in bytes."""
        if self._offload() & ~tun.TUN_F_CSUM:
            return net.MAX_FRAME_SIZE
        return net.HEADER_SIZE + net.ETHERNET_HEADER_SIZE + net.VLAN_TAG_SIZE + self.mtu

    def _link_changed(self, _: int) -> None:
        self._link_events.drain()
        self.tell_link(f"tap {self.tap.given_name}")
        if self.tap.vhosts and not self.link_up and self.tap.current_name() is None:
            self._tap_gone()

    def _tap_gone(self) -> None:
        if not self.tap.gone:
            self.tap.gone = True
            log.error("%s: tap %s was removed from the host; the guest has no link", self.name, self.tap.given_name)
        self.tell_link(f"tap {self.tap.given_name}")
