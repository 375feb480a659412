"""A device request on its way to a new program: the kind, the options and the id, in a memfd.

A fork has the request itself. A new program gets the options themselves, by pickle, since not every record has a text,
and not every text gives the same record again. Reading a pickle runs code that its writer chose, so only the machine's
process writes the file. It makes a new file for each program and seals it, and no device's process ever has it open for
writing.
"""

from __future__ import annotations

import fcntl
import os

from pyvmm.device_request import DeviceRequest
from pyvmm.errors import HostError, cause_of
from pyvmm.host.child_log import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.device_request import LoadedPlugin
    from pyvmm.plugin import DeviceKind

__all__ = ["read", "write"]


def write(request: DeviceRequest) -> int:
    """A descriptor of a sealed memfd that contains ``request``, positioned at its start.

    Raises :class:`HostError` for options that cannot be pickled, such as ones with a function in them.
    """
    import pickle

    try:
        data = pickle.dumps((request.kind.name, request.spec, request.id)) + pickle.dumps(request.options)
    except Exception as error:  # a field's class may raise anything
        raise HostError(
            f"{request.id}: its options cannot be given to a new program: {cause_of(error)}; give process=off"
        ) from error
    fd = os.memfd_create("device-request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        write_all(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(fd: int, find: Callable[[str], tuple[DeviceKind[Any], LoadedPlugin]]) -> DeviceRequest:
    """Read the request in ``fd``, and close ``fd``. ``find`` returns the kind for a name, and its plugin; its errors
    are raised.
    """
    import pickle

    with open(fd, "rb") as file:
        kind_name, spec, id_ = pickle.load(file)
        kind, plugin = find(kind_name)  # first, so that a plugin that cannot be imported is named
        return DeviceRequest(kind, pickle.load(file), spec, id_, plugin=plugin)
