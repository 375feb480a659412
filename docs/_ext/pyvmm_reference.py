"""Sphinx directives that make reference pages from the program itself."""

from __future__ import annotations

import importlib
from typing import Any

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from pyvmm.commands import OWN
from pyvmm.device_help import kinds_help, options_help
from pyvmm.plugins import Plugins


class CommandDirective(Directive):
    """The help of the command, or of the one that is named, as it prints it."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = OWN[self.arguments[0]][0] if self.arguments else "pyvmm.command"
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


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("pyvmm-command", CommandDirective)
    app.add_directive("pyvmm-devices", DevicesDirective)
    app.add_directive("pyvmm-device", DeviceDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
