"""The files from which a guest boots. They are made when they are first asked for, and then found in
``.cache/guest``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.guest import disk as disk_image
from tests.guest import initramfs, script
from tests.system import kernels
from tests.system.kernels import FLAVOURS, PreparationError
from tests.system.prepared import CACHE

__all__ = [
    "FLAVOURS",
    "Guest",
    "PreparationError",
    "disk",
    "ensure",
    "fresh_disk",
    "tools",
    "tools_disk",
    "with_script",
]

DIRECTORY = CACHE / "guest"


@dataclass(frozen=True)
class Guest:
    """A kernel of Debian's in the forms a VMM may be given, and an initramfs for it."""

    flavour: str
    """``cloud`` (its bzImage is LZ4) or ``amd64`` (XZ)."""
    release: str
    """The kernel's version, as the guest's ``uname -r`` says it."""
    vmlinuz: Path
    """The bzImage."""
    vmlinux: Path
    """The same kernel as ELF."""
    config: Path
    """The kernel's configuration."""
    initramfs: Path
    """Uncompressed; more archives can be appended, see :func:`with_script`."""


def ensure(flavour: str = "cloud", root: Path | None = None) -> Guest:
    """The guest of this flavour, complete. The first call needs the network.

    Its kernel is that of the Debian in the directory ``root``, without ``root`` that of this host.
    """
    kernel = kernels.kernel_directory(flavour, root)
    directory = DIRECTORY / kernel.name
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("vmlinuz", "vmlinux", "config"):
        _link(directory / name, kernel / name)
    return Guest(
        flavour=flavour,
        release=kernels.release(kernel),
        vmlinuz=directory / "vmlinuz",
        vmlinux=directory / "vmlinux",
        config=directory / "config",
        initramfs=initramfs.prepare(directory / "initramfs", kernel),
    )


def tools(*commands: str) -> Path:
    """A cpio archive with these commands of the host and the libraries they need.

    ``iperf3`` makes 8 MB, ``fio`` 90 MB: hence apart from the initramfs. Append it
    with :func:`with_script`.
    """
    return initramfs.prepare_tools(DIRECTORY, commands)


def tools_disk(*commands: str) -> Path:
    """A read-only disk with the same: quicker where the tools are large, since only what is used is read."""
    return disk_image.prepare_tools(DIRECTORY, commands)


def disk() -> Path:
    """A 64 MiB ext4 image that no guest may write: see :func:`fresh_disk`.

    ``/manifest.sha256`` in it has a line for each of its other files.
    """
    return disk_image.prepare(DIRECTORY / "disk.img")


def fresh_disk(path: Path) -> Path:
    """Copy the disk image to ``path``, sparsely, for one guest to write."""
    return disk_image.copy(disk(), path)


def with_script(
    initrd: Path,
    text: str,
    out: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    append: Iterable[Path] = (),
) -> Path:
    """Write to ``out`` an initramfs that runs ``text`` with busybox's sh.

    The guest prints ``PYVMM-SCRIPT-EXIT <status>`` after it and powers off, or
    reboots with ``pyvmm.end=reboot`` on its command line. ``files`` are put into its
    root, path to contents, executable; ``append`` are further archives, as
    :func:`tools` makes them.
    """
    return script.append(initrd, text, out, files or {}, append)


def _link(link: Path, target: Path) -> None:
    """A relative one, so that the checkout can be moved."""
    text = os.path.relpath(target, link.parent)
    if not (link.is_symlink() and os.readlink(link) == text):
        scratch = link.with_name(f".{link.name}.{os.getpid()}")
        scratch.symlink_to(text)
        scratch.rename(link)
