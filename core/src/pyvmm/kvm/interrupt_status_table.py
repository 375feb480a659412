"""Devices of whose interrupts vCPUs tell the causes by themselves: see native/interrupt_status.h."""

from __future__ import annotations

from pyvmm._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CausesTable"]


class CausesTable:
    """Those of one machine."""

    def __init__(self) -> None:
        self.native = ffi.new("struct pyvmm_causes_table *")
        self._devices: list[Any] = []  # which `native` points to

    def add(self, window: int, causes: Any) -> bool:
        """Enter a device's ``struct pyvmm_causes``, whose window is at ``window``; False where there are too many."""
        self._devices.append(causes)
        return bool(lib.pyvmm_causes_add(self.native, window, causes) == 0)
