"""A front end that does what a test says, and devices for it to drive: all on one thread."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyvmm._native import lib
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap, UsedChain
from pyvmm.testing.waiting import PATIENCE
from pyvmm.vhost_user.backend import Backend
from pyvmm.vhost_user.connection import Connection, Message
from pyvmm.vhost_user.protocol import (
    NEED_REPLY,
    VHOST_USER_F_PROTOCOL_FEATURES,
    ConfigSpace,
    Inflight,
    MemoryRegion,
    VhostUserError,
    VringAddr,
    VringFd,
    VringState,
    pack_memory_table,
    pack_u64,
    request_name,
    unpack_u64,
)
from pyvmm.vhost_user.protocol import FrontendRequest as R
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.queue import DescriptorChain, Queue

USER_BASE = 0x7F00_0000_0000
"""Where the front end pretends to have guest address 0 mapped."""

MEMORY_SIZE = 4 << 20
VERSION_1: int = 1 << lib.VIRTIO_F_VERSION_1
EVENT_IDX: int = 1 << lib.VIRTIO_RING_F_EVENT_IDX
PROTOCOL_FEATURES = 1 << VHOST_USER_F_PROTOCOL_FEATURES
ALL_BUT_STATUS = sum(1 << bit for bit in (0, 3, 5, 9, 12, 13, 15))


class Echo(VirtioDevice):
    """Answers each request with the request's bytes."""

    device_type = 42
    queue_max_sizes: Sequence[int] = (256, 256)

    def __init__(self) -> None:
        self.config = bytearray(range(16))
        self.log: list[str] = []
        self.closed = 0

    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            data = chain.read(0, chain.readable_length)
            if data == b"raise":
                raise ZeroDivisionError("asked to")
            chain.complete(chain.write(0, data))

    def write_config(self, offset: int, data: memoryview) -> None:
        if offset == 15 and len(data) > 1:
            raise ValueError("asked to")
        assert isinstance(self.config, bytearray)
        self.config[offset : offset + len(data)] = data

    def activate(self, *arguments: object) -> None:
        self.log.append("activate")
        super().activate(*arguments)  # type: ignore[arg-type]

    def reset(self) -> bool:
        self.log.append("reset")
        return super().reset()

    def close(self) -> None:
        self.closed += 1


class Holder(Echo):
    """Keeps each request until it is told to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[DescriptorChain] = []
        self.seen: list[bytes] = []

    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            self.seen.append(chain.read(0, chain.readable_length))
            self.held.append(chain)

    def reset(self) -> bool:
        self.held.clear()
        return super().reset()

    def answer(self, *places: int) -> None:
        """Answer the requests at ``places``, in this order, and tell the driver."""
        chains = [self.held[place] for place in places]
        self.held = [chain for chain in self.held if chain not in chains]
        for chain in chains:
            chain.complete(chain.write(0, chain.read(0, chain.readable_length)))
        for queue in self.queues:
            queue.publish()


class Obedient(Holder):
    """A holder that takes its orders from the driver."""

    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            data = chain.read(0, chain.readable_length)
            self.held.append(chain)
            verb, _, places = data.partition(b" ")
            if verb == b"answer":
                self.answer(*map(int, places.split(b",")))
            elif verb == b"complete":
                self.held.pop(int(places)).complete(1)
                # The process ends before its callback does, and so before the ring is published.
                os.kill(os.getpid(), signal.SIGSTOP)


class FrontEnd:
    """One connection to a back end, guest memory, and the driver's rings in it."""

    def __init__(self, backend: Backend | None, loop: EventLoop, *, memory: GuestMemory | None = None) -> None:
        """Without ``backend``, nothing serves the other end: give ``other_end`` to the code that will."""
        mine, self.other_end = socket.socketpair()
        self.loop = loop
        self.backend = backend
        self.disconnected = False
        if backend is not None:
            backend.serve(self.other_end, self._disconnected)
        self.connection = Connection(mine, timeout=PATIENCE)
        self.owns_memory = memory is None
        self.memory = memory or GuestMemory.create([(0, MEMORY_SIZE)])
        self.heap = GuestHeap(self.memory, 0x10000, MEMORY_SIZE)
        self.rings: dict[int, DriverRing] = {}
        self.calls: dict[int, EventFd] = {}
        self.errs: dict[int, EventFd] = {}
        self._events: list[EventFd] = []

    def _disconnected(self) -> None:
        self.disconnected = True

    def pump(self) -> None:
        """Run the back end's loop."""
        for _ in range(200):
            if not self.loop.run_once(0):
                return

    def send(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0) -> None:
        """Send, and let the back end take it."""
        self.connection.send(request, payload, fds, flags=flags)
        self.pump()

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0) -> Message:
        """Send a request that has an answer, and return the answer."""
        self.send(request, payload, fds, flags=flags)
        message = self.connection.receive(1)
        assert message.request == request
        assert message.is_reply
        return message

    def number(self, request: int, payload: bytes = b"") -> int:
        """Ask for a number."""
        return unpack_u64(self.ask(request, payload).payload)

    def tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request without an answer of its own. Raises if the back end refuses it."""
        if unpack_u64(self.ask(request, payload, fds, flags=NEED_REPLY).payload):
            raise VhostUserError(f"{request_name(request)} was refused")

    def negotiate(self, *, features: int | None = None, protocol_features: int = ALL_BUT_STATUS) -> None:
        """Up to the memory table."""
        self.send(R.SET_OWNER)
        offered = self.number(R.GET_FEATURES)
        assert offered & PROTOCOL_FEATURES
        assert protocol_features & ~self.number(R.GET_PROTOCOL_FEATURES) == 0
        self.send(R.SET_PROTOCOL_FEATURES, pack_u64(protocol_features))
        self.tell(R.SET_FEATURES, pack_u64(offered & ~EVENT_IDX if features is None else features))
        self.set_memory()

    def set_memory(self) -> None:
        """SET_MEM_TABLE of all regions of the memory."""
        self.tell(
            R.SET_MEM_TABLE,
            pack_memory_table(
                [MemoryRegion(r.base, r.size, USER_BASE + r.base, r.offset) for r in self.memory.regions]
            ),
            [self.memory.fd] * len(self.memory.regions),
        )

    def make_ring(self, index: int = 0, size: int = 16, *, event_idx: bool = False) -> DriverRing:
        """A ring in guest memory with its eventfds, which the back end does not know yet."""
        ring = DriverRing(self.heap, size=size, event_idx=event_idx)
        ring.queue = Queue(index, 32768, self.event())
        self.rings[index] = ring
        self.calls[index], self.errs[index] = self.event(), self.event()
        return ring

    def event(self) -> EventFd:
        """A new eventfd, closed at the end."""
        self._events.append(EventFd())
        return self._events[-1]

    def set_ring(self, index: int = 0, *, base: int = 0, poll: bool = False, enable: bool = True) -> None:
        """Set the ring up at the back end, up to SET_VRING_ENABLE."""
        ring = self.rings[index]
        assert ring.queue is not None
        self.tell(R.SET_VRING_NUM, VringState(index, ring.size).pack())
        self.tell(R.SET_VRING_BASE, VringState(index, base).pack())
        self.tell(R.SET_VRING_ADDR, self.addresses(index).pack())
        self.tell(R.SET_VRING_CALL, VringFd(index).pack(), [self.calls[index].fd])
        self.tell(R.SET_VRING_ERR, VringFd(index).pack(), [self.errs[index].fd])
        self.tell(R.SET_VRING_KICK, VringFd(index, not poll).pack(), [] if poll else [ring.queue.event.fd])
        if enable:
            self.tell(R.SET_VRING_ENABLE, VringState(index, 1).pack())

    def addresses(self, index: int = 0) -> VringAddr:
        """The payload of SET_VRING_ADDR."""
        ring = self.rings[index]
        return VringAddr(
            index, 0, *(USER_BASE + a for a in (ring.descriptor_table, ring.used_ring, ring.available_ring))
        )

    def start(self, *, size: int = 16) -> DriverRing:
        """Negotiate, and start one ring."""
        self.negotiate()
        ring = self.make_ring(0, size)
        self.set_ring(0)
        return ring

    def exchange(self, data: bytes, index: int = 0) -> bytes:
        """One request to an echoing device, and its answer."""
        self.rings[index].add([data], [len(data)])
        used = self.kick(index)
        assert len(used) == 1
        assert used[0].chain is not None
        return used[0].chain.written()

    def kick(self, index: int = 0) -> list[UsedChain]:
        """Kick, let the device work, and take what it gives back."""
        self.rings[index].kick()
        self.pump()
        return self.rings[index].take_used()

    def vring_base(self, index: int = 0) -> int:
        """GET_VRING_BASE: stops the ring."""
        state = VringState.unpack(self.ask(R.GET_VRING_BASE, VringState(index, 0).pack()).payload)
        assert state.index == index
        return state.num

    def get_config(self, offset: int, length: int) -> bytes:
        """GET_CONFIG."""
        return ConfigSpace.unpack(self.ask(R.GET_CONFIG, ConfigSpace(offset, bytes(length)).pack()).payload).data

    def get_inflight(self, queues: int, size: int) -> tuple[Inflight, int]:
        """GET_INFLIGHT_FD: what it says, and the descriptor."""
        message = self.ask(R.GET_INFLIGHT_FD, Inflight(0, 0, queues, size).pack())
        return Inflight.unpack(message.payload), message.take_fd()

    def close(self) -> None:
        """Hang up."""
        self.connection.close()
        self.pump()
        for event in self._events:
            event.close()
        if self.owns_memory:
            self.memory.close()

    def __enter__(self) -> FrontEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class KilledBackEnd:
    """An :class:`Obedient` device in a process of its own, which can be killed."""

    def __init__(self, loop: EventLoop, memory: GuestMemory) -> None:
        self.front_end = FrontEnd(None, loop, memory=memory)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.front_end.connection.close()
                its_loop = EventLoop()
                backend = Backend(Obedient(), "killed", its_loop)
                backend.serve(self.front_end.other_end, its_loop.stop)
                its_loop.run()
            finally:
                os._exit(1)
        self.front_end.other_end.close()

    def wait_until_idle(self) -> None:
        """Wait until the device has stopped its process, in the middle of a callback."""
        os.waitpid(self.pid, os.WUNTRACED)

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def close(self) -> None:
        """Forget it."""
        self.front_end.close()


def open_fds() -> dict[str, str]:
    """The descriptors of this process, and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(Path("/proc/self/fd", name))
    return {name: target for name, target in found.items() if "/proc/" not in target}


@contextlib.contextmanager
def no_fd_leaks() -> Iterator[None]:
    """A context within which as many descriptors are closed as are opened. Earlier garbage with descriptors must have
    been collected before, so that it is not collected meanwhile."""
    before = open_fds()
    yield
    assert open_fds() == before
