"""Disks for pyvmm: ``--device block:PATH`` is a virtio block device on a raw image or a block device."""

from __future__ import annotations

import os

from pyvmm.errors import UsageError
from pyvmm.limits import MAX_CPUS
from pyvmm.options import int_between, parse_path
from pyvmm.plugin import CmdlineRequest, DeviceKind, hookimpl, option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvmm_virtio_block.device import Block

__all__ = ["BlockOptions", "kernel_cmdline", "pyvmm_device_kinds"]


def _parse_id(text: str) -> str:
    length = len(text.encode())
    if length > 20:  # VIRTIO_BLK_ID_BYTES
        raise ValueError(f"has {length} bytes; a disk's id has 20 at most")
    if not text or not text.isprintable():
        raise ValueError("is not an id: 1 to 20 printable characters")
    return text


@options
class BlockOptions:
    """The options of ``block``: one disk."""

    path: str | os.PathLike[str] = option(
        primary=True, parse=parse_path, metavar="PATH", help="raw disk image, or a block device of the host"
    )
    ro: bool = option(False, help="the guest cannot write")
    id: str | None = option(
        None, parse=_parse_id, metavar="ID", help="serial number that the guest sees, up to 20 bytes"
    )
    queues: int = option(
        1, parse=int_between(1, MAX_CPUS), metavar="N", help=f"request queues, 1 to {MAX_CPUS}; one per CPU is usual"
    )
    direct: bool = option(False, help="bypass the host's page cache (O_DIRECT)")
    root: bool = option(False, help="the guest's root file system: adds root= to the kernel's command line")


def kernel_cmdline(request: CmdlineRequest[BlockOptions]) -> str:
    """``root=/dev/vdX rw`` (or ``ro``) for the disk with ``root``, or for a single disk if there is no initrd.

    A ``root=`` from the user takes precedence. Raises :class:`UsageError` for two disks with ``root``.
    """
    disks = request.options
    chosen = [i for i, options in enumerate(disks) if options.root]
    if len(chosen) > 1:
        paths = " and ".join(os.fspath(disks[i].path) for i in chosen)
        raise UsageError(f"block: {paths} both have root; give it to one disk")
    kernel_words = request.user.split(" -- ")[0].split()
    if any(word.startswith("root=") for word in kernel_words):
        return ""
    if not chosen and len(disks) == 1 and not request.has_initrd:
        chosen = [0]
    if not chosen:
        return ""
    return f"root=/dev/{_disk_name(chosen[0])} {'ro' if disks[chosen[0]].ro else 'rw'}"


def _disk_name(index: int) -> str:
    """Linux's name for its virtio disk ``index``: vda to vdz, vdaa… (virtblk_name_format)."""
    letters = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"vd{letters}"


def _make(options: BlockOptions) -> Block:
    from pyvmm_virtio_block.device import Block

    return Block(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[Any]]:
    """The kind ``block``."""
    return [
        DeviceKind(
            "block",
            BlockOptions,
            _make,
            help="disk: a raw image or a block device of the host",
            kernel_config="CONFIG_VIRTIO_BLK",
            cmdline=kernel_cmdline,
            gil_free=True,
            modules=["pyvmm_virtio_block.device"],
        )
    ]
