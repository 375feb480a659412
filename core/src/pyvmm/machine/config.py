"""What a machine is made of."""

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
    """What a machine is made of."""

    kernel: str | os.PathLike[str]
    """A bzImage or an ELF executable."""

    initrd: str | os.PathLike[str] | None = None
    cmdline: str = ""
    """Added to the default command line."""

    memory: int = DEFAULT_MEMORY
    """Bytes: whole pages of 4 KiB."""

    huge_page_size: int = 0
    """Bytes of the host's huge pages that the memory is taken from, 2 MiB or 1 GiB; 0 for the usual pages."""

    join_pages: bool = True
    """Whether the usual pages are made huge ones where the guest comes to use them."""

    memfd: bool = False
    """Whether the memory is a memfd also where none of ``devices`` needs that: for a program that hands it to another
    process, or adds a device with ``needs_memfd``."""

    cpus: int = 1
    """1 to :data:`pyvmm.limits.MAX_CPUS`, 64."""

    devices: Sequence[DeviceRequest] = ()
    discovery: str = "acpi"
    """How the guest finds its virtio devices: ``acpi``, in ACPI's tables, or ``cmdline``, by virtio_mmio.device=."""
