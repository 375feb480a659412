"""What ``--device`` takes for each virtio device, beside the options of its kind: where the device lives."""

from __future__ import annotations

from pyvmm.option_records import option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvmm.plugin import DeviceKind


@options
class ProcessOptions:
    """A device's process."""

    process: bool = option(True, help="the device has a process of its own")
    restart: bool = option(
        False, help="its process, if it dies, is replaced: requests go on, what it had in memory is lost"
    )

    def __post_init__(self) -> None:
        if self.restart and not self.process:
            raise ValueError("restart=on is for a device with a process of its own")


_LOST = "not for this kind: what its devices hold is lost with their process"


@options
class MortalProcessOptions(ProcessOptions):
    """The process of a device that cannot be replaced."""

    restart: bool = option(False, help=_LOST)

    def __post_init__(self) -> None:
        if self.restart:
            raise ValueError(f"restart=on is {_LOST}")


NO_PROCESS = ProcessOptions(process=False)


def records_of(kind: DeviceKind[Any]) -> Sequence[type[Any]]:
    """The records that the options of a device of ``kind`` fill: the kind's own first."""
    if not kind.process:
        return (kind.options,)
    return (kind.options, ProcessOptions if kind.restartable else MortalProcessOptions)
