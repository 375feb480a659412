"""Running a machine by the command's arguments, up to the exit status."""

from __future__ import annotations

import gc
import os

from pyvmm.cli.arguments import DEFAULT_DEVICES
from pyvmm.startup import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.cli.arguments import Arguments
    from pyvmm.cli.signals import StopSignals
    from pyvmm.device_request import DeviceRequest
    from pyvmm.exit_reason import ExitReason
    from pyvmm.machine import Machine
    from pyvmm.options import DeviceSpec
    from pyvmm.plugins import Plugins

__all__ = ["run"]

process_is_ours = False
"""Whether the process belongs to the command and ends with it. False if another program calls the command."""


def run(arguments: Arguments) -> int:
    """Carry out the command line. Returns the exit status."""
    from pyvmm import logs
    from pyvmm.plugins import Plugins
    from pyvmm.startup import threads

    if arguments.trace_startup:
        trace.begin()
        trace.ended("command line")
    logs.configure(arguments.verbose)
    threads.alone = process_is_ours
    plugins = Plugins(arguments.disabled)
    plugins.warn_of_unmatched(arguments.disabled)
    if any(str(spec) == "help" or spec.asks_for_help for spec in arguments.devices):
        from pyvmm.cli.device_help import print_help

        print_help(plugins, arguments.devices)
        return 0
    requests = _requests(plugins, arguments.devices, () if arguments.no_default_devices else DEFAULT_DEVICES)
    trace.ended("plugins, and the options of devices")

    from pyvmm.cli.file_checks import check_file

    kernel: str | os.PathLike[str] | None
    initrd: str | os.PathLike[str] | None
    kernel, initrd = arguments.kernel, arguments.initrd
    if initrd is not None:
        check_file(initrd, "--initrd")
    if kernel is not None:
        check_file(kernel, "--kernel")
    else:
        from pyvmm.cli.kernel_search import find_kernel

        kernel, beside = find_kernel(with_initrd=initrd is None)
        initrd = initrd or beside

    from pyvmm.machine import Machine, MachineConfig

    trace.ended("import of the machine")
    config = MachineConfig(
        kernel=kernel,
        initrd=initrd,
        cmdline=arguments.cmdline,
        memory=arguments.memory.size,
        huge_page_size=arguments.memory.huge_page_size,
        join_pages=arguments.memory.join_pages,
        cpus=arguments.cpus,
        devices=requests,
        discovery=arguments.discovery,
    )
    with Machine(config) as machine, stopped_by_signals(machine):
        gc.freeze()  # objects that exist now stay: the collector need not visit them
        gc.enable()
        try:
            reason = machine.run()
        finally:
            gc.unfreeze()  # another program may have called main, and continues
    return _report(reason)


def _requests(plugins: Plugins, devices: Sequence[DeviceSpec], defaults: Sequence[str]) -> list[DeviceRequest]:
    """Requests for the default devices and for the devices that the user named, in this order."""
    from pyvmm.options import DeviceSpec
    from pyvmm.plugins import PluginError

    named = {spec.kind for spec in devices}
    unasked = []
    for name in defaults:
        if name in named or name not in plugins.offers:
            continue
        try:
            plugins.kind(name)
        except PluginError as error:
            from pyvmm.cli.output import complain

            # The user did not ask for it, so its failure does not end the run, but the user should know.
            complain(f"no {name} device: {error}")
        else:
            unasked.append(DeviceSpec(name))
    requests = plugins.request_devices([*unasked, *devices])
    for request in requests:
        if getattr(request.options, "backend", None) == "stream":
            from pyvmm.errors import UsageError

            raise UsageError(f"{request.spec}: stream is for Python programs; give stdio, pty, file= or unix=")
    return requests


def stopped_by_signals(machine: Machine) -> StopSignals:
    """A context manager within which SIGINT, SIGTERM and SIGHUP stop ``machine``."""
    from pyvmm.cli.signals import StopSignals
    from pyvmm.exit_reason import End, ExitReason

    return StopSignals(machine.loop, lambda number: machine.stop(ExitReason(End.SIGNAL, signal=number)))


def _report(reason: ExitReason) -> int:
    """Print the reason of the end, unless the user wanted it. Returns the exit status."""
    if reason.status and not reason.signal:
        from pyvmm.cli.output import complain

        complain(str(reason), lines=True)  # registers have lines of their own
    return reason.status
