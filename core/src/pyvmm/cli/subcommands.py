"""The commands besides the main one: ``pyvmm NAME …``, pyvmm's own and those that packages offer.

A package's commands are found by its entry points in the group ``pyvmm.commands`` and imported when they are run, so
they cost nothing at the start of a machine.
"""

from __future__ import annotations

from importlib import import_module

import click

from pyvmm.errors import PluginError, UsageError, cause_of, nearest
from pyvmm.plugins.entry_points import COMMANDS
from pyvmm.plugins.offers import Offers, disabled_by_environment, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

OWN: Final[Mapping[str, tuple[str, str]]] = {
    "serve": ("pyvmm.cli.serve", "serve a device over vhost-user, to QEMU or any other front end"),
    "new-device": ("pyvmm.cli.new_device", "generate a working device package with tests"),
}
"""pyvmm's own commands: the module that defines ``command``, and one line of help. A package cannot use their names."""


def find(name: str) -> click.Command:
    """The command ``name``, imported.

    Raises :class:`UsageError` if there is no such command and :class:`PluginError` if it is disabled, claimed by two
    packages, built for another version of the plugin contract, or broken.
    """
    if name in OWN:
        own: click.Command = import_module(OWN[name][0]).command
        return own
    offers = _offers()
    point = offers.choose(name)
    if point is None:
        raise UsageError(
            f"there is no command {name!r}{nearest(name, [*OWN, *offers.enabled])}; pyvmm --help lists them"
        )
    try:
        command = point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"{point}: its command {point.value!r} cannot be imported: {cause_of(error)}") from error
    if not isinstance(command, click.Command):
        raise PluginError(f"{point}: {point.value!r} is no click command, although its entry point is in {COMMANDS}")
    return command


def installed() -> Sequence[tuple[str, str]]:
    """The name and one line of help for each command: pyvmm's own and, without importing them, those of packages."""
    rows = [(name, text) for name, (_, text) in OWN.items()]
    for name, points in sorted(_offers().enabled.items()):
        usable = [point for point in points if not refusal(point)]
        if usable and name not in OWN:
            rows.append((name, f"from {' and '.join(map(str, usable))}"))
    return rows


def _offers() -> Offers:
    return Offers(COMMANDS, "command", disabled_by_environment())
