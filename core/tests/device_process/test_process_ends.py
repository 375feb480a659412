"""Nothing is left of a machine's processes, however it ends: the command, on the real /dev/kvm, without a kernel."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm import __version__
from pyvmm.testing.bare_metal import compile_program
from pyvmm.testing.waiting import PATIENCE, wait_until

PROGRAMS = Path(__file__).parents[1] / "bare_metal"
DISKS = 2

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/kvm"), reason="no /dev/kvm on this machine")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled programs are."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    """Disk images."""
    paths = [tmp_path / f"{i}.img" for i in range(DISKS)]
    for path in paths:
        path.write_bytes(bytes(1 << 16))
    return paths


class Vmm:
    """The command, run by a test."""

    def __init__(self, kernel: Path, disks: list[Path], *arguments: str, terminal: bool = False) -> None:
        self.disks = disks
        command = [sys.executable, "-m", "pyvmm", "--kernel", str(kernel), "--memory", "32M"]
        for disk in disks:
            command += ["--device", f"block:{disk},process=on"]
        self.terminal = -1
        stdin = subprocess.DEVNULL
        if terminal:
            self.terminal, stdin = pty.openpty()
        else:
            command.append("--no-default-devices")
        self.shm = set(os.listdir("/dev/shm"))
        self.process = subprocess.Popen(
            [*command, *arguments], stdin=stdin, stdout=stdin if terminal else subprocess.PIPE, stderr=subprocess.PIPE
        )
        if terminal:
            os.close(stdin)
        self.children: dict[str, int] = {}

    def wait_for_children(self) -> None:
        """Until all devices have their processes and the machine runs."""
        wait_until(
            lambda: len(self._find_children()) == len(self.disks) and self._has_vcpu(),
            lambda: f"{self._find_children()}, status {self.process.poll()}",
        )
        self.children = self._find_children()

    def expect(self, text: bytes) -> None:
        """Read the terminal until ``text`` is there."""
        screen = b""
        while text not in screen:
            assert select.select([self.terminal], [], [], PATIENCE)[0], f"{text!r} did not come, but {screen!r}"
            screen += os.read(self.terminal, 1 << 16)

    def finish(self) -> tuple[int, str]:
        """The exit status, and what was on stderr."""
        assert self.process.stderr is not None
        errors = self.process.stderr.read().decode()
        status = self.process.wait(PATIENCE)
        return status, errors

    def assert_nothing_is_left(self) -> None:
        """No process, lock, shared memory."""
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in self.children.values()))
        for disk in self.disks:
            wait_until(lambda disk=disk: not is_locked(disk))  # type: ignore[misc]
        assert set(os.listdir("/dev/shm")) <= self.shm

    def close(self) -> None:
        """End it, if the test has not."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self.terminal >= 0:
            os.close(self.terminal)

    def _find_children(self) -> dict[str, int]:
        children = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")
                    name = fields[0].partition("(")[2]
                    if int(fields[2].split()[1]) == self.process.pid and name.startswith("pyvmm:"):
                        children[name] = int(entry.name)
                except OSError:
                    pass
        return children

    def _has_vcpu(self) -> bool:
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/task")) > len(self.disks) + 1
        except OSError:
            return False


@pytest.fixture
def start(programs: Path, disks: list[Path]) -> Iterator[object]:
    """Starts the command with a program that ends in the given way."""
    running = []

    def start(how: str, *arguments: str, terminal: bool = False) -> Vmm:
        kernel = compile_program(programs, PROGRAMS / "end.c", f"END_{how}")
        running.append(Vmm(kernel, disks, *arguments, terminal=terminal))
        return running[-1]

    yield start
    for vmm in running:
        vmm.close()


def is_locked(path: Path) -> bool:
    """Whether somebody has a lock on the image."""
    with path.open("r+b") as file:
        answer = fcntl.fcntl(file, 36, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_GETLK
    return struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK


def test_lock_is_seen(start) -> None:  # type: ignore[no-untyped-def]
    """What the other tests rely on."""
    vmm = start("SPIN")
    vmm.wait_for_children()
    assert all(map(is_locked, vmm.disks))
    assert sorted(vmm.children) == ["pyvmm:block0", "pyvmm:block1"]


def test_nothing_is_left_after_poweroff(start) -> None:  # type: ignore[no-untyped-def]
    vmm = start("POWEROFF")
    assert vmm.finish() == (0, "")
    assert not vmm._find_children()
    vmm.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_after_a_signal(start, number: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    vmm = start("SPIN")
    vmm.wait_for_children()
    vmm.process.send_signal(number)
    assert vmm.finish() == (128 + number, "")
    vmm.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_all_processes_at_once_is_an_orderly_end(start, number: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    """As a service manager sends it, to a whole control group."""
    vmm = start("SPIN")
    vmm.wait_for_children()
    for pid in (*vmm.children.values(), vmm.process.pid):
        os.kill(pid, number)
    assert vmm.finish() == (128 + number, "")
    vmm.assert_nothing_is_left()


def test_nothing_is_left_after_the_escape_key(start) -> None:  # type: ignore[no-untyped-def]
    vmm = start("SPIN", terminal=True)
    vmm.wait_for_children()
    os.write(vmm.terminal, b"\x01x")
    status, errors = vmm.finish()
    assert (status, errors) == (0, "")
    vmm.assert_nothing_is_left()


def test_interrupt_key_is_the_guests(start) -> None:  # type: ignore[no-untyped-def]
    vmm = start("SPIN", terminal=True)
    vmm.wait_for_children()
    os.write(vmm.terminal, b"\x03\x01h")
    vmm.expect(b"Ctrl-a x ")  # the help, which is asked for after the interrupt key
    assert vmm.process.poll() is None
    assert vmm._find_children() == vmm.children
    os.write(vmm.terminal, b"\x01x")
    assert vmm.finish() == (0, "")


def test_nothing_is_left_after_sigkill(start) -> None:  # type: ignore[no-untyped-def]
    vmm = start("SPIN")
    vmm.wait_for_children()
    vmm.process.kill()
    vmm.process.wait()
    vmm.assert_nothing_is_left()


def test_nothing_is_left_after_sigkill_of_a_vmm_whose_devices_are_stopped(start) -> None:  # type: ignore[no-untyped-def]
    """They cannot see that the connection is closed; the kernel kills them all the same."""
    vmm = start("SPIN")
    vmm.wait_for_children()
    for pid in vmm.children.values():
        os.kill(pid, signal.SIGSTOP)
    vmm.process.kill()
    vmm.process.wait()
    vmm.assert_nothing_is_left()


def test_device_that_does_not_end_is_killed(start) -> None:  # type: ignore[no-untyped-def]
    vmm = start("SPIN")
    vmm.wait_for_children()
    os.kill(vmm.children["pyvmm:block0"], signal.SIGSTOP)
    vmm.process.terminate()
    status, errors = vmm.finish()
    assert status == 128 + signal.SIGTERM
    assert errors.count("\n") == 1 and "block0: its process did not end and is killed" in errors
    vmm.assert_nothing_is_left()


def test_machine_outlives_a_device_that_is_killed(start) -> None:  # type: ignore[no-untyped-def]
    vmm = start("SPIN")
    vmm.wait_for_children()
    os.kill(vmm.children["pyvmm:block0"], signal.SIGKILL)
    wait_until(lambda: "pyvmm:block0" not in vmm._find_children())
    assert vmm.process.stderr is not None
    said = vmm.process.stderr.readline().decode()  # by now the machine has dealt with it
    assert vmm._has_vcpu() and vmm.process.poll() is None
    wait_until(lambda: not is_locked(vmm.disks[0]))
    vmm.process.terminate()
    status, errors = vmm.finish()
    assert status == 128 + signal.SIGTERM
    assert (said + errors).splitlines() == [
        f"pyvmm: virtio.transport: block0 (pyvmm-virtio-block {__version__}): its process was killed by SIGKILL; "
        "it is not served until the driver resets it"
    ]
    vmm.assert_nothing_is_left()


def test_failure_in_a_device_is_one_line_and_nothing_is_left(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    vmm = start("SPIN", "--device", f"block:{tmp_path / 'none.img'},process=on")
    status, errors = vmm.finish()
    assert status == 2
    assert errors.count("\n") == 1 and "none.img" in errors and "Traceback" not in errors
    vmm.assert_nothing_is_left()


def test_same_error_with_and_without_a_process(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    said = []
    for process in ("on", "off"):
        vmm = start("SPIN", "--device", f"block:{tmp_path},process={process}")
        said.append(vmm.finish())
    assert said[0] == said[1]
    assert said[0][0] == 2


def test_failure_after_the_devices_is_one_line_and_nothing_is_left(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    kernel = tmp_path / "no-kernel"
    kernel.write_bytes(b"\x7fELF" + bytes(100))
    vmm = start("SPIN", "--kernel", str(kernel))
    status, errors = vmm.finish()
    assert status == 2
    assert errors.count("\n") == 1 and "Traceback" not in errors
    vmm.assert_nothing_is_left()
