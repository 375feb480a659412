"""The kind ``console``: a virtio console on the terminal, a pty, a file or a socket."""

from __future__ import annotations

from pyvmm.chardev.options import ChardevOptions
from pyvmm.plugin import CmdlineRequest, DeviceKind, hookimpl, option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from pyvmm_virtio_console.device import Console


@options
class ConsoleOptions(ChardevOptions):
    """The options of ``console``."""

    kernel: bool = option(False, help="make it the kernel's console: adds console=hvc0 to the kernel's command line")
    overflow: Literal["wait", "drop"] = option(
        "wait", help="if the host does not read: the guest waits, or its output is dropped"
    )


def _make(options: ConsoleOptions) -> Console:
    from pyvmm_virtio_console.device import Console

    return Console(options)


def _cmdline(request: CmdlineRequest[ConsoleOptions]) -> str:
    """A console= for each console with ``kernel``. Linux numbers hvc0, hvc1 and so on as it finds them."""
    return " ".join(f"console=hvc{index}" for index, options in enumerate(request.options) if options.kernel)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[ConsoleOptions]]:
    """The kind ``console``."""
    return [
        DeviceKind(
            "console",
            ConsoleOptions,
            _make,
            help="virtio console on the terminal, a pty, a file or a socket",
            kernel_config="CONFIG_VIRTIO_CONSOLE",
            cmdline=_cmdline,
            # A device's own process has no terminal.
            process=False,
        )
    ]
