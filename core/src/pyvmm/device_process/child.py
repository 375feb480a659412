"""The code that a device's process runs: the device, and a back end that serves it to the machine that made the
process.

The machine's side is in :mod:`pyvmm.device_process.parent`. Besides the vhost-user socket there is a pipe to the
machine, for messages that vhost-user does not have: the device's type, the reason why it could not be made, and its
wish to end the machine.
"""

from __future__ import annotations

import faulthandler
import gc
import os

from pyvmm import logs
from pyvmm.errors import PyvmmError, UsageError
from pyvmm.host import child
from pyvmm.host.aio import IoEngine
from pyvmm.host.child_log import write_all
from pyvmm.host.eventloop import EventLoop
from pyvmm.host.shortage import Need
from pyvmm.vhost_user.backend import Backend
from pyvmm.vhost_user.protocol import MAX_CONFIG_SIZE
from pyvmm.virtio.device import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Final, NoReturn

    from pyvmm.device_context import MachineView
    from pyvmm.device_request import DeviceRequest
    from pyvmm.exit_reason import ExitReason
else:
    import _socket as socket  # its enums take longer to make than all that is done with them

SOCKET_FD: Final = child.FIRST_FD
TELL_FD: Final = child.FIRST_FD + 1
"""The numbers of the two descriptors that a device's process is given."""

REQUEST_FD: Final = child.FIRST_FD + 2
"""The number of a third descriptor, which a new program is given: see :mod:`pyvmm.device_process.request_file`."""

STDERR_FD: Final = 2


def serve(request: DeviceRequest, machine: MachineView, parent: int, level: int) -> int:
    """Make the device of ``request`` and serve it until the machine closes the connection. Returns the exit status.

    ``machine``: the device's view of its machine. ``parent``: the id of the machine's process.
    ``level``: the lowest level of log records to send there.
    """
    child.set_signals()
    child.set_title(f"pyvmm: {request.id}: {request.spec}")
    _configure_logging(level)
    faulthandler.enable(STDERR_FD)
    IoEngine.may_wait = True
    try:
        with Need(request.id):
            loop = EventLoop()
            device, backend = _attach(request, machine, loop)
            backend.serve(socket.socket(fileno=SOCKET_FD), loop.stop)
            parent_pidfd = _watch_parent(parent, loop)
    except PyvmmError as error:
        return tell_failure(error)
    except BaseException:
        import traceback

        tell("broken", traceback.format_exc())
        return 1
    gc.freeze()
    gc.enable()  # a start runs without it
    own_config = type(device).read_config is not VirtioDevice.read_config
    config_size = MAX_CONFIG_SIZE if own_config else min(len(device.config), MAX_CONFIG_SIZE)
    tell("is", device.identity, device.device_type, config_size, *device.queue_max_sizes)
    try:
        loop.run()
    except BaseException:
        logs.logger(__name__).critical("%s: its event loop failed", machine.title(request.id), exc_info=True)
        return 1
    backend.close()
    os.close(parent_pidfd)
    return 0


def _attach(request: DeviceRequest, machine: MachineView, loop: EventLoop) -> tuple[VirtioDevice, Backend]:
    device = request.kind.make(request.options)
    if not isinstance(device, VirtioDevice):
        device.close()
        raise UsageError(
            f"{request.spec}: kind {request.kind.name!r} makes no virtio device, so its DeviceKind needs process=False"
        )
    return device, Backend(device, request.id, loop, _stop_machine, machine)


def _stop_machine(reason: ExitReason) -> None:
    tell("stop", reason.end.name, reason.detail)


def tell_failure(error: PyvmmError) -> int:
    """Tell the machine why there is no device. Returns the exit status."""
    tell("failed", error.exit_status, " ".join(str(error).split()))
    return error.exit_status


def tell(*words: object) -> None:
    """Send one line to the machine."""
    fields = (str(word).encode("unicode_escape") for word in words)
    write_all(TELL_FD, b"\t".join(fields) + b"\n")


def _configure_logging(level: int) -> None:
    """Send all loggers' records to the machine."""

    def send() -> None:
        from pyvmm.host import child_log_sender

        child_log_sender.send_all(STDERR_FD, level)

    logs.when_imported(send)
    if level != logs.level():  # a new program's machine wants another level than logging's default
        import logging  # noqa: F401


def _watch_parent(parent: int, loop: EventLoop) -> int:
    """End with the machine's process even where the kernel does not see to it: it does when the thread ends that made
    this process, and not when that was another one's."""
    pidfd = os.pidfd_open(parent)
    loop.add(pidfd, _die)
    return pidfd


def _die(_: int) -> NoReturn:
    os._exit(1)
