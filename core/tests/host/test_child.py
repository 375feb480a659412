"""Processes of ours: they end with the process that made them, and not with one of its threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from pyvmm.host import child
from pyvmm.host.child import FIRST_FD, Child
from pyvmm.testing import waiting
from pyvmm.testing.waiting import PATIENCE

ECHO = f"""
import os, sys
from pyvmm.host import child
child.enter("echo", int(sys.argv[1]))
while byte := os.read({FIRST_FD}, 1):
    os.write({FIRST_FD + 1}, byte)
"""

Make = Callable[[int, int], Child]


def fork(reading: int, writing: int) -> Child:
    def body() -> int:
        while byte := os.read(FIRST_FD, 1):
            os.write(FIRST_FD + 1, byte)
        return 0

    return child.fork("echo", body, [reading, writing])


def spawn(reading: int, writing: int) -> Child:
    return child.spawn("echo", [sys.executable, "-c", ECHO, str(os.getpid())], [reading, writing])


def in_a_thread_that_ends(function: Callable[[], Child]) -> Child:
    """What ``function`` makes in a thread that has ended in the kernel's eyes as well."""
    made = []
    ids = []

    def run() -> None:
        ids.append(threading.get_native_id())
        made.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    waiting.wait_until(lambda: not os.path.exists(f"/proc/self/task/{ids[0]}"))
    return made[0]


@pytest.mark.parametrize("make", [fork, spawn])
def test_a_process_outlives_the_thread_that_asked_for_it(make: Make) -> None:
    [to_child, from_us], [from_child, to_us] = os.pipe()[::-1], os.pipe()

    def answer() -> bytes:
        os.write(to_child, b"?")
        return os.read(from_child, 1)

    def begin() -> Child:
        made = make(from_us, to_us)
        os.close(from_us)
        os.close(to_us)
        assert answer() == b"?"  # it has told the kernel by now with whom it ends
        return made

    process = in_a_thread_that_ends(begin)
    try:
        assert answer() == b"?", process.outcome
    finally:
        os.close(to_child)
        os.close(from_child)
    assert process.wait(PATIENCE)
    process.close()
    assert process.outcome == "ended with status 0"


@pytest.mark.parametrize("make", ["fork", "spawn"])
def test_a_process_that_a_thread_asked_for_ends_with_its_parent(make: str) -> None:
    program = f"""
import os, signal, threading
from core.tests.host import test_child
def run():
    made = test_child.{make}(*os.pipe())
    print(made.pid, flush=True)
thread = threading.Thread(target=run)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGKILL)
"""
    told = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    pid = int(told.stdout)

    def is_gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] in "ZX"
        except FileNotFoundError:
            return True

    waiting.wait_until(is_gone)
