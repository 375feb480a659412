"""Requests of a virtio block driver: parsed and checked before they are carried out (virtio 1.2, section 5.2.6)."""

from __future__ import annotations

import struct

from pyvmm_virtio_block.constants import (
    SECTOR_SIZE,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.virtio.queue import DescriptorChain

_HEADER: Final = struct.Struct("<IIQ")
"""struct virtio_blk_outhdr: type, ioprio, sector."""

_SEGMENT: Final = struct.Struct("<QII")
"""struct virtio_blk_discard_write_zeroes: sector, num_sectors, flags."""

HEADER_SIZE: Final = _HEADER.size

MAX_SEGMENTS: Final = 32
"""The most ranges in one DISCARD or WRITE_ZEROES."""

MAX_SEGMENT_SECTORS: Final = 1 << 22
"""The most sectors in such a range: 2 GiB."""


class RequestError(Exception):
    """A request that is refused; ``status`` is the status byte for its driver."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Segment:
    """A range of DISCARD or WRITE_ZEROES, in bytes."""

    def __init__(self, offset: int, length: int, unmap: bool) -> None:
        self.offset = offset
        self.length = length
        self.unmap = unmap


def read_header(chain: DescriptorChain) -> tuple[int, int]:
    """A request's type and sector. Raises :class:`RequestError` if the header is too short."""
    header = chain.read(0, HEADER_SIZE)
    if len(header) < HEADER_SIZE:
        raise RequestError(VIRTIO_BLK_S_IOERR, f"a header of {len(header)} bytes")
    type_, _, sector = _HEADER.unpack(header)
    return type_, sector


def set_status(chain: DescriptorChain, status: int) -> None:
    """Write the status byte, which is the last writable byte, if there is one, and complete the chain."""
    if chain.writable_length:
        chain.writable[-1][-1] = status
    # The length must reach the status byte, since it counts from the first writable byte (section 2.7.8.2).
    chain.complete(chain.writable_length)


def read_segments(chain: DescriptorChain, type_: int, capacity: int) -> list[Segment]:
    """The ranges of a DISCARD or WRITE_ZEROES request, all of them valid, without empty ones."""
    length = chain.readable_length - HEADER_SIZE
    if length == 0 or length % _SEGMENT.size:
        raise RequestError(VIRTIO_BLK_S_IOERR, f"{length} bytes of ranges, which have {_SEGMENT.size} each")
    if length > MAX_SEGMENTS * _SEGMENT.size:
        raise RequestError(VIRTIO_BLK_S_IOERR, f"{length // _SEGMENT.size} ranges, more than {MAX_SEGMENTS}")
    known_flags = 0 if type_ == VIRTIO_BLK_T_DISCARD else VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
    segments = []
    for sector, count, flags in _SEGMENT.iter_unpack(chain.read(HEADER_SIZE, length)):
        if flags & ~known_flags:
            raise RequestError(VIRTIO_BLK_S_UNSUPP, f"a range with flags {flags:#x}")
        if count > MAX_SEGMENT_SECTORS:
            raise RequestError(VIRTIO_BLK_S_IOERR, f"a range of {count} sectors, more than {MAX_SEGMENT_SECTORS}")
        if count == 0 and sector * SECTOR_SIZE <= capacity:
            continue
        _check_range(sector, count * SECTOR_SIZE, capacity)
        segments.append(Segment(sector * SECTOR_SIZE, count * SECTOR_SIZE, bool(flags)))
    return segments


def _check_range(sector: int, length: int, capacity: int) -> None:
    """Raise unless ``length`` bytes from ``sector`` on are whole sectors inside ``capacity`` bytes."""
    if length <= 0 or length % SECTOR_SIZE:
        raise RequestError(VIRTIO_BLK_S_IOERR, f"{length} bytes of data, which is no number of sectors")
    if sector * SECTOR_SIZE + length > capacity:
        raise RequestError(VIRTIO_BLK_S_IOERR, f"{length} bytes at sector {sector}, past the end")
