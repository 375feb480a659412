"""The driver's side of a split virtqueue, as a guest has it in its memory (virtio 1.2, section 2.7)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from pyvmm.memory import GuestAddress, GuestMemory

if TYPE_CHECKING:
    from pyvmm.virtio.queue import Queue

__all__ = [
    "VRING_AVAIL_F_NO_INTERRUPT",
    "VRING_DESC_F_INDIRECT",
    "VRING_DESC_F_NEXT",
    "VRING_DESC_F_WRITE",
    "VRING_USED_F_NO_NOTIFY",
    "Descriptor",
    "DriverChain",
    "DriverRing",
    "GuestBuffer",
    "GuestHeap",
    "UsedChain",
]

# <linux/virtio_ring.h>
VRING_DESC_F_NEXT: Final = 1
VRING_DESC_F_WRITE: Final = 2
VRING_DESC_F_INDIRECT: Final = 4
VRING_AVAIL_F_NO_INTERRUPT: Final = 1
VRING_USED_F_NO_NOTIFY: Final = 1

_DESC: Final = struct.Struct("<QIHH")
_USED: Final = struct.Struct("<II")


@dataclass(frozen=True)
class GuestBuffer:
    """``length`` bytes of guest memory at ``address``."""

    memory: GuestMemory
    address: GuestAddress
    length: int

    def read(self) -> bytes:
        """A copy of the buffer's bytes."""
        return self.memory.read(self.address, self.length)

    def write(self, data: bytes) -> None:
        """Copy ``data``, up to ``length`` bytes, to the buffer's start."""
        self.memory.write(self.address, data[: self.length])


class GuestHeap:
    """Hands out guest memory, from start to end. Only :meth:`reset` takes it back."""

    def __init__(self, memory: GuestMemory, start: GuestAddress, end: GuestAddress) -> None:
        self.memory = memory
        self.start = start
        self.end = end
        self._next = start

    def allocate(self, length: int, alignment: int = 16) -> GuestBuffer:
        """``length`` bytes at a multiple of ``alignment``; raises MemoryError at the heap's end."""
        address = -(-self._next // alignment) * alignment
        if address + length > self.end:
            raise MemoryError(f"the guest's heap has no {length} bytes left")
        self._next = address + length
        return GuestBuffer(self.memory, address, length)

    def reset(self) -> None:
        """Take back all memory that was handed out."""
        self._next = self.start


@dataclass(frozen=True, eq=False)
class DriverChain:
    """A request as its driver made it."""

    head: int
    readable: Sequence[GuestBuffer]
    """The buffers that the device may read."""

    writable: Sequence[GuestBuffer]
    """The buffers that the device may write."""

    descriptors: Sequence[int]
    """The chain's entries in the descriptor table."""

    def written(self) -> bytes:
        """All bytes of the writable buffers, end to end."""
        return b"".join(buffer.read() for buffer in self.writable)


@dataclass(frozen=True)
class UsedChain:
    """A request that the device gave back."""

    chain: DriverChain | None
    """The chain; None if the device gave back a head that was not available."""

    head: int
    length: int
    """The number of bytes that the device says it wrote."""


class Descriptor(NamedTuple):
    """An entry of a descriptor table, with any values."""

    address: GuestAddress = 0
    length: int = 0
    flags: int = 0
    next: int = 0


class DriverRing:
    """The driver's side of one virtqueue: makes chains available, kicks, and takes what is used.

    ::

        ring = DriverRing(heap, size=256)
        ring.connect(queue)            # before the device is activated
        ring.add([header], [512, 1])
        ring.kick()
        # … let the device's loop run …
        used, = ring.take_used()

    For hostile drivers, :meth:`submit`, :meth:`write_table`, :meth:`write_descriptor`, :meth:`write_available` and the
    ``…_idx`` properties set what is in the ring to anything. All the ways in which a ring can be wrong are in
    :mod:`pyvmm.testing.hostile_ring`.
    """

    def __init__(self, heap: GuestHeap, *, size: int = 256, indirect: bool = False, event_idx: bool = False) -> None:
        """Put a ring of ``size`` entries into ``heap``; ``indirect``: chains of several buffers use a table of their
        own; ``event_idx``: VIRTIO_F_EVENT_IDX was negotiated."""
        self.heap = heap
        self.memory = heap.memory
        self.size = size
        self.indirect = indirect
        self.event_idx = event_idx
        self.descriptor_table = heap.allocate(16 * size, 16).address
        self.available_ring = heap.allocate(6 + 2 * size, 2).address
        self.used_ring = heap.allocate(6 + 8 * size, 4).address
        self.queue: Queue | None = None
        self.notify: Callable[[], object] | None = None
        """Tells the device of a kick. By default, by the queue's event."""
        self._free = list(range(size - 1, -1, -1))
        self._chains: dict[int, DriverChain] = {}
        self._avail_idx = 0
        self._kicked_idx = 0
        self._last_used = 0
        for address, length in (
            (self.descriptor_table, 16 * size),
            (self.available_ring, 6 + 2 * size),
            (self.used_ring, 6 + 8 * size),
        ):
            self.memory.write(address, bytes(length))

    def connect(self, queue: Queue) -> None:
        """Give this ring's addresses to ``queue`` and make the queue ready, like a transport."""
        self.queue = queue
        queue.size = self.size
        queue.descriptor_table = self.descriptor_table
        queue.available_ring = self.available_ring
        queue.used_ring = self.used_ring
        queue.ready = True

    def buffer(self, content: GuestBuffer | bytes | int) -> GuestBuffer:
        """A buffer: ``content`` itself if it is one, a new buffer with these bytes, or one of this length, filled with
        0xA5."""
        if isinstance(content, GuestBuffer):
            return content
        if isinstance(content, int):
            content = b"\xa5" * content
        buffer = self.heap.allocate(len(content))
        buffer.write(content)
        return buffer

    def add(
        self,
        readable: Sequence[GuestBuffer | bytes] = (),
        writable: Sequence[GuestBuffer | int] = (),
        *,
        indirect: bool | None = None,
    ) -> DriverChain:
        """Make a chain of buffers available. Bytes become a buffer that contains them; a number becomes a buffer of
        that length.

        It does not kick the device; :meth:`kick` does. Raises IndexError, and does nothing, if the descriptor table has
        no room.
        """
        indirect = indirect if indirect is not None else self.indirect and len(readable) + len(writable) > 1
        needed = 1 if indirect else len(readable) + len(writable)
        if not 0 < needed <= len(self._free):
            raise IndexError(f"{needed} descriptors are needed and {len(self._free)} are free")
        read_buffers = [self.buffer(content) for content in readable]
        write_buffers = [self.buffer(content) for content in writable]
        entries = [(buffer, 0) for buffer in read_buffers] + [(buffer, VRING_DESC_F_WRITE) for buffer in write_buffers]
        if indirect:
            table = self.heap.allocate(16 * len(entries))
            for i, (buffer, flags) in enumerate(entries):
                self._write_entry(table.address, i, buffer, flags, i + 1 if i + 1 < len(entries) else None)
            descriptors = [self._free.pop()]
            self.write_descriptor(descriptors[0], table.address, table.length, VRING_DESC_F_INDIRECT)
        else:
            descriptors = [self._free.pop() for _ in entries]
            for i, (buffer, flags) in enumerate(entries):
                following = descriptors[i + 1] if i + 1 < len(descriptors) else None
                self._write_entry(self.descriptor_table, descriptors[i], buffer, flags, following)
        chain = DriverChain(descriptors[0], read_buffers, write_buffers, descriptors)
        self._chains[chain.head] = chain
        self.make_available(chain.head)
        return chain

    def make_available(self, head: int) -> None:
        """Put ``head`` into the available ring, even if it is wrong."""
        self.write_available(self._avail_idx, head)
        self.avail_idx = self._avail_idx + 1

    def kick(self) -> bool:
        """Signal the queue's event if the device wants kicks. Returns whether it was signalled."""
        wanted = self.wants_kick
        self._kicked_idx = self._avail_idx
        if wanted:
            self.force_kick()
        return wanted

    def force_kick(self) -> None:
        """Kick the device, even if it wants no kick or there is no chain."""
        if self.notify is not None:
            self.notify()
        elif self.queue is not None:
            self.queue.event.signal()

    @property
    def wants_kick(self) -> bool:
        """Whether the device wants a kick for the chains made available since the last kick (section 2.7.10)."""
        if self._avail_idx == self._kicked_idx:
            return False
        if not self.event_idx:
            return not self.memory.read_u16(self.used_ring) & VRING_USED_F_NO_NOTIFY
        event = self.memory.read_u16(self.used_ring + 4 + 8 * self.size)
        new, old = self._avail_idx, self._kicked_idx
        return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF

    def take_used(self) -> list[UsedChain]:
        """The chains that the device has given back since the last call; their descriptors are free again."""
        used = []
        while self._last_used != self.used_idx:
            address = self.used_ring + 4 + 8 * (self._last_used % self.size)
            head, length = _USED.unpack(self.memory.read(address, 8))
            chain = self._chains.pop(head, None)
            if chain is not None:
                self._free.extend(reversed(chain.descriptors))
            used.append(UsedChain(chain, head, length))
            self._last_used = self._last_used + 1 & 0xFFFF
        if self.event_idx:
            self.used_event = self._last_used
        return used

    @property
    def in_flight(self) -> int:
        """The number of chains that are available, or taken and not given back."""
        return len(self._chains)

    @property
    def room(self) -> int:
        """The number of free entries in the descriptor table."""
        return len(self._free)

    @property
    def used_idx(self) -> int:
        """The number of chains that the device has given back, modulo 2¹⁶."""
        return self.memory.read_u16(self.used_ring + 2)

    @property
    def avail_idx(self) -> int:
        """The number of chains that were made available, modulo 2¹⁶."""
        return self._avail_idx

    @avail_idx.setter
    def avail_idx(self, value: int) -> None:
        self._avail_idx = value & 0xFFFF
        self.memory.write_u16(self.available_ring + 2, self._avail_idx)

    @property
    def interrupts(self) -> bool:
        """Whether the driver wants interrupts, if EVENT_IDX was not negotiated."""
        return not self.memory.read_u16(self.available_ring) & VRING_AVAIL_F_NO_INTERRUPT

    @interrupts.setter
    def interrupts(self, wanted: bool) -> None:
        self.memory.write_u16(self.available_ring, 0 if wanted else VRING_AVAIL_F_NO_INTERRUPT)

    @property
    def used_event(self) -> int:
        """With EVENT_IDX: the driver wants an interrupt when the used index passes this."""
        return self.memory.read_u16(self.available_ring + 4 + 2 * self.size)

    @used_event.setter
    def used_event(self, value: int) -> None:
        self.memory.write_u16(self.available_ring + 4 + 2 * self.size, value & 0xFFFF)

    def write_descriptor(self, index: int, address: GuestAddress, length: int, flags: int = 0, next: int = 0) -> None:
        """Set an entry of the descriptor table to any values."""
        self.memory.write(self.descriptor_table + 16 * index, _DESC.pack(address, length, flags, next))

    def write_available(self, position: int, head: int) -> None:
        """Set the available ring's entry for index ``position`` to any value, without moving the index."""
        self.memory.write_u16(self.available_ring + 4 + 2 * (position % self.size), head)

    def submit(self, *descriptors: Descriptor, head: int = 0) -> None:
        """Put ``descriptors`` at the start of the table, unchecked, and make ``head`` available."""
        for index, descriptor in enumerate(descriptors):
            self.write_descriptor(index, *descriptor)
        self.make_available(head)

    def write_table(self, *descriptors: Descriptor) -> GuestBuffer:
        """A table for an indirect descriptor, with ``descriptors`` unchecked."""
        return self.buffer(b"".join(_DESC.pack(*descriptor) for descriptor in descriptors))

    def heads_in_flight(self, next_avail: int) -> list[int]:
        """The heads that the device took and has not given back, in the order of taking. The device took those before
        available index ``next_avail``."""
        waiting = {self.read_available(index) for index in range(next_avail, next_avail + self._waiting(next_avail))}
        used = {
            self.memory.read_u32(self.used_ring + 4 + 8 * (index % self.size))
            for index in range(self._last_used, self._last_used + (self.used_idx - self._last_used & 0xFFFF))
        }
        return [head for head in self._chains if head not in waiting and head not in used]

    def read_available(self, position: int) -> int:
        """The available ring's entry for index ``position``."""
        return self.memory.read_u16(self.available_ring + 4 + 2 * (position % self.size))

    def _waiting(self, next_avail: int) -> int:
        return min(self._avail_idx - next_avail & 0xFFFF, self.size)

    def _write_entry(self, table: GuestAddress, index: int, buffer: GuestBuffer, flags: int, next: int | None) -> None:
        if next is not None:
            flags |= VRING_DESC_F_NEXT
        self.memory.write(table + 16 * index, _DESC.pack(buffer.address, buffer.length, flags, next or 0))
