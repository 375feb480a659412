"""A host that has no more of something: what is said, and how little fails."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm.chardev.unix_socket import UnixSocket
from pyvmm.device_context import DeviceContext
from pyvmm.errors import HostError, UsageError
from pyvmm.host.aio import IoEngine
from pyvmm.host.control_socket import ControlSocket
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm.host.shortage import Need, shortage
from pyvmm.host.unix_listener import UnixListener
from pyvmm.testing.resources import descriptors_left


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


def step(loop: EventLoop) -> None:
    """Serve what is ready."""
    while loop.run_once(0.01):
        pass


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(os.fspath(path))
    return client


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "file-max"),
        (errno.ENOMEM, "ulimit -v"),
        (errno.ENOSPC, "max_user_watches"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "dmesg"),
    ],
)
def test_a_shortage_is_told_with_its_way_out(number: int, way_out: str) -> None:
    assert way_out in shortage(OSError(number, os.strerror(number)))


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "no"), BlockingIOError(errno.EAGAIN, "no"), ValueError("no")])
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert shortage(error) == ""


def test_what_needs_it_is_named_also_where_an_option_was_blamed() -> None:
    with (
        pytest.raises(HostError, match=r"^disk0: '/there': no file descriptor is left; raise the limit"),
        Need("disk0"),
    ):
        try:
            raise OSError(errno.EMFILE, "Too many open files", "/there")
        except OSError as error:
            raise UsageError("block: /there: give another path") from error


def test_a_listener_without_a_descriptor_names_its_path(tmp_path: Path) -> None:
    for left in range(2):
        with descriptors_left(left), pytest.raises(HostError, match="lamp: no file descriptor is left"):
            UnixListener(tmp_path / "socket", "lamp")
        assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("left", [0, 1])
def test_a_line_on_a_socket_turns_a_client_away_and_takes_the_next(
    tmp_path: Path, loop: EventLoop, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    from pyvmm.chardev.line import Line

    class Quiet(Line):
        """One on which nothing is said."""

    errors: list[BaseException] = []
    path = tmp_path / "line"
    backend = UnixSocket("lamp", path)
    line = Quiet()  # type: ignore[abstract]
    backend.attach(line, DeviceContext("lamp0", LoopScope(loop, errors.append), lambda _: None))
    clients = [connect(path) for _ in range(2)]
    with descriptors_left(left):
        step(loop)
    assert errors == []
    assert [client.recv(1) for client in clients] == [b"", b""], "turned away"
    assert len(caplog.records) == 1
    clients.append(connect(path))
    step(loop)
    assert backend.output is not None
    backend.close()
    for client in clients:
        client.close()


def test_a_control_socket_turns_away_a_client_that_cannot_be_watched(
    tmp_path: Path, loop: EventLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = []
    control = ControlSocket(tmp_path / "control", "lamp")
    control.attach(LoopScope(loop, errors.append), {})
    clients = [connect(tmp_path / "control") for _ in range(2)]

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(EventLoop, "add", refuse)
        step(loop)
    assert errors == []
    assert [client.recv(1) for client in clients] == [b"", b""]
    assert len(caplog.records) == 1
    control.close()
    for client in clients:
        client.close()


def test_io_goes_through_threads_where_there_is_one_descriptor_for_it(tmp_path: Path) -> None:
    from pyvmm.host.aio import IoFile

    (tmp_path / "file").write_bytes(b"content")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    results: list[int] = []
    with descriptors_left(0), pytest.raises(HostError, match="ulimit -n"):
        IoEngine(4)
    # io_uring takes the last one, and none is left to ask what the ring can do: still an engine, of either sort.
    with descriptors_left(1), IoEngine(4) as engine:
        buffer = bytearray(7)
        engine.preadv(IoFile(fd), [buffer], 0, results.append)
        engine.submit()
        engine.drain()
    os.close(fd)
    assert (results, bytes(buffer)) == ([7], b"content")


def test_a_command_that_cannot_start_a_thread_says_so_in_one_line() -> None:
    program = (
        "import _thread\n"
        "from pyvmm.cli import run, main\n"
        'def fail(_): raise RuntimeError("can\'t start new thread")\n'
        "run.run = fail\n"
        "raise SystemExit(main.main(['--kernel', '/nowhere']))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "ulimit -u" in result.stderr
