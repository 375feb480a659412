"""A virtio device's notifications to its driver (virtio 1.2, sections 2.9 and 4.2.3.4)."""

from __future__ import annotations

from pyvmm._native import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.host.eventfd import EventFd

__all__ = ["Interrupt"]


class Interrupt:
    """The device's interrupt: an eventfd that is an irqfd, and the steps for a configuration change. Usable on any
    thread.
    """

    def __init__(
        self,
        event: EventFd,
        on_config_change: Callable[[], None] = lambda: None,
        on_failure: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.event = event
        self._on_config_change = on_config_change
        self._on_failure = on_failure
        self.native: Any = ffi.new("uint32_t *")
        """The counter of :attr:`used_signals`, for native code: a ``uint32_t *``."""

    @property
    def used_signals(self) -> int:
        """The number of signals for used rings, modulo 2³²."""
        return int(self.native[0])

    @used_signals.setter
    def used_signals(self, times: int) -> None:
        self.native[0] = times & 0xFFFFFFFF

    @property
    def call_fd(self) -> int:
        """The eventfd to signal for a used ring, for other code that serves the ring; -1 if the driver polls."""
        return self.event.fd

    def signal_used_queue(self) -> None:
        """Tell the driver that a used ring has new entries. :class:`Queue` calls it if the driver wants that."""
        self.used_signals += 1
        self.event.signal()

    def signal_config_change(self) -> None:
        """Tell the driver that the configuration space has changed. Call it after the change."""
        self._on_config_change()
        self.event.signal()

    def signal_needs_reset(self, reason: str) -> None:
        """Set DEVICE_NEEDS_RESET and log ``reason`` (virtio 1.2, section 2.1.2)."""
        self._on_failure(reason)
        self.event.signal()
