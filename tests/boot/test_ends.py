"""How a run ends, and what pyvmm says of it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.boot.booting import PYVMM, SILENCE, boot, read_some
from tests.guest import artefacts


def test_a_kernel_panic_ends_with_a_reboot(tmp_path: Path) -> None:
    result = boot(tmp_path, "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60")

    assert "sysrq triggered crash" in result.output
    assert result.status == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_machine_with_all_cpus_busy(tmp_path: Path, number: signal.Signals) -> None:
    guest = artefacts.ensure()
    script = "for i in 1 2; do while :; do :; done & done; echo BUSY; wait"
    initrd = artefacts.with_script(guest.initramfs, script, tmp_path / "initrd")
    command = [str(PYVMM), "--kernel", str(guest.vmlinuz), "--initrd", str(initrd), "--cpus", "2", "--cmdline", "quiet"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == b"BUSY":
                    break

            process.send_signal(number)
            status = process.wait(timeout=SILENCE)
        finally:
            process.kill()

    assert status == 128 + number


def test_ctrl_a_x_ends_the_machine_and_the_terminal_is_as_it_was(tmp_path: Path) -> None:
    guest = artefacts.ensure()
    initrd = artefacts.with_script(
        guest.initramfs, "echo HELLO; read word; echo GOT=$word; sleep 600", tmp_path / "initrd"
    )
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    command = [str(PYVMM), "--kernel", str(guest.vmlinuz), "--initrd", str(initrd), "--cmdline", "quiet"]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True) as process:
        try:
            _read_until(leader, b"HELLO")
            raw = termios.tcgetattr(follower)
            os.write(leader, b"word\n")
            _read_until(leader, b"GOT=word")

            os.write(leader, b"\x01x")
            status = process.wait(timeout=SILENCE)
        finally:
            process.kill()

    assert status == 0
    assert raw != before
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)


def test_without_acpi_the_guest_finds_its_cpus_and_console(tmp_path: Path) -> None:
    cmdline = "quiet acpi=off reboot=k pyvmm.end=reboot"
    # Debian's cloud kernel reads no MP table.
    result = boot(
        tmp_path, "echo CPUS=$(nproc)", "--cpus", "2", "--discovery", "cmdline", flavour="amd64", cmdline=cmdline
    )

    result.assert_passed()
    assert result.value("CPUS") == "2"


def test_a_device_without_a_driver_is_named(tmp_path: Path) -> None:
    guest = artefacts.ensure()
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    # An init that loads no module: the guest ends at once.
    initrd = artefacts.with_script(guest.initramfs, "true", tmp_path / "initrd")
    command = [str(PYVMM), "-v", "--kernel", str(guest.vmlinuz), "--initrd", str(initrd)]
    command += ["--cmdline", "quiet rdinit=/nothing init=/nothing", "--device", f"block:{image}"]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * SILENCE, check=False
    )

    assert "block0: no driver has started it; the guest's kernel needs CONFIG_VIRTIO_BLK" in result.stderr


def _read_until(fd: int, wanted: bytes) -> bytes:
    seen = bytearray()
    while wanted not in seen:
        seen += read_some(fd, seen.decode)
    return bytes(seen)
