"""virtio-net without privilege: passt turns the guest's frames into connections of host sockets."""

from __future__ import annotations

from pyvmm.logs import logger
from pyvmm.virtio.messages import Stream

from pyvmm_virtio_net import constants as net
from pyvmm_virtio_net.card import Card
from pyvmm_virtio_net.names import default_mac
from pyvmm_virtio_net.passt import Passt
from pyvmm_virtio_net.queue_pair import Pair, QueuePair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.device_context import DeviceContext
    from pyvmm.virtio.queue import Queue

    from pyvmm_virtio_net import NetOptions

log = logger(__name__)

DEFAULT_MTU: Final = 65520
"""passt's default, so that a connection's bytes come in the largest possible frames."""


class UserNet(Card):
    """A network card with a passt process of its own."""

    def __init__(self, options: NetOptions) -> None:
        """Start passt; raises :class:`~pyvmm.errors.PyvmmError`."""
        mtu = options.mtu or DEFAULT_MTU
        self._mac_given = options.mac is not None
        self.passt = Passt(mtu=mtu, tcp=options.tcp, udp=options.udp, loopback=options.loopback)
        self._stream = Stream(
            self.passt.socket.fileno(), header=net.HEADER_SIZE, max_size=net.MAX_FRAME_SIZE - net.HEADER_SIZE
        )
        super().__init__(mac=options.mac or default_mac("user"), mtu=mtu)

    def attach(self, context: DeviceContext) -> None:
        """Attach passt. If the user gave no address, each card of a machine gets a different one."""
        super().attach(context)
        if not self._mac_given:
            self.mac = self.own_mac = default_mac(f"user {context.name}")
            self.fill_config()
        self.passt.attach(context.title, context.loop, self._passt_ended)
        log.info("%s: frames are moved by this process and passt", context.title)

    def close(self) -> None:
        """End passt."""
        self.passt.close()

    def has_link(self) -> bool:
        return not self.passt.lost

    def make_pair(self, index: int, receiveq: Queue, transmitq: Queue) -> Pair:
        return QueuePair(
            self.context.loop,
            self._stream,
            receiveq,
            transmitq,
            merge=self.has_feature(net.VIRTIO_NET_F_MRG_RXBUF),
            max_frame_size=net.HEADER_SIZE + net.ETHERNET_HEADER_SIZE + self.mtu,
            checksums=True,  # the header is all zeros
            is_gone=lambda: True,
            on_gone=self._lose_link,
        )

    def _passt_ended(self, outcome: str) -> None:
        log.error("%s: passt %s; the guest has no link", self.name, outcome or "ended")
        self._lose_link()

    def _lose_link(self) -> None:
        self.passt.lost = True
        self.tell_link("passt")
