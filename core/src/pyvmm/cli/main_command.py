"""The command line of ``pyvmm``, declared for click: help, completion, and what is wrong with what was typed."""

from __future__ import annotations

import click

from pyvmm import __version__
from pyvmm.cli.arguments import DEFAULT_MEMORY, DISCOVERIES, MAX_CPUS, Arguments
from pyvmm.cli.main import DEFAULT_DEVICES, run
from pyvmm.memory_option import MemoryOption, parse_memory
from pyvmm.options import parse_device

TYPE_CHECKING = False
if TYPE_CHECKING:
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
Without --kernel it boots $PYVMM_KERNEL, else the host's own kernel and initrd
from /boot, else the newest one there.

\b
Exit status: 0 the guest powered off or rebooted; 1 the host lacks something;
2 the command line is wrong; 3 the guest crashed; 128+N signal N ended the run.

\b
Environment: PYVMM_DISABLE_PLUGINS=NAME,… is --no-plugin for every start.

\b
Shell completion (bash; for zsh and fish put their name in place of bash):
  eval "$(_PYVMM_COMPLETE=bash_source pyvmm)"
"""


def _memory(text: str) -> MemoryOption:
    try:
        return parse_memory(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}") from error


def _complete_device(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from pyvmm.cli.completion import complete_device

    return complete_device(incomplete)


class _MainCommand(click.Command):
    """The main command, whose help lists the others, which are found only then."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the other commands, then the epilog."""
        from pyvmm.cli.subcommands import installed

        with formatter.section("Commands (pyvmm NAME --help)"):
            formatter.write_dl(list(installed()))
        super().format_epilog(ctx, formatter)


@click.command(cls=_MainCommand, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.option("--kernel", type=click.Path(), metavar="FILE", help="Kernel: bzImage or ELF vmlinux.")
@click.option("--initrd", type=click.Path(), metavar="FILE", help="Initial RAM disk.")
@click.option("--cmdline", default="", metavar="TEXT", help="Added to the kernel's default command line.")
@click.option(
    "--memory",
    type=_memory,
    default=DEFAULT_MEMORY,
    show_default=True,
    metavar="SIZE[,hugepages=auto]",
    help="Guest memory; hugepages=off: of pages of 4 KiB only; on (2M), 1G: of the host's reserved huge pages.",
)
@click.option(
    "--cpus",
    type=click.IntRange(1, MAX_CPUS),
    default=1,
    show_default=True,
    metavar="N",
    help=f"Virtual CPUs, 1 to {MAX_CPUS}.",
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
    "--no-plugin",
    "disabled",
    multiple=True,
    metavar="NAME",
    help="As if the device kind or package NAME (or what matches: 'pyvmm-virtio-*') were not installed; may be "
    "repeated.",
)
@click.option(
    "--discovery",
    type=click.Choice(DISCOVERIES),
    default="acpi",
    show_default=True,
    help="How the guest finds its devices.",
)
@click.option("--trace-startup", is_flag=True, help="Say on stderr where each millisecond of the start goes.")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for everything.")
@click.version_option(__version__, prog_name="pyvmm", message="%(prog)s %(version)s")
def command(**options: Any) -> int:
    """Boot a Linux kernel in a virtual machine on KVM."""
    return run(Arguments(**options))
