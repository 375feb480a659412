"""Commands in machines: ``pyvmm run`` and its library, with Debian's own drivers."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyvmm_run import Sandbox

from tests.boot.booting import PYVMM, SILENCE
from tests.guest import disk
from tests.system import kernels

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cloud kernel, whose modules are beside it."""
    monkeypatch.setenv("PYVMM_KERNEL", str(kernels.kernel_directory("cloud") / "vmlinuz"))


@contextmanager
def nothing_left(temporary: Path) -> Iterator[None]:
    """No process and no file in ``temporary``, which is the TMPDIR of what is run."""
    yield
    assert [*temporary.iterdir()] == []
    lines = subprocess.check_output(["ps", "-eo", "args"], text=True).splitlines()
    assert [line for line in lines if "virtiofsd" in line or "machine_process" in line] == []


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files."""
    directory = tmp_path / "t"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    return directory


def test_streams_apart_whole_and_the_command_s_status(temporary: Path) -> None:
    data = os.urandom(8 * MIB)

    with nothing_left(temporary):
        result = subprocess.run(
            [str(PYVMM), "run", "--", "sh", "-c", "cat; uname -rn >&2; exit 7"],
            input=data,
            capture_output=True,
            timeout=SILENCE,
            check=False,
        )

    release = kernels.release(kernels.kernel_directory("cloud"))
    assert (result.returncode, result.stderr.decode()) == (7, f"pyvmm {release}\n")
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


def test_ctrl_c_is_the_command_s(temporary: Path) -> None:
    with nothing_left(temporary):
        command = [str(PYVMM), "run", "--", "sh", "-c", "echo ready; exec sleep 100000"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == b"ready\n", process.stderr.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(SILENCE) == 128 + signal.SIGINT
            assert process.stderr.read() == b""


def test_a_command_that_never_ends_is_ended(temporary: Path) -> None:
    with nothing_left(temporary):
        result = subprocess.run(
            [str(PYVMM), "run", "--timeout", "45", "--", "sleep", "100000"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SILENCE,
            check=False,
        )

    assert (result.returncode, result.stderr) == (124, "pyvmm run: the command was ended after 45 seconds\n")


def test_a_warm_machine_with_directories_of_the_host(temporary: Path, tmp_path: Path) -> None:
    for name in ("shared", "fixed"):
        (tmp_path / name).mkdir()
    (tmp_path / "fixed/file").write_text("from the host\n")
    volumes = [f"{tmp_path}/shared:/mnt/a", f"{tmp_path}/fixed:/mnt/b:ro"]

    with nothing_left(temporary), Sandbox(volumes=volumes, changes="discarded", memory=384 * MIB) as sandbox:
        text = sandbox.run(["cat", "/mnt/b/file"], capture_output=True, text=True, check=True).stdout
        refused = sandbox.run(["touch", "/mnt/b/other"], capture_output=True)
        sandbox.run(["cp", "/mnt/b/file", "/mnt/a/copy"], check=True)
        sandbox.write_file("/etc/written-by-pyvmm", b"kept in memory")
        written = sandbox.read_file("/etc/written-by-pyvmm")
        mounts = sandbox.read_file("/proc/mounts").decode()
        with pytest.raises(FileNotFoundError):
            sandbox.run(["no-such-command"])
        with sandbox.popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            echo = process.communicate(b"x" * MIB)[0]

    assert text == (tmp_path / "shared/copy").read_text() == "from the host\n"
    assert refused.returncode == 1 and b"Read-only" in refused.stderr
    assert written == b"kept in memory" and not Path("/etc/written-by-pyvmm").exists()
    assert echo == b"x" * MIB
    assert mounts.startswith("overlay / overlay rw")


def test_an_image_keeps_its_changes_where_it_is_to(temporary: Path, tmp_path: Path) -> None:
    tree, image = tmp_path / "tree", tmp_path / "disk.img"
    for name in ("bin", "proc", "sys", "dev", "run", "tmp"):
        (tree / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, tree / "bin/sh")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image, "32M"], check=True)

    with nothing_left(temporary):
        result = subprocess.run(
            [str(PYVMM), "run", "--image", image, "--changes", "kept", "--", "sh", "-c", "echo inside >/file; echo $0"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SILENCE,
            check=False,
        )

    assert (result.returncode, result.stdout, result.stderr) == (0, "sh\n", "")
    assert disk.read_file(image, "/file") == b"inside\n"
    assert disk.check(image) == ""
