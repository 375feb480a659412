"""A guest that panics ends the machine and says so: ``--device pvpanic``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.plugin import DeviceKind, hookimpl

if TYPE_CHECKING:
    from pyvmm_pvpanic.device import Pvpanic

__all__ = ["PvpanicOptions", "pyvmm_device_kinds"]


@dataclass(frozen=True)
class PvpanicOptions:
    """There are none."""


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
