"""Why a device interrupted its driver: what InterruptStatus and InterruptACK answer (virtio 1.2, section 4.2.2).

Native code, since a driver asks at each interrupt: see native/interrupt_status.h.
"""

from __future__ import annotations

from pyvmm._native import ffi, lib
from pyvmm.host.eventfd import EventFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvmm.kvm import CausesTable
    from pyvmm.memory import GuestAddress
    from pyvmm.virtio.interrupt import Interrupt
    from pyvmm.virtio.queue import Queue

__all__ = ["Causes"]


class Causes:
    """What the driver was interrupted for and has not acknowledged. From any thread.

    A used ring tells by itself that it has moved since the driver's last look, so whoever serves the queue, also in
    another process, has nothing to set here.
    """

    def __init__(self, interrupt: Interrupt, queue_count: int) -> None:
        """For a device of ``queue_count`` queues that signals ``interrupt``."""
        self.acknowledged = EventFd()
        """May be an ioeventfd for what most drivers write, the acknowledgement of used rings alone."""
        self._used = ffi.new("struct pyvmm_used[]", queue_count)
        self._rings: list[Any] = []  # `_used` points to them
        self._signals = interrupt.native  # as does this
        self._native = ffi.new(
            "struct pyvmm_causes *",
            {"ack_event": self.acknowledged.fd, "signals": self._signals, "used": self._used},
        )

    def begin(self, queues: Sequence[Queue]) -> None:
        """The device is active: what moves in those of ``queues`` that are, from here on, is a cause."""
        self.end()
        self._rings = [queue.ring for queue in queues if queue.ring is not None]
        for used, ring in zip(self._used, self._rings, strict=False):
            used.queue = ring
        lib.pyvmm_causes_begin(self._native, len(self._rings))

    def end(self) -> None:
        """The queues are looked at no more; before they are reset."""
        lib.pyvmm_causes_end(self._native)
        self._rings = []

    def set_config(self, changed: bool) -> None:
        """Say that the configuration changed, or that it is forgotten that it did."""
        lib.pyvmm_causes_set_config(self._native, changed)

    @property
    def status(self) -> int:
        """``VIRTIO_MMIO_INT_VRING`` and ``VIRTIO_MMIO_INT_CONFIG``; the driver has looked."""
        return int(lib.pyvmm_causes_status(self._native))

    def acknowledge(self, causes: int) -> None:
        """The driver knows of ``causes``, as far as it had looked."""
        lib.pyvmm_causes_acknowledge(self._native, causes)

    def enter(self, table: CausesTable, window: GuestAddress) -> bool:
        """Let vCPUs answer by themselves what is asked of the window there; False where ``table`` is full."""
        return table.add(window, self._native)

    def close(self) -> None:
        """After the last vCPU's run."""
        self.end()
        self.acknowledged.close()
