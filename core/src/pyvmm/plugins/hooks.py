"""Calls of a plugin's hooks. This is the only module that uses pluggy, and that knows when pluggy is not needed.

The import of pluggy takes a seventh of a start. A module whose only hook is a ``pyvmm_device_kinds`` without arguments,
marked with :func:`pyvmm.plugin.hookimpl`, is called without pluggy. pluggy checks and calls all others. Each plugin has
a manager of its own, so that a failure belongs to one plugin and names it.
"""

from __future__ import annotations

from types import FunctionType, ModuleType

from pyvmm.errors import PluginError, cause_of
from pyvmm.plugin import MARK, PROJECT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

__all__ = ["caller"]

_KINDS: Final = "pyvmm_device_kinds"


def caller(plugin: Any, where: str) -> Callable[..., Sequence[Any]]:
    """A function that calls the hooks of ``plugin``, which is the object that an entry point names, usually a module.
    ``call(name, **arguments)`` returns the answers that are not None; none if the plugin does not have the hook.

    ``where`` names the plugin in messages. Raises :class:`PluginError` if the plugin breaks the contract: it has no
    hook, or a hook with a name or an argument that :mod:`pyvmm.plugins.hookspecs` does not have.
    """
    kinds = _only_hook(plugin)
    if kinds is None:
        return _pluggy_caller(plugin, where)

    def call(name: str, **arguments: Any) -> Sequence[Any]:
        answer = kinds() if name == _KINDS else None
        return () if answer is None else (answer,)

    return call


def _only_hook(plugin: Any) -> Callable[[], Any] | None:
    """The hook ``pyvmm_device_kinds()`` of a module that has no other; None if pluggy has to check the plugin."""
    if not isinstance(plugin, ModuleType):
        return None
    hooks: dict[str, FunctionType] = {}
    for name, value in vars(plugin).items():
        marks = getattr(value, "__dict__", None) if isinstance(value, FunctionType) else None
        if not marks:
            continue
        if f"{PROJECT}_impl" in marks:
            return None
        if MARK in marks:
            hooks[name] = value
    if hooks.keys() != {_KINDS} or hooks[_KINDS].__code__.co_argcount:
        return None
    return hooks[_KINDS]


def _pluggy_caller(plugin: Any, where: str) -> Callable[..., Sequence[Any]]:
    import pluggy

    from pyvmm.plugins import hookspecs

    class Manager(pluggy.PluginManager):
        """A manager that also accepts functions with pyvmm's own mark as implementations."""

        def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
            try:
                value = getattr(plugin, name)
                function = getattr(value, "__func__", value)
                if getattr(function, MARK, False) is True and not hasattr(function, f"{PROJECT}_impl"):
                    pluggy.HookimplMarker(PROJECT)(function)
            except Exception:
                pass  # a property may raise; pluggy handles that
            return super().parse_hookimpl_opts(plugin, name)

    manager = Manager(PROJECT)
    for name, function in vars(hookspecs).items():
        if name.startswith("pyvmm_"):
            pluggy.HookspecMarker(PROJECT)(function)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name=where)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"{where} breaks the contract: {cause_of(error)}") from error
    if not manager.get_hookcallers(plugin):
        raise PluginError(f"{where} has no hook: it needs a pyvmm_device_kinds marked with @hookimpl")

    def call(name: str, **arguments: Any) -> Sequence[Any]:
        answers: Sequence[Any] = getattr(manager.hook, name)(**arguments)
        return answers

    return call
