"""A virtual machine: its construction, its boot and its run."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.config import MachineConfig
    from pyvmm.machine.machine import Machine

__all__ = ["Machine", "MachineConfig"]


def __getattr__(name: str) -> object:
    # PEP 562: a module of this package does not need the machine itself.
    if name == "Machine":
        from pyvmm.machine.machine import Machine

        return Machine
    if name == "MachineConfig":
        from pyvmm.machine.config import MachineConfig

        return MachineConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
