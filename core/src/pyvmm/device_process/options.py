"""The options of every virtio device, besides those of its kind: the process in which the device runs."""

from __future__ import annotations

from pyvmm.options.records import option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from pyvmm.plugin import DeviceKind


@options
class ProcessOptions:
    """Options for a device's process."""

    process: Literal["auto", "on", "off"] = option(
        "auto",
        help="run the device in a process of its own; auto: on a host with one CPU only if the device needs the GIL",
    )
    restart: bool = option(
        False, help="replace the device's process if it dies: requests continue, its state in memory is lost"
    )

    def __post_init__(self) -> None:
        if self.restart and self.process == "off":
            raise ValueError("restart=on needs a process of the device's own; leave out process=off")

    def own_process(self, kind: DeviceKind[Any]) -> bool:
        """Whether a device of ``kind`` gets a process.

        With one CPU, a device that does not need the GIL gains nothing from it, and switching processes takes longer
        than switching threads.
        """
        if self.process != "auto":
            return self.process == "on"
        if self.restart or not kind.gil_free:
            return True
        from pyvmm.host import cpus

        return cpus.has_several()


_LOST = "not for this kind: its devices' state would be lost with their process"


@options
class MortalProcessOptions(ProcessOptions):
    """Options for the process of a device that cannot be replaced."""

    restart: bool = option(False, help=_LOST)

    def __post_init__(self) -> None:
        if self.restart:
            raise ValueError(f"restart=on is {_LOST}")


NO_PROCESS = ProcessOptions(process="off")


def records_of(kind: DeviceKind[Any]) -> Sequence[type[Any]]:
    """The records of the options of a device of ``kind``, the kind's own first."""
    if not kind.process:
        return (kind.options,)
    return (kind.options, ProcessOptions if kind.restartable else MortalProcessOptions)
