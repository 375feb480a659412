"""The configuration of a machine."""

from __future__ import annotations

import os

from pyvmm.errors import UsageError, nearest
from pyvmm.limits import DEFAULT_MEMORY, MAX_CPUS
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

    from pyvmm.device_request import DeviceRequest

__all__ = ["MachineConfig"]


_TYPES: Final = {
    "initrd": ((str, os.PathLike, type(None)), "a path or None"),
    "kernel": ((str, os.PathLike), "a path"),
    "cmdline": ((str,), "a text"),
    "memory": ((int,), "a number of bytes, such as 1 << 30 for 1 GiB"),
    "huge_page_size": ((int,), "a number of bytes"),
    "join_pages": ((bool,), "True or False"),
    "memfd": ((bool,), "True or False"),
    "cpus": ((int,), "a number"),
    "discovery": ((str,), "a text"),
    "name": ((str,), "a text"),
}
"""The types of each field's values, and their names for messages."""

DISCOVERY: Final = ("acpi", "cmdline")

MAX_NAME: Final = 64
"""The most characters of a machine's name."""


@record
class MachineConfig:
    """The parts of a machine: kernel, memory, CPUs, devices.

    Raises :class:`~pyvmm.errors.UsageError`, which names the field, for a value that no machine can have, and TypeError
    for a field that does not exist.
    """

    kernel: str | os.PathLike[str]
    """A bzImage or an ELF executable."""

    initrd: str | os.PathLike[str] | None = None
    cmdline: str = ""
    """Added to the default command line."""

    memory: int = DEFAULT_MEMORY
    """Bytes: whole pages of 4 KiB."""

    huge_page_size: int = 0
    """The size of the host's reserved huge pages to use, in bytes, 2 MiB or 1 GiB; 0 for normal pages."""

    join_pages: bool = True
    """Whether normal pages become huge pages where the guest uses them."""

    memfd: bool = False
    """Whether the memory is a memfd even if none of ``devices`` needs one. A program needs this if it hands the memory
    to another process, or adds a device with ``needs_memfd``."""

    cpus: int = 1
    """1 to :data:`pyvmm.limits.MAX_CPUS`, 64."""

    devices: Sequence[str | DeviceRequest | Any] = ()
    """The devices. Each is a text as on the command line, such as ``"block:disk.img,ro"``; or a record of options of an
    installed kind, such as ``BlockOptions("disk.img", ro=True)``; or a :class:`~pyvmm.plugins.DeviceRequest`. A machine
    has no other devices."""

    discovery: str = "acpi"
    """The way in which the guest finds its virtio devices: ``acpi``, by ACPI tables, or ``cmdline``, by
    virtio_mmio.device=."""

    name: str = ""
    """The machine's name: letters, digits, ``-``, ``_`` and ``.``, the first one a letter or a digit. Log lines of its
    devices begin with it: ``web/net0``. A program that runs several machines gives each one a name."""

    def __post_init__(self) -> None:
        for field, (types, what) in _TYPES.items():
            value = getattr(self, field)
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise UsageError(f"{field}: {value!r} is not {what}")
        if isinstance(self.devices, str | bytes) or not hasattr(self.devices, "__iter__"):
            raise UsageError(f'devices: {self.devices!r} is not a list; give one, such as ["block:disk.img"]')
        if not 1 <= self.cpus <= MAX_CPUS:
            raise UsageError(f"cpus: {self.cpus} are not 1 to {MAX_CPUS}")
        if self.discovery not in DISCOVERY:
            hint = nearest(self.discovery, DISCOVERY)
            raise UsageError(f"discovery: {self.discovery!r} is not one of {', '.join(DISCOVERY)}{hint}")
        plain = self.name.replace("-", "").replace("_", "").replace(".", "")
        if self.name and not (plain.isascii() and plain.isalnum() and self.name[0].isalnum()):
            raise UsageError(
                f"name: {self.name!r} may have letters, digits, - _ and . and begins with a letter or a digit"
            )
        if len(self.name) > MAX_NAME:
            raise UsageError(f"name: {self.name!r} has more than {MAX_NAME} characters")
