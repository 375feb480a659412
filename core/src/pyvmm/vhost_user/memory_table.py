"""The guest memory that a front end shares, mapped in this process (SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG)."""

from __future__ import annotations

import os

from pyvmm.memory import GuestAddress, GuestMemory, GuestRegion
from pyvmm.vhost_user.connection import close_fds
from pyvmm.vhost_user.protocol import MAX_MEMORY_REGIONS, MemoryRegion, VhostUserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class MemoryTable:
    """Guest memory whose regions are added and removed, and the front end's addresses of the regions.

    A method takes over the descriptors that it is given, also if it raises :class:`VhostUserError`; the table is then
    unchanged.
    """

    def __init__(self) -> None:
        self.regions: tuple[MemoryRegion, ...] = ()
        self.memory: GuestMemory | None = None
        """The same object as long as there is a table. Its regions may change while other code holds it."""

    def set(self, regions: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
        """Replace all regions by ``regions``; each is in the descriptor with the same index."""
        try:
            _check_disjoint(regions)
        except VhostUserError:
            close_fds(fds)
            raise
        mapped = [GuestRegion(region.guest_address, region.size, region.mmap_offset) for region in regions]
        try:
            if self.memory is None:
                self.memory = GuestMemory(fds, mapped)
            else:
                self.memory.replace(fds, mapped)
        except (OSError, ValueError, OverflowError) as error:
            raise VhostUserError(f"guest memory that cannot be mapped: {error}") from error
        self.regions = tuple(regions)

    def add(self, region: MemoryRegion, fd: int) -> None:
        """Add a region."""
        if len(self.regions) >= MAX_MEMORY_REGIONS:
            close_fds([fd])
            raise VhostUserError(f"more than {MAX_MEMORY_REGIONS} memory regions")
        self.set([*self.regions, region], [*self._duplicates(range(len(self.regions))), fd])

    def remove(self, region: MemoryRegion) -> None:
        """Remove the region that has the guest address, user address and size of ``region``."""
        keep = [
            i
            for i, other in enumerate(self.regions)
            if (other.guest_address, other.user_address, other.size)
            != (region.guest_address, region.user_address, region.size)
        ]
        if len(keep) == len(self.regions):
            raise VhostUserError(f"no memory region of {region.size:#x} bytes at {region.guest_address:#x} to remove")
        self.set([self.regions[i] for i in keep], self._duplicates(keep))

    def guest_address(self, user_address: int) -> GuestAddress:
        """The guest address for an address of the front end."""
        for region in self.regions:
            if region.contains_user(user_address):
                return user_address - region.user_address + region.guest_address
        raise VhostUserError(f"an address that is in no memory region: {user_address:#x}")

    def close(self) -> None:
        """Forget all regions and unmap them."""
        if self.memory is not None:
            self.memory.close()
            self.memory = None
        self.regions = ()

    def _duplicates(self, indices: Sequence[int]) -> list[int]:
        fds: list[int] = []
        try:
            for i in indices:
                assert self.memory is not None
                fds.append(os.dup(self.memory.fds[i]))
        except OSError as error:
            close_fds(fds)
            raise VhostUserError(f"no descriptor left for guest memory: {error.strerror}") from error
        return fds


def _check_disjoint(regions: Sequence[MemoryRegion]) -> None:
    end = 0
    for region in sorted(regions, key=lambda region: region.guest_address):
        if region.guest_address < end:
            raise VhostUserError(f"memory regions overlap at {region.guest_address:#x}")
        end = region.guest_address + region.size
