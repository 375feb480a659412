"""Sphinx directives that make reference pages from the program itself."""

from __future__ import annotations

from typing import Any

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from pyvmm.command import command
from pyvmm.device_help import options_help
from pyvmm.plugins import Plugins


class CommandDirective(Directive):
    """The command's help, as it prints it."""

    def run(self) -> list[nodes.Node]:
        context = click.Context(command, info_name="pyvmm", max_content_width=100, terminal_width=100)
        return [nodes.literal_block(text=command.get_help(context), language="text")]


class DevicesDirective(Directive):
    """A section for each kind of device that is installed, with its options."""

    def run(self) -> list[nodes.Node]:
        plugins = Plugins()
        result: list[nodes.Node] = []
        for name in sorted(plugins.offers):
            kind = plugins.kind(name)
            section = nodes.section(ids=[f"device-{name}"])
            section += nodes.title(text=name)
            section += nodes.literal_block(
                text=options_help(kind, plugins.offers[name][0].distribution), language="text"
            )
            if kind.kernel_config:
                section += nodes.paragraph(text=f"A guest's kernel needs {kind.kernel_config}.")
            result.append(section)
        return result


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("pyvmm-command", CommandDirective)
    app.add_directive("pyvmm-devices", DevicesDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
