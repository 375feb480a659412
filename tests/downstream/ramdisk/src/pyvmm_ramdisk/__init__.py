"""``--device ramdisk:SIZE``: a disk in the host's memory, empty at the start and gone at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pyvmm.options import Size
from pyvmm.plugin import DeviceKind, hookimpl, option, options

if TYPE_CHECKING:
    from pyvmm_ramdisk.device import RamDisk

__all__ = ["RamDiskOptions", "pyvmm_device_kinds"]

SECTOR: Final = 512


@options
class RamDiskOptions:
    """The options of ``ramdisk``."""

    size: Size = option(Size(64 << 20), primary=True, help="of the disk, a multiple of 512 bytes")
    fill: str = option("", help="text that the disk is full of at first")

    def __post_init__(self) -> None:
        if self.size <= 0 or self.size % SECTOR:
            raise ValueError(f"a size that is no multiple of {SECTOR} bytes is no disk's")


def make(options: RamDiskOptions) -> RamDisk:
    """One disk; its module is imported only when a machine has one."""
    from pyvmm_ramdisk.device import RamDisk

    return RamDisk(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[RamDiskOptions]]:
    """The kind ``ramdisk``."""
    return [
        DeviceKind(
            "ramdisk",
            RamDiskOptions,
            make,
            help="a disk in memory, gone at the end",
            kernel_config="CONFIG_VIRTIO_BLK",
            modules=["pyvmm_ramdisk.device"],
            restartable=False,
        )
    ]
