"""A whole Debian on a disk: its own kernel, initramfs and systemd, as mmdebstrap makes it. Needs root."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.guest.disk import make_file_system
from tests.system.kernels import PreparationError
from tests.system.prepared import CACHE, key_of, prepared_directory

SIZE = 2 << 30
PACKAGES = "linux-image-cloud-amd64,initramfs-tools,systemd-sysv,udev,login,iproute2,zstd"
SUITE = "bookworm"


@dataclass(frozen=True)
class Debian:
    """What is needed to boot it."""

    vmlinuz: Path
    initrd: Path
    disk: Path
    """An ext4 image with the root file system; sparse. Copy it before a guest writes it."""


def ensure() -> Debian:
    """Debian, complete; the first call takes minutes and the network."""
    target = CACHE / "guest" / f"debian-{key_of(Path(__file__))[:12]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    directory = prepared_directory(target, _make)
    return Debian(directory / "vmlinuz", directory / "initrd.img", directory / "disk.img")


def _make(directory: Path) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise PreparationError("mmdebstrap is not installed (tests/system/require test)")
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        root = Path(scratch, "root")
        options = Path(scratch, "apt.conf")
        # How this host's apt reaches its archive holds here too.
        options.write_text(subprocess.check_output(["apt-config", "dump", "Acquire"], text=True))
        command = [program, "--quiet", "--mode=root", "--variant=minbase", f"--include={PACKAGES}"]
        command += [f"--aptopt={options}", "--customize-hook=chroot $1 passwd -d root"]
        command += ["--customize-hook=echo pyvmm-guest >$1/etc/hostname", SUITE, str(root), *_sources()]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise PreparationError(f"mmdebstrap failed: {result.stderr.strip()[-1000:]}")
        for name in ("vmlinuz", "initrd.img"):
            (found,) = (root / "boot").glob(f"{name}-*")
            shutil.copy(found, directory / name)
        make_file_system(directory / "disk.img", root, SIZE)


def _sources() -> list[str]:
    """The host's own list of archives where it is Debian's of this suite, else mmdebstrap's default."""
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if path.exists() and SUITE in path.read_text():
            return [str(path)]
    return []
