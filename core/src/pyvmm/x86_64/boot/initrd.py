"""Loads the initial RAM disk (Documentation/arch/x86/boot.rst, ``ramdisk_image`` and ``initrd_addr_max``)."""

from __future__ import annotations

from pyvmm.limits import PAGE_SIZE
from pyvmm.startup.record import record
from pyvmm.x86_64.boot.image import ImageFile, LoadedKernel
from pyvmm.x86_64.layout import MIB, MMIO_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from pyvmm.memory import GuestAddress, GuestMemory


@record
class LoadedInitrd:
    """An initrd in guest memory: ``size`` bytes at ``address``."""

    address: GuestAddress
    size: int


def load(mem: GuestMemory, path: str | os.PathLike[str], kernel: LoadedKernel) -> LoadedInitrd:
    """Load the file at ``path`` as high as the kernel allows, page-aligned, below the hole.

    Its contents are not checked; the kernel does that. Raises :class:`UsageError` if the file cannot be read or does
    not fit above the kernel.
    """
    with ImageFile(path, "initrd") as file:
        end = min(mem.regions[0].end, kernel.initrd_addr_max + 1)
        address = (end - file.size) // PAGE_SIZE * PAGE_SIZE
        if address < kernel.end:
            room = max(end - kernel.end, 0)
            highest = min(MMIO_BASE, kernel.initrd_addr_max + 1)
            needed = -(-kernel.end // PAGE_SIZE) * PAGE_SIZE + -(-file.size // PAGE_SIZE) * PAGE_SIZE
            if needed > highest:
                way_out = f"this kernel takes one up to {highest // MIB} MiB of memory, so make it smaller"
            else:
                way_out = f"give at least {-(-needed // MIB)} MiB with --memory"
            raise file.error(
                f"is too large: {-(-file.size // MIB)} MiB, and behind the kernel {room // MIB} MiB are free; {way_out}"
            )
        file.read_into(mem, address, 0, file.size)
        return LoadedInitrd(address, file.size)
