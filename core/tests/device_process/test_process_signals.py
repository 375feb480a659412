"""The dispositions of signals in each process that pyvmm makes, whatever those of the process are that makes it."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pyvmm.device_process.parent import DeviceProcess, DeviceProcesses
from pyvmm.host import child, leftovers
from pyvmm.options import parse_device
from pyvmm.plugins import Plugins
from pyvmm.vhost_user.front_end import VhostUserDevice

LEFT_TO_THE_PARENT = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
ERRNO_INSTEAD = {signal.SIGPIPE, signal.SIGXFSZ}
ODD_ONES = {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM}
STANDARD = (1 << 31) - 1
"""A mask of signals 1 to 31; the C library has others for itself."""


def signals(pid: int, which: str) -> set[int]:
    """The signals in one mask of a process: ``SigIgn``, ``SigBlk`` or ``SigCgt`` of proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            mask = int(line.split()[1], 16)
            return {number for number in range(1, 32) if mask >> (number - 1) & 1}
    raise AssertionError(which)


@pytest.fixture(params=["python's", "ignored", "blocked"])
def parents(request: pytest.FixtureRequest) -> Iterator[None]:
    """Dispositions that the process may have which makes others."""
    before = {number: signal.getsignal(number) for number in ODD_ONES}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ODD_ONES if request.param == "blocked" else ())
    for number in ODD_ONES if request.param == "ignored" else ():
        signal.signal(number, signal.SIG_IGN)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.mark.usefixtures("parents")
@pytest.mark.parametrize("new_program", [False, True], ids=["fork", "program"])
def test_those_of_a_device_process(new_program: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.host.child.has_threads", lambda: new_program)
    [request] = Plugins().request_devices([parse_device("rng:process=on")])
    with DeviceProcesses() as processes:
        processes.start([request])
        device = processes.take(request.id)
        assert isinstance(device, VhostUserDevice)
        assert isinstance(device._source, DeviceProcess) and device._source.child is not None
        pid = device._source.child.pid
        assert signals(pid, "SigIgn") == LEFT_TO_THE_PARENT | ERRNO_INSTEAD
        assert signals(pid, "SigBlk") == set()
        assert signals(pid, "SigCgt") >= {signal.SIGUSR1}
        device.close()


@pytest.mark.usefixtures("parents")
def test_those_of_another_program_are_the_defaults() -> None:
    def become() -> int:
        child.default_signals()
        os.execv("/bin/cat", ["cat", "/proc/self/status"])

    with closing(child.fork("cat", become)) as process:
        select.select([process.log], [], [])
        said = os.read(process.log.fileno(), 1 << 16).decode()
    masks = dict(line.split(":\t") for line in said.splitlines() if line.startswith(("SigIgn", "SigBlk", "SigCgt")))
    assert {name: int(mask, 16) & STANDARD for name, mask in masks.items()} == {"SigIgn": 0, "SigBlk": 0, "SigCgt": 0}


def test_the_parents_signal_removes_what_a_process_made_and_ends_it(tmp_path: Path) -> None:
    made = tmp_path / "made"

    def body() -> int:
        leftovers.add(made.unlink)
        made.touch()
        while True:
            signal.pause()

    with closing(child.fork("body", body)) as process:
        while not made.exists():
            select.select([], [], [], 0.01)
        child.end_all(60)
        assert process.outcome == "ended with status 1"
    assert not made.exists()


def test_a_signal_waits_until_what_is_being_made_can_be_removed(tmp_path: Path) -> None:
    made = tmp_path / "made"

    def body() -> int:
        with leftovers.Making():
            made.touch()
            os.kill(os.getpid(), signal.SIGUSR1)
            sys.stderr.write("still there\n")
            leftovers.add(made.unlink)
        return 7

    with closing(child.fork("body", body)) as process:
        assert process.wait(60)
        assert process.outcome == "ended with status 1"
        assert os.read(process.log.fileno(), 100) == b"still there\n"
    assert not made.exists()
