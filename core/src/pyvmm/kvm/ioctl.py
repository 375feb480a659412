"""ioctl(2), the only call by which Python talks to KVM."""

from __future__ import annotations

import errno
import os

from pyvmm._native import ffi, lib
from pyvmm.errors import HostError
from pyvmm.host.shortage import shortage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final


_USED_UP: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_MAX_INTERRUPTED: Final = 1000
"""How often in turn a signal may interrupt one call."""


class KvmError(HostError):
    """An ioctl of KVM failed."""

    def __init__(self, request: str, error: int) -> None:
        lack = shortage(OSError(error, "")) if error in _USED_UP else ""
        super().__init__(f"{request}: {lack or os.strerror(error)} ({errno.errorcode.get(error, error)})")
        self.request = request
        self.errno = error


def ioctl(fd: int, request: str, argument: Any = 0) -> int:
    """Call the ioctl named ``request`` (``KVM_…``) with a C pointer or an integer, and return its result.

    Raises :class:`KvmError` with the request's name and the errno.
    """
    number = getattr(lib, request)
    for _ in range(_MAX_INTERRUPTED):
        if isinstance(argument, int):
            result = lib.pyvmm_ioctl_int(fd, number, argument)
        else:
            result = lib.pyvmm_ioctl(fd, number, ffi.cast("void *", argument))
        if result >= 0:
            return int(result)
        if result != -errno.EINTR:  # a signal interrupted it; Python runs the handler before the next try
            break
    raise KvmError(request, -result)
