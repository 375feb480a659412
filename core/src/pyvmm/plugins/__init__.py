"""The installed plugins: finding, choosing and calling them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.plugins.registry import DeviceRequest, InstalledKind, LoadedPlugin, PluginError, Plugins

__all__ = ["DeviceRequest", "InstalledKind", "LoadedPlugin", "PluginError", "Plugins"]


def __getattr__(name: str) -> object:
    # PEP 562: a module of this package does not need the registry.
    if name in __all__:
        from pyvmm.plugins import registry

        return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
