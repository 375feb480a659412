"""The header at the start of every packet (virtio 1.2, section 5.10.6)."""

from __future__ import annotations

import struct
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_HEADER: Final = struct.Struct("<QQIIIHHIII")  # struct virtio_vsock_hdr

HEADER_SIZE: Final = _HEADER.size

pack = _HEADER.pack
"""Packs fields into the bytes of a header."""


class Header(NamedTuple):
    """A packet's header, in both directions."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    len: int
    """The size of the payload, in bytes."""

    type: int
    op: int
    flags: int
    buf_alloc: int
    """The size of the sender's receive buffer, used and free, in bytes."""

    fwd_cnt: int
    """The number of bytes that the packet's sender has received and passed on, modulo 2³²."""

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """The header in ``data``, which has :data:`HEADER_SIZE` bytes."""
        return cls._make(_HEADER.unpack(data))
