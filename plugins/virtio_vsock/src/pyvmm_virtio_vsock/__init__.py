"""The kind ``vsock``: a virtio socket device whose host side is Unix sockets."""

from __future__ import annotations

from pyvmm.options import int_between
from pyvmm.plugin import DeviceKind, hookimpl, option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pyvmm_virtio_vsock.device import Vsock


@options
class VsockOptions:
    """The options of ``vsock``."""

    path: Path = option(
        primary=True, help="Unix socket for programs that connect to the guest; the guest connects to PATH_PORT"
    )
    cid: int = option(3, parse=int_between(3, 2**32 - 2), metavar="N", help="the guest's address (context ID)")


def _make(options: VsockOptions) -> Vsock:
    from pyvmm_virtio_vsock.device import Vsock

    return Vsock(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[VsockOptions]]:
    """The kind ``vsock``."""
    return [
        DeviceKind(
            "vsock",
            VsockOptions,
            _make,
            help="sockets between guest and host, as Unix sockets on the host",
            kernel_config="CONFIG_VIRTIO_VSOCKETS",
            modules=["pyvmm_virtio_vsock.device"],
        )
    ]
