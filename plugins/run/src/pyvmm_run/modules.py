"""Kernel modules for the guest: which belong to a kernel, which need which, and their contents."""

from __future__ import annotations

import lzma
import re
import subprocess
from pathlib import Path

from pyvmm.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

PLACES: Final = (Path("/lib/modules"), Path("/usr/lib/modules"))


def release_of(kernel: Path) -> str:
    """The version of a bzImage or an ELF kernel, as ``uname -r`` says it; empty where the file does not tell."""
    with kernel.open("rb") as file:
        head = file.read(0x10000)
        if head[0x202:0x206] == b"HdrS":  # Documentation/arch/x86/boot.rst: kernel_version
            at = int.from_bytes(head[0x20E:0x210], "little") + 0x200
            return head[at : at + 256].partition(b"\0")[0].decode(errors="replace").partition(" ")[0]
        file.seek(0)
        found = re.search(rb"Linux version (\S{1,200}) ", file.read())
        return found[1].decode(errors="replace") if found else ""


def directory_of(kernel: Path) -> Path | None:
    """The directory with the modules of ``kernel``: ``lib/modules/RELEASE`` beside the kernel, or the host's; None
    without one, as with a kernel that has all it needs built in."""
    release = release_of(kernel)
    if not release or "/" in release:
        return None
    places = (kernel.resolve().parent / "lib/modules", *PLACES)
    return next((place / release for place in places if (place / release / "modules.dep").is_file()), None)


class Modules:
    """The modules in a directory, as depmod(8) describes them."""

    def __init__(self, directory: Path) -> None:
        """Raises :class:`HostError` for a directory that depmod has not seen."""
        self.directory = directory
        self._needs: dict[str, tuple[str, list[str]]] = {}
        try:
            for line in (directory / "modules.dep").read_text().splitlines():
                file, _, needs = line.partition(":")
                self._needs[name_of(file)] = file, needs.split()
            builtin = directory / "modules.builtin"
            self._builtin = {name_of(file) for file in builtin.read_text().split()} if builtin.exists() else set()
        except OSError as error:
            raise HostError(
                f"{error.filename}: {error.strerror}; the guest's kernel needs its modules: run depmod, or give "
                "another kernel by PYVMM_KERNEL"
            ) from error

    def in_load_order(self, names: Iterable[str], optional: Iterable[str] = ()) -> list[Path]:
        """The files of ``names`` and of what they need, needed ones first. What is built in is left out, and what is
        missing of ``optional``. Raises :class:`UsageError` for a name that does not exist."""
        files: dict[str, None] = {}
        for name in (*names, *optional):
            if name in self._builtin:
                continue
            if name not in self._needs:
                if name in optional:
                    continue
                raise UsageError(f"the guest's kernel has no module {name} in {self.directory}; give another kernel")
            file, needs = self._needs[name]
            for needed in (*reversed(needs), file):
                files[needed] = None
        return [self.directory / file for file in files]


def name_of(file: str) -> str:
    """``virtio_mmio`` for ``kernel/drivers/virtio/virtio_mmio.ko.xz``, as /proc/modules has it."""
    return file.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def contents(file: Path) -> bytes:
    """A module as the kernel's loader takes it, decompressed. Raises :class:`HostError`."""
    try:
        data = file.read_bytes()
        if file.suffix == ".xz":
            return lzma.decompress(data)
        if file.suffix == ".gz":
            import gzip

            return gzip.decompress(data)
        if file.suffix == ".zst":
            return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        if error.filename == "zstd":
            raise HostError(f"{file}: zstd is not installed, which decompresses it") from error
        raise HostError(f"{file}: {error.strerror}") from error
    except (OSError, lzma.LZMAError, EOFError, subprocess.CalledProcessError) as error:
        raise HostError(f"{file} cannot be read: {error}") from error
    return data
