"""One device that a machine is to have, and the plugin whose kind it is."""

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
"""The environment variable with the names of disabled plugins, between commas."""


@record
class LoadedPlugin:
    """A plugin whose kinds were asked for."""

    package: str
    """The distribution and its version, for messages: ``pyvmm-lamp 1.2``."""

    module: Any
    """The module, or what else the entry point names, that has the hooks."""

    call: Callable[..., Sequence[Any]]
    """Calls one of the hooks, ``call(name, **arguments)``: the answers, none where the plugin does not have it."""

    disabled: Sequence[str] = ()
    """Which plugins it was chosen without."""


@record
class DeviceRequest:
    """One device that a machine is to have."""

    kind: DeviceKind[Any]
    options: Any
    """A record of the type ``kind.options``."""

    spec: str
    """What the user typed, for messages: ``net:tap0,mtu=9000``."""

    id: str
    """Unique in the machine: the device's own option ``id`` where it has one, or kind and number: ``net0``."""

    process: bool = False
    """Whether the device gets a process of its own."""

    restart: bool = False
    """Whether a process that dies is replaced."""

    plugin: LoadedPlugin | None = None
    """Whose kind it is; None where no plugin was asked for it."""

    @property
    def package(self) -> str:
        """The distribution that the device is of and its version, for messages; empty where it is of none."""
        return self.plugin.package if self.plugin else ""


def view_of(requests: Iterable[DeviceRequest], name: str = "") -> MachineView:
    """What a machine called ``name`` with the devices of ``requests`` lets its devices know of itself."""
    devices = {request.id: DeviceInfo(request.kind.name, request.package) for request in requests}
    return MachineView(devices, name=name)
