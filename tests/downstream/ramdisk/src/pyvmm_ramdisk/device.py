"""A disk in memory, as a virtio block device (virtio 1.2, section 5.2)."""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, Final

from pyvmm.virtio.constants import VIRTIO_ID_BLOCK
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.queue import DescriptorChain, Queue

from pyvmm_ramdisk import SECTOR

if TYPE_CHECKING:
    from pyvmm_ramdisk import RamDiskOptions

# <linux/virtio_blk.h>
VIRTIO_BLK_T_IN: Final = 0
VIRTIO_BLK_T_OUT: Final = 1
VIRTIO_BLK_T_GET_ID: Final = 8
VIRTIO_BLK_S_OK: Final = 0
VIRTIO_BLK_S_IOERR: Final = 1
VIRTIO_BLK_S_UNSUPP: Final = 2
VIRTIO_BLK_ID_BYTES: Final = 20

HEADER: Final = struct.Struct("<IIQ")
"""Type, reserved, sector: struct virtio_blk_outhdr."""


class RamDisk(VirtioDevice):
    """Sectors in anonymous memory: the host has pages for those that were written."""

    device_type = VIRTIO_ID_BLOCK
    queue_max_sizes = (128,)

    def __init__(self, options: RamDiskOptions) -> None:
        self.size = int(options.size)
        self.config = struct.pack("<Q", self.size // SECTOR)
        self.storage = mmap.mmap(-1, self.size)
        if options.fill:
            text = options.fill.encode()
            self.storage[:] = (text * (self.size // len(text) + 1))[: self.size]

    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            self.serve(chain)

    def serve(self, chain: DescriptorChain) -> None:
        """Do one request: a header to read, data, and a last byte to write, the status."""
        room = chain.writable_length - 1  # for what is read from the disk
        header = chain.read(0, HEADER.size)
        if room < 0:
            chain.complete(0)  # there is nowhere to say anything
            return
        if len(header) < HEADER.size:
            self.finish(chain, 0, VIRTIO_BLK_S_IOERR)
            return
        kind, _, sector = HEADER.unpack(header)
        start = sector * SECTOR
        if kind == VIRTIO_BLK_T_IN:
            if room % SECTOR or start + room > self.size:
                self.finish(chain, 0, VIRTIO_BLK_S_IOERR)
                return
            with memoryview(self.storage) as storage, storage[start : start + room] as part:
                self.finish(chain, chain.write(0, part), VIRTIO_BLK_S_OK)
        elif kind == VIRTIO_BLK_T_OUT:
            length = chain.readable_length - HEADER.size
            if room or length % SECTOR or start + length > self.size:
                self.finish(chain, 0, VIRTIO_BLK_S_IOERR)
                return
            for view in chain.readable_views(HEADER.size, length):
                self.storage[start : start + len(view)] = view
                start += len(view)
            self.finish(chain, 0, VIRTIO_BLK_S_OK)
        elif kind == VIRTIO_BLK_T_GET_ID:
            identity = self.name.encode()[:VIRTIO_BLK_ID_BYTES].ljust(VIRTIO_BLK_ID_BYTES, b"\0")
            self.finish(chain, chain.write(0, identity[:room]), VIRTIO_BLK_S_OK)
        else:
            self.finish(chain, 0, VIRTIO_BLK_S_UNSUPP)

    def finish(self, chain: DescriptorChain, written: int, status: int) -> None:
        """Give the request back with its status, which is the last of its bytes to write."""
        chain.write(chain.writable_length - 1, bytes([status]))
        chain.complete(chain.writable_length if written == chain.writable_length - 1 else written)

    def close(self) -> None:
        self.storage.close()
