"""The configuration of a machine."""

from __future__ import annotations

from pyvmm.limits import DEFAULT_MEMORY
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from pyvmm.device_request import DeviceRequest

__all__ = ["MachineConfig"]


@record
class MachineConfig:
    """The parts of a machine: kernel, memory, CPUs, devices."""

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

    devices: Sequence[DeviceRequest] = ()
    discovery: str = "acpi"
    """The way in which the guest finds its virtio devices: ``acpi``, by ACPI tables, or ``cmdline``, by
    virtio_mmio.device=."""
