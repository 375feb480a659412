"""A virtual machine monitor on Linux KVM whose devices are Python packages."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine import Machine, MachineConfig
    from pyvmm.plugins import Plugins

__all__ = ["Machine", "MachineConfig", "Plugins", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # PEP 562: a plugin that imports pyvmm.options does not pay for the machine.
    if name in __all__:
        from pyvmm import machine, plugins

        return getattr(plugins if name == "Plugins" else machine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
