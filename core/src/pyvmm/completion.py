"""What the shell offers after ``--device``: kinds, then the option names of one kind."""

from __future__ import annotations

from click.shell_completion import CompletionItem

from pyvmm.errors import PyvmmError
from pyvmm.options import OptionInfo, describe, parse_device
from pyvmm.plugins import Plugins


def complete_device(incomplete: str) -> list[CompletionItem]:
    """Completions of ``KIND[:ARG][,key=value…]``: a plugin is imported only once its kind is typed out."""
    plugins = Plugins()
    if not {":", ","} & set(incomplete):
        kinds = [
            CompletionItem(kind, help=", ".join(map(str, points))) for kind, points in sorted(plugins.offers.items())
        ]
        items = [*kinds, CompletionItem("help", help="list the kinds that are installed")]
        return [item for item in items if item.value.startswith(incomplete)]
    try:
        kind = parse_device(incomplete).kind
        options = describe(plugins.kind(kind).options)
    except PyvmmError:
        return []
    cut = max(incomplete.rfind(","), incomplete.rfind(":") if "," not in incomplete else -1) + 1
    before, word = incomplete[:cut], incomplete[cut:]
    values: list[str] = []
    if before == f"{kind}:":
        primary = next((info for info in options if info.primary), None)
        if primary and primary.metavar == "PATH":
            return [CompletionItem(word, type="file")]
        values += primary.choices if primary else ()
    key, equals, _ = word.partition("=")
    if equals:
        values += next((_values(info) for info in options if info.name == key), [])
    elif before.endswith(","):
        values += [info.name if info.flag else f"{info.name}=" for info in options] + ["help"]
    return [CompletionItem(before + value) for value in values if value.startswith(word)]


def _values(info: OptionInfo) -> list[str]:
    return [f"{info.name}={choice}" for choice in info.choices]
