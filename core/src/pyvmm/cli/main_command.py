"""The main command for click, which prints help, completes words, and reports mistakes in a command line."""

from __future__ import annotations

import click

from pyvmm import __version__
from pyvmm.cli.arguments import OPTIONS, Arguments, CommandOption
from pyvmm.cli.run import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from click.shell_completion import CompletionItem

_EPILOG = """\
\b
Devices come from installed packages; each has its own options:
  --device help              lists the kinds that are installed
  --device KIND,help         lists the options of one
  --device block:disk.img,ro the option after the colon needs no name; a bare flag
                             is on; a comma inside a value is written twice

\b
Without --kernel, pyvmm boots $PYVMM_KERNEL, else the host's own kernel and
initrd from /boot, else the newest kernel there.

\b
Exit status: 0 the guest powered off or rebooted; 1 the host lacks something;
2 the command line is wrong; 3 the guest crashed; 128+N signal N ended the run.

\b
Environment: PYVMM_DISABLE_PLUGINS=NAME,… acts as --no-plugin at every start.

\b
Shell completion for bash; for zsh or fish, replace bash by that name:
  eval "$(_PYVMM_COMPLETE=bash_source pyvmm)"
"""


def _complete_device(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from pyvmm.cli.completion import complete_device

    return complete_device(incomplete)


class _MainCommand(click.Command):
    """The main command. Its help lists the other commands, which are looked up only for the help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the other commands, then the epilog."""
        from pyvmm.cli.subcommands import installed

        with formatter.section("Commands (pyvmm NAME --help)"):
            formatter.write_dl(list(installed()))
        super().format_epilog(ctx, formatter)


def _reader(option: CommandOption) -> Callable[[str], Any]:
    """A function that reads a value for click. It puts the text before the phrase that says what is wrong."""

    def read(text: str) -> Any:
        try:
            return option.read(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} {error}") from error

    return read


def _declare(option: CommandOption) -> click.Option:
    """The click option for ``option``."""
    names = [option.short, option.name, option.key] if option.short else [option.name, option.key]
    if not option.metavar:
        return click.Option(names, is_flag=not option.many, count=option.many, help=option.help)
    kind: Any = _reader(option)
    if option.file:
        kind = click.Path()
    elif option.choices:
        kind = click.Choice(option.choices)
    return click.Option(
        names,
        type=kind,
        default=option.default,
        show_default=bool(option.default),
        multiple=option.many,
        metavar=None if option.choices else option.metavar,
        shell_complete=_complete_device if option.name == "--device" else None,
        help=option.help,
    )


def _run(**options: Any) -> int:
    """Boot a Linux kernel in a virtual machine on KVM."""
    return run(Arguments(**options))


command = _MainCommand(
    "pyvmm",
    callback=_run,
    help=_run.__doc__,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[_declare(option) for option in OPTIONS],
)
command = click.version_option(__version__, prog_name="pyvmm", message="%(prog)s %(version)s")(command)
