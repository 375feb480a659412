"""The search for a kernel to boot if the user names none."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cli.file_checks import check_file, file_fault
from pyvmm.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["KernelChoice", "find_kernel"]


class KernelChoice(NamedTuple):
    """A kernel, and the initrd that belongs to it."""

    kernel: Path
    initrd: Path | None


def find_kernel(
    environ: Mapping[str, str] = os.environ, boot: Path = Path("/boot"), with_initrd: bool = True
) -> KernelChoice:
    """The first kernel that exists among ``$PYVMM_KERNEL``, the host's own kernel in ``boot``, and the newest one
    there.

    A kernel from ``boot`` comes with the initrd beside it, if there is one and ``with_initrd`` is set. Raises
    :class:`UsageError` with every path that was tried. If ``$PYVMM_KERNEL`` names a file that cannot be read, it raises
    without trying others, since the user chose that file.
    """
    chosen = environ.get("PYVMM_KERNEL")
    if chosen:
        kernel = Path(chosen)
        check_file(kernel, "PYVMM_KERNEL")
        return KernelChoice(kernel, None)
    tried: dict[Path, str] = {}
    for kernel in _candidates(boot):
        if kernel in tried:
            continue
        initrd = _initrd_beside(kernel) if with_initrd else None
        fault = file_fault(kernel)
        if not fault and initrd and file_fault(initrd):
            fault = f"its {initrd.name} is {file_fault(initrd)}"
        if not fault:
            return KernelChoice(kernel, initrd)
        tried[kernel] = fault
    if not any(path.name != f"vmlinuz-{os.uname().release}" for path in tried):
        tried[boot / "vmlinuz-*"] = "no such file"
    faults = ", ".join(f"{path} ({fault})" for path, fault in tried.items())
    raise UsageError(
        f"no kernel to boot; tried $PYVMM_KERNEL (not set), {faults}; give one with --kernel FILE or PYVMM_KERNEL"
    )


def version_key(name: str) -> list[tuple[int, int, str]]:
    """A key to sort file names by their versions: 6.9 before 6.10, 6.1-rc1 before 6.1."""
    # Parts sort in this order: a release candidate's mark, the end of the name, other characters, numbers.
    key = []
    for part in re.findall(r"\d+|[-_~]rc|\D", name):
        if part.isdecimal():
            key.append((3, int(part), ""))
        else:
            key.append((0, 0, "") if part.endswith("rc") else (2, 0, part))
    return [*key, (1, 0, "")]


def _candidates(boot: Path) -> Iterator[Path]:
    yield boot / f"vmlinuz-{os.uname().release}"
    names = [path.name for path in boot.glob("vmlinuz-*")]
    for name in sorted(names, key=version_key, reverse=True):
        yield boot / name


def _initrd_beside(kernel: Path) -> Path | None:
    """The initrd of a kernel called vmlinuz-VERSION, by the file names that distributions use."""
    version = kernel.name.removeprefix("vmlinuz-")
    for name in (f"initrd.img-{version}", f"initramfs-{version}.img", f"initrd-{version}"):
        if kernel.with_name(name).exists():
            return kernel.with_name(name)
    return None
