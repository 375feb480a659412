"""``pyvmm serve`` as a user starts and ends it; no machine is needed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm.testing.waiting import PATIENCE
from pyvmm.vhost_user.connection import Connection
from pyvmm.vhost_user.protocol import ConfigSpace, FrontendRequest, ProtocolFeature, pack_u64, unpack_u64

from core.tests.distributions import SitePackages
from tests.vhost_user.served import PYVMM, Served


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def served(image: Path, tmp_path: Path) -> Iterator[Served]:
    with Served(f"block:{image}", tmp_path / "disk.sock") as served:
        yield served


def connect(path: Path) -> Connection:
    """A front end."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return Connection(sock)


def capacity(connection: Connection) -> int:
    """Sectors of the disk that is served."""
    connection.send(FrontendRequest.SET_PROTOCOL_FEATURES, pack_u64(ProtocolFeature.CONFIG.mask))
    answer = connection.exchange(FrontendRequest.GET_CONFIG, ConfigSpace(0, bytes(8)).pack())
    return unpack_u64(ConfigSpace.unpack(answer.payload).data)


def fails(*arguments: str) -> tuple[int, str]:
    """The status and the one line that ``pyvmm serve`` ends with."""
    result = subprocess.run(
        [str(PYVMM), "serve", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
    )
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.returncode, result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing(served: Served, number: signal.Signals) -> None:
    with connect(served.path) as front_end:
        assert capacity(front_end) == 2048
        served.process.send_signal(number)
        assert served.process.wait(30) == 0

    assert not served.path.exists()


FILING = """

    from pyvmm.plugin import DeviceKind, hookimpl, options
    from pyvmm.virtio.device import VirtioDevice


    @options
    class FilingOptions:
        pass


    class Filing(VirtioDevice):
        device_type = 42
        queue_max_sizes = (16,)

        def attach(self, context):
            super().attach(context)
            assert list(context.devices) == [self.name]
            context.directory().joinpath("paper").touch()


    @hookimpl
    def pyvmm_device_kinds():
        return [DeviceKind("filing", FilingOptions, lambda options: Filing(), help="has files")]


    @hookimpl
    def pyvmm_machine_created(machine):
        raise RuntimeError("there is no machine")
"""


def test_a_device_s_files_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, modules = tmp_path / "runtime", SitePackages(tmp_path / "modules")
    for path in (runtime, modules.path):
        path.mkdir()
    modules.install("pyvmm-filing", {"filing": "pyvmm_filing"}, {"pyvmm_filing": FILING})
    monkeypatch.setenv("PYTHONPATH", str(modules.path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with Served("filing", tmp_path / "filing.sock") as served:
        assert len(list(runtime.glob("*/filing0/paper"))) == 1
        assert served.stop() == 0
    assert not list(runtime.iterdir())


def test_front_ends_are_served_one_after_the_other(served: Served) -> None:
    first, second = connect(served.path), connect(served.path)
    assert capacity(first) == 2048
    second.send(FrontendRequest.GET_FEATURES)
    for _ in range(2):  # by the second answer, the other front end would have its own
        assert capacity(first) == 2048
    assert second.receive_available() is None

    first.close()

    assert unpack_u64(second.receive().payload) >> 32 & 1
    second.close()
    with connect(served.path) as third:
        assert capacity(third) == 2048


def test_a_front_end_that_breaks_the_protocol_makes_room_for_the_next(served: Served) -> None:
    with socket.socket(socket.AF_UNIX) as bad:
        bad.connect(str(served.path))
        bad.send(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert bad.recv(1) == b""
    with connect(served.path) as good:
        assert capacity(good) == 2048
    served.stop()

    assert "block0: the front end breaks the protocol: a message of version" in served.errors


def test_a_socket_that_a_killed_one_left_is_replaced(served: Served) -> None:
    served.kill()
    assert served.path.exists()

    served.start()

    with connect(served.path) as front_end:
        assert capacity(front_end) == 2048


def test_a_socket_that_is_in_use_is_left_alone(served: Served, tmp_path: Path) -> None:
    (tmp_path / "other.img").write_bytes(bytes(1 << 20))
    status, line = fails(f"block:{tmp_path}/other.img", "--socket", str(served.path))

    assert status == 2
    assert "another process listens there" in line
    with connect(served.path) as front_end:
        assert capacity(front_end) == 2048


def test_what_is_no_socket_is_left_alone(image: Path) -> None:
    status, line = fails(f"block:{image}", "--socket", str(image))

    assert status == 2
    assert "is no socket" in line
    assert image.stat().st_size == 1 << 20


def test_what_another_has_put_there_meanwhile_is_left_at_the_end(served: Served) -> None:
    served.path.unlink()
    served.path.write_text("another's")
    assert served.stop() == 0

    assert served.path.read_text() == "another's"


def test_a_connected_descriptor_is_served_until_it_is_closed(image: Path) -> None:
    mine, its = socket.socketpair()
    with its:
        process = subprocess.Popen(
            [str(PYVMM), "serve", f"block:{image}", "--fd", str(its.fileno())], pass_fds=[its.fileno()]
        )
    with Connection(mine, timeout=PATIENCE) as front_end:
        assert capacity(front_end) == 2048

    assert process.wait(30) == 0


def test_a_listening_descriptor_is_served_and_its_file_left(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "listening.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        process = subprocess.Popen(
            [str(PYVMM), "serve", f"block:{image}", "--fd", str(listening.fileno())], pass_fds=[listening.fileno()]
        )
    for _ in range(2):
        with connect(path) as front_end:
            front_end.timeout = PATIENCE
            assert capacity(front_end) == 2048
    process.terminate()

    assert process.wait(30) == 0
    assert path.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serial", "--socket", "SOCKET"], "serial is no virtio device"),
        (["lamp", "--socket", "SOCKET"], "no installed package offers device kind 'lamp'"),
        (["block:/nonexistent", "--socket", "SOCKET"], "does not exist"),
        (["block:IMAGE"], "give one of --socket PATH and --fd N"),
        (["block:IMAGE", "--socket", "SOCKET", "--fd", "5"], "give one of --socket PATH and --fd N"),
        (["block:IMAGE", "--fd", "99"], "descriptor 99 is no socket"),
        (["block:IMAGE", "--fd", "0"], "descriptor 0 is no socket"),
        (
            ["block:IMAGE", "--socket", "/nonexistent/sock"],
            "/nonexistent/sock: No such file or directory; give a path",
        ),
        (["block:IMAGE", "--socket", "/" + 200 * "x"], "give a path where a socket can be made"),
        (["block:IMAGE", "--socket", ""], "without a path"),
        (["--socket", "SOCKET"], "pyvmm serve --help"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(image: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    path = tmp_path / "disk.sock"
    words = [word.replace("IMAGE", str(image)).replace("SOCKET", str(path)) for word in arguments]
    status, line = fails(*words)

    assert status == 2
    assert says in line
    assert not path.exists()


def test_a_descriptor_of_the_wrong_kind_of_socket_is_refused(image: Path) -> None:
    with socket.socket(socket.AF_INET) as internet:
        result = subprocess.run(
            [str(PYVMM), "serve", f"block:{image}", "--fd", str(internet.fileno())],
            pass_fds=[internet.fileno()],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    assert result.returncode == 2
    assert "is no Unix stream socket" in result.stderr


def test_no_descriptor_is_lost_over_many_front_ends(served: Served) -> None:
    def count() -> int:
        return len(os.listdir(f"/proc/{served.process.pid}/fd"))

    def turn() -> None:
        with connect(served.path) as front_end:
            assert capacity(front_end) == 2048

    turn()
    before = count()
    for _ in range(50):
        turn()

    assert abs(count() - before) <= 1  # the last one may not be gone yet
