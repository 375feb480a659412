"""The command ``pyvmm``: it reads the command line, makes and runs the machine, and reports how the run ended.

Few modules are imported before :func:`main` has disabled the garbage collector. click is imported only if it is needed,
not for a command line that :mod:`pyvmm.cli.arguments` can read.
"""

from __future__ import annotations

import gc
import os
import sys

from pyvmm.errors import PyvmmError
from pyvmm.host.shortage import shortage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (by default those of the process) and return its exit status.

    A mistake that the user can fix is one line on stderr; -v adds its traceback. A bug keeps its traceback; the
    interpreter then exits with status 1.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.disable()  # a start makes many objects that stay, and almost no garbage
    try:
        from pyvmm.cli import run

        if "_PYVMM_COMPLETE" not in os.environ:
            from pyvmm.cli.arguments import read

            if "PYVMM_AIO" in os.environ:
                from pyvmm.cli import environment

                environment.check()

            known = read(words)
            if known is not None:
                return run.run(known)
        return _main_by_click(words)
    except Exception as error:
        # An OSError that no code has turned into a message is one line, too; -v shows where it came from.
        if not isinstance(error, PyvmmError | OSError) and not shortage(error):
            raise
        if _is_verbose(words) and sys.stderr is not None:
            import traceback

            from pyvmm.host.standard_streams import write_line

            write_line(sys.stderr, traceback.format_exc(), end="")
        if isinstance(error, PyvmmError) and not shortage(error):
            _complain(str(error))
            return error.exit_status
        _complain(_refusal(error))
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        gc.enable()


def _complain(message: str) -> None:
    """Print one line on stderr; the module that does so is imported when it is needed."""
    try:
        from pyvmm.cli import output
    except OSError:  # no descriptor is left to read the module
        print(f"pyvmm: {message}", file=sys.stderr)
        return
    output.complain(message)


def _refusal(error: Exception) -> str:
    """One line for an operation that the host refuses."""
    lack = shortage(error)
    if not isinstance(error, OSError):
        return lack
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is not None and last.tb_frame.f_globals.get("__name__") == "click.utils":  # click.echo()
        return f"standard output cannot be written: {reason}"
    if lack:
        return lack
    if error.filename is None:
        return f"the host refuses an operation: {reason}; -v shows where"
    return f"{os.fsdecode(error.filename)!r}: {reason}; -v shows what needs it"


def _main_by_click(words: list[str]) -> int:
    """Run a command line that is unusual or wrong, by click. Returns the exit status."""
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
    """A command of pyvmm's own among ``words``, where it is not the first word; empty if there is none."""
    from pyvmm.cli.subcommands import OWN

    return next((word for word in words if word in OWN), "")


def _is_verbose(arguments: Sequence[str]) -> bool:
    return any(word == "--verbose" or (word[:2] == "-v" and word.strip("v") == "-") for word in arguments)
