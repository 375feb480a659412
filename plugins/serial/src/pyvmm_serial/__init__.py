"""A 16550A serial port for pyvmm, on the terminal, a pty, a file or a socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pyvmm.plugin import DeviceKind, hookimpl, option

if TYPE_CHECKING:
    from pyvmm_serial.device import Serial

__all__ = ["SerialOptions", "pyvmm_device_kinds"]


@dataclass(frozen=True)
class SerialOptions:
    """What is at the host's end of the line: one of the three, stdio when none is given."""

    backend: Literal["stdio", "pty"] | None = option(
        None, primary=True, help="stdio, which is the default, or a new pty"
    )
    file: Path | None = option(None, help="file that takes the guest's output")
    unix: Path | None = option(None, help="UNIX domain socket to listen on, one client at a time")

    def __post_init__(self) -> None:
        given = [value for value in (self.backend, self.file, self.unix) if value is not None]
        if len(given) > 1:
            raise ValueError("a serial line has one end: give one of stdio, pty, file= and unix=")


def make(options: SerialOptions) -> Serial:
    """A serial port; imported only when a machine has one."""
    from pyvmm_serial.device import Serial

    return Serial(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[SerialOptions]]:
    """The one kind of this package."""
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
