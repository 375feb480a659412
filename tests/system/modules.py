"""Kernel modules for an initramfs: which, in which order, and their contents."""

from __future__ import annotations

import lzma
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.system.kernels import PreparationError, release


def in_load_order(kernel: Path, names: Iterable[str], *, optional: bool = False) -> list[Path]:
    """The files of the modules ``names`` and of what they need, needed ones first.

    What the kernel has built in is left out. A name it does not know is an error,
    or with ``optional`` left out too.
    """
    files: dict[Path, None] = {}
    for name in names:
        result = subprocess.run(
            ["modprobe", "-d", str(kernel), "-S", release(kernel), "--show-depends", name],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        if result.returncode != 0 and not optional:
            raise PreparationError(f"kernel {release(kernel)} has no module {name}")
        # "insmod FILE OPTIONS", and nothing quoted.
        for match in re.finditer(r"^insmod (.+?\.ko(?:\.\w+)?)(?= |$)", result.stdout, re.MULTILINE):
            files[Path(match[1])] = None
    return list(files)


def module_name(file: Path) -> str:
    """``virtio_mmio`` for ``.../virtio_mmio.ko.xz``, as /proc/modules has it."""
    return file.name.partition(".ko")[0].replace("-", "_")


def contents(file: Path) -> bytes:
    """The module as the kernel's loader takes it, decompressed."""
    data = file.read_bytes()
    if file.suffix == ".xz":
        return lzma.decompress(data)
    if file.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    return data
