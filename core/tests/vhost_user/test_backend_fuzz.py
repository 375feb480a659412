"""A front end that knows the protocol and means ill: sequences of messages, right, wrong and half-right."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap
from pyvmm.vhost_user import served_device
from pyvmm.vhost_user.backend import Backend
from pyvmm.vhost_user.connection import Connection
from pyvmm.vhost_user.protocol import (
    NEED_REPLY,
    ConfigSpace,
    Inflight,
    MemoryRegion,
    Number,
    VhostUserError,
    VringAddr,
    VringFd,
    VringState,
    pack_memory_table,
    pack_u64,
)
from pyvmm.vhost_user.protocol import FrontendRequest as R
from pyvmm.virtio.device import VirtioDevice

from core.tests.vhost_user.front_end import (
    ALL_BUT_STATUS,
    PROTOCOL_FEATURES,
    USER_BASE,
    VERSION_1,
    Echo,
    FrontEnd,
    Holder,
    no_fd_leaks,
)

MEMORY = 1 << 20

EXAMPLES = int(os.environ.get("PYVMM_FUZZ", "300"))
"""Sequences of messages for each device; set $PYVMM_FUZZ for more."""

INDEX = st.sampled_from([0, 0, 0, 1, 1, 2, 255, 2**32 - 1])
U64 = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, VERSION_1, 2**64 - 1]))
ADDRESS = st.one_of(
    st.integers(0, MEMORY // 4096).map(lambda page: USER_BASE + 4096 * page),
    st.sampled_from([USER_BASE + 8, USER_BASE + MEMORY - 64, 0, 2**64 - 16]),
)
FD_KINDS = ("eventfd", "memory", "small", "pipe", "socket", "file", "inflight", "epoll")
FDS = st.lists(st.sampled_from(FD_KINDS), max_size=3)


class Peer:
    """A hostile front end."""

    def __init__(self, loop: EventLoop, device: VirtioDevice, scratch: Path) -> None:
        self.loop = loop
        self.device = device
        self.backend = Backend(device, "device0", loop)
        self.memory = GuestMemory.create([(0, MEMORY)])
        heap = GuestHeap(self.memory, 0x1000, MEMORY)
        self.rings = [DriverRing(heap, size=16) for _ in range(2)]
        self.kinds = {
            "eventfd": [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(4)],
            "memory": [self.memory.fd],
            "small": [os.memfd_create("small")],
            "pipe": list(os.pipe()),
            "socket": [s.detach() for s in socket.socketpair()],
            "file": [os.open(scratch / "file", os.O_RDWR | os.O_CREAT)],
            "inflight": [os.memfd_create("inflight")],
            "epoll": [EventFd().fd],
        }
        os.ftruncate(self.kinds["small"][0], 100)
        os.ftruncate(self.kinds["inflight"][0], 8192)
        self.connection: Connection | None = None

    def connect(self) -> Connection:
        """A connection, another where the last was ended."""
        if self.connection is None or not self.backend.connected:
            if self.connection is not None:
                self.connection.close()
            mine, its = socket.socketpair()
            self.backend.serve(its)
            self.connection = Connection(mine, timeout=0.01)
        return self.connection

    def fds(self, kinds: list[str]) -> list[int]:
        """Descriptors of these kinds."""
        return [self.kinds[kind][i % len(self.kinds[kind])] for i, kind in enumerate(kinds)]

    def send(self, request: int, payload: bytes, kinds: list[str], flags: int = 0) -> None:
        """Send, let the back end work, and throw its answers away."""
        connection = self.connect()
        with contextlib.suppress(VhostUserError):
            connection.send(request, payload, self.fds(kinds), flags=flags)
        self.pump()
        with contextlib.suppress(VhostUserError):
            while (message := connection.receive_available()) is not None:
                message.close()

    def pump(self) -> None:
        """Let the back end work, but not for ever: rings may be polled."""
        for _ in range(5):
            if not self.loop.run_once(0):
                return

    def scribble(self, seed: int) -> None:
        """What a driver may do meanwhile: requests, nonsense, and nonsense in the account."""
        chance = random.Random(seed)
        ring = chance.choice(self.rings)
        match chance.randrange(6):
            case 0 | 1:
                with contextlib.suppress(IndexError, MemoryError):
                    ring.add([chance.randbytes(8)], [16])
            case 2:
                ring.write_descriptor(
                    chance.randrange(16), chance.randrange(2 * MEMORY), chance.randrange(8192), chance.randrange(8)
                )
            case 3:
                ring.make_available(chance.randrange(20))
            case 4:
                ring.take_used()
            case 5:
                os.pwrite(self.kinds["inflight"][0], chance.randbytes(32), chance.randrange(512))
        for fd in self.kinds["eventfd"]:
            os.eventfd_write(fd, 1)
        self.pump()

    def close(self) -> None:
        """Close everything."""
        if self.connection is not None:
            self.connection.close()
        self.pump()
        self.backend.close()
        self.memory.close()
        for kind, fds in self.kinds.items():
            if kind != "memory":
                for fd in fds:
                    os.close(fd)


def tell(request: R, payload: bytes, kinds: list[str] | None = None) -> st.SearchStrategy[tuple[int, bytes, list[str]]]:
    """Just this message."""
    return st.just((int(request), payload, kinds or []))


STATE = st.builds(VringState, INDEX, st.sampled_from([0, 1, 2, 12, 16, 65535, 65536, 2**32 - 1])).map(VringState.pack)
RING_ADDRESSES = st.builds(VringAddr, INDEX, st.integers(0, 1), ADDRESS, ADDRESS, ADDRESS, st.just(0)).map(
    VringAddr.pack
)
REGION = st.builds(
    MemoryRegion,
    st.sampled_from([0, 4096, MEMORY, 2**40]),
    st.sampled_from([4096, MEMORY, 2 * MEMORY, 1 << 40]),
    st.sampled_from([0, USER_BASE, USER_BASE + MEMORY]),
    st.sampled_from([0, 100, 4096, 1 << 40]),
)
INFLIGHT = st.builds(
    Inflight,
    st.sampled_from([0, 384, 8192, 1 << 40]),
    st.sampled_from([0, 3, 8, 4096]),
    st.integers(0, 3),
    st.sampled_from([0, 1, 16, 65535]),
).map(Inflight.pack)
CONFIG = st.builds(ConfigSpace, st.integers(0, 300), st.binary(max_size=40), st.integers(0, 2)).map(ConfigSpace.pack)
PAYLOADS = {
    R.SET_FEATURES: st.sampled_from([VERSION_1, VERSION_1 | PROTOCOL_FEATURES, 0, 2**64 - 1]).map(pack_u64),
    R.SET_PROTOCOL_FEATURES: st.sampled_from([ALL_BUT_STATUS, ALL_BUT_STATUS | 1 << 16, 0, 2**64 - 1]).map(pack_u64),
    R.SET_MEM_TABLE: st.lists(REGION, max_size=3).map(pack_memory_table),
    R.SET_VRING_NUM: STATE,
    R.SET_VRING_ADDR: RING_ADDRESSES,
    R.SET_VRING_BASE: STATE,
    R.GET_VRING_BASE: STATE,
    R.SET_VRING_ENABLE: STATE,
    R.SET_VRING_KICK: st.builds(VringFd, st.integers(0, 3), st.booleans()).map(VringFd.pack),
    R.SET_VRING_CALL: st.builds(VringFd, st.integers(0, 3), st.booleans()).map(VringFd.pack),
    R.SET_VRING_ERR: st.builds(VringFd, st.integers(0, 3), st.booleans()).map(VringFd.pack),
    R.GET_CONFIG: CONFIG,
    R.SET_CONFIG: CONFIG,
    R.GET_INFLIGHT_FD: INFLIGHT,
    R.SET_INFLIGHT_FD: INFLIGHT,
    R.ADD_MEM_REG: REGION.map(MemoryRegion.pack),
    R.REM_MEM_REG: REGION.map(MemoryRegion.pack),
    R.SET_STATUS: st.sampled_from([0, 1, 0xF, 0x80, 256]).map(pack_u64),
}
REQUESTS = [number for number in vars(R).values() if isinstance(number, Number)]
PLAUSIBLE = st.sampled_from(REQUESTS).flatmap(
    lambda request: st.tuples(st.just(int(request)), PAYLOADS.get(request, st.just(b"")), FDS)
)
WRONG = st.tuples(st.integers(0, 50), st.binary(max_size=80), FDS)


def good(peer: Peer, index: int) -> list[tuple[int, bytes, list[str]]]:
    """The messages that bring ring ``index`` up."""
    ring = peer.rings[index]
    addresses = VringAddr(
        index, 0, *(USER_BASE + a for a in (ring.descriptor_table, ring.used_ring, ring.available_ring))
    )
    return [
        (R.SET_PROTOCOL_FEATURES, pack_u64(ALL_BUT_STATUS), []),
        (R.SET_FEATURES, pack_u64(VERSION_1 | PROTOCOL_FEATURES), []),
        (R.SET_MEM_TABLE, pack_memory_table([MemoryRegion(0, MEMORY, USER_BASE, 0)]), ["memory"]),
        (R.SET_VRING_NUM, VringState(index, 16).pack(), []),
        (R.SET_VRING_ADDR, addresses.pack(), []),
        (R.SET_VRING_KICK, VringFd(index).pack(), ["eventfd"]),
        (R.SET_VRING_CALL, VringFd(index).pack(), ["eventfd"]),
        (R.SET_VRING_ENABLE, VringState(index, 1).pack(), []),
    ]


@contextlib.contextmanager
def bugs() -> Iterator[list[str]]:
    """Collects the exceptions that the back end did not expect: it survives them, but each is a bug."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and "asked to" not in str(record.exc_info[1]):
                found.append(logging.Formatter().formatException(record.exc_info))

    logger = logging.getLogger("pyvmm")
    handler = Collect()
    logger.addHandler(handler)
    logger.propagate = False  # nobody is to hold the tracebacks, and guest memory with them
    try:
        yield found
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


STEP = st.one_of(
    PLAUSIBLE,
    PLAUSIBLE,
    WRONG,
    st.integers(0, 1).map(lambda index: ("good", index)),
    st.integers(0, 2**32).map(lambda seed: ("scribble", seed)),
    st.integers(0, 2**32).map(lambda seed: ("scribble", seed)),
    st.just(("hang up", 0)),
)


@pytest.mark.parametrize("kind", [Echo, Holder])
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEP, max_size=40), flags=st.sampled_from([0, NEED_REPLY, 4]))
def test_no_sequence_of_messages_harms_the_back_end(
    kind: type[Echo],
    steps: list[tuple[object, ...]],
    flags: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_device, "DRAIN_TIMEOUT", 0.0)
    with bugs() as found, no_fd_leaks():
        run(kind(), steps, flags, tmp_path)
    assert found == []


def run(device: Echo, steps: list[tuple[object, ...]], flags: int, scratch: Path) -> None:
    """Carry the steps out; afterwards a front end that means well must be served."""
    loop = EventLoop()
    peer = Peer(loop, device, scratch)
    for step in steps:
        match step:
            case ("good", int(index)):
                for message in good(peer, index):
                    peer.send(*message)
            case ("scribble", int(seed)):
                peer.scribble(seed)
            case ("hang up", _):
                peer.connect().close()
                peer.pump()
            case (int(request), bytes(payload), list(kinds)):
                peer.send(request, payload, kinds, flags)
    peer.connect().close()
    peer.pump()
    assert not peer.backend.connected
    with FrontEnd(peer.backend, loop) as front_end:
        front_end.start()
        front_end.rings[0].add([b"hello"], [5])
        used = front_end.kick()
        if isinstance(device, Holder):
            device.answer(0)
            used = front_end.rings[0].take_used()
        assert len(used) == 1
        assert used[0].chain is not None
        assert used[0].chain.written() == b"hello"
    peer.close()
    loop.close()


def test_headers_of_all_kinds(tmp_path: Path) -> None:
    chance = random.Random(1)
    loop = EventLoop()
    with no_fd_leaks():
        peer = Peer(loop, Echo(), tmp_path)
        for _ in range(3000):
            header = struct.pack(
                "<III", chance.randrange(45), chance.choice([1, 1, 5, 9, chance.getrandbits(32)]), chance.randrange(50)
            )
            connection = peer.connect()
            with contextlib.suppress(OSError):
                connection._socket.send((header + chance.randbytes(60))[: chance.randrange(1, 72)])
            peer.pump()
        peer.close()
    loop.close()


def test_the_payloads_are_of_requests() -> None:
    assert len(REQUESTS) == 40 and set(PAYLOADS) <= set(REQUESTS)
