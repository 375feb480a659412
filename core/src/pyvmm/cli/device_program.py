"""The program that takes the place of a device's process that has died, and runs where a fork is not safe."""

from __future__ import annotations

import os
import sys

from pyvmm.device_context import MachineView
from pyvmm.device_process.child import SOCKET_FD, TELL_FD, serve, tell_failure
from pyvmm.errors import PyvmmError
from pyvmm.host import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.device_request import DeviceRequest


def main(arguments: list[str], make_request: Callable[[str, str], DeviceRequest] | None = None) -> int:
    """``PARENT LEVEL ID SPEC MACHINE``: as :func:`serve`, in a program of its own."""
    parent, level, id_, spec, machine = arguments
    child.enter(id_, int(parent))
    os.closerange(TELL_FD + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    for fd in (SOCKET_FD, TELL_FD):
        os.set_inheritable(fd, False)
    try:
        request = (make_request or _request)(id_, spec)
    except PyvmmError as error:
        return tell_failure(error)
    return serve(request, MachineView.from_text(machine), int(parent), int(level))


def _request(id_: str, spec: str) -> DeviceRequest:
    from pyvmm.options import parse_device
    from pyvmm.plugins import Plugins
    from pyvmm.startup.record import replace

    [request] = Plugins().request_devices([parse_device(spec)])
    return replace(request, id=id_)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
