"""Entropy for pyvmm's guests: ``--device rng`` is a virtio entropy device."""

from __future__ import annotations

from pathlib import Path

from pyvmm.plugin import DeviceKind, hookimpl, option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.options import Size

    from pyvmm_virtio_rng.device import Rng

__all__ = ["RngOptions", "pyvmm_device_kinds"]


@options
class RngOptions:
    """The options of ``rng``."""

    source: Path = option(Path("/dev/urandom"), primary=True, help="file from which entropy is read")
    rate: Size | None = option(None, help="the most bytes per second for the guest")

    def __post_init__(self) -> None:
        if self.rate == 0:
            raise ValueError("a rate of 0 is no entropy at all; leave out the device")


def make(options: RngOptions) -> Rng:
    """An entropy device; imported only when a machine has one."""
    from pyvmm_virtio_rng.device import Rng

    return Rng(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[RngOptions]]:
    """The kind ``rng``."""
    return [
        DeviceKind(
            "rng",
            RngOptions,
            make,
            help="entropy for the guest",
            kernel_config="CONFIG_HW_RANDOM_VIRTIO",
            gil_free=True,
            modules=["pyvmm_virtio_rng.device"],
        )
    ]
