"""A PC's keyboard controller for pyvmm's guests: ``--device i8042``."""

from __future__ import annotations

from pyvmm.plugin import DeviceKind, hookimpl, option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pyvmm_i8042.device import I8042

__all__ = ["I8042Options", "pyvmm_device_kinds"]


@options
class I8042Options:
    """The options of ``i8042``."""

    socket: Path | None = option(None, help="Unix socket that takes 'ctrl-alt-del' while the machine runs")


def make(options: I8042Options) -> I8042:
    """A keyboard controller; imported only when a machine has one."""
    from pyvmm_i8042.device import I8042

    return I8042(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[I8042Options]]:
    """The kind ``i8042``."""
    return [
        DeviceKind(
            "i8042",
            I8042Options,
            make,
            help="keyboard controller: reset, and Ctrl-Alt-Del sent to the guest",
            kernel_config="CONFIG_KEYBOARD_ATKBD",
            process=False,
        )
    ]
