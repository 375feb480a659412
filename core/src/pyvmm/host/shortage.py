"""Errors by which the host tells that a resource is used up: one line that names the resource and the way out.

The failing call names neither. It may be any call that opens, maps, starts or writes something.
"""

from __future__ import annotations

import errno
import os

from pyvmm.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

__all__ = ["NO_THREAD", "Need", "shortage"]

_NO_MEMORY: Final = "no memory is left; raise the limits (ulimit -v, a cgroup's memory.max), or free some"

NO_THREAD: Final = "no process or thread is left; raise the limits (ulimit -u, a cgroup's pids.max)"
"""The meaning of EAGAIN from fork(2) and pthread_create(3). From other calls it means something else."""

_REASONS: Final = {
    errno.EMFILE: "no file descriptor is left; raise the limit (ulimit -n)",
    errno.ENFILE: "the host has no file descriptor left; raise its limit (/proc/sys/fs/file-max)",
    errno.ENOMEM: _NO_MEMORY,
    errno.ENOBUFS: _NO_MEMORY,
    errno.ENOSPC: "no space is left; free some of the file system's, or raise /proc/sys/fs/epoll/max_user_watches",
    errno.EDQUOT: "the quota of the file system is used up; free some space, or raise it",
    errno.EIO: "the host cannot read or write; the kernel's log (dmesg) says more",
}


def shortage(error: BaseException) -> str:
    """One line for an error that tells of a used-up resource, with the way out; empty for any other error.

    For a :class:`UsageError` the error that caused it counts, since no other option would have helped.
    """
    if isinstance(error, UsageError):
        return shortage(error.__cause__) if error.__cause__ is not None else ""
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if isinstance(error, RuntimeError):
        return NO_THREAD if str(error) == "can't start new thread" else ""
    if isinstance(error, ImportError):  # an ImportError for a library that cannot be opened or mapped has no errno
        return next((why for number, why in _REASONS.items() if str(error).endswith(os.strerror(number))), "")
    if not isinstance(error, OSError):
        return ""
    reason = _REASONS.get(error.errno or 0, "")
    if reason and error.filename is not None:
        return f"{os.fsdecode(error.filename)!r}: {reason}"
    return reason


class Need:
    """A context manager that turns an error about a used-up resource into a :class:`HostError` that names its user."""

    def __init__(self, what: str) -> None:
        """The message begins with ``what``."""
        self.what = what

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and (reason := shortage(error)):
            raise HostError(f"{self.what}: {reason}") from error
