"""A virtual machine monitor on Linux KVM whose devices are Python packages."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine import Machine, MachineConfig

__all__ = ["Machine", "MachineConfig", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # PEP 562: a plugin that imports pyvmm.options does not pay for the machine.
    if name in ("Machine", "MachineConfig"):
        from importlib import import_module

        return getattr(import_module("pyvmm.machine"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
