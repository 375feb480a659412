"""A virtual machine monitor on Linux KVM whose devices are Python packages."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine import AsyncMachine, Machine, MachineConfig
    from pyvmm.plugins import Plugins

__all__ = ["AsyncMachine", "Machine", "MachineConfig", "Plugins", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # PEP 562: a plugin that imports pyvmm.options does not pay for the machine.
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("pyvmm.plugins" if name == "Plugins" else "pyvmm.machine"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
