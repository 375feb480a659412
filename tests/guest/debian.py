"""A whole Debian on a disk: its own kernel, initramfs and systemd, as mmdebstrap makes it. Needs root."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.guest.disk import make_file_system
from tests.system.debian import make_debian
from tests.system.prepared import CACHE, key_of, prepared_directory

SIZE = 2 << 30
PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "udev", "login", "iproute2", "zstd")
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
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        root = Path(scratch, "root")
        hooks = ("chroot $1 passwd -d root", "echo pyvmm-guest >$1/etc/hostname")
        make_debian(SUITE, root, include=PACKAGES, hooks=hooks)
        for name in ("vmlinuz", "initrd.img"):
            (found,) = (root / "boot").glob(f"{name}-*")
            shutil.copy(found, directory / name)
        make_file_system(directory / "disk.img", root, SIZE)
