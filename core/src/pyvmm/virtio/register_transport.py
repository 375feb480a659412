"""A transport whose driver brings the device up at registers, step by step (virtio 1.2, sections 2.1 and 3.1)."""

from __future__ import annotations

from pyvmm._native import lib
from pyvmm.virtio.queue import Queue
from pyvmm.virtio.transport import TRANSPORT_FEATURES, VirtioTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = ["RegisterTransport"]

_ACKNOWLEDGE: Final[int] = lib.VIRTIO_CONFIG_S_ACKNOWLEDGE
_DRIVER: Final[int] = lib.VIRTIO_CONFIG_S_DRIVER
_DRIVER_OK: Final[int] = lib.VIRTIO_CONFIG_S_DRIVER_OK
_FEATURES_OK: Final[int] = lib.VIRTIO_CONFIG_S_FEATURES_OK
_NEEDS_RESET: Final[int] = lib.VIRTIO_CONFIG_S_NEEDS_RESET
_FAILED: Final[int] = lib.VIRTIO_CONFIG_S_FAILED

_STEPS: Final = {
    _ACKNOWLEDGE: 0,
    _DRIVER: _ACKNOWLEDGE,
    _FEATURES_OK: _ACKNOWLEDGE | _DRIVER,
    _DRIVER_OK: _ACKNOWLEDGE | _DRIVER | _FEATURES_OK,
}
"""Each step of the initialization, and the steps that must come before it (section 3.1.1)."""


class RegisterTransport(VirtioTransport):
    """The common part of transports with registers, such as virtio-mmio, wherever the registers are.

    Registers are answered on the vCPU's thread. Steps of the driver that are out of order are ignored.
    """

    queues: Sequence[Queue]

    @property
    def status(self) -> int:
        """The device status, as the driver reads it (section 2.1)."""
        return self.driver_status | (_NEEDS_RESET if self.needs_reset and self.driver_status else 0)

    def set_status(self, status: int) -> None:
        """Take the driver's write to the device status; 0 resets the device."""
        if status == 0:
            self.reset_device()
            return
        new = status & ~self.driver_status & ~_NEEDS_RESET
        if self.driver_status & ~status or self.driver_status & _FAILED:
            return  # only a reset takes bits back (section 2.1.1)
        if new & _FAILED:
            self.driver_status |= _FAILED
            return
        for step, done in _STEPS.items():  # some drivers take two steps in one write
            if not new & step:
                continue
            if self.driver_status != done or (step == _FEATURES_OK and not self._may_use_features()):
                return
            self.driver_status |= step
        if new & _DRIVER_OK:
            self._call(self._activate)

    def accept_features(self, page: int, value: int) -> None:
        """Take the driver's choice ``value`` for features ``32 * page`` to ``32 * page + 31``."""
        if self.driver_status & (_DRIVER | _FEATURES_OK) == _DRIVER and page < 4:
            shift = 32 * page
            self.acked_features = self.acked_features & ~(0xFFFFFFFF << shift) | value << shift

    def queue_to_set_up(self, index: int) -> Queue | None:
        """Queue ``index``; None if there is none or the driver may not set it up now."""
        settable = self.driver_status & (_FEATURES_OK | _DRIVER_OK | _FAILED) == _FEATURES_OK
        return self.queues[index] if settable and index < len(self.queues) else None

    def read_config(self, offset: int, data: memoryview) -> None:
        """Fill ``data`` from the configuration space, or with zeros if the device fails."""
        data[:] = bytes(len(data))
        self._call(lambda: self.device.read_config(offset, data))

    def write_config(self, offset: int, data: memoryview) -> None:
        """Take the driver's write of ``data`` to the configuration space."""
        if self.driver_status & _DRIVER and not self.driver_status & _FAILED:
            copy = memoryview(bytes(data))
            self._call(lambda: self.device.write_config(offset, copy))

    def reset_device(self) -> None:
        """Reset the device. If that fails, FAILED and DEVICE_NEEDS_RESET are set and the driver may try again."""

        def reset() -> bool:
            if not self._deactivate():
                return False
            self._stop_queues()
            return True

        if self._call(reset):
            self._forget_driver()
        else:
            self.driver_status |= _FAILED
            self.needs_reset = True

    def _start_queues(self, event_idx: bool, indirect: bool) -> None:
        for queue, interrupt in zip(self.queues, self.queue_interrupts, strict=True):
            if queue.ready:
                queue.activate(self._memory, interrupt, event_idx, indirect)

    def _stop_queues(self) -> None:
        for queue in self.queues:
            queue.reset()  # a queue's views would keep the memory mapped

    def _forget_driver(self) -> None:
        """Return the registers to their initial state, after a reset of the device."""
        self.needs_reset = False
        self.driver_status = 0
        self.acked_features = 0
        for event in self.interrupt_events:
            event.drain()

    def _may_use_features(self) -> bool:
        """Whether the device works with the features that the driver has accepted."""
        acked = self.acked_features
        if acked & ~self.offered_features or not acked & TRANSPORT_FEATURES:
            return False
        return self._tell_features(acked)
