"""A virtual machine: its construction, its boot and its run."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.aio import AsyncConsole, AsyncMachine
    from pyvmm.machine.config import MachineConfig
    from pyvmm.machine.console import Console
    from pyvmm.machine.life import MachineEvent, MachineEvents
    from pyvmm.machine.machine import Machine

__all__ = ["AsyncConsole", "AsyncMachine", "Console", "Machine", "MachineConfig", "MachineEvent", "MachineEvents"]


def __getattr__(name: str) -> object:
    # PEP 562: a module of this package does not need the machine itself, and a machine does not need asyncio.
    if name == "Machine":
        from pyvmm.machine.machine import Machine

        return Machine
    if name == "MachineConfig":
        from pyvmm.machine.config import MachineConfig

        return MachineConfig
    if name in ("AsyncConsole", "AsyncMachine"):
        from pyvmm.machine import aio

        return getattr(aio, name)
    if name == "Console":
        from pyvmm.machine.console import Console

        return Console
    if name in ("MachineEvent", "MachineEvents"):
        from pyvmm.machine import life

        return getattr(life, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
