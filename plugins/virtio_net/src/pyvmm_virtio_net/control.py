"""Requests of the control queue (virtio 1.2, section 5.1.6.5).

The guest's receive filters (promiscuous mode, addresses) are stored but filter nothing. The specification calls them
best effort, and the tap's bridge knows better which frames the tap needs.
"""

from __future__ import annotations

from pyvmm.logs import logger

from pyvmm_virtio_net import constants as net

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Protocol

    from pyvmm.virtio.queue import DescriptorChain
else:
    Protocol = object

log = logger(__name__)

MAX_REQUEST: Final = 16384
"""The longest accepted request, in bytes: more than 2,700 addresses."""

_ADDRESS_SIZE: Final = 6
_KEPT_ADDRESSES: Final = 64


class RefusedError(Exception):
    """A request that gets the answer VIRTIO_NET_ERR."""


class Receiver(Protocol):
    """The part of a card that control requests set."""

    promiscuous: bool
    all_multicast: bool
    mac_table: list[bytes]
    """The first addresses of the table that the driver set last, 64 at most."""

    max_pairs: int

    def has_feature(self, bit: int) -> bool:
        """Whether the driver accepted feature ``bit``."""

    def set_own_mac(self, mac: bytes) -> None:
        """Set the address that the driver gives to the card."""

    def set_pairs(self, count: int) -> None:
        """Use ``count`` queue pairs, as the driver asks."""


class Control:
    """Answers the requests of a card's driver."""

    def __init__(self, card: Receiver) -> None:
        self._card = card

    def answer(self, chain: DescriptorChain) -> None:
        """Carry out a request, and answer with the result."""
        try:
            self._carry_out(chain)
            result = net.VIRTIO_NET_OK
        except RefusedError as error:
            log.debug("control request refused: %s", error)
            result = net.VIRTIO_NET_ERR
        chain.complete(chain.write(0, bytes([result])))

    def _carry_out(self, chain: DescriptorChain) -> None:
        if not 2 <= chain.readable_length <= MAX_REQUEST:
            raise RefusedError(f"of {chain.readable_length} bytes")
        if not chain.writable_length:
            raise RefusedError("without room for an answer")
        request = chain.read(0, chain.readable_length)
        data = request[2:]
        card, has = self._card, self._card.has_feature
        match request[0], request[1]:
            case net.VIRTIO_NET_CTRL_RX, net.VIRTIO_NET_CTRL_RX_PROMISC if has(net.VIRTIO_NET_F_CTRL_RX):
                card.promiscuous = _flag(data)
            case net.VIRTIO_NET_CTRL_RX, net.VIRTIO_NET_CTRL_RX_ALLMULTI if has(net.VIRTIO_NET_F_CTRL_RX):
                card.all_multicast = _flag(data)
            case net.VIRTIO_NET_CTRL_MAC, net.VIRTIO_NET_CTRL_MAC_TABLE_SET if has(net.VIRTIO_NET_F_CTRL_RX):
                card.mac_table = _addresses(data)
            case net.VIRTIO_NET_CTRL_MAC, net.VIRTIO_NET_CTRL_MAC_ADDR_SET if has(net.VIRTIO_NET_F_CTRL_MAC_ADDR):
                card.set_own_mac(_station(data))
            case net.VIRTIO_NET_CTRL_MQ, net.VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET if has(net.VIRTIO_NET_F_MQ):
                pairs = int.from_bytes(data, "little")
                if len(data) != 2 or not 1 <= pairs <= card.max_pairs:
                    raise RefusedError(f"{pairs} pairs of queues")
                card.set_pairs(pairs)
            case class_, command:
                raise RefusedError(f"class {class_}, command {command}, which was not offered")


def _flag(data: bytes) -> bool:
    if data not in (b"\0", b"\1"):
        raise RefusedError("neither on nor off")
    return data == b"\1"


def _addresses(data: bytes) -> list[bytes]:
    """The addresses of two tables, unicast and multicast. Each table is a count, followed by that number of
    addresses."""
    found: list[bytes] = []
    for _ in range(2):
        count, whole, data = int.from_bytes(data[:4], "little"), len(data) >= 4, data[4:]
        if not whole or count * _ADDRESS_SIZE > len(data):
            raise RefusedError(f"a table of {count} addresses in {len(data)} bytes")
        found += (data[i * _ADDRESS_SIZE : (i + 1) * _ADDRESS_SIZE] for i in range(count))
        data = data[count * _ADDRESS_SIZE :]
    if data:
        raise RefusedError(f"{len(data)} bytes behind the tables of addresses")
    return found[:_KEPT_ADDRESSES]


def _station(data: bytes) -> bytes:
    if len(data) != _ADDRESS_SIZE or data[0] & 1 or not any(data):
        raise RefusedError(f"{data[:8].hex()} is no card's address")
    return data
