"""A whole Debian, with its own initramfs and systemd, from a disk to its login prompt."""

from __future__ import annotations

from pathlib import Path

from tests.boot.running import running
from tests.guest import debian, disk


def test_debian_boots_to_its_login_prompt(tmp_path: Path) -> None:
    system = debian.ensure()
    image = disk.copy(system.disk, tmp_path / "disk.img")
    arguments = ["--kernel", str(system.vmlinuz), "--initrd", str(system.initrd)]
    arguments += ["--memory", "512M", "--cmdline", "quiet", "--device", f"block:{image},root"]

    with running(tmp_path, arguments) as guest:
        guest.wait_for("pyvmm-guest login:")
        guest.type("root")
        guest.wait_for("root@pyvmm-guest:")
        guest.type("findmnt -no SOURCE /; systemctl poweroff")
        result = guest.finish()

    assert "/dev/vda" in result.output
    assert result.status == 0, result.errors
    assert disk.check(image) == ""
