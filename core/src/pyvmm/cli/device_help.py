"""The output of ``--device help`` and ``--device KIND,help``."""

from __future__ import annotations

from pyvmm.cli.output import show
from pyvmm.device_process.options import records_of
from pyvmm.options import OptionInfo, describe, format_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from pyvmm.options import DeviceSpec
    from pyvmm.plugin import DeviceKind
    from pyvmm.plugins import InstalledKind, Plugins


def print_help(plugins: Plugins, devices: Sequence[DeviceSpec]) -> bool:
    """Print the help that ``help`` or ``KIND,help`` in ``devices`` asks for. Returns whether one does."""
    for spec in devices:
        if str(spec) == "help":
            show(kinds_help(plugins.installed_kinds()))
            return True
        if spec.asks_for_help:
            kind = plugins.kind(spec.kind)
            show(options_help(kind, plugins.plugin(spec.kind).package))
            return True
    return False


def kinds_help(kinds: Sequence[InstalledKind]) -> str:
    """A table of the installed kinds: kind, package, version, state, help."""
    if not kinds:
        return "No device package is installed. Device packages are named like pyvmm-serial or pyvmm-virtio-net."
    rows = [(row.kind, row.package, row.version, row.state, row.help) for row in kinds]
    table = _table([("KIND", "PACKAGE", "VERSION", "STATE", "HELP"), *rows])
    return f"{table}\n\nThe options of one: --device KIND,help"


def options_help(kind: DeviceKind[Any], package: str) -> str:
    """The syntax of ``--device`` for ``kind``, and a table of its options with types and defaults."""
    options = [info for record in records_of(kind) for info in describe(record)]
    primary = next((info for info in options if info.primary), None)
    usage = f"--device {kind.name}"
    if primary:
        argument = f":{primary.metavar}"
        usage += argument if primary.required else f"[{argument}]"
    if len(options) > (primary is not None):
        usage += "[,OPTION=VALUE…]"
    head = f"{kind.name}: {kind.help} ({package})\n\n{usage}"
    if not options:
        return f"{head}\n\nIt has no options."
    rows = [(_key(info), _default(info), _help(info)) for info in options]
    return f"{head}\n\n{_table([('OPTION', 'DEFAULT', 'HELP'), *rows])}"


def _key(info: OptionInfo) -> str:
    return f"{info.name}[={info.metavar}]" if info.flag else f"{info.name}={info.metavar}"


def _default(info: OptionInfo) -> str:
    if info.required:
        return "must be given"
    if info.default is None or info.default == "" or (info.repeated and not info.default):
        return "none"
    if info.repeated:
        return " ".join(map(format_value, info.default))
    return format_value(info.default)


def _help(info: OptionInfo) -> str:
    notes = [
        note
        for note, applies in (("its name may be left out", info.primary), ("may be repeated", info.repeated))
        if applies
    ]
    return f"{info.help} ({'; '.join(notes)})".lstrip() if notes else info.help


def _table(rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns are as wide as their widest cell, with two blanks between them. The last column is not
    padded."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
