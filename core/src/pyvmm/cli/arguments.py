"""What the command ``pyvmm`` is told, and how the usual ways to tell it are read without click.

click takes longer to import than a machine to be made, and is needed for help, for completion and to say what is
wrong. So a command line that is right is read here, and any other, in part or in whole, by
:mod:`pyvmm.cli.main_command`, which declares the same options.
"""

from __future__ import annotations

from pyvmm.errors import UsageError
from pyvmm.memory_option import MemoryOption, parse_memory
from pyvmm.options import DeviceSpec, parse_device
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

DISCOVERIES: Final = ("acpi", "cmdline")
MAX_CPUS: Final = 8
DEFAULT_MEMORY: Final = "256M"


@record
class Arguments:
    """The command's options; see its help."""

    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = ""
    memory: MemoryOption = parse_memory(DEFAULT_MEMORY)
    cpus: int = 1
    devices: Sequence[DeviceSpec] = ()
    no_default_devices: bool = False
    disabled: Sequence[str] = ()
    discovery: str = "acpi"
    trace_startup: bool = False
    verbose: int = 0


def _cpus(text: str) -> int:
    cpus = int(text)
    if not 1 <= cpus <= MAX_CPUS:
        raise ValueError
    return cpus


def _discovery(text: str) -> str:
    if text not in DISCOVERIES:
        raise ValueError
    return text


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "kernel": str,
    "initrd": str,
    "cmdline": str,
    "memory": parse_memory,
    "cpus": _cpus,
    "discovery": _discovery,
}
_FLAGS: Final = ("no_default_devices", "trace_startup")


def read(words: Sequence[str]) -> Arguments | None:
    """The arguments that ``words`` are, where all of them are known and right; else None."""
    values: dict[str, Any] = {}
    devices: list[DeviceSpec] = []
    disabled: list[str] = []
    rest = iter(words)
    try:
        for word in rest:
            name, equals, text = word.partition("=")
            if not name.startswith("--"):
                if not name.startswith("-v") or word.strip("v") != "-":
                    return None
                values["verbose"] = values.get("verbose", 0) + len(word) - 1
                continue
            name = name[2:].replace("_", ".").replace("-", "_")  # an underscore is in no option's name
            if name in _FLAGS and not equals:
                values[name] = True
            elif name == "verbose" and not equals:
                values["verbose"] = values.get("verbose", 0) + 1
            elif name == "device":
                devices.append(parse_device(text if equals else next(rest)))
            elif name == "no_plugin":
                disabled.append(text if equals else next(rest))
            else:
                values[name] = _READERS[name](text if equals else next(rest))
    except (KeyError, StopIteration, ValueError, UsageError):
        return None
    return Arguments(devices=devices, disabled=tuple(disabled), **values)
