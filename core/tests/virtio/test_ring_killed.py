"""A device's process may be killed at any instruction: the next one does what is left, in order, and nothing twice.

A process serves a ring in memory that it shares with us, and is followed instruction by instruction (ptrace(2)). Each
state that the memory goes through is one that a SIGKILL could have left.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm._native import ffi, lib

PTRACE_SINGLESTEP = 9  # <sys/ptrace.h>
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
PAGE, SIZE, BATCH = 4096, 8, 3
AVAIL, USED, BUFFERS = 0x100, 0x200, 0x800
HEADS = [3, 1, 5, 0, 7]
"""What the driver has made available before there is any process."""

NATIVE = Path(__file__).parents[2] / "native"

State = bytes
"""Rings and account of requests in flight, as they are in memory."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Serves a ring, in some order."""
    path = tmp_path_factory.mktemp("killed") / "killed"
    sources = [str(Path(__file__).with_name("killed.c")), str(NATIVE / "ring.c")]
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-static", f"-I{NATIVE}", *sources, "-o", str(path)], check=True)
    return path


def new_ring() -> State:
    """Five requests are available; nobody has taken account of any."""
    memory = bytearray(2 * PAGE)
    for head in range(SIZE):
        struct.pack_into("<QIHH", memory, 16 * head, BUFFERS + 16 * head, 16, 2, 0)
    for head in HEADS:
        make_available(memory, head)
    return bytes(memory)


def make_available(memory: bytearray, head: int) -> None:
    """What the driver does."""
    [index] = struct.unpack_from("<H", memory, AVAIL + 2)
    struct.pack_into("<H", memory, AVAIL + 4 + 2 * (index % SIZE), head)
    struct.pack_into("<H", memory, AVAIL + 2, index + 1)


def available(memory: bytes) -> list[int]:
    """All heads that ever were."""
    [count] = struct.unpack_from("<H", memory, AVAIL + 2)
    return list(struct.unpack_from(f"<{count}H", memory, AVAIL + 4))


def used(memory: bytes) -> list[int]:
    """All heads that were given back, as the driver sees it."""
    [count] = struct.unpack_from("<H", memory, USED + 2)
    return [struct.unpack_from("<II", memory, USED + 4 + 8 * index)[0] for index in range(count)]


def states(program: Path, start: State, *, batches: int = -1) -> Iterator[State]:
    """Each state that the memory goes through while ``program`` serves what is in ``start``, or ``batches`` of it."""
    fd = os.memfd_create("ring")
    os.write(fd, start)
    child = subprocess.Popen([str(program), str(fd), str(batches)], pass_fds=[fd])
    try:
        with mmap.mmap(fd, len(start)) as memory:
            state = start
            yield state
            wait_stopped(child, signal.SIGSTOP)
            while step(child):
                if memory[:] != state:
                    state = memory[:]
                    yield state
    finally:
        child.kill()
        child.wait()
        os.close(fd)


def step(child: subprocess.Popen[bytes]) -> bool:
    """Let it carry out one instruction; whether it goes on then."""
    assert ptrace(PTRACE_SINGLESTEP, child.pid, None, None) == 0
    return wait_stopped(child, signal.SIGTRAP, signal.SIGSTOP) == signal.SIGTRAP


def wait_stopped(child: subprocess.Popen[bytes], *numbers: int) -> int:
    """Wait until it is stopped by one of the signals ``numbers``; by which."""
    _, status = os.waitpid(child.pid, 0)
    assert os.WIFSTOPPED(status), os.waitstatus_to_exitcode(status)
    assert os.WSTOPSIG(status) in numbers
    return os.WSTOPSIG(status)


def serve(state: State) -> tuple[list[int], State]:
    """The requests that a process takes after one that left ``state``, in order, and what it leaves."""
    memory = bytearray(state)
    view = ffi.from_buffer("uint8_t[]", memory)
    guest = ffi.new("struct pyvmm_memory *", {"count": 1, "regions": [{"base": 0, "size": PAGE, "host": view}]})
    queue, resubmit = ffi.new("struct pyvmm_queue *"), ffi.new("uint16_t[]", SIZE)
    chains, iov = ffi.new("struct pyvmm_chain[]", BATCH), ffi.new("struct iovec[]", BATCH * SIZE)
    assert lib.pyvmm_queue_setup(queue, guest, SIZE, SIZE, 0, AVAIL, USED, False, False) == 0
    lib.pyvmm_queue_resume(queue, 0)
    assert lib.pyvmm_queue_track(queue, ffi.cast("struct pyvmm_inflight *", view + PAGE), resubmit) >= 0
    taken = []
    while (count := lib.pyvmm_queue_take(queue, chains, BATCH, iov, ffi.NULL, BATCH * SIZE)) != 0:
        assert count > 0, f"rule {-count} is broken"
        for i in range(count):
            taken.append(chains[i].head)
            assert lib.pyvmm_queue_complete(queue, chains[i].head, 1) == 0
        lib.pyvmm_queue_publish(queue)
    return taken, bytes(memory)


def check(state: State) -> None:
    """What a process that comes after ``state`` does is what was left, in the order in which the driver wanted it."""
    taken, after = serve(state)
    left = available(state)
    for head in used(state):
        left.remove(head)
    assert taken == left
    assert used(after) == used(state) + left
    assert not any(after[PAGE + 16 + 16 * head] for head in range(SIZE))


def used_again(state: State) -> State:
    """``state``, when the driver has made its first used head available again, which it may at once."""
    memory = bytearray(state)
    for head in used(state)[:1]:
        make_available(memory, head)
    return bytes(memory)


def test_a_kill_at_any_instruction_loses_nothing_and_repeats_nothing(program: Path) -> None:
    left = list(states(program, new_ring()))
    assert len(left) > 6 * len(HEADS)
    assert used(left[-1]) == [5, 3, 0, 1, 7]
    for state in left:
        check(state)
        check(used_again(state))


def test_a_second_kill_at_any_instruction_neither(program: Path) -> None:
    seen = set()
    for state in states(program, new_ring()):
        for later in states(program, used_again(state), batches=1):
            if later not in seen:
                seen.add(later)
                check(later)
    assert len(seen) > 100
