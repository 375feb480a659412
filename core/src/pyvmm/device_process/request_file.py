"""What a device's process is to make, on its way to a new program: the kind, the options and the id, in a memfd.

A fork has the request itself. A new program gets the options as they are, by pickle: not every record has a text, and
not every text gives the same record again. To read a pickle is to run what its writer chose, so only the machine's
process writes the file. It makes a new one for each program, it seals the file, and no device's process ever had it
open to write.
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
    """A descriptor of a sealed memfd with ``request``, at its start.

    Raises :class:`HostError` for options that cannot be pickled, such as ones with a function in them.
    """
    import pickle

    try:
        data = pickle.dumps((request.kind.name, request.spec, request.id)) + pickle.dumps(request.options)
    except Exception as error:  # a field's own class may raise anything
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
    """The request in ``fd``, which is closed. ``find`` gives the kind of a name, and its plugin.

    Raises what ``find`` raises.
    """
    import pickle

    with open(fd, "rb") as file:
        kind_name, spec, id_ = pickle.load(file)
        kind, plugin = find(kind_name)  # first, so that a plugin that cannot be imported is named
        return DeviceRequest(kind, pickle.load(file), spec, id_, plugin=plugin)
