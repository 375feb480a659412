"""A virtual machine: put together, booted, run."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.machine import Machine, MachineConfig

__all__ = ["Machine", "MachineConfig"]


def __getattr__(name: str) -> object:
    # PEP 562: a module of this package does not need the machine itself.
    if name in __all__:
        from pyvmm.machine import machine

        return getattr(machine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
