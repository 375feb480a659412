"""The program that replaces a device's process that has died. It is also used where a fork is not safe."""

from __future__ import annotations

import os
import sys

from pyvmm.device_context import MachineView
from pyvmm.device_process import request_file
from pyvmm.device_process.child import REQUEST_FD, SOCKET_FD, TELL_FD, serve, tell_failure
from pyvmm.errors import HostError, PyvmmError
from pyvmm.host import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.device_request import LoadedPlugin
    from pyvmm.plugin import DeviceKind


def main(arguments: list[str]) -> int:
    """Run :func:`serve` in a program of its own, with the arguments ``PARENT LEVEL ID DIRECTORY MACHINE``."""
    parent, level, id_, directory, machine = arguments
    child.enter(id_, int(parent))
    child.close_from(REQUEST_FD + 1)
    for fd in (SOCKET_FD, TELL_FD, REQUEST_FD):
        os.set_inheritable(fd, False)
    try:
        if directory:
            os.chdir(directory)
        request = request_file.read(REQUEST_FD, _find)
    except PyvmmError as error:
        return tell_failure(error)
    except OSError as error:
        return tell_failure(HostError(f"{id_}: {directory}, where the machine was started: {error.strerror}"))
    return serve(request, MachineView.from_text(machine), int(parent), int(level))


def _find(kind: str) -> tuple[DeviceKind[Any], LoadedPlugin]:
    from pyvmm.plugins import Plugins

    plugins = Plugins()
    return plugins.kind(kind), plugins.plugin(kind)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
