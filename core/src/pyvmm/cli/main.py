"""The command ``pyvmm``: reads the command line, has the machine made and run, and says how it ended.

Nothing much is imported before :func:`main` has put off the collector. click is imported where it is needed: not for a
command line that :mod:`pyvmm.cli.arguments` can read.
"""

from __future__ import annotations

import gc
import os
import sys

from pyvmm.errors import PyvmmError
from pyvmm.startup import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final, NoReturn

    from pyvmm.cli.arguments import Arguments
    from pyvmm.cli.stop_signals import StopSignals
    from pyvmm.exit_reason import ExitReason
    from pyvmm.machine import Machine
    from pyvmm.options import DeviceSpec
    from pyvmm.plugins import DeviceRequest, Plugins

DEFAULT_DEVICES: Final = ("serial",)
"""Kinds that a machine has without being asked, where a package that offers them is installed."""


_is_process = False
"""Whether the process is this command's, and not a program's that calls :func:`main`."""


def run(arguments: Arguments) -> int:
    """Do what the command line says; the exit status."""
    from pyvmm import logs
    from pyvmm.plugins import Plugins
    from pyvmm.startup import threads

    if arguments.trace_startup:
        trace.begin()
        trace.ended("command line")
    logs.configure(arguments.verbose)
    threads.alone = _is_process
    plugins = Plugins(arguments.disabled)
    plugins.warn_of_unmatched(arguments.disabled)
    if _print_help(plugins, arguments.devices):
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
    with Machine(config) as machine, _stopped_by_signals(machine):
        gc.freeze()  # what there is now stays: no collection need look at it again
        gc.enable()
        try:
            reason = machine.run()
        finally:
            gc.unfreeze()  # main may have been called by a program that goes on
    return _report(reason)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (those of the process) and return its exit status.

    What the user can mend is one line on stderr; -v adds its traceback. A bug keeps its traceback and, through the
    interpreter, status 1.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.disable()  # a start makes much that stays, and no garbage to speak of
    try:
        if "_PYVMM_COMPLETE" not in os.environ:
            from pyvmm.cli.arguments import read

            known = read(words)
            if known is not None:
                return run(known)
        return _main_by_click(words)
    except PyvmmError as error:
        if _is_verbose(words):
            import traceback

            traceback.print_exc()
        _complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    finally:
        gc.enable()


def script() -> NoReturn:
    """What the command ``pyvmm`` runs: :func:`main`, and then the end.

    When the machine is closed, nothing is left that somebody needs, and to take the interpreter apart takes as long
    as to make a machine.
    """
    global _is_process
    _is_process = True
    status = main()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        sys.exit(status)  # the interpreter knows what to say of that
    os._exit(status)


def _main_by_click(words: list[str]) -> int:
    """The same for a command line that is unusual or wrong."""
    import click

    if "_PYVMM_COMPLETE" in os.environ:
        from pyvmm.cli import completion

        completion.install()
    name = "pyvmm"
    try:
        at = next((i for i, word in enumerate(words) if not _is_verbose([word])), len(words))
        if at < len(words) and not words[at].startswith("-"):  # the main command has options only
            from pyvmm.cli.subcommands import find

            command = find(words[at])
            name, words = f"pyvmm {words[at]}", [*words[:at], *words[at + 1 :]]
        else:
            from pyvmm.cli.main_command import command
        status: Any = command.main(words, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        if name == "pyvmm" and (late := _command_in(words)):
            message += f"; options of {late!r} go after it: pyvmm {late} …"
        _complain(f"{message}; {name} --help lists the options")
        return error.exit_code
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0


def _command_in(words: list[str]) -> str:
    """A command of pyvmm's own that is not the first of ``words``, which are wrong as they are; empty without one."""
    from pyvmm.cli.subcommands import OWN

    return next((word for word in words if word in OWN), "")


def _print_help(plugins: Plugins, devices: Sequence[DeviceSpec]) -> bool:
    """Print what ``--device help`` or ``--device KIND,help`` asks for; whether one did."""
    for spec in devices:
        if str(spec) == "help":
            from pyvmm.cli.device_help import kinds_help

            _show(kinds_help(plugins.installed_kinds()))
            return True
        if spec.asks_for_help:
            from pyvmm.cli.device_help import options_help

            kind = plugins.kind(spec.kind)
            _show(options_help(kind, plugins.plugin(spec.kind).package))
            return True
    return False


def _show(text: str) -> None:
    """Print ``text``, as much as somebody reads of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is left in the buffer would raise once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _requests(plugins: Plugins, devices: Sequence[DeviceSpec], defaults: Sequence[str]) -> list[DeviceRequest]:
    """The devices that the user named, after those that are there unasked."""
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
            # Nobody asked for it, so it cannot end the run; but its absence is noticed sooner or later.
            _complain(f"no {name} device: {error}")
        else:
            unasked.append(DeviceSpec(name))
    return plugins.request_devices([*unasked, *devices])


def _stopped_by_signals(machine: Machine) -> StopSignals:
    """Within it, the signals that ask a process to end stop ``machine``."""
    from pyvmm.cli.stop_signals import StopSignals
    from pyvmm.exit_reason import End, ExitReason

    return StopSignals(machine.loop, lambda number: machine.stop(ExitReason(End.SIGNAL, signal=number)))


def _report(reason: ExitReason) -> int:
    """Say how the run ended, unless it ended as the user wanted; the exit status."""
    if reason.status and not reason.signal:
        _complain(str(reason))
    return reason.status


def _complain(message: str) -> None:
    # Where stderr is closed or full, the exit status has to say it.
    try:
        print(f"pyvmm: {message}", file=sys.stderr, flush=True)
    except OSError:
        pass


def _is_verbose(arguments: Sequence[str]) -> bool:
    return any(word == "--verbose" or (word[:2] == "-v" and word.strip("v") == "-") for word in arguments)
