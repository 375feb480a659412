"""The marker of hooks, at no cost: pluggy is imported for a plugin that needs it, not to mark one that does not."""

from __future__ import annotations

from types import FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeVar, overload

    F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["PROJECT", "hookimpl", "mark_for_pluggy", "plain_hooks"]

PROJECT: Final = "pyvmm"
"""pluggy's project name."""

_MARK: Final = "pyvmm_plain_impl"


if TYPE_CHECKING:

    @overload
    def hookimpl(function: F) -> F: ...
    @overload
    def hookimpl(function: None = None, **options: Any) -> Callable[[F], F]: ...


def hookimpl(function: Any = None, **options: Any) -> Any:
    """Marks a function as the implementation of a hook of pyvmm, as ``pluggy.HookimplMarker("pyvmm")`` does, with the
    same options (``specname``, ``tryfirst``…)."""
    if function is None or options:
        import pluggy

        return pluggy.HookimplMarker(PROJECT)(function, **options)
    setattr(function, _MARK, True)
    return function


def mark_for_pluggy(implementation: Any) -> None:
    """Give a function or method that is marked here pluggy's own mark."""
    function = getattr(implementation, "__func__", implementation)
    if getattr(function, _MARK, False) is True and not hasattr(function, f"{PROJECT}_impl"):
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
        if _MARK in marks:
            hooks[name] = value
    return hooks
