"""The marker of hooks, at no cost: pluggy is imported for a plugin that needs it, not to mark one that does not."""

from __future__ import annotations

from types import FunctionType, ModuleType

from pyvmm.plugin import MARK, PROJECT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["mark_for_pluggy", "plain_hooks"]


def mark_for_pluggy(implementation: Any) -> None:
    """Give a function or method that is marked here pluggy's own mark."""
    function = getattr(implementation, "__func__", implementation)
    if getattr(function, MARK, False) is True and not hasattr(function, f"{PROJECT}_impl"):
        import pluggy

        pluggy.HookimplMarker(PROJECT)(function)


def plain_hooks(plugin: Any) -> dict[str, Any] | None:
    """The hooks of a module whose functions are marked here, without options; None where pluggy has to look."""
    if not isinstance(plugin, ModuleType):
        return None
    hooks = {}
    for name, value in vars(plugin).items():
        marks = getattr(value, "__dict__", None) if isinstance(value, FunctionType) else None
        if not marks:
            continue
        if f"{PROJECT}_impl" in marks:
            return None
        if MARK in marks:
            hooks[name] = value
    return hooks
