"""A guest's memory statistics (virtio 1.2, section 5.5.6.3)."""

from __future__ import annotations

import struct

from pyvmm_virtio_balloon import constants as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

NAMES: Final = {
    c.VIRTIO_BALLOON_S_SWAP_IN: "swap_in",
    c.VIRTIO_BALLOON_S_SWAP_OUT: "swap_out",
    c.VIRTIO_BALLOON_S_MAJFLT: "major_faults",
    c.VIRTIO_BALLOON_S_MINFLT: "minor_faults",
    c.VIRTIO_BALLOON_S_MEMFREE: "free_memory",
    c.VIRTIO_BALLOON_S_MEMTOT: "total_memory",
    c.VIRTIO_BALLOON_S_AVAIL: "available_memory",
    c.VIRTIO_BALLOON_S_CACHES: "disk_caches",
    c.VIRTIO_BALLOON_S_HTLB_PGALLOC: "hugetlb_allocations",
    c.VIRTIO_BALLOON_S_HTLB_PGFAIL: "hugetlb_failures",
}
"""The name of each tag. Memory and swap are in bytes, the others are counts."""

_STAT: Final = struct.Struct("<HQ")
"""struct virtio_balloon_stat."""

MAX_BYTES: Final = 64 * _STAT.size
"""The most bytes that are read; no driver sends so many."""


def parse(data: bytes) -> dict[str, int]:
    """The known statistics, by name. Unknown ones, which may come one day (section 5.5.6.3.1), are left out."""
    whole = len(data) // _STAT.size * _STAT.size
    return {NAMES[tag]: value for tag, value in _STAT.iter_unpack(data[:whole]) if tag in NAMES}
