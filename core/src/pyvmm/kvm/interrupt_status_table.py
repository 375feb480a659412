"""The virtio devices whose InterruptStatus and InterruptACK registers a vCPU's thread serves without Python.

See native/interrupt_status.h.
"""

from __future__ import annotations

from pyvmm._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["InterruptStatusTable"]


class InterruptStatusTable:
    """The devices of one machine, up to PYVMM_MAX_INTERRUPT_STATUS."""

    def __init__(self) -> None:
        self.native = ffi.new("struct pyvmm_interrupt_status_table *")
        self._devices: list[Any] = []  # `native` points to them

    def add(self, window: int, status: Any) -> bool:
        """Add the ``struct pyvmm_interrupt_status`` of the device whose registers start at guest address ``window``;
        False where the table is full."""
        self._devices.append(status)
        return bool(lib.pyvmm_interrupt_status_add(self.native, window, status) == 0)
