"""The header that every packet begins with (virtio 1.2, section 5.10.6)."""

from __future__ import annotations

import struct
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_HEADER: Final = struct.Struct("<QQIIIHHIII")  # struct virtio_vsock_hdr

HEADER_SIZE: Final = _HEADER.size

pack = _HEADER.pack
"""The bytes of a header with these fields."""


class Header(NamedTuple):
    """A packet's header, as either side has it."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    len: int
    """Bytes of the payload."""

    type: int
    op: int
    flags: int
    buf_alloc: int
    """Bytes that the sender of the packet has room for, taken or free."""

    fwd_cnt: int
    """Bytes that the sender of the packet has received and passed on, modulo 2³²."""

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """The header that ``data``, of :data:`HEADER_SIZE` bytes, is."""
        return cls._make(_HEADER.unpack(data))
