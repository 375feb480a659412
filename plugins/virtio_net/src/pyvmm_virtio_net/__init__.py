"""The kind ``net``: a virtio network card on a tap of the host, or on passt."""

from __future__ import annotations

from pyvmm.limits import MAX_CPUS
from pyvmm.options import int_between
from pyvmm.plugin import DeviceKind, hookimpl, option, options

from pyvmm_virtio_net.names import parse_interface_name, parse_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, Literal

    from pyvmm_virtio_net.card import Card

USER: Final = "user"
"""The name that chooses passt instead of a tap."""


@options
class NetOptions:
    """The options of ``net:TAP`` and ``net:user``."""

    host: str | None = option(
        None,
        primary=True,
        parse=parse_interface_name,
        metavar="TAP|user",
        help="the host's tap, made for the machine's run if it does not exist; "
        "user: passt, without a tap and without privilege",
    )
    mac: str | None = option(
        None,
        parse=parse_mac,
        metavar="XX:XX:XX:XX:XX:XX",
        help="the guest's MAC address; by default derived from this host and the tap's name",
    )
    mtu: int | None = option(
        None,
        parse=int_between(68, 65521),
        metavar="BYTES",
        help="the MTU; by default the tap's, and 65520 with user",
    )
    tap: str | None = option(
        None,
        parse=parse_interface_name,
        metavar="TAP",
        help="the same as TAP; needed for a tap that is called user",
    )
    queues: int = option(
        1,
        parse=int_between(1, MAX_CPUS),
        metavar="N",
        help=f"queue pairs, 1 to {MAX_CPUS}; one per CPU is usual; more than one needs a tap made with multi_queue",
    )
    vhost: Literal["auto", "on", "off"] = option(
        "auto", help="let the kernel's vhost-net move the tap's frames; auto: if /dev/vhost-net can be used"
    )
    tcp: tuple[str, ...] = option(
        (),
        metavar="PORTS",
        help="with user: host ports to forward to the guest, as in passt(1): 8080:80",
    )
    udp: tuple[str, ...] = option((), metavar="PORTS", help="with user: the same for UDP")

    loopback: bool = option(
        True, help="with user: the guest reaches services on the host's loopback, at its gateway's address"
    )

    def __post_init__(self) -> None:
        if (self.host is None) == (self.tap is None):
            raise ValueError("one tap or user is needed: net:TAP or net:user")
        if self.is_user and (self.queues > 1 or self.vhost == "on"):
            raise ValueError("queues=N and vhost=on need a tap; leave them out with user")
        if not self.is_user and (self.tcp or self.udp or not self.loopback):
            raise ValueError("tcp, udp and loopback work only with user; give net:user, or use the host's firewall")

    @property
    def is_user(self) -> bool:
        """Whether the card uses passt."""
        return self.host == USER

    @property
    def tap_name(self) -> str:
        """The tap's name, if the card uses a tap."""
        return self.tap or self.host or ""


def _make(options: NetOptions) -> Card:
    if options.is_user:
        from pyvmm_virtio_net.passt_card import UserNet

        return UserNet(options)
    from pyvmm_virtio_net.tap_card import Net

    return Net(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[NetOptions]]:
    """The kind ``net``."""
    return [
        DeviceKind(
            "net",
            NetOptions,
            _make,
            help="a network card on a tap of the host, or without privilege by passt",
            kernel_config="CONFIG_VIRTIO_NET",
            gil_free=True,
            modules=["pyvmm_virtio_net.tap_card"],
        )
    ]
