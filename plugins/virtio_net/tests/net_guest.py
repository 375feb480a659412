"""The guest's side of a network card for tests: registers, rings and buffers, as a driver uses them."""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

from pyvmm.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.mmio import MmioDevice

MEMORY_SIZE = 32 << 20
VIRTIO_F_VERSION_1 = 32
VIRTIO_RING_F_EVENT_IDX = 29
NEXT, WRITE = 1, 2


class Ring:
    """A split ring as the driver sees it; descriptors are taken one by one from a free list."""

    def __init__(self, guest: Guest, index: int, base: int, size: int) -> None:
        self.guest, self.index, self.size = guest, index, size
        self.desc, self.avail, self.used = base, base + 16 * size, base + 16 * size + (6 + 2 * size + 3 & ~3)
        guest.mem.write(base, bytes(26 * size + 32))
        self.free = deque(range(size))
        self.chains: dict[int, list[int]] = {}
        self.avail_idx = self.used_idx = self.kicked_idx = 0

    def add(self, *buffers: tuple[int, int, int]) -> int:
        """Make one chain of (address, length, flags) available; its head."""
        mem = self.guest.mem
        indices = [self.free.popleft() for _ in buffers]
        for i, (index, (address, length, flags)) in enumerate(zip(indices, buffers, strict=True)):
            last = i == len(indices) - 1
            entry = struct.pack("<QIHH", address, length, flags | (0 if last else NEXT), 0 if last else indices[i + 1])
            mem.write(self.desc + 16 * index, entry)
        mem.write_u16(self.avail + 4 + 2 * (self.avail_idx % self.size), indices[0])
        self.avail_idx = self.avail_idx + 1 & 0xFFFF
        mem.write_u16(self.avail + 2, self.avail_idx)
        self.chains[indices[0]] = indices
        return indices[0]

    def take_used(self) -> list[tuple[int, int]]:
        """(head, length) of what the device gave back since the last time."""
        done = []
        while self.used_idx != self.guest.mem.read_u16(self.used + 2):
            entry = self.guest.mem.read(self.used + 4 + 8 * (self.used_idx % self.size), 8)
            head, length = struct.unpack("<II", entry)
            self.free.extend(self.chains.pop(head))
            self.used_idx = self.used_idx + 1 & 0xFFFF
            done.append((head, length))
        return done

    def kick(self) -> bool:
        """Notify the device of what was added since the last kick if it wants that; whether it did (2.7.10)."""
        old, self.kicked_idx = self.kicked_idx, self.avail_idx
        if self.guest.has(VIRTIO_RING_F_EVENT_IDX):
            event = self.guest.mem.read_u16(self.used + 4 + 8 * self.size)
            wanted = (self.avail_idx - event - 1) & 0xFFFF < (self.avail_idx - old) & 0xFFFF
        else:
            wanted = not self.guest.mem.read_u16(self.used) & 1
        if wanted:
            self.notify()
        return wanted

    def notify(self) -> None:
        """Notify the device whatever it wants."""
        self.guest.transport.queues[self.index].event.signal()


class Guest:
    """A machine of one device, whose loop runs when the test says so."""

    def __init__(self, device: VirtioDevice) -> None:
        self.device = device
        self.loop = EventLoop()
        self.mem = GuestMemory.create([(0, MEMORY_SIZE)])
        self.transport = MmioDevice(self.mem, device, "net0", self.loop)
        self.rings: list[Ring] = []
        self.features = 0
        self.closed = False

    def has(self, feature: int) -> bool:
        """Whether the driver chose ``feature``."""
        return bool(self.features >> feature & 1)

    def read(self, offset: int) -> int:
        """A register."""
        data = bytearray(4)
        self.transport.read(offset, memoryview(data))
        return int.from_bytes(data, "little")

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        self.transport.write(offset, memoryview(value.to_bytes(4, "little")))

    def config(self, offset: int, length: int) -> bytes:
        """Part of the configuration space."""
        data = bytearray(length)
        self.transport.read(0x100 + offset, memoryview(data))
        return bytes(data)

    def offered(self) -> int:
        """The features that the device offers."""
        value = 0
        for page in range(4):
            self.write(0x14, page)
            value |= self.read(0x10) << 32 * page
        return value

    def start(self, features: Sequence[int] = (), size: int = 256, queues: Sequence[int] | None = None) -> None:
        """Reset, negotiate ``features`` and VERSION_1, set ``queues`` (all, unless given) up, DRIVER_OK."""
        self.write(0x70, 0)
        self.write(0x70, 1)
        self.write(0x70, 3)
        acked = sum(1 << bit for bit in {*features, VIRTIO_F_VERSION_1})
        for page in range(4):
            self.write(0x24, page)
            self.write(0x20, acked >> 32 * page & 0xFFFFFFFF)
        self.write(0x70, 11)
        assert self.read(0x70) == 11, "the device refused the features"
        self.features = acked
        self.rings = []
        for index in range(len(self.transport.queues)):
            ring = Ring(self, index, 0x10000 * (index + 1), size)
            self.write(0x30, index)
            self.write(0x38, size)
            for register, address in ((0x80, ring.desc), (0x90, ring.avail), (0xA0, ring.used)):
                self.write(register, address)
            self.write(0x44, int(queues is None or index in queues))
            self.rings.append(ring)
        self.write(0x70, 15)
        assert self.read(0x70) == 15, "the device failed to start"

    @property
    def receiveq(self) -> Ring:
        return self.rings[0]

    @property
    def transmitq(self) -> Ring:
        return self.rings[1]

    def run(self) -> int:
        """Run the loop until nothing is left to do; how many callbacks that took."""
        rounds = 0
        while self.loop.run_once(0):
            rounds += 1
            assert rounds < 10000, "the loop does not come to rest"
        return rounds

    def run_until(self, condition: Callable[[], bool], timeout: float = 10) -> None:
        """Run the loop until ``condition`` holds."""
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            assert left > 0, "it did not happen"
            self.loop.run_once(left)

    def interrupted(self) -> bool:
        """Whether the device has interrupted since the last time."""
        return self.transport.interrupt_event.drain() > 0

    def close(self) -> None:
        """End the machine; once more does nothing."""
        if self.closed:
            return
        self.closed = True
        self.transport.close()
        self.loop.close()
        self.mem.close()


BUFFERS = 1 << 20
"""Where the buffers of a test may be in guest memory."""


class Card:
    """A driver for the network card: posts buffers, sends and collects frames."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._next = BUFFERS
        self._buffers: dict[int, list[tuple[int, int]]] = {}
        self._spare: dict[int, list[int]] = {}

    def allocate(self, size: int) -> int:
        """Guest memory that nothing else uses."""
        if self._spare.get(size):
            return self._spare[size].pop()
        address = self._next
        self._next += size + 15 & ~15
        assert self._next < MEMORY_SIZE
        return address

    def post(self, *lengths: int) -> int:
        """Give the device one receive chain with buffers of ``lengths``, filled with 0xEE."""
        buffers = [(self.allocate(length), length) for length in lengths]
        for address, length in buffers:
            self.guest.mem.write(address, b"\xee" * length)
        head = self.guest.receiveq.add(*((address, length, WRITE) for address, length in buffers))
        self._buffers[head] = buffers
        return head

    def used_buffers(self) -> list[bytes]:
        """What the device wrote into each chain that it gave back."""
        done = []
        for head, length in self.guest.receiveq.take_used():
            buffers = self._buffers.pop(head)
            data = b"".join(self.guest.mem.read(*buffer) for buffer in buffers)
            for address, size in buffers:
                self._spare.setdefault(size, []).append(address)
            assert length <= len(data)
            done.append(data[:length])
        return done

    def received(self) -> list[bytes]:
        """Whole frames, each with its header, put together as num_buffers says."""
        parts = deque(self.used_buffers())
        frames = []
        while parts:
            first = parts.popleft()
            count = int.from_bytes(first[10:12], "little")
            assert count > 0
            frames.append(first + b"".join(parts.popleft() for _ in range(count - 1)))
        return frames

    def send(self, frame: bytes, *cuts: int) -> int:
        """Put ``frame`` with its header into the transmit ring, cut into buffers at ``cuts``."""
        buffers = []
        for start, end in zip((0, *cuts), (*cuts, len(frame)), strict=True):
            address = self.allocate(end - start)
            self.guest.mem.write(address, frame[start:end])
            buffers.append((address, end - start, 0))
        return self.guest.transmitq.add(*buffers)
