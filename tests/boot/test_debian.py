"""A whole Debian, with its own initramfs and systemd, from a disk to its login prompt."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.boot.booting import PYVMM
from tests.guest import debian, disk

TIMEOUT = 600


def test_debian_boots_to_its_login_prompt(tmp_path: Path) -> None:
    system = debian.ensure()
    image = disk.copy(system.disk, tmp_path / "disk.img")
    command = [str(PYVMM), "--kernel", str(system.vmlinuz), "--initrd", str(system.initrd)]
    command += ["--memory", "512M", "--cpus", "2", "--cmdline", "quiet", "--device", f"block:{image},root"]
    seen = b""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + TIMEOUT
        while b"pyvmm-guest login:" not in seen:
            data = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            assert data and time.monotonic() < deadline, seen[-4000:].decode(errors="replace")
            seen += data

        process.stdin.write(b"root\n")
        process.stdin.flush()
        while b"root@pyvmm-guest:" not in seen:
            data = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            assert data and time.monotonic() < deadline, seen[-4000:].decode(errors="replace")
            seen += data
        process.stdin.write(b"findmnt -no SOURCE /; systemctl poweroff\n")
        process.stdin.close()
        seen += process.stdout.read()
        status = process.wait(timeout=TIMEOUT)

    assert b"/dev/vda" in seen
    assert status == 0
    assert disk.check(image) == ""
