"""A device that the tutorial has its reader write, those that ``pyvmm new-device`` writes, and somebody else's, in one
guest."""

from __future__ import annotations

import os
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Final

from pyvmm.cli.new_device import names_of, write

from core.tests.distributions import SitePackages
from tests import first_device
from tests.boot.booting import PYVMM, SILENCE, read_some
from tests.documentation import DOWNSTREAM, commands
from tests.guest import artefacts
from tests.system import kernels, modules

PROMPT: Final = b"guest# "

OTHER_DRIVERS: Final = ("virtio_console", "virtio_blk")

GREETING, SCRATCH = "Good morning", "0123456789abcdef"


def installed(projects: list[Path], site: Path) -> Path:
    """A folder for Python's path with ``projects`` as pip leaves them, which takes pip long in an emulated machine."""
    site.mkdir()
    for project in projects:
        about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        stem = about["name"].replace("-", "_")
        (site / stem).symlink_to(project / "src" / stem)
        SitePackages(site).install(about["name"], about["entry-points"]["pyvmm.devices"], version=about["version"])
    return site


class Console:
    """A guest's shell on the console."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.seen = b""

    def wait_for(self, wanted: bytes) -> bytes:
        """What the guest says before ``wanted``."""
        assert self.process.stdout is not None

        def seen() -> str:
            return self.seen.decode(errors="replace")[-3000:]

        while wanted not in self.seen:
            data = read_some(self.process.stdout.fileno(), seen)
            assert data, f"no {wanted!r}: {seen()}"
            self.seen += data
        before, _, self.seen = self.seen.partition(wanted)
        return before

    def type(self, line: str) -> None:
        """A line at the prompt."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, line: str) -> list[str]:
        """What a command prints."""
        self.type(line)
        output = self.wait_for(PROMPT).decode(errors="replace")
        return output.replace("\r", "").split("\n", 1)[1].splitlines()


def test_devices_that_are_none_of_ours(tmp_path: Path) -> None:
    lighthouse, greeting, scratch = (tmp_path / name for name in ("lighthouse", "greeting", "scratch"))
    write(lighthouse, "virtio", names_of("lighthouse"))
    first_device.write_over(lighthouse)
    write(greeting, "virtio", names_of("greeting"))
    write(scratch, "bus", names_of("scratch"))
    written = [lighthouse, greeting, scratch, DOWNSTREAM / "ramdisk"]
    site = installed(written, tmp_path / "site")
    guest, kernel = artefacts.ensure("amd64"), kernels.kernel_directory("amd64")  # the cloud kernel has no /dev/port
    first_device.run("sh", "guest.sh", guest.release, str(kernel), cwd=lighthouse)
    # Drivers for the other devices.
    initrd = lighthouse / "guest.cpio"
    drivers = {path.name: modules.contents(path) for path in modules.in_load_order(kernel, OTHER_DRIVERS)}
    others = {f"modules/90-{name}": drivers[name] for name in map("{}.ko".format, OTHER_DRIVERS)}
    artefacts.with_script(initrd, "", tmp_path / "all", files=others).rename(initrd)
    (command,) = (line for line in commands(first_device.PAGE) if line.startswith("pyvmm --initrd"))
    devices = [f"greeting:{GREETING}", f"scratch:{SCRATCH}", "ramdisk:16M,fill=sailor"]
    arguments = [*shlex.split(command)[1:], "-v", *(word for device in devices for word in ("--device", device))]
    environment = {**os.environ, "PYVMM_KERNEL": str(guest.vmlinux), "PYTHONPATH": str(site)}

    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [str(PYVMM), *arguments],
            cwd=lighthouse,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    with process:
        try:
            console = Console(process)
            console.wait_for(PROMPT)
            keeper, end = commands(first_device.PAGE, "guest# ")
            flashes = console.run(keeper)
            name = console.run("cat /sys/class/leds/input*::misc/device/name")
            console.run("exec 3<>/dev/hvc0; stty -echo <&3")
            greetings = [*console.run("echo hello >&3; head -n 1 <&3"), *console.run("echo >&3; head -n 1 <&3")]
            ports = console.run("dd if=/dev/port bs=1 skip=$((0x5e0)) count=16 2>/dev/null; echo")
            full = console.run("head -c 12 /dev/vda; echo")
            console.run("cp /bin/busybox /copy; dd if=/copy of=/dev/vda bs=64k conv=fsync 2>/dev/null")
            console.run("echo 3 >/proc/sys/vm/drop_caches")
            kept = console.run("cmp -n $(stat -c %s /copy) /copy /dev/vda && echo same")
            console.type(end)
            status = process.wait(timeout=SILENCE)
        finally:
            process.kill()

    said = (tmp_path / "errors").read_text()
    assert status == 0, said
    assert flashes == ["light", "dark"] * 4
    assert name == ["pyvmm lighthouse"]
    assert greetings == [GREETING] * 2
    assert ports == [SCRATCH]
    assert full == ["sailor" * 2]
    assert kept == ["same"]
    assert "lighthouse0: the lamp is lit" in said
    assert "Traceback" not in said
