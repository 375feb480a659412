"""Devices that other programs serve: ``--device vhost-user:PATH,type=block`` uses the device at the socket PATH."""

from __future__ import annotations

from pyvmm.options import int_between
from pyvmm.plugin import DeviceKind, hookimpl, option, options

from pyvmm_vhost_user.types import TYPES, parse_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pyvmm.vhost_user.front_end import VhostUserDevice

__all__ = ["VhostUserOptions", "pyvmm_device_kinds"]


def _parse_queue_size(text: str) -> int:
    size = int_between(1, 32768)(text)
    if size & (size - 1):
        raise ValueError("is no power of two")
    return size


@options
class VhostUserOptions:
    """The options of ``vhost-user``."""

    path: Path = option(primary=True, help="socket on which the back end listens")
    type: int = option(parse=parse_type, metavar="TYPE", help=f"the device's type: {', '.join(TYPES)}, or a virtio ID")
    queues: int | None = option(
        None, parse=int_between(1, 256), metavar="N", help="number of queues; by default the type's minimum"
    )
    queue_size: int = option(
        256, parse=_parse_queue_size, metavar="N", help="the largest size of a queue: a power of two"
    )
    config_size: int | None = option(
        None, parse=int_between(0, 256), metavar="BYTES", help="size of the configuration space; by default the type's"
    )
    reconnect: bool = option(False, help="reconnect, for some seconds, if the back end disconnects")


def make(options: VhostUserOptions) -> VhostUserDevice:
    """A front end to the back end; imported only when a machine has one."""
    from pyvmm_vhost_user.device import ForeignDevice

    return ForeignDevice(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[VhostUserOptions]]:
    """The kind ``vhost-user``."""
    return [
        DeviceKind(
            "vhost-user",
            VhostUserOptions,
            make,
            help="a device that another program serves: any vhost-user back end",
            process=False,
            needs_memfd=True,
        )
    ]
