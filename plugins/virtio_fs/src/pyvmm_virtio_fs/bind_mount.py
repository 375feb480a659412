"""A bind mount of a directory that only one process and its children see (mount_namespaces(7))."""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# <linux/sched.h>, <linux/mount.h>, <linux/fcntl.h>: Python has the first constant from 3.12 on, and not the others.
_CLONE_NEWNS: Final = 0x00020000
_MS_BIND: Final = 4096
_MS_REC: Final = 16384
_MS_PRIVATE: Final = 1 << 18
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY: Final = 1
_SYS_MOUNT_SETATTR: Final = 442  # Linux 5.12; the same number on all architectures

_MOUNT_ATTR: Final = struct.Struct("QQQQ")
"""struct mount_attr: attr_set, attr_clr, propagation, userns_fd."""


def make(directory_fd: int, target: str, *, read_only: bool) -> None:
    """Move this process into a mount namespace of its own, and mount the open directory on the directory ``target``,
    with all mounts below it. Afterwards the current directory is the open one.

    ``read_only``: the mount and all mounts below it are read-only. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(what: str, result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what} cannot be made: {os.strerror(number)}")

    def mount(source: bytes, target: bytes, flags: int) -> int:
        return int(libc.mount(source, target, None, ctypes.c_ulong(flags), None))

    # The current directory moves into the new namespace. A descriptor stays in the old one and cannot be bound.
    os.fchdir(directory_fd)
    call("a mount namespace", libc.unshare(_CLONE_NEWNS))
    call("private mounts", mount(b"none", b"/", _MS_REC | _MS_PRIVATE))
    path = os.fsencode(target)
    call("a mount of the directory", mount(b".", path, _MS_BIND | _MS_REC))
    if read_only:
        attributes = _MOUNT_ATTR.pack(_MOUNT_ATTR_RDONLY, 0, 0, 0)
        size = ctypes.c_size_t(len(attributes))
        result = libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, attributes, size)
        call("a read-only mount", result)
