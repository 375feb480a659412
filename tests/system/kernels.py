"""Debian's kernels, unpacked from their packages without installing them.

Installing would run the boot loader's hooks. A kernel's directory holds
``vmlinuz`` (the bzImage), ``vmlinux`` (the ELF in it), ``config``, ``release``
(its version, as ``uname -r`` says it) and ``lib/modules/RELEASE``.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

from tests.system.prepared import CACHE, prepared_directory

FLAVOURS = {"cloud": "linux-image-cloud-amd64", "amd64": "linux-image-amd64"}
"""Our name of a kernel, and the meta package that depends on its newest version."""


class PreparationError(Exception):
    """What a user can do something about; the message is one line for them."""


def kernel_directory(flavour: str, root: Path | None = None) -> Path:
    """The unpacked kernel of ``flavour``, downloaded by the first caller.

    It is the one of the Debian in the directory ``root``, as apt is configured there;
    without ``root`` that of this host.
    """
    return prepared_directory(
        CACHE / "kernels" / full_name(flavour, root),
        lambda directory: _unpack(FLAVOURS[flavour], directory, _apt_options(root)),
    )


def full_name(flavour: str, root: Path | None) -> str:
    """``cloud`` for this host's kernel, ``trixie-cloud`` for that of a root with Debian 13."""
    if root is None:
        return flavour
    match = re.search(r"^VERSION_CODENAME=(\w+)", (root / "etc/os-release").read_text(), re.MULTILINE)
    if match is None:
        raise PreparationError(f"{root}/etc/os-release names no release")
    return f"{match[1]}-{flavour}"


def _apt_options(root: Path | None) -> tuple[str, ...]:
    return () if root is None else ("-o", f"Dir={root}", "-o", f"Dir::State::status={root}/var/lib/dpkg/status")


def release(kernel: Path) -> str:
    return (kernel / "release").read_text().strip()


def _unpack(meta_package: str, directory: Path, apt_options: tuple[str, ...]) -> None:
    if os.environ.get("PYVMM_LAB"):
        raise PreparationError("the lab has no network: run tests/guest/build.py outside of it first")
    scratch = directory / "package"
    scratch.mkdir()
    package = _download(meta_package, scratch, apt_options)
    (archive,) = scratch.glob("*.deb")
    _run("dpkg-deb", "-x", str(archive), str(scratch))

    version = package.removeprefix("linux-image-")
    boot = scratch / "boot"
    (boot / f"vmlinuz-{version}").rename(directory / "vmlinuz")
    (boot / f"config-{version}").rename(directory / "config")
    (directory / "release").write_text(version + "\n")
    (directory / "lib").mkdir()
    # Debian moves /lib into /usr over the years; a package has it in one of them.
    modules = next(d for d in (scratch / "lib/modules", scratch / "usr/lib/modules") if d.is_dir())
    modules.rename(directory / "lib/modules")
    _run("depmod", "-b", str(directory), version)
    (directory / "vmlinux").write_bytes(elf_of((directory / "vmlinuz").read_bytes()))
    shutil.rmtree(scratch)


def _download(meta_package: str, directory: Path, apt_options: tuple[str, ...]) -> str:
    """Download what the meta package depends on, and return its name.

    Without apt's lists, or with old ones that name what the mirror has no more, they
    are fetched, and it is tried again.
    """
    package = _versioned_package(meta_package, apt_options)
    if package:
        print(f"fetching {package}", file=sys.stderr)
        try:
            _run("apt-get", *apt_options, "-qq", "download", package, cwd=directory)
            return package
        except PreparationError as error:
            print(f"{error}; fetching apt's lists", file=sys.stderr)
    _run("apt-get", *apt_options, "-qq", "update")
    package = _versioned_package(meta_package, apt_options)
    if not package:
        raise PreparationError(f"apt knows no package {meta_package}: are Debian's sources configured?")
    _run("apt-get", *apt_options, "-qq", "download", package, cwd=directory)
    return package


def _versioned_package(meta_package: str, apt_options: tuple[str, ...]) -> str:
    """What the meta package depends on; empty if apt does not know."""
    if shutil.which("apt-cache") is None:
        raise PreparationError("Debian's kernels come by apt, and there is no apt-cache here")
    command = ["apt-cache", *apt_options, "depends", meta_package]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    match = re.search(r"^\s*Depends: (linux-image-[0-9]\S*)", output, re.MULTILINE)
    return match[1] if match else ""


def _run(*command: str, cwd: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PreparationError(f"{command[0]} is not installed (tests/system/require lab)") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise PreparationError(f"{' '.join(command)} failed: {reason[-1]}") from error


def elf_of(image: bytes) -> bytes:
    """The ELF kernel that a bzImage carries (Documentation/arch/x86/boot.rst)."""
    if image[0x202:0x206] != b"HdrS":
        raise PreparationError("not a bzImage: the magic HdrS is missing")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # Compressors that do not store the size get it appended, as 4 bytes.
    kernel = _decompress(image[start : start + length])
    return kernel[: _elf_size(kernel)]


def _decompress(payload: bytes) -> bytes:
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    if payload.startswith(b"\x02\x21\x4c\x18"):
        return _filter("lz4", payload[:-4])
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return _filter("zstd", payload[:-4])
    raise PreparationError(f"a bzImage compressed in an unknown way: {payload[:6].hex()}")


def _filter(command: str, data: bytes) -> bytes:
    return subprocess.run([command, "-dc"], input=data, capture_output=True, check=True).stdout


def _elf_size(elf: bytes) -> int:
    """Where the ELF ends: what follows are the relocations for KASLR."""
    if elf[:5] != b"\x7fELF\x02":
        raise PreparationError("a bzImage whose payload is no 64-bit ELF")
    phoff, shoff = struct.unpack_from("<QQ", elf, 0x20)
    phentsize, phnum, shentsize, shnum = struct.unpack_from("<HHHH", elf, 0x36)
    end: int = shoff + shentsize * shnum
    for index in range(phnum):
        (p_offset,) = struct.unpack_from("<Q", elf, phoff + index * phentsize + 0x08)
        (p_filesz,) = struct.unpack_from("<Q", elf, phoff + index * phentsize + 0x20)
        end = max(end, p_offset + p_filesz)
    return min(end, len(elf))
