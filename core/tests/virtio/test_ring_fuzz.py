"""Rings of random bytes: whatever is in them, the device gets buffers inside guest memory, or a rule."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import time
from typing import Any

import pytest
from pyvmm._native import ffi, lib
from pyvmm.testing.waiting import PATIENCE
from pyvmm.virtio.queue import QueueError

from core.tests.virtio.ring_bench import RingBench

CANARY = 4096
"""Bytes before and behind each region that nobody may touch."""

REGIONS = ((0, 0x8000), (0x8000, 0x1000), (0x20000, 0x2000))
"""Two that are neighbours to the guest, not to the host, and one behind a hole."""

CHAINS, BUFFERS = 16, 96


class Arena:
    """Guest memory in buffers with canaries around them."""

    def __init__(self) -> None:
        self.buffers = [ffi.new("uint8_t[]", 2 * CANARY + size) for _, size in REGIONS]
        self.memory: Any = ffi.new("struct pyvmm_memory *")
        self.memory.count = len(REGIONS)
        self.spans = []
        for native, buffer, (base, size) in zip(self.memory.regions, self.buffers, REGIONS, strict=False):
            ffi.memmove(buffer, b"\xca" * (2 * CANARY + size), 2 * CANARY + size)
            native.base, native.size, native.host = base, size, buffer + CANARY
            start = int(ffi.cast("uintptr_t", buffer)) + CANARY
            self.spans.append((start, start + size))
        self.low = ffi.buffer(self.buffers[0] + CANARY, REGIONS[0][1])

    def check(self) -> None:
        """Nobody was outside."""
        for buffer, (_, size) in zip(self.buffers, REGIONS, strict=True):
            assert bytes(ffi.buffer(buffer, CANARY)) == b"\xca" * CANARY
            assert bytes(ffi.buffer(buffer + CANARY + size, CANARY)) == b"\xca" * CANARY

    def contains(self, address: int, length: int) -> bool:
        """Whether a host's address is in one region."""
        return any(start <= address and address + length <= end for start, end in self.spans)


EDGES = [base + delta for base, size in REGIONS for base in (base, base + size) for delta in (-16, -8, -1, 0, 1, 8, 16)]
ADDRESSES = [*(edge & 2**64 - 1 for edge in EDGES), 0x4000, 2**64 - 1, 2**64 - 16, 2**63, 2**32]
LENGTHS = [0, 1, 2, 4, 15, 16, 17, 32, 48, 0x1000, 0x2000, 0x8000, 0x8001, 2**31, 2**32 - 16, 2**32 - 1]


def random_entry(rng: random.Random, size: int) -> bytes:
    """A descriptor that is nearly right, mostly."""
    if rng.random() < 0.03:
        return rng.randbytes(16)
    address = rng.choice(ADDRESSES) if rng.random() < 0.3 else rng.randrange(0x4000, 0x8000)
    length = rng.choice(LENGTHS) if rng.random() < 0.3 else rng.randrange(1, 64)
    flags = rng.choice((0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 0xFFFF if rng.random() < 0.1 else 1))
    next_ = rng.randrange(size + 1) if rng.random() < 0.95 else rng.randrange(0x10000)
    return struct.pack("<QIHH", address, length, flags, next_)


@pytest.mark.parametrize("seed", range(8))
def test_random_rings_yield_buffers_inside_memory_or_a_rule(seed: int) -> None:
    rng = random.Random(seed)
    arena = Arena()
    queue: Any = ffi.new("struct pyvmm_queue *")
    chains: Any = ffi.new("struct pyvmm_chain[]", CHAINS + 1)
    iov: Any = ffi.new("struct iovec[]", BUFFERS + 1)
    addresses: Any = ffi.new("uint64_t[]", BUFFERS + 1)
    outcomes: set[int] = set()

    for _ in range(150):
        size = 1 << rng.randrange(6)
        desc, avail, used = 0, 0x1000, 0x2000
        if rng.random() < 0.1:
            desc, avail, used = (rng.choice(ADDRESSES) for _ in range(3))
        event_idx, indirect = rng.random() < 0.5, rng.random() < 0.8
        result = lib.pyvmm_queue_setup(queue, arena.memory, size, 64, desc, avail, used, event_idx, indirect)
        outcomes.add(result)
        if result < 0:
            continue
        for at in range(0x4000, 0x8000, 16 * 64):  # where indirect tables may be
            arena.low[at : at + 64] = b"".join(random_entry(rng, 4) for _ in range(4))
        arena.low[0 : 16 * size] = b"".join(random_entry(rng, size) for _ in range(size))
        index = rng.randrange(size + 2) if rng.random() < 0.95 else rng.randrange(0x10000)
        heads = [rng.randrange(size + (rng.random() < 0.05)) for _ in range(size)]
        ring = struct.pack(f"<HH{size}HH", rng.randrange(2), index, *heads, rng.randrange(0x10000))
        arena.low[0x1000 : 0x1000 + len(ring)] = ring

        for _ in range(4):
            chains[CHAINS].head, iov[BUFFERS].iov_len, addresses[BUFFERS] = 0xCACA, 0xCACA, 0xCACA
            count = lib.pyvmm_queue_take(queue, chains, rng.choice((1, CHAINS)), iov, addresses, BUFFERS)
            outcomes.add(min(count, 1))
            assert (chains[CHAINS].head, iov[BUFFERS].iov_len, addresses[BUFFERS]) == (0xCACA, 0xCACA, 0xCACA)
            expected_first = 0
            for chain in chains[0 : max(count, 0)]:
                assert chain.first == expected_first
                buffers = range(chain.first, chain.first + chain.readable + chain.writable)
                expected_first = buffers.stop
                assert len(buffers) >= 1
                for at in buffers:
                    host, length = int(ffi.cast("uintptr_t", iov[at].iov_base)), iov[at].iov_len
                    assert length > 0
                    assert arena.contains(host, length)
                lengths = [iov[at].iov_len for at in buffers]
                assert sum(lengths[: chain.readable]) == chain.readable_length
                assert sum(lengths[chain.readable :]) == chain.writable_length
                if rng.random() < 0.8:
                    assert lib.pyvmm_queue_complete(queue, chain.head, rng.randrange(2**32)) == 0
                    assert lib.pyvmm_queue_complete(queue, chain.head, 0) == -1
            lib.pyvmm_queue_publish(queue)
            lib.pyvmm_queue_enable_kick(queue)
            lib.pyvmm_queue_disable_kick(queue)
            if count <= 0:
                break
        arena.check()

    assert len(outcomes) > 12, outcomes  # the rings are not all bad in the same way


SCRIBBLER = """
import mmap, os, random, struct, sys
rng = random.Random(1)
size, desc, avail, used = (int(word) for word in sys.argv[2:])
good = [
    struct.pack("<QIHH", rng.randrange(0x9000, 0xF000), rng.randrange(1, 100), rng.choice((0, 1, 2, 3)), at % size)
    for at in range(500)
] + [struct.pack("<QIHH", 0x8000, 16 * rng.randrange(1, 8), 4, 0) for _ in range(50)]
bad = [
    struct.pack("<QIHH", rng.choice((0x8000, 0xFFFF0, 0x100000, 1 << 32, 1 << 63)),
                rng.choice((0, 1, 17, 32, 0x10000, 0xFFFFFFFF)), rng.randrange(8), rng.randrange(size + 1))
    for _ in range(500)
]
with mmap.mmap(int(sys.argv[1]), 1 << 20) as memory:
    print("ready", flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        for _ in range(500):
            at = rng.randrange(size)
            memory[desc + 16 * at : desc + 16 * at + 16] = rng.choice(good if rng.random() < 0.9 else bad)
            table = 0x8000 + 16 * rng.randrange(8)
            memory[table : table + 16] = rng.choice(good if rng.random() < 0.9 else bad)
            memory[avail + 4 + 2 * at : avail + 6 + 2 * at] = rng.randrange(size + (at == 0)).to_bytes(2, "little")
            index = int.from_bytes(memory[used + 2 : used + 4], "little") + rng.randrange(size + (at == 0))
            memory[avail + 2 : avail + 4] = (index & 0xFFFF).to_bytes(2, "little")
"""
"""A driver in a process of its own, as a vCPU is, that changes everything all the time."""


def test_a_ring_that_changes_while_it_is_read_yields_buffers_inside_memory_or_a_rule() -> None:
    size = 16
    with RingBench(size, max_size=size) as bench:
        places = [bench.ring.descriptor_table, bench.ring.available_ring, bench.ring.used_ring]
        scribbler = subprocess.Popen(
            [sys.executable, "-c", SCRIBBLER, str(bench.memory.fd), str(size), *map(str, places)],
            pass_fds=[bench.memory.fd],
            stdout=subprocess.PIPE,
        )
        assert scribbler.stdout is not None
        assert scribbler.stdout.readline() == b"ready\n"
        rules: set[str] = set()
        served = 0
        deadline = time.monotonic() + PATIENCE
        try:
            while (served < 1000 or len(rules) < 6) and time.monotonic() < deadline:
                try:
                    for chain in bench.queue:
                        for view in (*chain.readable, *chain.writable):
                            assert len(view) > 0  # a view that was not in guest memory would have raised
                        chain.complete(1)
                        served += 1
                    bench.queue.publish()
                except QueueError as error:
                    rules.add(error.reason)
                    bench.queue.reset()
                    bench.ring.connect(bench.queue)
                    bench.memory.write_u16(bench.ring.used_ring + 2, 0)
                    bench.activate()
        finally:
            scribbler.kill()
            scribbler.wait()
            scribbler.stdout.close()
    assert served >= 1000
    assert len(rules) >= 6, rules
