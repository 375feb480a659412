"""An interrupt that records, for a device that is activated without a transport."""

from __future__ import annotations

from pyvmm.host.eventfd import EventFd
from pyvmm.virtio.interrupt import Interrupt

__all__ = ["RecordingInterrupt"]


class RecordingInterrupt(Interrupt):
    """What a device tells its driver, counted.

    ::

        interrupt = RecordingInterrupt()
        device.activate(memory, interrupt, queues)
        …
        assert (interrupt.used_signals, interrupt.config_changes, interrupt.failures) == (1, 0, [])
    """

    def __init__(self) -> None:
        self.config_changes = 0
        """How often the configuration space was said to have changed."""

        self.failures: list[str] = []
        """Why the device needs a reset, each time that it said so."""
        super().__init__(EventFd(), self._count_config_change, self.failures.append)

    def take(self) -> int:
        """How many interrupts there were since the last call, for whatever reason."""
        return self.event.drain()

    def close(self) -> None:
        """Release the event."""
        self.event.close()

    def _count_config_change(self) -> None:
        self.config_changes += 1
