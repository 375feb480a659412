"""The command ``pyvmm serve``: it serves a plugin's device over vhost-user to any machine."""

from __future__ import annotations

from contextlib import ExitStack

import click

from pyvmm.errors import UsageError
from pyvmm.options import DeviceSpec, parse_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.device_request import DeviceRequest
    from pyvmm.virtio.device import VirtioDevice

_EPILOG = """\
\b
With QEMU, a disk and a network card:
  pyvmm serve block:disk.img --socket /tmp/disk.sock
  pyvmm serve net:tap0 --socket /tmp/net.sock
  qemu-system-x86_64 -machine q35,memory-backend=ram …
    -object memory-backend-memfd,id=ram,size=1G,share=on
    -chardev socket,id=disk,path=/tmp/disk.sock
    -device vhost-user-blk-pci,chardev=disk,num-queues=1
    -chardev socket,id=net,path=/tmp/net.sock
    -netdev vhost-user,id=n0,chardev=net -device virtio-net-pci,netdev=n0

\b
pyvmm serves one front end after the other until a signal ends it.
"""


@click.command("serve", context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.argument("device", type=parse_device, metavar="KIND[:ARG][,KEY=VALUE…]")
@click.option("--socket", "path", metavar="PATH", help="Listen for front ends on a new socket at PATH.")
@click.option(
    "--fd", type=click.IntRange(0), metavar="N", help="Use the socket with descriptor N, listening or connected."
)
@click.option(
    "--no-plugin",
    "disabled",
    multiple=True,
    metavar="NAME",
    help="Ignore the device kind or package NAME, as in pyvmm itself.",
)
@click.option("-v", "--verbose", count=True, help="Print more messages on stderr; twice for all.")
def command(device: DeviceSpec, path: str | None, fd: int | None, disabled: Sequence[str], verbose: int) -> int:
    """Serve a virtio device over vhost-user.

    Write the device as for pyvmm --device; 'help' and 'KIND,help' list kinds and options.
    """
    from pyvmm import logs
    from pyvmm.cli.device_help import print_help
    from pyvmm.plugins import Plugins

    logs.configure(verbose)
    plugins = Plugins(disabled)
    plugins.warn_of_unmatched(disabled)
    if print_help(plugins, [device]):
        return 0
    if (path is None) == (fd is None):
        raise click.UsageError("give one of --socket PATH and --fd N")
    [request] = plugins.request_devices([device])

    from pyvmm.cli.signals import StopSignals
    from pyvmm.device_request import view_of
    from pyvmm.host import leftovers
    from pyvmm.host.eventloop import EventLoop
    from pyvmm.vhost_user.backend import Backend
    from pyvmm.vhost_user.listener import Listener, bind, from_fd

    with ExitStack() as stack:
        machine = view_of([request])
        stack.callback(machine.files.remove)
        loop = EventLoop()
        stack.callback(loop.close)
        stack.enter_context(StopSignals(loop, lambda _: loop.stop()))
        backend = Backend(_make(request), request.id, loop, lambda reason: loop.stop(), machine)
        stack.callback(backend.close)
        if path is not None:
            with leftovers.Making():
                listener = Listener(loop, backend, bind(path), path)
            stack.callback(listener.close)
        else:
            assert fd is not None
            sock, listens = from_fd(fd)
            if listens:
                stack.callback(Listener(loop, backend, sock).close)
            else:
                backend.serve(sock, loop.stop)
        loop.run()
    return 0


def _make(request: DeviceRequest) -> VirtioDevice:
    from pyvmm.virtio.device import VirtioDevice

    made = request.kind.make(request.options)
    if not isinstance(made, VirtioDevice):
        made.close()
        raise UsageError(f"serve: {request.kind.name} is no virtio device; only those can be served")
    if made.own_loop is not None:
        made.close()
        raise UsageError(f"serve: {request.spec} is served by another process; give its socket to the machine")
    return made
