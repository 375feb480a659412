"""A request for one device of a machine, and the plugin that offers the device's kind."""

from __future__ import annotations

from pyvmm.device_context import DeviceInfo, MachineView
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final

    from pyvmm.plugin import DeviceKind

__all__ = ["DISABLED_PLUGINS", "DeviceRequest", "LoadedPlugin", "view_of"]

DISABLED_PLUGINS: Final = "PYVMM_DISABLE_PLUGINS"
"""The environment variable with the names of disabled plugins, separated by commas."""


@record
class LoadedPlugin:
    """A plugin that was imported because one of its kinds was asked for."""

    package: str
    """The distribution and its version, for messages: ``pyvmm-lamp 1.2``."""

    module: Any
    """The object with the hooks, which the entry point names: usually a module."""

    call: Callable[..., Sequence[Any]]
    """Calls a hook: ``call(name, **arguments)`` returns the answers; none if the plugin does not have the hook."""

    disabled: Sequence[str] = ()
    """The plugins that were disabled when it was chosen."""


@record
class DeviceRequest:
    """A request for one device of a machine."""

    kind: DeviceKind[Any]
    options: Any
    """A record of the type ``kind.options``."""

    spec: str
    """The user's text, for messages: ``net:tap0,mtu=9000``."""

    id: str
    """The device's id, unique in the machine: its option ``id`` if that is given, or kind and number, such as
    ``net0``."""

    process: bool = False
    """Whether the device gets a process of its own."""

    restart: bool = False
    """Whether the device's process is replaced if it dies."""

    plugin: LoadedPlugin | None = None
    """The plugin that offers the kind; None if the kind came from no plugin."""

    @property
    def package(self) -> str:
        """The device's distribution and version, for messages; empty if it has no distribution."""
        return self.plugin.package if self.plugin else ""


def view_of(requests: Iterable[DeviceRequest], name: str = "") -> MachineView:
    """The view that devices have of a machine called ``name`` with the devices of ``requests``."""
    devices = {request.id: DeviceInfo(request.kind.name, request.package) for request in requests}
    return MachineView(devices, name=name)
