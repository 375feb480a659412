"""A device's registers InterruptStatus and InterruptACK (virtio 1.2, section 4.2.2).

They are native code, since a driver reads one and writes the other at each interrupt: see native/interrupt_status.h.
"""

from __future__ import annotations

from pyvmm._native import ffi, lib
from pyvmm.host.eventfd import EventFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvmm.kvm import InterruptStatusTable
    from pyvmm.memory import GuestAddress
    from pyvmm.virtio.interrupt import Interrupt
    from pyvmm.virtio.queue import Queue

__all__ = ["InterruptStatus"]


class InterruptStatus:
    """The interrupts that the driver has not acknowledged. Usable on any thread.

    The bit for used rings is derived from the rings: it is set while a used ring has moved since the driver's last
    acknowledgement. So no code sets it, and it is right even for a queue that another process serves.
    """

    def __init__(self, interrupt: Interrupt, queue_count: int) -> None:
        """For a device of ``queue_count`` queues that signals ``interrupt``."""
        self.acknowledged = EventFd()
        """Signalled when the driver acknowledges used rings and nothing else, if it is the ioeventfd for that value.
        Most drivers write no other value."""
        self._used = ffi.new("struct pyvmm_used[]", queue_count)
        self._rings: list[Any] = []  # `_used` points to them
        self._signals = interrupt.native  # `_native` points to it
        self._native = ffi.new(
            "struct pyvmm_interrupt_status *",
            {"ack_event": self.acknowledged.fd, "signals": self._signals, "used": self._used},
        )

    def begin(self, queues: Sequence[Queue]) -> None:
        """Watch the used rings of the active queues in ``queues`` from now on: the device is active."""
        self.end()
        self._rings = [queue.ring for queue in queues if queue.ring is not None]
        for used, ring in zip(self._used, self._rings, strict=False):
            used.queue = ring
        lib.pyvmm_interrupt_status_begin(self._native, len(self._rings))

    def end(self) -> None:
        """Stop watching the used rings. Call it before the queues are reset."""
        lib.pyvmm_interrupt_status_end(self._native)
        self._rings = []

    def set_config(self, changed: bool) -> None:
        """Set or clear the bit for a change of the configuration."""
        lib.pyvmm_interrupt_status_set_config(self._native, changed)

    def read(self) -> int:
        """InterruptStatus, as the driver reads it: ``VIRTIO_MMIO_INT_VRING`` and ``VIRTIO_MMIO_INT_CONFIG``.

        Remembers how far the used rings had moved: the driver's next acknowledgement covers that, and no more.
        """
        return int(lib.pyvmm_interrupt_status_read(self._native))

    def acknowledge(self, bits: int) -> None:
        """InterruptACK: the driver has handled the interrupts in ``bits``, as far as its last :meth:`read` showed."""
        lib.pyvmm_interrupt_status_acknowledge(self._native, bits)

    def enter(self, table: InterruptStatusTable, window: GuestAddress) -> bool:
        """Let the vCPUs' threads serve both registers of the device at ``window``. Returns False if ``table`` is
        full."""
        return table.add(window, self._native)

    def close(self) -> None:
        """Release the eventfd; after the last vCPU has ended."""
        self.end()
        self.acknowledged.close()
