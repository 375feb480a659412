"""Names and numbers of virtio balloons (virtio 1.2, section 5.5; <linux/virtio_balloon.h>)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Feature bits (section 5.5.3); the specification calls the last one PAGE_REPORTING.
VIRTIO_BALLOON_F_STATS_VQ: Final = 1
VIRTIO_BALLOON_F_DEFLATE_ON_OOM: Final = 2
VIRTIO_BALLOON_F_PAGE_POISON: Final = 4
VIRTIO_BALLOON_F_REPORTING: Final = 5

VIRTIO_BALLOON_PFN_SHIFT: Final = 12
"""The balloon's pages have 4 KiB, whatever the size of the guest's pages."""

# Tags of statistics (section 5.5.6.4).
VIRTIO_BALLOON_S_SWAP_IN: Final = 0
VIRTIO_BALLOON_S_SWAP_OUT: Final = 1
VIRTIO_BALLOON_S_MAJFLT: Final = 2
VIRTIO_BALLOON_S_MINFLT: Final = 3
VIRTIO_BALLOON_S_MEMFREE: Final = 4
VIRTIO_BALLOON_S_MEMTOT: Final = 5
VIRTIO_BALLOON_S_AVAIL: Final = 6
VIRTIO_BALLOON_S_CACHES: Final = 7
VIRTIO_BALLOON_S_HTLB_PGALLOC: Final = 8
VIRTIO_BALLOON_S_HTLB_PGFAIL: Final = 9
