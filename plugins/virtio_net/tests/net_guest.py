"""The guest's side of a network card for tests: what its driver does with the two rings."""

from __future__ import annotations

from collections import deque

from pyvmm.testing.driver_ring import DriverRing, GuestBuffer
from pyvmm.testing.virtio_driver import VirtioDriver


class Guest(VirtioDriver):
    """A machine with nothing but the card."""

    @property
    def receiveq(self) -> DriverRing:
        return self.rings[0]

    @property
    def transmitq(self) -> DriverRing:
        return self.rings[1]


class Card:
    """The driver of the card, from one start to the next: posts buffers, collects and sends frames."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._spare: dict[int, list[GuestBuffer]] = {}

    def post(self, *lengths: int) -> None:
        """Give the device one receive chain with buffers of ``lengths``."""
        self.guest.receiveq.add((), [self._buffer(length) for length in lengths])

    def used_buffers(self) -> list[bytes]:
        """What the device wrote into each chain that it gave back."""
        done = []
        for used in self.guest.receiveq.take_used():
            assert used.chain is not None
            data = used.chain.written()
            assert used.length <= len(data)
            done.append(data[: used.length])
            for buffer in used.chain.writable:
                self._spare.setdefault(buffer.length, []).append(buffer)
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

    def send(self, message: bytes, *cuts: int) -> int:
        """Put a frame with its header into the transmit ring, cut into buffers at ``cuts``; the chain's head."""
        ends = zip((0, *cuts), (*cuts, len(message)), strict=True)
        return self.guest.transmitq.add([message[start:end] for start, end in ends]).head

    def sent(self) -> list[int]:
        """The heads of the chains that the device has sent."""
        used = self.guest.transmitq.take_used()
        assert all(one.length == 0 for one in used), "the device writes nothing into what it sends"
        return [one.head for one in used]

    def _buffer(self, length: int) -> GuestBuffer:
        spare = self._spare.get(length)
        return spare.pop() if spare else self.guest.heap.allocate(length)
