"""A virtio device that a back end serves: its rings, its memory, and its starts and stops.

vhost-user starts and stops rings one by one, but a device is activated with all of its queues together. So the device
is active while there is a ring to serve. When another ring is started, the device is stopped and activated again; its
requests in flight continue.
"""

from __future__ import annotations

import time

from pyvmm._native import lib
from pyvmm.host.eventfd import EventFd
from pyvmm.logs import logger
from pyvmm.vhost_user.memory_table import MemoryTable
from pyvmm.vhost_user.protocol import VHOST_USER_F_PROTOCOL_FEATURES, VhostUserError
from pyvmm.vhost_user.vring import Vring
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import QueueError
from pyvmm.virtio.transport import TRANSPORT_FEATURES, VirtioTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.device_context import MachineView
    from pyvmm.exit_reason import ExitReason
    from pyvmm.host.eventloop import EventLoop
    from pyvmm.memory import GuestMemory
    from pyvmm.vhost_user.inflight import InflightArea
    from pyvmm.virtio.device import VirtioDevice

log = logger(__name__)

DRAIN_TIMEOUT: Final = 5.0
"""Seconds within which requests in flight have to finish when their ring is stopped. Requests that take longer (a
device may hold buffers for ever) are cancelled, and taken again when the ring continues."""

_PROTOCOL_FEATURES: Final = 1 << VHOST_USER_F_PROTOCOL_FEATURES
_NEEDS_RESET: Final[int] = lib.VIRTIO_CONFIG_S_NEEDS_RESET


class _DeviceInterrupt(Interrupt):
    """The device's own interrupt. Each queue has an interrupt of its own."""

    def __init__(self, served: ServedDevice) -> None:
        super().__init__(EventFd(-1))
        self._served = served

    def signal_used_queue(self) -> None:
        self.used_signals += 1
        for vring in self._served.vrings:
            if vring.call is not None:
                vring.call.signal()

    def signal_config_change(self) -> None:
        self._served.loop.post(self._served.on_config_change)

    def signal_needs_reset(self, reason: str) -> None:
        self._served.loop.post(lambda: self._served.fail(reason))


class ServedDevice(VirtioTransport):
    """One device with all the state that a front end can set. Use it on the loop's thread."""

    def __init__(
        self,
        device: VirtioDevice,
        name: str,
        loop: EventLoop,
        stop: Callable[[ExitReason], None],
        on_config_change: Callable[[], None],
        machine: MachineView | None = None,
    ) -> None:
        """Attach ``device``, which is closed if it cannot be attached. ``on_config_change`` is called when its
        configuration space has changed."""
        self.loop = loop
        self.on_config_change = on_config_change
        self.vrings: list[Vring] = []
        self.table = MemoryTable()
        self._negotiated: int | None = None
        """The features of the last SET_FEATURES: :attr:`acked_features` and the protocol's own bit."""
        self._area: InflightArea | None = None
        self._start_wanted = False
        try:
            for index, size in enumerate(device.queue_max_sizes):
                self.vrings.append(Vring(index, size))
            queues = [vring.queue for vring in self.vrings]
            interrupts = [vring.interrupt for vring in self.vrings]
            super().__init__(device, name, loop, queues, interrupts, _DeviceInterrupt(self), stop, machine)
        except BaseException:
            device.close()
            raise

    @property
    def features(self) -> int:
        """GET_FEATURES: the features that device, rings and back end offer."""
        return self.offered_features & (1 << 64) - 1 | _PROTOCOL_FEATURES

    @property
    def status(self) -> int:
        """GET_STATUS: the bits that the front end has set, and DEVICE_NEEDS_RESET if the device has failed."""
        return self.driver_status | (_NEEDS_RESET if self.needs_reset else 0)

    def set_features(self, features: int) -> None:
        """SET_FEATURES: take the features that driver and front end accepted."""
        if features & ~self.features:
            raise VhostUserError(f"features that were not offered: {features & ~self.features:#x}")
        if features == self._negotiated:
            return
        self.deactivate()
        self._negotiated = None
        self.acked_features = features & ~_PROTOCOL_FEATURES  # the protocol's own bit is none of the device's
        self.device.acked_features = 0
        if not self._tell_features(self.acked_features):
            raise VhostUserError(f"the device fails with the features {self.acked_features:#x}")
        self._negotiated = features
        self._start_wanted = True

    def set_status(self, status: int) -> None:
        """SET_STATUS: 0 resets the device. Rings that are started and enabled are served without waiting for DRIVER_OK,
        since not every front end sends it (QEMU 7.2 does not for some devices)."""
        if status & ~0xFF:
            raise VhostUserError(f"a device status of more than 8 bits: {status:#x}")
        if status == 0:
            self.reset(disable=False)
            return
        self.driver_status = status & ~_NEEDS_RESET

    def set_inflight(self, area: InflightArea) -> None:
        """SET_INFLIGHT_FD: track requests in flight in ``area``, once rings are started."""
        self.deactivate()
        if self._area is not None:
            self._area.close()
        self._area = area
        self._start_wanted = True

    def memory_changed(self) -> None:
        """Continue running rings in a changed memory table."""
        if any(vring.queue.handed_over for vring in self.vrings):
            self.deactivate()  # the other code has the old addresses; settle() restarts the device
        try:
            for vring in self.vrings:
                vring.place(self.table)
        except (QueueError, VhostUserError) as error:
            self._callback_failed(error)

    def vring_changed(self, vring: Vring) -> None:
        """Stop a running device before a ring's size, addresses or kick change. :meth:`settle` starts it with the new
        ones."""
        if vring.queue.ready:
            self.deactivate()
        self._start_wanted = True

    def start_vring(self, vring: Vring, kick: EventFd | None) -> None:
        """SET_VRING_KICK."""
        self.deactivate()  # before the old descriptor is closed, so that the event loop does not hold it any more
        if self.needs_reset and not any(other.started for other in self.vrings):
            self._mend()
        vring.set_kick(kick)
        self._start_wanted = True

    def set_call(self, vring: Vring, call: EventFd | None) -> None:
        """SET_VRING_CALL."""
        if vring.queue.handed_over:
            self.deactivate()  # the other code has the old descriptor; settle() restarts the device
        vring.set_call(call)

    def enable_vring(self, vring: Vring, enabled: bool) -> None:
        """SET_VRING_ENABLE: a disabled ring keeps its state but is not served."""
        vring.enabled = enabled
        if vring.queue.handed_over:
            self.deactivate()  # the other code does not learn of this; settle() restarts the device
            return
        if vring.queue.ready:
            vring.queue.paused = not self._is_enabled(vring)
            if not vring.queue.paused:
                vring.queue.event.signal()  # serve requests that came meanwhile
        elif enabled:
            self._start_wanted = True

    def stop_vring(self, vring: Vring) -> int:
        """GET_VRING_BASE: stop the ring when its requests in flight are done. Returns the next available entry."""
        drained = self._drain(vring)
        vring.started = False
        if vring.queue.ready:
            if drained and any(other.started and other.queue.ready for other in self.vrings):
                vring.deactivate()
            else:
                # Nothing may touch the ring's memory from now on, even if the device still holds chains.
                self.deactivate()
                self._start_wanted = True
        return vring.base

    def settle(self) -> None:
        """Start or restart the device if that is wanted and everything that it needs is set."""
        if not self._start_wanted or self.needs_reset or self._negotiated is None or self.table.memory is None:
            return
        if not any(vring.ready and self._is_enabled(vring) for vring in self.vrings):
            return
        self._start_wanted = False
        if self.device_activated and all(vring.queue.ready == vring.ready for vring in self.vrings):
            return
        self._call(self._activate)

    def deactivate(self) -> None:
        """Stop the device. Its rings keep their state, and it can be started again. Raises if the device cannot be
        reset."""
        self._stop_queues()  # first, so that the device's reset cannot touch the rings' memory
        if not self.device_activated:
            return
        if not self._deactivate():
            raise RuntimeError(f"{self.name}: the device could not be reset")
        self.device.acked_features = self.acked_features
        self._start_wanted = True

    def reset(self, *, disable: bool) -> None:
        """RESET_DEVICE, and SET_STATUS of 0: return the device and its rings to the initial state. ``disable``: the
        rings need SET_VRING_ENABLE again."""
        self.deactivate()
        for vring in self.vrings:
            vring.reset(disable=disable)
        self.device.acked_features = self.acked_features = 0
        self._negotiated = None
        self.driver_status = 0
        self._mend()
        self._start_wanted = False

    def disconnect(self) -> None:
        """Forget everything that the front end set, after it has disconnected."""
        try:
            self.reset(disable=True)
        except Exception:
            log.exception("%s: resetting the device failed", self.label)
        for vring in self.vrings:
            vring.forget()
        self.table.close()
        if self._area is not None:
            self._area.close()
            self._area = None
        self.driver_status = 0

    def close(self) -> None:
        """Close the device, at the end."""
        self.disconnect()
        super().close()

    def get_config(self, offset: int, length: int) -> bytes:
        """GET_CONFIG: part of the configuration space; empty if the device fails."""
        data = bytearray(length)

        def read() -> bool:
            self.device.read_config(offset, memoryview(data))
            return True

        return bytes(data) if self._call(read) else b""

    def set_config(self, offset: int, data: bytes) -> None:
        """SET_CONFIG: take the driver's write to the configuration space."""
        self._call(lambda: self.device.write_config(offset, memoryview(data)))

    @property
    def _memory(self) -> GuestMemory:
        assert self.table.memory is not None
        return self.table.memory

    def _start_queues(self, event_idx: bool, indirect: bool) -> None:
        for vring in self.vrings:
            if vring.ready:
                vring.activate(self.table, self._area, event_idx, indirect, self._is_enabled(vring))
            else:
                vring.leave_out()

    def _stop_queues(self) -> None:
        for vring in self.vrings:
            vring.deactivate()

    def _tell_failure(self, error: BaseException | None) -> None:
        """Stop the device, and tell the front end by the err descriptor of the broken ring, or by those of all
        rings."""
        try:
            self.deactivate()
        except Exception:
            log.exception("%s: stopping the device failed", self.label)
        broken = [self.vrings[error.queue]] if isinstance(error, QueueError) and error.queue < len(self.vrings) else []
        for vring in self.vrings:
            vring.started = False
        for vring in [vring for vring in broken if vring.err is not None] or self.vrings:
            if vring.err is not None:
                vring.err.signal()
        self.on_config_change()

    def _release(self) -> None:
        super()._release()
        for vring in self.vrings:
            vring.close()

    def _mend(self) -> None:
        """Forget that the device has failed, so that it can be restarted."""
        self.needs_reset = False
        self._scope.reset()

    def _is_enabled(self, vring: Vring) -> bool:
        """Whether the ring is enabled. Without the protocol's feature, rings are always enabled ("Ring states")."""
        return vring.enabled or not (self._negotiated or 0) & _PROTOCOL_FEATURES

    def _activate(self) -> None:
        if not self.acked_features & TRANSPORT_FEATURES:
            raise QueueError(0, "the driver is older than virtio 1.0: it lacks VIRTIO_F_VERSION_1")
        self.deactivate()
        self._start_wanted = False
        super()._activate()
        for vring in self.vrings:
            if vring.queue.ready:
                if vring.resumed and vring.call is not None:
                    vring.call.signal()  # the last back end may have died before it sent the signal
                vring.queue.event.signal()  # serve requests that are there already

    def _drain(self, vring: Vring) -> bool:
        """Run the loop until none of the ring's requests is in flight. Returns False if that takes too long."""
        queue = vring.queue
        queue.paused = True
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while self.device_activated and queue.in_flight:
            left = deadline - time.monotonic()
            if left <= 0:
                log.info("%s: ring %d stops with %d requests in flight", self.title, queue.index, queue.in_flight)
                return False
            self.loop.run_once(left)
        return True
