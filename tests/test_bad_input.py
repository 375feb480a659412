"""What a user or a host may get wrong: one line that names the thing, the right status, nothing left behind."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyvmm.testing.waiting import PATIENCE

from tests.guest.tap import tap
from tests.system.prepared import TOP

PYVMM = TOP / ".venv/bin/pyvmm"

needs_kvm = pytest.mark.skipif(not os.path.exists("/dev/kvm"), reason="no /dev/kvm")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def refused(*arguments: str, status: int, names: str, prefix: tuple[str, ...] = ()) -> str:
    """Run the command, which must end with ``status`` and one line that has ``names`` in it."""
    result = subprocess.run(
        [*prefix, str(PYVMM), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == status, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("pyvmm: ")
    assert names in lines[0], lines[0]
    assert result.stdout == ""
    return lines[0]


def program(path: Path) -> Path:
    """A kernel that powers off at once: an ELF executable with a few instructions at 1 MiB."""
    code = bytes.fromhex("66ba0006 b034 ee ebfe")
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 1 << 20, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, 1 << 20, 1 << 20, len(code), len(code), 0x1000)
    path.write_bytes((header + segment).ljust(0x1000, b"\0") + code)
    return path


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    return str(program(tmp_path / "kernel"))


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


@needs_kvm
def test_the_program_that_the_table_uses_is_good(kernel: str, disk: str) -> None:
    arguments = ["--kernel", kernel, "--memory", "16M", "--device", f"block:{disk}"]
    result = subprocess.run([str(PYVMM), *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)

    assert result.returncode == 0, result.stderr


def make_elf_for_arm(path: Path) -> None:
    program(path)
    data = bytearray(path.read_bytes())
    data[18] = 183
    path.write_bytes(data)


def truncated_program(path: Path, length: int) -> None:
    program(path)
    os.truncate(path, length)


KERNELS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a directory": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a kernel\n" * 100),
    "compressed": lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(4000)),
    "zeros": lambda path: path.write_bytes(bytes(1 << 20)),
    "a truncated ELF": lambda path: truncated_program(path, 100),
    "an ELF without its code": lambda path: truncated_program(path, 0x1000),
    "for arm64": make_elf_for_arm,
    "a FIFO": lambda path: os.mkfifo(path),
}


@needs_kvm
@pytest.mark.parametrize("what", KERNELS)
def test_a_kernel_that_is(tmp_path: Path, what: str) -> None:
    path = tmp_path / "bad-kernel"
    KERNELS[what](path)

    refused("--kernel", str(path), "--memory", "64M", status=2, names=str(path))


@needs_kvm
@pytest.mark.parametrize("what", ["missing", "a directory", "empty", "too large"])
def test_an_initrd_that_is(tmp_path: Path, kernel: str, what: str) -> None:
    path = tmp_path / "bad-initrd"
    if what == "a directory":
        path.mkdir()
    elif what != "missing":
        path.touch()
        os.truncate(path, 0 if what == "empty" else 64 << 20)

    refused("--kernel", kernel, "--initrd", str(path), "--memory", "16M", status=2, names=str(path))


@needs_kvm
@pytest.mark.parametrize("what", ["missing", "a directory", "empty", "not whole sectors", "a character device"])
def test_a_disk_that_is(tmp_path: Path, kernel: str, what: str) -> None:
    path = tmp_path / "bad-disk"
    if what == "a directory":
        path.mkdir()
    elif what == "a character device":
        path = Path("/dev/null")
    elif what != "missing":
        path.write_bytes(b"" if what == "empty" else bytes(1000))

    refused("--kernel", kernel, "--device", f"block:{path}", status=2, names=str(path))


@contextmanager
def locked(path: str) -> Iterator[None]:
    """What another machine that writes the image does to it."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))  # F_OFD_SETLK
        yield
    finally:
        os.close(fd)


@needs_kvm
def test_a_disk_that_another_machine_writes(kernel: str, disk: str) -> None:
    with locked(disk):
        for option in ("", ",ro"):
            refused("--kernel", kernel, "--device", f"block:{disk}{option}", status=2, names=disk)


@needs_kvm
def test_a_disk_that_is_given_twice(kernel: str, disk: str) -> None:
    refused("--kernel", kernel, "--device", f"block:{disk}", "--device", f"block:{disk}", status=2, names=disk)


@needs_kvm
@pytest.mark.parametrize("name", ["a-name-that-is-far-too-long", "a/b", "lo"])
def test_a_tap_that_cannot_be_one(kernel: str, name: str) -> None:
    refused("--kernel", kernel, "--device", f"net:{name}", status=2, names=name)


@needs_kvm
@needs_root
def test_a_tap_that_is_in_use(kernel: str, tmp_path: Path) -> None:
    with tap() as interface:
        busy = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(busy, 0x400454CA, struct.pack("16sH22x", interface.name.encode(), 0x1002))  # TUNSETIFF
            refused("--kernel", kernel, "--device", f"net:{interface.name}", status=2, names=interface.name)
        finally:
            os.close(busy)


@needs_kvm
@needs_root
def test_a_tap_that_was_made_goes_when_a_later_device_is_refused(kernel: str) -> None:
    arguments = ("--device", "net:pyvmmhalf", "--device", "block:/nonexistent.img")

    refused("--kernel", kernel, *arguments, status=2, names="/nonexistent.img")

    assert not os.path.exists("/sys/class/net/pyvmmhalf")


@pytest.mark.parametrize("device", ["serial:stream", "console:stream"])
def test_a_line_that_only_a_program_has(kernel: str, device: str) -> None:
    refused("--kernel", kernel, "--device", device, status=2, names=device)


@pytest.mark.parametrize("size", ["0", "-1M", "1", "4097", "1.5G", "lots", ""])
def test_memory_that_is_no_size(kernel: str, size: str) -> None:
    refused("--kernel", kernel, "--memory", size, status=2, names="memory")


@needs_kvm
def test_memory_larger_than_the_hosts(kernel: str) -> None:
    refused("--kernel", kernel, "--memory", "4T", status=2, names="memory")


@pytest.mark.parametrize("cpus", ["0", "65", "-1", "two"])
def test_cpus_that_cannot_be(kernel: str, cpus: str) -> None:
    refused("--kernel", kernel, "--cpus", cpus, status=2, names="cpus")


@needs_kvm
def test_more_devices_than_interrupt_lines(tmp_path: Path, kernel: str) -> None:
    arguments = []
    for number in range(20):
        path = tmp_path / f"{number}.img"
        path.write_bytes(bytes(512))
        arguments += ["--device", f"block:{path}"]

    refused("--kernel", kernel, *arguments, status=2, names="interrupt line")


@needs_kvm
@pytest.mark.parametrize("text", ["x" * 3000, "caf\xe9", "two\nlines", 'an "open quote'])
def test_a_kernel_command_line_that_no_kernel_takes(kernel: str, text: str) -> None:
    refused("--kernel", kernel, "--cmdline", text, status=2, names="command line")


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("nothing-offers-this", "nothing-offers-this"),
        ("blok:disk.img", "block"),
        ("block", "path"),
        ("block:disk.img,rw=maybe", "rw"),
        ("block:disk.img,ro=maybe", "ro"),
        ("block:disk.img,ro,ro", "ro"),
        ("block:disk.img,id=" + "x" * 21, "id"),
        ("net:tap0,mac=no", "mac"),
        ("net:tap0,mtu=1", "mtu"),
        ("serial:stdio,file=x", "serial"),
        ("serial:file=/nonexistent/x", "/nonexistent/x"),
        ("", "device"),
        (":x", "device"),
    ],
)
def test_a_device_that_is_asked_for_wrongly(kernel: str, spec: str, names: str) -> None:
    refused("--kernel", kernel, "--device", spec, status=2, names=names)


def test_an_option_that_there_is_not() -> None:
    refused("--kernal", "x", status=2, names="--kernal")


@needs_kvm
@needs_root
@pytest.mark.parametrize(
    ("hide", "names"),
    [("mount -t tmpfs none /dev", "not there"), ("mount --bind /dev/null /dev/kvm", "/dev/kvm")],
    ids=["no /dev/kvm", "a /dev/kvm that is none"],
)
def test_a_host_without_kvm(kernel: str, hide: str, names: str) -> None:
    prefix = ("unshare", "--mount", "sh", "-c", f'{hide} && exec "$@" </proc/self/fd/0', "sh")

    refused("--kernel", kernel, status=1, names=names, prefix=prefix)
