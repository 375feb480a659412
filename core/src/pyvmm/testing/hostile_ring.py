"""The ways in which a driver can break a split ring's rules on purpose (virtio 1.2, section 2.7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyvmm._native import lib
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import (
    VRING_DESC_F_INDIRECT,
    VRING_DESC_F_NEXT,
    VRING_DESC_F_WRITE,
    Descriptor,
    DriverRing,
)
from pyvmm.x86_64.layout import MMIO_BASE

__all__ = [
    "CHAINS",
    "HEAD_TWICE",
    "HOLE_END",
    "INDIRECT",
    "MEMORY_SIZE",
    "NEXT",
    "PLACEMENTS",
    "WRITE",
    "Misbehaviour",
    "memory_with_hole",
]

MEMORY_SIZE: Final = 32 << 20
"""The size of the RAM from 0 on, before the hole, in bytes."""

HOLE_END: Final = 1 << 32
"""The address at which RAM continues after the hole."""

_ABOVE: Final = 1 << 20
_LAST_PAGE: Final = (1 << 64) - 4096
_MAX_CHAIN: Final[int] = lib.PYVMM_MAX_CHAIN

NEXT: Final = VRING_DESC_F_NEXT
WRITE: Final = VRING_DESC_F_WRITE
INDIRECT: Final = VRING_DESC_F_INDIRECT


def memory_with_hole() -> GuestMemory:
    """Memory for hostile drivers: RAM from 0 on and from 4 GiB on, with a hole in between."""
    return GuestMemory.create([(0, MEMORY_SIZE), (HOLE_END, _ABOVE)])


@dataclass(frozen=True)
class Misbehaviour:
    """One way to break the rules."""

    name: str
    """A short name for the mistake."""

    rule: str
    """The device's message in the log."""

    act: Callable[[DriverRing], None]
    """Makes the mistake: in a ring's size and place before the device knows the ring, or in the content of a ring in
    use."""

    min_size: int = 1
    """The least size of a ring in which the mistake can be made."""

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def _size(size: Callable[[int], int]) -> Callable[[DriverRing], None]:
    def act(ring: DriverRing) -> None:
        ring.size = size(ring.size)

    return act


def _move(part: str, address: Callable[[DriverRing], int]) -> Callable[[DriverRing], None]:
    def act(ring: DriverRing) -> None:
        setattr(ring, part, address(ring))

    return act


def _move_to(part: str, address: int) -> Callable[[DriverRing], None]:
    return lambda ring: setattr(ring, part, address)


_SIZE: Final = "the queue's size is 0, not a power of two or above the maximum"
_ALIGNMENT: Final = "descriptor table, available or used ring is misaligned"
_ADDRESS: Final = "descriptor table, available or used ring is not in guest memory"
_OVERLAP: Final = "descriptor table, available and used ring overlap"

_PARTS: Final = (("descriptor_table", 16), ("available_ring", 2), ("used_ring", 4))


def _placements() -> list[Misbehaviour]:
    found = []
    for part, alignment in _PARTS:
        name = part.replace("_", " ")

        def inside(ring: DriverRing, part: str = part, shift: int = alignment // 2) -> int:
            return int(getattr(ring, part)) + shift

        found += [
            Misbehaviour(f"{name} misaligned", _ALIGNMENT, _move(part, inside)),
            Misbehaviour(f"{name} outside RAM", _ADDRESS, _move_to(part, MMIO_BASE)),
            Misbehaviour(f"{name} across the hole", _ADDRESS, _move_to(part, MEMORY_SIZE - alignment), min_size=2),
            Misbehaviour(f"{name} past the end of RAM", _ADDRESS, _move_to(part, HOLE_END + _ABOVE)),
            Misbehaviour(f"{name} wraps the address space", _ADDRESS, _move_to(part, 2**64 - alignment)),
        ]
    return found


PLACEMENTS: Final = (
    Misbehaviour("size 0", _SIZE, _size(lambda size: 0)),
    Misbehaviour("size not a power of two", _SIZE, _size(lambda size: 3 if size > 3 else 3 * size)),
    Misbehaviour("size above the maximum", _SIZE, _size(lambda size: 2 * size)),
    Misbehaviour("size far above the maximum", _SIZE, _size(lambda size: 0xFFFF_FFFF)),
    *_placements(),
    Misbehaviour("available ring in the table", _OVERLAP, _move("available_ring", lambda ring: ring.descriptor_table)),
    Misbehaviour("used ring in the table", _OVERLAP, _move("used_ring", lambda ring: ring.descriptor_table)),
    Misbehaviour("used ring in the available ring", _OVERLAP, _move("available_ring", lambda ring: ring.used_ring)),
)
"""Mistakes in a ring's size and place. Each is made before the device knows the ring."""


def _buffer(ring: DriverRing, length: int = 64) -> int:
    return ring.buffer(length).address


def _direct(*make: Callable[[DriverRing], Descriptor], head: int = 0) -> Callable[[DriverRing], None]:
    """A chain whose descriptors are in the ring's own table."""
    return lambda ring: ring.submit(*(one(ring) for one in make), head=head)


def _indirect(*make: Callable[[DriverRing], Descriptor]) -> Callable[[DriverRing], None]:
    """A chain whose descriptors are in a table of its own."""

    def act(ring: DriverRing) -> None:
        table = ring.write_table(*(one(ring) for one in make))
        ring.submit(Descriptor(table.address, table.length, INDIRECT))

    return act


def _with(flags: int = 0, next: int = 0, length: int = 64) -> Callable[[DriverRing], Descriptor]:
    """A correct buffer, in a descriptor that may be wrong."""
    return lambda ring: Descriptor(_buffer(ring, length), length, flags, next)


def _at(address: int, length: int, flags: int = 0) -> Callable[[DriverRing], Descriptor]:
    return lambda ring: Descriptor(address, length, flags)


def _table(
    length: Callable[[DriverRing], int], flags: int = 0, address: int | None = None
) -> Callable[[DriverRing], None]:
    """An indirect table of any length or at any address, filled with correct descriptors."""

    def act(ring: DriverRing) -> None:
        size = length(ring)
        room = ring.write_table(*[Descriptor(ring.heap.start, 16, NEXT, 0)] * (size // 16 + 1))
        ring.submit(Descriptor(room.address if address is None else address, size, INDIRECT | flags))

    return act


def _long_indirect(entries: int, loops: bool) -> Callable[[DriverRing], None]:
    def act(ring: DriverRing) -> None:
        address = _buffer(ring)
        last = Descriptor(address, 1, NEXT if loops else 0, 0)
        table = ring.write_table(*(Descriptor(address, 1, NEXT, at) for at in range(1, entries)), last)
        ring.submit(Descriptor(table.address, table.length, INDIRECT))

    return act


def _too_much(ring: DriverRing) -> None:
    """A chain of 4 GiB, which contains all RAM several times."""
    count = (1 << 32) // MEMORY_SIZE
    whole = (Descriptor(0, MEMORY_SIZE, WRITE | NEXT, at) for at in range(1, count))
    table = ring.write_table(*whole, Descriptor(0, MEMORY_SIZE, WRITE))
    ring.submit(Descriptor(table.address, table.length, INDIRECT))


def _far_index(ring: DriverRing) -> None:
    ring.submit(Descriptor(_buffer(ring), 64))
    ring.avail_idx += ring.size


def _index_goes_back(ring: DriverRing) -> None:
    ring.avail_idx -= 1


def _twice(ring: DriverRing) -> None:
    """The same head in a second entry. If the device gives the first one back immediately, that is no mistake."""
    ring.submit(Descriptor(_buffer(ring), 64, WRITE))
    ring.make_available(0)


_CHAIN: Final = "a chain loops or is too long"
_NEXT: Final = "a next field is outside the descriptor table"
_HEAD: Final = "the head of a chain is outside the descriptor table"
_BUFFER: Final = "a buffer is not in guest memory"
_TABLE_SIZE: Final = "an indirect table is empty, of odd length or too long"
_TABLE_ADDRESS: Final = "an indirect table is not in guest memory"

CHAINS: Final = (
    Misbehaviour("head at the ring's size", _HEAD, lambda ring: ring.submit(head=ring.size)),
    Misbehaviour("head 65535", _HEAD, lambda ring: ring.submit(head=0xFFFF)),
    Misbehaviour("next at the ring's size", _NEXT, lambda ring: ring.submit(_with(NEXT, ring.size)(ring))),
    Misbehaviour("next 65535", _NEXT, _direct(_with(NEXT, 0xFFFF))),
    Misbehaviour("next outside an indirect table", _NEXT, _indirect(_with(NEXT, 1))),
    Misbehaviour("chain that is its own next", _CHAIN, _direct(_with(NEXT, 0))),
    Misbehaviour("chain that loops", _CHAIN, _direct(_with(NEXT, 1), _with(NEXT, 0)), min_size=2),
    Misbehaviour("indirect chain that loops", _CHAIN, _long_indirect(4, loops=True)),
    Misbehaviour("long indirect chain that loops", _CHAIN, _long_indirect(_MAX_CHAIN, loops=True)),
    Misbehaviour("indirect table of odd length", _TABLE_SIZE, _table(lambda ring: 24)),
    Misbehaviour("indirect table that is empty", _TABLE_SIZE, _table(lambda ring: 0)),
    Misbehaviour(
        "indirect table that is too long", _TABLE_SIZE, _table(lambda ring: 16 * (max(_MAX_CHAIN, ring.size) + 1))
    ),
    Misbehaviour("indirect table outside RAM", _TABLE_ADDRESS, _table(lambda ring: 32, address=MMIO_BASE)),
    Misbehaviour("indirect table across the hole", _TABLE_ADDRESS, _table(lambda ring: 32, address=MEMORY_SIZE - 16)),
    Misbehaviour("indirect table wraps", _TABLE_ADDRESS, _table(lambda ring: 32, address=2**64 - 16)),
    Misbehaviour("indirect with next", "a descriptor with INDIRECT and NEXT", _table(lambda ring: 32, flags=NEXT)),
    Misbehaviour(
        "indirect in an indirect table",
        "an indirect descriptor in an indirect table",
        _indirect(lambda ring: Descriptor(_buffer(ring), 16, INDIRECT)),
    ),
    Misbehaviour("buffer of length 0", "a buffer has no length", _direct(_with(length=0))),
    Misbehaviour("buffer of length 0 to write", "a buffer has no length", _direct(_with(WRITE, length=0))),
    Misbehaviour(
        "readable after writable",
        "a buffer to read comes after one to write",
        _direct(_with(WRITE | NEXT, 1), _with()),
        min_size=2,
    ),
    Misbehaviour(
        "readable after writable in a table",
        "a buffer to read comes after one to write",
        _indirect(_with(WRITE | NEXT, 1), _with()),
    ),
    Misbehaviour("buffer outside RAM", _BUFFER, _direct(_at(MMIO_BASE, 64, WRITE))),
    Misbehaviour("buffer past the end of RAM", _BUFFER, _direct(_at(HOLE_END + _ABOVE, 1))),
    Misbehaviour("buffer that runs into the hole", _BUFFER, _direct(_at(MEMORY_SIZE - 32, 33, WRITE))),
    Misbehaviour("buffer over the hole", _BUFFER, _direct(_at(MEMORY_SIZE - 4096, 0xFFFF_FFFF, WRITE))),
    Misbehaviour("buffer that runs out of RAM", _BUFFER, _direct(_at(HOLE_END + _ABOVE - 1, 2))),
    Misbehaviour("buffer that wraps the address space", _BUFFER, _direct(_at(_LAST_PAGE, 8192, WRITE))),
    Misbehaviour("buffer at the last address", _BUFFER, _direct(_at(2**64 - 1, 1))),
    Misbehaviour("chain of 4 GiB", "a chain has 4 GiB or more", _too_much),
    Misbehaviour("available index too far", "the available index is more than a ring ahead", _far_index),
    Misbehaviour("available index goes back", "the available index is more than a ring ahead", _index_goes_back),
)
"""Mistakes in the content of a ring. Each is made in a ring of a started device, with INDIRECT_DESC negotiated; then
the device is kicked."""

HEAD_TWICE: Final = Misbehaviour("same head twice", "a chain was made available again before it was used", _twice)
"""A mistake only while the device still has the chain. A device that has given it back does not notice."""
