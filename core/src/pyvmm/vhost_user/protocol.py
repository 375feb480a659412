"""The messages of vhost-user: numbers, flags and payloads (QEMU's docs/interop/vhost-user.rst, as of QEMU 9).

No header of the kernel or of a standard library defines them, so the numbers are written here by hand, under the
specification's names. Numbers on the wire have the machine's byte order, which here is little-endian.

Each ``unpack`` checks size and fields and raises :class:`VhostUserError`.
"""

from __future__ import annotations

import struct

from pyvmm.errors import HostError
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = ["DisconnectedError", "Number", "ProtocolFeature", "VhostUserError"]

VHOST_USER_VERSION: Final = 1
VERSION_MASK: Final = 0x3
REPLY: Final = 1 << 2
"""Header flag: the message answers a request."""

NEED_REPLY: Final = 1 << 3
"""Header flag: with REPLY_ACK negotiated, the receiver answers with a u64, 0 for success."""

MAX_PAYLOAD: Final = 4096
"""The largest accepted payload, in bytes. The largest payload of the messages here is a memory table of 264 bytes."""

MAX_FDS: Final = 8
"""The most file descriptors in one message (VHOST_USER_SET_MEM_TABLE; "at most 8 descriptors in each message")."""

MAX_MEMORY_REGIONS: Final = 8
"""The most regions in a memory table ("Memory regions description": region0 to region7)."""

MAX_CONFIG_SIZE: Final = 256
"""The most bytes of configuration space in one message, as in QEMU's front end (VHOST_USER_MAX_CONFIG_SIZE)."""

MAX_VRINGS: Final = 256
"""The most rings: in messages that carry a ring's descriptors, its index is bits 0 to 7."""

VHOST_USER_F_PROTOCOL_FEATURES: Final = 30
"""Feature bit: GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES are supported, and rings are disabled at first."""

VHOST_F_LOG_ALL: Final = 26
"""Feature bit: writes to guest memory are logged, for migration (<linux/vhost_types.h>)."""

VRING_INVALID_FD: Final = 1 << 8
"""In the payload of SET_VRING_KICK, _CALL and _ERR: the message carries no descriptor; the ring is polled."""

INFLIGHT_ALIGNMENT: Final = 64
"""The alignment of the regions of an inflight buffer, in bytes, as in other back ends."""


class VhostUserError(HostError):
    """The other side of a vhost-user socket broke the protocol, did not answer in time, or has disconnected."""


class DisconnectedError(VhostUserError):
    """The other side has disconnected."""


class Number(int):
    """A number that knows its name in its class. It does what this module needs of an IntEnum's member, and is made in
    a tenth of the time."""

    name: str

    def __set_name__(self, owner: type[object], name: str) -> None:
        self.name = name

    @property
    def mask(self) -> int:
        """The number as a bit mask: ``1 << self``."""
        return 1 << self


class ProtocolFeature:
    """Bits of GET_PROTOCOL_FEATURES ("Protocol features"), by their names there after ``VHOST_USER_PROTOCOL_F_``."""

    MQ = Number(0)
    LOG_SHMFD = Number(1)
    RARP = Number(2)
    REPLY_ACK = Number(3)
    MTU = Number(4)
    BACKEND_REQ = Number(5)
    CROSS_ENDIAN = Number(6)
    CRYPTO_SESSION = Number(7)
    PAGEFAULT = Number(8)
    CONFIG = Number(9)
    BACKEND_SEND_FD = Number(10)
    HOST_NOTIFIER = Number(11)
    INFLIGHT_SHMFD = Number(12)
    RESET_DEVICE = Number(13)
    INBAND_NOTIFICATIONS = Number(14)
    CONFIGURE_MEM_SLOTS = Number(15)
    STATUS = Number(16)


class FrontendRequest:
    """Requests of a front end to a back end ("Front-end message types": VHOST_USER_…)."""

    GET_FEATURES = Number(1)
    SET_FEATURES = Number(2)
    SET_OWNER = Number(3)
    RESET_OWNER = Number(4)
    SET_MEM_TABLE = Number(5)
    SET_LOG_BASE = Number(6)
    SET_LOG_FD = Number(7)
    SET_VRING_NUM = Number(8)
    SET_VRING_ADDR = Number(9)
    SET_VRING_BASE = Number(10)
    GET_VRING_BASE = Number(11)
    SET_VRING_KICK = Number(12)
    SET_VRING_CALL = Number(13)
    SET_VRING_ERR = Number(14)
    GET_PROTOCOL_FEATURES = Number(15)
    SET_PROTOCOL_FEATURES = Number(16)
    GET_QUEUE_NUM = Number(17)
    SET_VRING_ENABLE = Number(18)
    SEND_RARP = Number(19)
    NET_SET_MTU = Number(20)
    SET_BACKEND_REQ_FD = Number(21)
    IOTLB_MSG = Number(22)
    SET_VRING_ENDIAN = Number(23)
    GET_CONFIG = Number(24)
    SET_CONFIG = Number(25)
    CREATE_CRYPTO_SESSION = Number(26)
    CLOSE_CRYPTO_SESSION = Number(27)
    POSTCOPY_ADVISE = Number(28)
    POSTCOPY_LISTEN = Number(29)
    POSTCOPY_END = Number(30)
    GET_INFLIGHT_FD = Number(31)
    SET_INFLIGHT_FD = Number(32)
    GPU_SET_SOCKET = Number(33)
    RESET_DEVICE = Number(34)
    VRING_KICK = Number(35)
    GET_MAX_MEM_SLOTS = Number(36)
    ADD_MEM_REG = Number(37)
    REM_MEM_REG = Number(38)
    SET_STATUS = Number(39)
    GET_STATUS = Number(40)


class BackendRequest:
    """Requests of a back end to a front end, on the socket of SET_BACKEND_REQ_FD ("Back-end message types")."""

    IOTLB_MSG = Number(1)
    CONFIG_CHANGE_MSG = Number(2)
    VRING_HOST_NOTIFIER_MSG = Number(3)
    VRING_CALL = Number(4)
    VRING_ERR = Number(5)


class ConfigFlags:
    """The reasons for which a front end accesses the configuration space ("Virtio device config space")."""

    WRITABLE = Number(0)
    LIVE_MIGRATION = Number(1)


def request_name(request: int, numbers: type[FrontendRequest] | type[BackendRequest] = FrontendRequest) -> str:
    """A request's name for messages: ``SET_VRING_NUM``, ``request 77``."""
    for name, number in vars(numbers).items():
        if isinstance(number, Number) and number == request:
            return name
    return f"request {request}"


_HEADER: Final = struct.Struct("=III")
_U64: Final = struct.Struct("=Q")
_VRING_STATE: Final = struct.Struct("=II")
_VRING_ADDR: Final = struct.Struct("=IIQQQQ")
_REGION: Final = struct.Struct("=QQQQ")
_TABLE: Final = struct.Struct("=I4x")
_SINGLE_REGION: Final = struct.Struct("=8xQQQQ")
_CONFIG: Final = struct.Struct("=III")
_INFLIGHT: Final = struct.Struct("=QQHH")

_MAX_ADDRESS: Final = 1 << 64


@record
class Header:
    """The 12 bytes before each payload."""

    request: int
    flags: int
    size: int
    """Bytes of the payload, 0 to :data:`MAX_PAYLOAD`."""

    SIZE = _HEADER.size

    def pack(self) -> bytes:
        """As bytes."""
        return _HEADER.pack(self.request, self.flags, self.size)

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """From bytes: version 1, and a payload that is not too large."""
        request, flags, size = _unpack(_HEADER, data, "a header")
        if flags & VERSION_MASK != VHOST_USER_VERSION:
            raise VhostUserError(f"a message of version {flags & VERSION_MASK}, not {VHOST_USER_VERSION}")
        if size > MAX_PAYLOAD:
            raise VhostUserError(f"a payload of {size} bytes, more than {MAX_PAYLOAD}")
        return cls(request, flags, size)


def pack_u64(value: int) -> bytes:
    """A single 64-bit integer."""
    return _U64.pack(value)


def unpack_u64(data: bytes) -> int:
    """A single 64-bit integer."""
    return int(_unpack(_U64, data, "a u64")[0])


@record
class VringState:
    """A vring state description: of SET_VRING_NUM, _BASE, _ENABLE, GET_VRING_BASE."""

    index: int
    num: int

    def pack(self) -> bytes:
        """As bytes."""
        return _VRING_STATE.pack(self.index, self.num)

    @classmethod
    def unpack(cls, data: bytes) -> VringState:
        """From bytes."""
        return cls(*_unpack(_VRING_STATE, data, "a vring state"))


@record
class VringAddr:
    """A vring address description: of SET_VRING_ADDR. Ring addresses are the front end's own, not the guest's."""

    index: int
    flags: int
    descriptor: int
    used: int
    available: int
    log: int = 0

    def pack(self) -> bytes:
        """As bytes."""
        return _VRING_ADDR.pack(self.index, self.flags, self.descriptor, self.used, self.available, self.log)

    @classmethod
    def unpack(cls, data: bytes) -> VringAddr:
        """From bytes."""
        return cls(*_unpack(_VRING_ADDR, data, "a vring address"))


@record
class VringFd:
    """The u64 payload of SET_VRING_KICK, _CALL and _ERR."""

    index: int
    """0 to 255."""

    has_fd: bool = True
    """Whether the message carries a descriptor. If not, the ring is polled."""

    def pack(self) -> bytes:
        """As bytes."""
        return pack_u64(self.index | (0 if self.has_fd else VRING_INVALID_FD))

    @classmethod
    def unpack(cls, data: bytes) -> VringFd:
        """From bytes."""
        value = unpack_u64(data)
        if value >= 2 * VRING_INVALID_FD:
            raise VhostUserError(f"a ring's descriptor with unknown bits: {value:#x}")
        return cls(value & 0xFF, not value & VRING_INVALID_FD)


@record
class MemoryRegion:
    """One region of guest memory: of SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG. All in bytes."""

    guest_address: int
    size: int
    user_address: int
    """The address at which the front end has mapped the region. SET_VRING_ADDR uses such addresses."""

    mmap_offset: int
    """The region's offset in its descriptor, in bytes."""

    def pack(self) -> bytes:
        """As a "single memory region description"."""
        return _SINGLE_REGION.pack(self.guest_address, self.size, self.user_address, self.mmap_offset)

    @classmethod
    def unpack(cls, data: bytes) -> MemoryRegion:
        """From a "single memory region description"."""
        return cls(*_unpack(_SINGLE_REGION, data, "a memory region"))._checked()

    def contains_user(self, address: int) -> bool:
        """Whether ``address``, an address of the front end, is in the region."""
        return self.user_address <= address < self.user_address + self.size

    def _checked(self) -> MemoryRegion:
        if not self.size:
            raise VhostUserError(f"a memory region of no size at {self.guest_address:#x}")
        for start in (self.guest_address, self.user_address, self.mmap_offset):
            if start + self.size > _MAX_ADDRESS:
                raise VhostUserError(f"a memory region beyond 2⁶⁴: {self.size:#x} bytes at {start:#x}")
        return self


def pack_memory_table(regions: Sequence[MemoryRegion]) -> bytes:
    """A memory regions description, of up to 8 regions."""
    if len(regions) > MAX_MEMORY_REGIONS:
        raise ValueError(f"{len(regions)} memory regions, more than {MAX_MEMORY_REGIONS}")
    packed = [_REGION.pack(r.guest_address, r.size, r.user_address, r.mmap_offset) for r in regions]
    return _TABLE.pack(len(regions)) + b"".join(packed)


def unpack_memory_table(data: bytes) -> list[MemoryRegion]:
    """The regions of a memory regions description."""
    if len(data) < _TABLE.size:
        raise VhostUserError(f"a memory table of {len(data)} bytes")
    (count,) = _TABLE.unpack_from(data)
    if count > MAX_MEMORY_REGIONS:
        raise VhostUserError(f"{count} memory regions, more than {MAX_MEMORY_REGIONS}")
    # A front end may send its whole array, used or not.
    if len(data) not in (_TABLE.size + _REGION.size * count, _TABLE.size + _REGION.size * MAX_MEMORY_REGIONS):
        raise VhostUserError(f"a memory table of {len(data)} bytes for {count} regions")
    offsets = range(_TABLE.size, _TABLE.size + _REGION.size * count, _REGION.size)
    return [MemoryRegion(*_REGION.unpack_from(data, offset))._checked() for offset in offsets]


@record
class ConfigSpace:
    """A virtio device config space: of GET_CONFIG and SET_CONFIG."""

    offset: int
    data: bytes
    """The contents. In a request of GET_CONFIG, only the length counts: the number of bytes wanted."""

    flags: int = ConfigFlags.WRITABLE

    def pack(self) -> bytes:
        """As bytes."""
        return _CONFIG.pack(self.offset, len(self.data), self.flags) + self.data

    @classmethod
    def unpack(cls, data: bytes) -> ConfigSpace:
        """From bytes."""
        if len(data) < _CONFIG.size:
            raise VhostUserError(f"a config space of {len(data)} bytes")
        offset, size, flags = _CONFIG.unpack_from(data)
        if size != len(data) - _CONFIG.size:
            raise VhostUserError(f"a config space that says {size} bytes and has {len(data) - _CONFIG.size}")
        if size > MAX_CONFIG_SIZE or offset > MAX_CONFIG_SIZE - size:
            raise VhostUserError(f"{size} bytes at {offset} of a config space of {MAX_CONFIG_SIZE}")
        if flags not in (ConfigFlags.WRITABLE, ConfigFlags.LIVE_MIGRATION):
            raise VhostUserError(f"a config space with flags {flags:#x}")
        return cls(offset, data[_CONFIG.size :], flags)


@record
class Inflight:
    """An inflight description: of GET_INFLIGHT_FD and SET_INFLIGHT_FD."""

    mmap_size: int
    """Bytes of the area; 0 in a request of GET_INFLIGHT_FD."""

    mmap_offset: int
    """The area's offset in its descriptor, in bytes."""

    num_queues: int
    queue_size: int

    def pack(self) -> bytes:
        """As 24 bytes: the C structure with its padding."""
        return _INFLIGHT.pack(self.mmap_size, self.mmap_offset, self.num_queues, self.queue_size) + bytes(4)

    @classmethod
    def unpack(cls, data: bytes) -> Inflight:
        """From 24 bytes, or from 20, which is the sum of the specification's fields."""
        record = cls(*_unpack(_INFLIGHT, data[:-4] if len(data) == _INFLIGHT.size + 4 else data, "an inflight area"))
        if record.mmap_offset + record.mmap_size > _MAX_ADDRESS:
            raise VhostUserError(f"an inflight area beyond 2⁶⁴: {record.mmap_size:#x} bytes at {record.mmap_offset:#x}")
        return record


def _unpack(layout: struct.Struct, data: bytes, what: str) -> tuple[int, ...]:
    if len(data) != layout.size:
        raise VhostUserError(f"{what} of {len(data)} bytes, not {layout.size}")
    return layout.unpack(data)
