"""Calls of the hooks with which plugins follow the life of a machine that has their devices."""

from __future__ import annotations

from pyvmm.errors import PluginError, PyvmmError, cause_of
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pyvmm.device_request import LoadedPlugin
    from pyvmm.exit_reason import ExitReason

log = logger(__name__)


class MachineHooks:
    """The hooks ``pyvmm_machine_…`` of the plugins whose devices one machine has."""

    def __init__(self, machine: object, plugins: Iterable[LoadedPlugin | None]) -> None:
        """``plugins`` may have one several times, once for each of its devices."""
        self._machine = machine
        self._plugins = list({id(plugin.module): plugin for plugin in plugins if plugin}.values())
        self._told: list[LoadedPlugin] = []
        """The plugins that were told of the machine, but not yet of its end."""

    def created(self) -> None:
        """Call ``pyvmm_machine_created``. Raises :class:`PyvmmError` if a hook fails; then there will be no machine."""
        for plugin in self._plugins:
            self._told.append(plugin)
            try:
                plugin.call("pyvmm_machine_created", machine=self._machine)
            except PyvmmError:
                raise
            except Exception as error:
                raise PluginError(f"{plugin.package}: pyvmm_machine_created fails: {cause_of(error)}") from error

    def started(self) -> None:
        """Call ``pyvmm_machine_started``. A hook that fails is logged, and the machine continues."""
        for plugin in self._told:
            _try(plugin, "pyvmm_machine_started", machine=self._machine)

    def stopped(self, reason: ExitReason | None) -> None:
        """Call ``pyvmm_machine_stopped``, in the reverse order of plugins. A hook that fails is logged. A second call
        does nothing."""
        while self._told:
            _try(self._told.pop(), "pyvmm_machine_stopped", machine=self._machine, reason=reason)


def _try(plugin: LoadedPlugin, name: str, **arguments: Any) -> None:
    try:
        plugin.call(name, **arguments)
    except Exception:
        log.exception("%s: %s fails", plugin.package, name)
