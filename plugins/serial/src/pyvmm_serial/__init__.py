"""A 16550A serial port for pyvmm, on the terminal, a pty, a file or a socket."""

from __future__ import annotations

from pyvmm.chardev.options import ChardevOptions
from pyvmm.plugin import DeviceKind, hookimpl, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_serial.device import Serial

__all__ = ["SerialOptions", "pyvmm_device_kinds"]


@options
class SerialOptions(ChardevOptions):
    """The options of ``serial``."""


def make(options: SerialOptions) -> Serial:
    """A serial port; imported only when a machine has one."""
    from pyvmm_serial.device import Serial

    return Serial(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[SerialOptions]]:
    """The kind ``serial``."""
    return [
        DeviceKind(
            "serial",
            SerialOptions,
            make,
            help="16550A serial port on the terminal, a pty, a file or a socket",
            kernel_config="CONFIG_SERIAL_8250_CONSOLE",
            process=False,
        )
    ]
