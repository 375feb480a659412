"""Writes the manual pages of ``pyvmm`` and of its other commands: what their ``--help`` says, in roff.

debian/manual.py DIRECTORY
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
from pyvmm import __version__
from pyvmm.cli.main_command import command as pyvmm
from pyvmm.cli.subcommands import OWN, find


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    pages = {"pyvmm": pyvmm, **{f"pyvmm-{name}": find(name) for name in OWN}}
    for page, command in pages.items():
        (directory / f"{page}.1").write_text(manual(page, command, set(pages) - {page}))


def manual(page: str, command: click.Command, others: set[str]) -> str:
    """The page of ``command``; ``others`` are the pages that it refers to."""
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    context = click.Context(command, info_name=page.replace("-", " ", 1), **command.context_settings)
    short, *description = inspect.cleandoc(command.help or "").split("\n\n")
    lines = [f'.TH {page.upper()} 1 {date} "pyvmm {__version__}"']
    lines += [".SH NAME", f"{_text(page)} \\- {_text(_lower_first(short.rstrip('.')))}"]
    usage = " ".join(command.collect_usage_pieces(context))
    lines += [".SH SYNOPSIS", f".B {_text(context.info_name or '')}", _text(usage)]
    lines += [".SH DESCRIPTION", *_paragraphs([short, *description])]
    lines += [".SH OPTIONS"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and record[1]:  # an argument without help is in the synopsis
            lines += [".TP", f".B {_text(record[0])}", _text(record[1])]
    lines += [".SH NOTES", *_paragraphs(inspect.cleandoc(command.epilog or "").split("\n\n"))]
    lines += [".SH SEE ALSO", " ,\n".join(f".BR {_text(other)} (1)" for other in sorted(others))]
    return "\n".join(lines) + "\n"


def _paragraphs(paragraphs: list[str]) -> Iterator[str]:
    """Paragraphs as click has them: one that starts with a backspace keeps its lines."""
    for paragraph in paragraphs:
        yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *map(_text, paragraph.splitlines()[1:]), ".fi")
        else:
            yield _text(" ".join(paragraph.split()))


def _text(text: str) -> str:
    """``text`` such that roff prints it as it is: a hyphen can be copied, and no line is a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
