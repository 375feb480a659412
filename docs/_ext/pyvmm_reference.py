"""Sphinx directives that make reference pages from the program itself."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from pyvmm.cli.device_help import kinds_help, options_help
from pyvmm.cli.subcommands import OWN
from pyvmm.plugins import Plugins
from sphinx import addnodes
from sphinx.util import logging

log = logging.getLogger(__name__)

LONGEST_VALUE: Final = 60
"""Characters of a value that is shown."""

HERE: Final = {
    str(Path(__file__).resolve().parents[2]),
    str(Path(importlib.import_module("pyvmm").__file__ or "").parent),
}
"""Paths of the machine that builds the documentation, which are nobody else's business."""


class CommandDirective(Directive):
    """The help of the command, or of the one that is named, as it prints it."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = OWN[self.arguments[0]][0] if self.arguments else "pyvmm.cli.main_command"
        command: click.Command = importlib.import_module(module).command
        name = " ".join(["pyvmm", *self.arguments])
        context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
        return [nodes.literal_block(text=command.get_help(context), language="text")]


class DevicesDirective(Directive):
    """The kinds of device that are installed."""

    def run(self) -> list[nodes.Node]:
        return [nodes.literal_block(text=kinds_help(Plugins().installed_kinds()), language="text")]


class DeviceDirective(Directive):
    """The options of a kind of device, as the command prints them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        plugins = Plugins()
        [name] = self.arguments
        kind = plugins.kind(name)
        text = options_help(kind, plugins.offers[name][0].distribution)
        result: list[nodes.Node] = [nodes.literal_block(text=text, language="text")]
        if kind.kernel_config:
            result.append(nodes.paragraph(text=f"A guest's kernel needs {kind.kernel_config}."))
        return result


class ConstantsDirective(Directive):
    """What the ``__all__`` of a module of numbers names: a row for each prefix, in the module's order."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        groups: dict[str, list[str]] = {}
        for name, value in vars(module).items():
            if name in module.__all__:
                prefix = re.match("VIRTIO_(?:CONFIG_S|RING_F|[A-Z]+)_", name)
                assert prefix is not None
                groups.setdefault(prefix[0], []).append(f"{name} {value}")
        return [table((f"{prefix}…", ", ".join(names)) for prefix, names in groups.items())]


class MisbehavioursDirective(Directive):
    """What a tuple of :class:`~pyvmm.testing.hostile_ring.Misbehaviour` has in it, by the rules that are broken."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        groups: dict[str, list[str]] = {}
        for one in getattr(importlib.import_module(module), name):
            groups.setdefault(one.rule, []).append(one.name)
        return [table((rule, ", ".join(names)) for rule, names in groups.items())]


def table(rows: Iterable[tuple[str, str]]) -> nodes.table:
    """Two columns without a head, the first of them narrow."""
    body = nodes.tbody()
    for row in rows:
        body += nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in row))
    columns = (nodes.colspec(colwidth=width) for width in (30, 70))
    return nodes.table("", nodes.tgroup("", *columns, body, cols=2))


def is_readable(source: str) -> bool:
    """Whether a default or a value says something: a short literal, or a name."""
    try:
        tree = ast.parse(source.strip(), mode="eval")
    except SyntaxError:
        return False
    known = (ast.Expression, ast.Constant, ast.Name, ast.Attribute, ast.Tuple, ast.List, ast.Dict, ast.Set)
    numbers = (ast.UnaryOp, ast.BinOp, ast.unaryop, ast.operator, ast.expr_context)
    return len(source) <= LONGEST_VALUE and all(isinstance(node, (*known, *numbers)) for node in ast.walk(tree))


def shorten_defaults(
    app: Any, what: str, name: str, obj: Any, options: Any, arguments: str | None, result: str | None
) -> tuple[str, str | None] | None:
    """Defaults that are no literals and no names are an ellipsis: objects, functions, what the host has."""
    if not arguments:
        return None
    parsable = re.sub(r"<(?:[^<>]|<[^<>]*>)*>", "...", arguments)
    try:
        [function] = ast.parse(f"def f{parsable}: ...").body
    except SyntaxError:
        return None
    assert isinstance(function, ast.FunctionDef)
    given = function.args
    before = ast.dump(given)
    given.defaults = [_shortened(default) for default in given.defaults]
    given.kw_defaults = [default and _shortened(default) for default in given.kw_defaults]
    return (f"({ast.unparse(given)})", result) if parsable != arguments or ast.dump(given) != before else None


def _shortened(default: ast.expr) -> ast.expr:
    return default if is_readable(ast.unparse(default)) else ast.Constant(...)


def drop_values(app: Any, document: nodes.document) -> None:
    """Of names with values, those values that say nothing to a reader; and see that no path of this machine is left."""
    for signature in document.findall(addnodes.desc_signature):
        for part in list(signature.findall(addnodes.desc_annotation)):
            text = part.astext().strip()
            if text.startswith("=") and not is_readable(text[1:]):
                part.parent.remove(part)
        text = signature.astext()
        if " at 0x" in text or any(path in text for path in HERE):
            log.warning("a path or an address of this machine in: %s", text, location=signature)


def keep_captions(app: Any, document: nodes.document) -> None:
    """A block's caption is the name of a file, in which ``__init__`` is no emphasis."""
    for block in document.findall(nodes.container):
        if block.get("literal_block"):
            for caption in block.findall(nodes.caption):
                caption[:] = [nodes.literal(text=caption.rawsource)]


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-signature", shorten_defaults)
    app.connect("doctree-read", drop_values)
    app.connect("doctree-read", keep_captions)
    app.add_directive("pyvmm-constants", ConstantsDirective)
    app.add_directive("pyvmm-misbehaviours", MisbehavioursDirective)
    app.add_directive("pyvmm-command", CommandDirective)
    app.add_directive("pyvmm-devices", DevicesDirective)
    app.add_directive("pyvmm-device", DeviceDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
