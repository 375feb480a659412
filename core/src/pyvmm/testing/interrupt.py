"""An interrupt that records, for a device that is activated without a transport."""

from __future__ import annotations

from pyvmm.host.eventfd import EventFd
from pyvmm.virtio.interrupt import Interrupt

__all__ = ["RecordingInterrupt"]


class RecordingInterrupt(Interrupt):
    """Counts a device's signals to its driver.

    ::

        interrupt = RecordingInterrupt()
        device.activate(memory, interrupt, queues)
        …
        assert (interrupt.used_signals, interrupt.config_changes, interrupt.failures) == (1, 0, [])
    """

    def __init__(self) -> None:
        self.config_changes = 0
        """The number of configuration changes that the device reported."""

        self.failures: list[str] = []
        """The reason of each failure that the device reported."""
        super().__init__(EventFd(), self._count_config_change, self.failures.append)

    def take(self) -> int:
        """The number of interrupts of any kind since the last call."""
        return self.event.drain()

    def close(self) -> None:
        """Release the event."""
        self.event.close()

    def _count_config_change(self) -> None:
        self.config_changes += 1
