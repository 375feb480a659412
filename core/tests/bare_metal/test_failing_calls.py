"""A start at each of whose system calls the host has no more of something: it ends with one line and status 1, or the
machine runs with less; and nothing is left of it.

Each run fails one call: the Nth of a function, in the machine's process or in that of one device. The guest brings all
devices up, so the calls of their activation are among them. The usual test takes some of the runs, and all with
``--every-call``.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm.testing import waiting

from core.tests.bare_metal.test_interrupted_starts import adopted, none_left, wait_until

__all__ = ["adopted"]

PATIENCE = 2 * waiting.PATIENCE
"""Seconds after which a start will never end."""

DEVICES = ("block", "rng", "balloon", "vsock")
"""Those that may have processes, in the order in which the machine forks them."""

SPARSE = {"open": 23, "read": 29, "ioctl": 31, "recvmsg": 37, "sendmsg": 19, "epoll_ctl": 5, "eventfd": 5}
"""Of so many runs, the usual test takes one: of a function that a start calls often, a few. Of others one of 3."""

CALLS = {
    "open": errno.EMFILE,
    "fopen": errno.ENFILE,
    "mkdir": errno.EDQUOT,
    "read": errno.EIO,
    "write": errno.ENOSPC,
    "preadv2": errno.EIO,
    "socket": errno.EMFILE,
    "socketpair": errno.ENFILE,
    "bind": errno.ENOSPC,
    "listen": errno.ENOMEM,
    "recvmsg": errno.ENOMEM,
    "sendmsg": errno.ENOBUFS,
    "pipe2": errno.EMFILE,
    "eventfd": errno.EMFILE,
    "epoll_create1": errno.EMFILE,
    "epoll_ctl": errno.ENOSPC,
    "dup": errno.EMFILE,
    "dup2": errno.EMFILE,
    "dup3": errno.EMFILE,
    "fcntl": errno.EMFILE,
    "memfd_create": errno.ENFILE,
    "ftruncate": errno.ENOSPC,
    "mmap": errno.ENOMEM,
    "ioctl": errno.ENOMEM,
    "fork": errno.EAGAIN,
    "pthread_create": errno.EAGAIN,
    "pidfd_open": errno.EMFILE,
    "io_uring_setup": errno.EMFILE,
    "io_uring_register": errno.ENOMEM,
}
"""Functions of the C library, and what each of them says in turn."""

Run = Callable[..., "Outcome"]


class Outcome:
    """What came of one run."""

    def __init__(self, status: int, errors: str, failed: bool, left: list[str]) -> None:
        self.status = status
        self.errors = errors
        self.failed = failed
        """Whether the call came, and failed."""
        self.left = left

    def check(self, case: object, lines: int = 1) -> None:
        """One line and status 1, or a machine that ran; nothing left. A device's process may log a line of its own."""
        told = self.errors.splitlines()
        assert "Traceback" not in self.errors, (case, self.errors)
        assert all(line.startswith("pyvmm: ") for line in told), (case, self.errors)
        assert self.status in (0, 1), (case, self.status, self.errors)
        if self.status:
            assert 1 <= len(told) <= lines, (case, self.errors)
        assert self.left == [], case


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that makes calls fail."""
    path = tmp_path_factory.mktemp("failing") / "failing.so"
    source = Path(__file__).with_name("failing_calls.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    return path


@pytest.fixture
def run(program: Callable[..., Path], library: Path, tmp_path: Path, adopted: None) -> Run:
    """Runs a machine, one call of which fails."""
    kernel = program("activate.c")
    runtime, mark = tmp_path / "runtime", tmp_path / "mark"
    runtime.mkdir()
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))

    def run(
        process: str, call: str = "", at: int = 0, fork: int = 0, *, always: bool = False, limit: int = 0, more: int = 0
    ) -> Outcome:
        devices = [
            f"serial:file={tmp_path}/serial.log",
            f"block:{tmp_path}/disk.img,process={process}",
            f"rng,process={process}",
            f"balloon:socket={tmp_path}/balloon.sock,process={process}",
            f"vsock:{tmp_path}/vsock.sock,process={process}",
            f"console:unix={tmp_path}/console.sock",
            *[f"rng,process={process}"] * more,
        ]
        words = ["-m", "pyvmm", "--kernel", str(kernel), "--memory", "32M", *(f"--device={word}" for word in devices)]
        settings = {
            "LD_PRELOAD": str(library),
            "FAIL_CALL": call,
            "FAIL_AT": str(at),
            "FAIL_FORK": str(fork),
            "FAIL_ERRNO": str(CALLS.get(call, 0)),
            "FAIL_ALWAYS": str(int(always)),
            "FAIL_FROM": "/cli/__pycache__/main.",  # what is opened before that is Python's own start
            "FAIL_MARK": str(mark),
        }
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        environment.pop("PYTHONPYCACHEPREFIX", None)
        child = subprocess.Popen(
            [sys.executable, *words],
            env={**environment, **settings} if call else environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))) if limit else None,
        )
        try:
            _, errors = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()
            child.wait()
        wait_until(none_left)
        left = sorted(path.name for path in (*tmp_path.glob("*.sock"), *runtime.iterdir()))
        failed = mark.exists()
        mark.unlink(missing_ok=True)
        return Outcome(child.returncode, errors, failed, left)

    return run


@pytest.mark.parametrize("process", ["off", "on"])
@pytest.mark.parametrize("call", CALLS)
def test_each_call_may_fail(run: Run, every_call: bool, call: str, process: str) -> None:
    for fork in range(1 + (len(DEVICES) if process == "on" else 0)):
        for number in range(1, 1000, 1 if every_call else SPARSE.get(call, 3)):
            outcome = run(process, call, number, fork)
            outcome.check((call, number, fork), lines=2 if fork else 1)
            if not outcome.failed:
                break


@pytest.mark.parametrize("process", ["off", "on"])
@pytest.mark.parametrize("call", ["open", "eventfd", "epoll_ctl", "pthread_create"])
def test_a_resource_may_be_used_up_for_good(run: Run, call: str, process: str) -> None:
    for number in (1, 5, 34, 89):
        outcome = run(process, call, number, always=True)
        outcome.check((call, number), lines=1)
        if not outcome.failed:
            break


@pytest.mark.parametrize("process", ["off", "on"])
def test_a_machine_of_17_devices_starts_or_says_that_it_has_too_few_descriptors(run: Run, process: str) -> None:
    statuses = []
    for limit in [*range(5, 70, 8), 80, 100, 128, 160, 200, 400]:
        outcome = run(process, limit=limit, more=11)
        outcome.check(limit)
        statuses.append(outcome.status)
        assert not outcome.status or "ulimit -n" in outcome.errors, (limit, outcome.errors)
    assert statuses == sorted(statuses, reverse=True)  # with more it does not become worse
    assert statuses[0] == 1
    assert statuses[-1] == 0


def test_a_disk_works_without_io_uring_where_no_descriptor_is_left_for_it(run: Run) -> None:
    for process, fork in (("off", 0), ("on", 1)):
        outcome = run(process, "io_uring_setup", 1, fork, always=True)
        assert (outcome.status, outcome.errors, outcome.failed) == (0, "", True)
