"""A memory balloon for pyvmm's guests: ``--device balloon`` returns their memory to the host."""

from __future__ import annotations

from pyvmm.options import Size, int_between
from pyvmm.plugin import DeviceKind, hookimpl, option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Final

    from pyvmm_virtio_balloon.device import Balloon

__all__ = ["MAX_SIZE", "BalloonOptions", "pyvmm_device_kinds"]

MAX_SIZE: Final = (1 << 32) - 1 << 12
"""The largest size that the configuration can express: 2³² − 1 pages, in bytes."""


@options
class BalloonOptions:
    """The options of ``balloon``."""

    size: Size = option(Size(0), primary=True, help="memory that the guest should give up at first")
    socket: Path | None = option(None, help="Unix socket that takes 'size SIZE' and 'stats' while the machine runs")
    stats: int = option(
        0,
        parse=int_between(0, 86400),
        metavar="SECONDS",
        help="how often to request and log the guest's statistics; 0: never",
    )
    deflate_on_oom: bool = option(
        True, help="the guest may take memory back before it kills a process for lack of memory"
    )
    reporting: bool = option(True, help="free pages of the guest are returned to the host")

    def __post_init__(self) -> None:
        if self.size > MAX_SIZE:
            raise ValueError("a balloon's size must be less than 16T")


def make(options: BalloonOptions) -> Balloon:
    """A balloon; imported only when a machine has one."""
    from pyvmm_virtio_balloon.device import Balloon

    return Balloon(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[BalloonOptions]]:
    """The kind ``balloon``."""
    return [
        DeviceKind(
            "balloon",
            BalloonOptions,
            make,
            help="gives the guest's memory back to the host",
            kernel_config="CONFIG_VIRTIO_BALLOON",
            needs_memfd=True,
            modules=["pyvmm_virtio_balloon.device"],
        )
    ]
