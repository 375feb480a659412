"""Loads a kernel, whichever format its file has."""

from __future__ import annotations

from pyvmm.x86_64.boot import bzimage, elf
from pyvmm.x86_64.boot.image import ImageFile, LoadedKernel, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from pyvmm.memory import GuestMemory


def load(mem: GuestMemory, path: str | os.PathLike[str]) -> LoadedKernel:
    """Load the bzImage or ELF executable at ``path`` into new guest memory.

    Raises :class:`UsageError`, naming the file, for anything that cannot be loaded.
    """
    with ImageFile(path, "kernel") as file:
        head = file.read(0, 1024)
        if elf.is_elf(head):
            return elf.load(mem, file)
        if bzimage.is_bzimage(head):
            return bzimage.load(mem, file)
        raise file.error(f"is {describe(head)}; an x86-64 Linux bzImage (vmlinuz) or ELF vmlinux is wanted")
