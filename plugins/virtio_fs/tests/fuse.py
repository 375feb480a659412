"""The part of FUSE that a test needs to use a file system through the rings (<linux/fuse.h>)."""

from __future__ import annotations

import errno
import struct

from pyvmm.testing.queue_driver import QueueDriver

ROOT = 1
REQUESTS = 1
"""The queue for them; queue 0 is for those that are urgent."""

LOOKUP, GETATTR, MKDIR, UNLINK, OPEN, READ, WRITE, RELEASE, INIT, CREATE = 1, 3, 9, 10, 14, 15, 16, 18, 26, 35

_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_ENTRY_SIZE, _ATTR_SIZE, _OPEN_SIZE, _INIT_SIZE = 128, 104, 16, 64


class FuseError(OSError):
    """An error that the file system answered."""


class Fuse:
    """The guest's side of a mounted file system."""

    def __init__(self, driver: QueueDriver) -> None:
        self.driver = driver
        self._unique = 0
        self.minor = struct.unpack_from("<II", self.call(INIT, 0, struct.pack("<IIII", 7, 31, 1 << 17, 0), _INIT_SIZE))[
            1
        ]

    def call(self, opcode: int, node: int, data: bytes, size: int) -> bytes:
        """One request, with an answer of up to ``size`` bytes."""
        self._unique += 1
        header = _IN.pack(_IN.size + len(data), opcode, self._unique, node, 0, 0, 1, 0)
        ring = self.driver.rings[REQUESTS]
        writable = [_OUT.size, size] if size else [_OUT.size]
        chain = ring.add([header, data] if data else [header], writable)
        self.driver.exchange(REQUESTS)
        answer = chain.written()
        length, error, unique = _OUT.unpack_from(answer)
        assert unique == self._unique
        if error:
            raise FuseError(-error, errno.errorcode.get(-error, "?"))
        return answer[_OUT.size : length]

    def lookup(self, name: str, parent: int = ROOT) -> int:
        """The node called ``name``."""
        return int(struct.unpack_from("<Q", self.call(LOOKUP, parent, name.encode() + b"\0", _ENTRY_SIZE))[0])

    def read(self, *path: str, size: int = 1 << 16) -> bytes:
        """The contents of the file at ``path``."""
        node = ROOT
        for name in path:
            node = self.lookup(name, node)
        handle = self._handle(self.call(OPEN, node, struct.pack("<II", 0, 0), _OPEN_SIZE))
        data = self.call(READ, node, struct.pack("<QQIIQII", handle, 0, size, 0, 0, 0, 0), size)
        self.call(RELEASE, node, struct.pack("<QIIQ", handle, 0, 0, 0), 0)
        return data

    def mkdir(self, name: str, parent: int = ROOT) -> int:
        """A new directory's node."""
        data = struct.pack("<II", 0o755, 0) + name.encode() + b"\0"
        return int(struct.unpack_from("<Q", self.call(MKDIR, parent, data, _ENTRY_SIZE))[0])

    def write(self, name: str, contents: bytes, parent: int = ROOT) -> None:
        """A new file."""
        data = struct.pack("<IIII", 0o1001, 0o644, 0, 0) + name.encode() + b"\0"  # O_WRONLY, O_TRUNC
        answer = self.call(CREATE, parent, data, _ENTRY_SIZE + _OPEN_SIZE)
        node = struct.unpack_from("<Q", answer)[0]
        handle = self._handle(answer[_ENTRY_SIZE:])
        request = struct.pack("<QQIIQII", handle, 0, len(contents), 0, 0, 0, 0)
        (written, _) = struct.unpack("<II", self.call(WRITE, node, request + contents, 8))
        assert written == len(contents)
        self.call(RELEASE, node, struct.pack("<QIIQ", handle, 0, 0, 0), 0)

    def unlink(self, name: str, parent: int = ROOT) -> None:
        """Remove a file."""
        self.lookup(name, parent)  # as Linux does, and QEMU's virtiofsd wants
        self.call(UNLINK, parent, name.encode() + b"\0", 0)

    def _handle(self, answer: bytes) -> int:
        return int(struct.unpack_from("<Q", answer)[0])
