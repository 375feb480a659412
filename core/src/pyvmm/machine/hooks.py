"""Tells the plugins of a machine's devices of the machine's life, by the hooks that they implement."""

from __future__ import annotations

from pyvmm.errors import PluginError, PyvmmError, cause_of
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pyvmm.exit_reason import ExitReason
    from pyvmm.machine import Machine
    from pyvmm.plugins import LoadedPlugin

log = logger(__name__)


class MachineHooks:
    """The hooks ``pyvmm_machine_…`` of the plugins that one machine has devices of."""

    def __init__(self, machine: Machine, plugins: Iterable[LoadedPlugin | None]) -> None:
        """``plugins`` may have one several times, once for each of its devices."""
        self._machine = machine
        self._plugins = list({id(plugin.hooks): plugin for plugin in plugins if plugin}.values())
        self._told: list[LoadedPlugin] = []
        """Those that know of the machine, and not yet of its end."""

    def created(self) -> None:
        """Call ``pyvmm_machine_created``. Raises :class:`PyvmmError` where one fails: there will be no machine."""
        for plugin in self._plugins:
            self._told.append(plugin)
            try:
                _call(plugin, "pyvmm_machine_created", machine=self._machine)
            except PyvmmError:
                raise
            except Exception as error:
                raise PluginError(f"{plugin.package}: pyvmm_machine_created fails: {cause_of(error)}") from error

    def started(self) -> None:
        """Call ``pyvmm_machine_started``. One that fails is logged, and the machine runs on."""
        for plugin in self._told:
            _try(plugin, "pyvmm_machine_started", machine=self._machine)

    def stopped(self, reason: ExitReason | None) -> None:
        """Call ``pyvmm_machine_stopped``, the last plugin's first; from the second time on, nothing. One that fails is
        logged."""
        while self._told:
            _try(self._told.pop(), "pyvmm_machine_stopped", machine=self._machine, reason=reason)


def _try(plugin: LoadedPlugin, name: str, **arguments: Any) -> None:
    try:
        _call(plugin, name, **arguments)
    except Exception:
        log.exception("%s: %s fails", plugin.package, name)


def _call(plugin: LoadedPlugin, name: str, **arguments: Any) -> None:
    """One hook of one plugin, so that a failure has a name and is not another's."""
    manager = plugin.manager
    if manager is None:
        return
    if any(implementation.plugin is plugin.hooks for implementation in getattr(manager.hook, name).get_hookimpls()):
        others = [other for other in manager.get_plugins() if other is not plugin.hooks]
        manager.subset_hook_caller(name, others)(**arguments)
