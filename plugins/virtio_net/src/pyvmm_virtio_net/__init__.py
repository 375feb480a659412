"""The kind ``net``: a virtio network device on a tap of the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.options import int_between
from pyvmm.plugin import DeviceKind, hookimpl, option

from pyvmm_virtio_net.names import parse_interface_name, parse_mac

if TYPE_CHECKING:
    from pyvmm_virtio_net.device import Net


@dataclass(frozen=True)
class NetOptions:
    """What ``net:TAP,…`` takes."""

    tap: str = option(
        primary=True,
        parse=parse_interface_name,
        metavar="TAP",
        help="the host's tap; made, for as long as the machine runs, where it does not exist",
    )
    mac: str | None = option(
        None,
        parse=parse_mac,
        metavar="XX:XX:XX:XX:XX:XX",
        help="the guest's address; by default one that goes with this host and the tap's name",
    )
    mtu: int | None = option(
        None,
        parse=int_between(68, 65521),
        metavar="BYTES",
        help="the largest packet; by default the tap's own",
    )


def _make(options: NetOptions) -> Net:
    from pyvmm_virtio_net.device import Net

    return Net(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[NetOptions]]:
    """See :func:`pyvmm.hookspecs.pyvmm_device_kinds`."""
    return [
        DeviceKind(
            "net",
            NetOptions,
            _make,
            help="a network card on a tap of the host",
            kernel_config="CONFIG_VIRTIO_NET",
            modules=["pyvmm_virtio_net.device"],
        )
    ]
