"""Writes cpio archives in the "newc" format, which Linux takes as an initramfs.

The format: Documentation/driver-api/early-userspace/buffer-format.rst. Archives
can be concatenated; a later entry replaces an earlier one of the same name.
"""

from __future__ import annotations

import stat
from typing import BinaryIO

_TRAILER = "TRAILER!!!"


class Newc:
    """An archive being written to ``out``; parent directories are added as needed."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._length = 0
        self._entries = 0
        self._directories: set[str] = set()

    def directory(self, name: str, mode: int = 0o755) -> None:
        name = name.strip("/")
        if name and name not in self._directories:
            self._parents(name)
            self._directories.add(name)
            self._entry(name, stat.S_IFDIR | mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._parents(name.strip("/"))
        self._entry(name.strip("/"), stat.S_IFREG | mode, data)

    def symlink(self, name: str, target: str) -> None:
        self._parents(name.strip("/"))
        self._entry(name.strip("/"), stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._parents(name.strip("/"))
        self._entry(name.strip("/"), stat.S_IFCHR | mode, device=(major, minor))

    def close(self) -> None:
        """Write the end mark. The archive is padded to 512 bytes, so another may follow."""
        self._entry(_TRAILER, 0)
        self._pad(512)

    def _parents(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        if parent:
            self.directory(parent)

    def _entry(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._entries += 1
        # An inode number of its own for each entry: equal ones would be hard links.
        inode = 0 if name == _TRAILER else self._entries
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._write(header + encoded, 4)
        self._write(data, 4)

    def _pad(self, unit: int) -> None:
        self._write(b"", unit)

    def _write(self, data: bytes, unit: int) -> None:
        """Write ``data`` and zeroes up to the next multiple of ``unit``."""
        self._length += len(data)
        padding = -self._length % unit
        self._length += padding
        self._out.write(data + bytes(padding))
