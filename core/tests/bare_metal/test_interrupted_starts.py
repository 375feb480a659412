"""Signals at random moments from the first import to the end of a machine whose devices have processes."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from pyvmm.testing.waiting import PATIENCE, wait_until

PR_SET_CHILD_SUBREAPER = 36
STARTS = 25
"""In each of the 40 groups: 1,000 in all."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def adopted() -> Iterator[None]:
    """Within it, a child of a child that ends becomes this process's."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def takes_signals(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM, as Python itself has not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except ProcessLookupError:
        return True
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def none_left() -> bool:
    """Whether all children of this process have ended; they are reaped."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return False


def command(kernel: Path, where: Path) -> list[str]:
    (where / "disk.img").write_bytes(bytes(1 << 20))
    devices = [
        f"serial:file={where}/serial.log",
        f"block:{where}/disk.img,process=on",
        f"balloon:socket={where}/balloon.sock,process=on",
        f"vsock:{where}/vsock.sock,process=on",
        f"console:unix={where}/console.sock",
    ]
    words = [f"--device={device}" for device in devices]
    return [sys.executable, "-m", "pyvmm", "--kernel", str(kernel), "--memory", "32M", *words]


@pytest.mark.parametrize("group", range(40))
def test_a_signal_ends_a_start_at_any_moment_and_leaves_nothing(
    program: Callable[..., Path], tmp_path: Path, adopted: None, group: int
) -> None:
    kernel = program("end.c", "END_SPIN")
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    arguments = command(kernel, tmp_path)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    chance = random.Random(group)
    begun = time.monotonic()
    longest = 0.0  # seconds from the first start to a machine that has all its sockets: the moments to choose from
    for number in range(STARTS):
        child = subprocess.Popen(
            arguments, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            wait_until(partial(takes_signals, child.pid))
            if not number:
                wait_until(lambda: (tmp_path / "console.sock").exists() and (tmp_path / "vsock.sock").exists())
                longest = time.monotonic() - begun
            else:
                time.sleep(chance.uniform(0, 1.5 * longest))
            sent = chance.choice(SIGNALS)
            child.send_signal(sent)
            output, errors = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()
            child.wait()
        assert (child.returncode, output, errors) == (128 + sent, b"", b""), number
        wait_until(none_left)
        assert sorted(path.name for path in tmp_path.glob("*.sock")) == [], number
        assert sorted(runtime.iterdir()) == [], number
