"""The command ``pyvmm``: reads the command line, has the machine made and run, and says how it ended."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pyvmm import __version__
from pyvmm.errors import PyvmmError
from pyvmm.options import DeviceSpec, parse_device, parse_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from pyvmm.exit_reason import ExitReason
    from pyvmm.machine import Machine
    from pyvmm.plugins import DeviceRequest, Plugins

DEFAULT_DEVICES: Final = ("serial",)
"""Kinds that a machine has without being asked, where a package that offers them is installed."""

_PAGE_SIZE: Final = 4096

_EPILOG = """\
\b
Devices come from installed packages; each has its own options:
  --device help              lists the kinds that are installed
  --device KIND,help         lists the options of one
  --device block:disk.img,ro the option after the colon needs no name; a bare flag
                             is on; a comma inside a value is written twice

\b
Without --kernel it boots $PYVMM_KERNEL, else the host's own kernel and initrd
from /boot, else the newest one there.

\b
Exit status: 0 the guest powered off or rebooted; 1 the host lacks something;
2 the command line is wrong; 3 the guest crashed; 128+N signal N ended the run.

\b
Shell completion (bash; for zsh and fish put their name in place of bash):
  eval "$(_PYVMM_COMPLETE=bash_source pyvmm)"
"""


def _memory(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}") from error
    if size == 0 or size % _PAGE_SIZE:
        raise click.BadParameter(f"{text!r} is not a multiple of the page size, {_PAGE_SIZE} bytes")
    return size


def _complete_device(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from pyvmm.completion import complete_device

    return complete_device(incomplete)


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.option("--kernel", type=click.Path(path_type=Path), metavar="FILE", help="Kernel: bzImage or ELF vmlinux.")
@click.option("--initrd", type=click.Path(path_type=Path), metavar="FILE", help="Initial RAM disk.")
@click.option("--cmdline", default="", metavar="TEXT", help="Added to the kernel's default command line.")
@click.option("--memory", type=_memory, default="256M", show_default=True, metavar="SIZE", help="Guest memory.")
@click.option(
    "--cpus", type=click.IntRange(1, 8), default=1, show_default=True, metavar="N", help="Virtual CPUs, 1 to 8."
)
@click.option(
    "--device",
    "devices",
    type=parse_device,
    shell_complete=_complete_device,
    multiple=True,
    metavar="KIND[:ARG][,KEY=VALUE…]",
    help="A device; may be repeated. 'help' lists the kinds.",
)
@click.option(
    "--no-default-devices", is_flag=True, help=f"Leave out what is there unasked: {', '.join(DEFAULT_DEVICES)}."
)
@click.option(
    "--discovery",
    type=click.Choice(["acpi", "cmdline"]),
    default="acpi",
    show_default=True,
    help="How the guest finds its devices.",
)
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for everything.")
@click.version_option(__version__, prog_name="pyvmm", message="%(prog)s %(version)s")
def command(
    kernel: Path | None,
    initrd: Path | None,
    cmdline: str,
    memory: int,
    cpus: int,
    devices: Sequence[DeviceSpec],
    no_default_devices: bool,
    discovery: str,
    verbose: int,
) -> int:
    """Boot a Linux kernel in a virtual machine on KVM."""
    from pyvmm import logs
    from pyvmm.plugins import Plugins

    logs.configure(verbose)
    plugins = Plugins()
    if _print_help(plugins, devices):
        return 0
    requests = _requests(plugins, devices, () if no_default_devices else DEFAULT_DEVICES)

    from pyvmm.kernel_search import check_file, find_kernel

    if initrd is not None:
        check_file(initrd, "--initrd")
    if kernel is not None:
        check_file(kernel, "--kernel")
    else:
        kernel, beside = find_kernel(with_initrd=initrd is None)
        initrd = initrd or beside

    from pyvmm.machine import Machine, MachineConfig

    config = MachineConfig(
        kernel=kernel,
        initrd=initrd,
        cmdline=cmdline,
        memory=memory,
        cpus=cpus,
        devices=requests,
        discovery=discovery,
    )
    with Machine(config) as machine, _stopped_by_signals(machine):
        reason = machine.run()
    return _report(reason)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (those of the process) and return its exit status.

    What the user can mend is one line on stderr; -v adds its traceback. A bug keeps its traceback and, through the
    interpreter, status 1.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "_PYVMM_COMPLETE" in os.environ:
        from pyvmm import completion

        completion.install()
    chosen, name = command, "pyvmm"
    if arguments[:1] == ["serve"]:
        from pyvmm import serve

        chosen, name, arguments = serve.command, "pyvmm serve", arguments[1:]
    try:
        status = chosen.main(arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        _complain(f"{message}; {name} --help lists the options")
        return error.exit_code
    except PyvmmError as error:
        if _is_verbose(arguments):
            import traceback

            traceback.print_exc()
        _complain(str(error))
        return error.exit_status
    except (click.Abort, KeyboardInterrupt):
        return 130
    return status if isinstance(status, int) else 0


def _print_help(plugins: Plugins, devices: Sequence[DeviceSpec]) -> bool:
    """Print what ``--device help`` or ``--device KIND,help`` asks for; whether one did."""
    for spec in devices:
        if spec == DeviceSpec("help"):
            from pyvmm.device_help import kinds_help

            click.echo(kinds_help(plugins.installed_kinds()))
            return True
        if spec.asks_for_help:
            from pyvmm.device_help import options_help

            kind = plugins.kind(spec.kind)
            click.echo(options_help(kind, str(plugins.offers[spec.kind][0])))
            return True
    return False


def _requests(plugins: Plugins, devices: Sequence[DeviceSpec], defaults: Sequence[str]) -> list[DeviceRequest]:
    """The devices that the user named, after those that are there unasked."""
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


@contextlib.contextmanager
def _stopped_by_signals(machine: Machine) -> Iterator[None]:
    """Within it, the signals that ask a process to end stop ``machine``; one that is ignored stays ignored."""
    import signal

    from pyvmm.exit_reason import End, ExitReason

    def stop(number: int, _: object) -> None:
        machine.stop(ExitReason(End.SIGNAL, signal=number))

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(reason: ExitReason) -> int:
    """Say how the run ended, unless it ended as the user wanted; the exit status."""
    if reason.status and not reason.signal:
        _complain(str(reason))
    return reason.status


def _complain(message: str) -> None:
    # Where stderr is closed or full, the exit status has to say it.
    with contextlib.suppress(OSError):
        click.echo(f"pyvmm: {message}", err=True)


def _is_verbose(arguments: Sequence[str]) -> bool:
    import re

    return any(re.fullmatch("--verbose|-v+", argument) for argument in arguments)
