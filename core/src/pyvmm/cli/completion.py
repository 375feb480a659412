"""Shell completion after ``--device``: kinds, then the option names of one kind."""

from __future__ import annotations

import os

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from pyvmm.cli import shell_scripts
from pyvmm.device_process.options import records_of
from pyvmm.errors import PyvmmError
from pyvmm.options import OptionInfo, describe, parse_device
from pyvmm.plugins import Plugins


class DeviceBashComplete(BashComplete):
    """click's completion for bash. bash also breaks words at ``:`` and ``=``, so this class reads the line itself."""

    source_template = shell_scripts.BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one at the cursor, and that word, which may be incomplete."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        self.incomplete = "" if line[-1:].isspace() or not words else words.pop()
        return words, self.incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Return only the part after the last break, where bash inserts it."""
        cut = max(self.incomplete.rfind(mark) for mark in ":=") + 1
        return f"{item.type},{item.value[cut:] if item.value.startswith(self.incomplete[:cut]) else item.value}"


class DeviceZshComplete(ZshComplete):
    """click's completion for zsh, with pyvmm's own script."""

    source_template = shell_scripts.ZSH


class DeviceFishComplete(FishComplete):
    """click's completion for fish, with pyvmm's own script."""

    source_template = shell_scripts.FISH


def install() -> None:
    """Register these classes with click."""
    for shell in (DeviceBashComplete, DeviceZshComplete, DeviceFishComplete):
        add_completion_class(shell)


def complete_device(incomplete: str) -> list[CompletionItem]:
    """Completions of ``KIND[:ARG][,key=value…]``. A plugin is imported only after its kind is typed completely."""
    plugins = Plugins()
    if not {":", ","} & set(incomplete):
        kinds = [
            CompletionItem(kind, help=", ".join(map(str, points))) for kind, points in sorted(plugins.offers.items())
        ]
        items = [*kinds, CompletionItem("help", help="list the kinds that are installed")]
        return [item for item in items if item.value.startswith(incomplete)]
    try:
        kind = plugins.kind(parse_device(incomplete).kind)
        options = [info for record in records_of(kind) for info in describe(record)]
    except PyvmmError:
        return []
    cut = incomplete.rfind(",") + 1 or incomplete.index(":") + 1
    before, word = incomplete[:cut], incomplete[cut:]
    primary = next((info for info in options if info.primary), None)
    key, equals, _ = word.partition("=")
    values: list[str] = []
    if equals:
        for info in options:
            if info.name == key and info.metavar == "PATH":
                return [CompletionItem(word, type="file")]
            if info.name == key:
                values = [f"{key}={choice}" for choice in info.choices]
    elif "," not in before and primary and primary.metavar == "PATH":
        return [CompletionItem(word, type="file")]
    else:
        if "," not in before:
            values += primary.choices if primary else ()
        values += [_key(info) for info in options]
        values += ["help"] if "," in before else []
    return [CompletionItem(before + value) for value in values if value.startswith(word)]


def _key(info: OptionInfo) -> str:
    return info.name if info.flag else f"{info.name}="
