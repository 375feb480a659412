"""Directories of the host for pyvmm's guests: virtiofsd serves a directory for ``--device fs:DIR,tag=NAME``."""

from __future__ import annotations

import os

from pyvmm.errors import UsageError
from pyvmm.plugin import CmdlineRequest, DeviceKind, hookimpl, option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    from pyvmm_virtio_fs.device import Fs

__all__ = ["FsOptions", "pyvmm_device_kinds"]

TAG_SIZE = 36
"""The most bytes of a file system's name (virtio 1.2, section 5.11.4)."""


def _parse_tag(text: str) -> str:
    if not text or "\0" in text or not text.isprintable():
        raise ValueError("is no name for a file system: 1 to 36 printable characters")
    if len(text.encode()) > TAG_SIZE:
        raise ValueError(f"has {len(text.encode())} bytes; a file system's name has {TAG_SIZE} at most")
    return text


@options
class FsOptions:
    """The options of ``fs``."""

    directory: Path = option(primary=True, metavar="DIR", help="directory of the host to share with the guest")
    tag: str | None = option(
        None,
        parse=_parse_tag,
        metavar="NAME",
        help="name by which the guest mounts it; by default the directory's name",
    )
    ro: bool = option(False, help="the guest cannot write")
    cache: Literal["auto", "always", "never"] = option(
        "auto", help="how long the guest may use its cache: some seconds, for ever, not at all"
    )
    xattr: bool = option(False, help="support extended attributes")
    sandbox: Literal["namespace", "chroot", "none"] = option(
        "namespace", help="how virtiofsd is confined to the directory; none needs no root with Debian 13's"
    )
    virtiofsd: Path | None = option(None, metavar="FILE", help="the virtiofsd program; by default Debian's")

    @property
    def name(self) -> str:
        """The tag that the guest sees."""
        return self.tag or os.path.basename(os.path.realpath(self.directory)) or "root"

    def __post_init__(self) -> None:
        if self.tag is None:
            try:
                _parse_tag(self.name)
            except ValueError as error:
                raise ValueError(f"{self.name!r} {error}; give another with tag=NAME") from error


def kernel_cmdline(request: CmdlineRequest[FsOptions]) -> str:
    """Add nothing. Raises :class:`UsageError` for two file systems with the same tag, since a guest could mount only
    one."""
    directories: dict[str, Path] = {}
    for share in request.options:
        if share.name in directories:
            raise UsageError(
                f"fs: {directories[share.name]} and {share.directory} both have the tag {share.name!r}; give one "
                "of them another with tag=NAME"
            )
        directories[share.name] = share.directory
    return ""


def make(options: FsOptions) -> Fs:
    """A file system; imported only when a machine has one."""
    from pyvmm_virtio_fs.device import Fs

    return Fs(options)


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[FsOptions]]:
    """The kind ``fs``."""
    return [
        DeviceKind(
            "fs",
            FsOptions,
            make,
            help="a directory of the host; mount it in the guest with: mount -t virtiofs NAME /mnt",
            kernel_config="CONFIG_VIRTIO_FS",
            cmdline=kernel_cmdline,
            process=False,
            needs_memfd=True,
        )
    ]
