"""A device with which a panic of the guest's kernel ends the machine: ``--device pvpanic``."""

from __future__ import annotations

from pyvmm.plugin import DeviceKind, hookimpl, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_pvpanic.device import Pvpanic

__all__ = ["PvpanicOptions", "pyvmm_device_kinds"]


@options
class PvpanicOptions:
    """The options of ``pvpanic``: none."""


def make(options: PvpanicOptions) -> Pvpanic:
    """A pvpanic device; imported only when a machine has one."""
    from pyvmm_pvpanic.device import Pvpanic

    return Pvpanic()


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[PvpanicOptions]]:
    """The kind ``pvpanic``."""
    return [
        DeviceKind(
            "pvpanic",
            PvpanicOptions,
            make,
            help="a guest that panics ends the machine with status 3",
            kernel_config="CONFIG_PVPANIC_MMIO",
            process=False,
        )
    ]
