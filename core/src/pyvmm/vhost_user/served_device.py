"""A virtio device in the hands of a back end: its rings, its memory, and when it runs.

vhost-user starts and stops rings one by one; a device is activated with all of its queues at once. So the device
is active while there is a ring to serve, and is stopped and activated again, requests in flight and all, when
another is there.
"""

from __future__ import annotations

import time

from pyvmm._native import lib
from pyvmm.device_context import DeviceContext, MachineView
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm.logs import logger
from pyvmm.vhost_user.memory_table import MemoryTable
from pyvmm.vhost_user.protocol import VHOST_USER_F_PROTOCOL_FEATURES, VhostUserError
from pyvmm.vhost_user.vring import Vring
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import QueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.exit_reason import ExitReason
    from pyvmm.vhost_user.inflight import InflightArea
    from pyvmm.virtio.device import VirtioDevice

log = logger(__name__)

DRAIN_TIMEOUT: Final = 5.0
"""Seconds that requests in flight have when their ring is stopped. Those that take longer (a device may hold buffers
for ever) are cancelled, and taken again when the ring goes on."""

_VERSION_1: Final = 1 << lib.VIRTIO_F_VERSION_1
_EVENT_IDX: Final = 1 << lib.VIRTIO_RING_F_EVENT_IDX
_INDIRECT: Final = 1 << lib.VIRTIO_RING_F_INDIRECT_DESC
_PROTOCOL_FEATURES: Final = 1 << VHOST_USER_F_PROTOCOL_FEATURES
_NEEDS_RESET: Final[int] = lib.VIRTIO_CONFIG_S_NEEDS_RESET

_LOGGED_FAILURES: Final = 10
"""How often a device's failures are worth a line in the log."""


class _DeviceInterrupt(Interrupt):
    """The device's own line; each queue has another."""

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


class ServedDevice:
    """One device and all that a front end can set of it. On the loop's thread."""

    def __init__(
        self,
        device: VirtioDevice,
        name: str,
        loop: EventLoop,
        stop: Callable[[ExitReason], None],
        on_config_change: Callable[[], None],
        machine: MachineView | None = None,
    ) -> None:
        """Attach ``device``, which is closed where it cannot be. ``on_config_change`` is called when its configuration
        space has changed."""
        self.device = device
        self.name = name
        machine = machine or MachineView()
        self.label = machine.label(name)
        """The device and its package, for messages of its failure."""
        self.loop = loop
        self.on_config_change = on_config_change
        self.vrings = [Vring(index, size) for index, size in enumerate(device.queue_max_sizes)]
        self.table = MemoryTable()
        self.status = 0
        """SET_STATUS: the driver's device status; NEEDS_RESET is ours."""
        self.active = False
        self._acked: int | None = None
        self._area: InflightArea | None = None
        self._start_wanted = False
        self._failures = 0
        self._interrupt = _DeviceInterrupt(self)
        self._scope = LoopScope(loop, self._callback_failed, self._publish)
        try:
            device.attach(DeviceContext(name, self._scope, stop, machine=machine))
        except BaseException:
            device.close()
            for vring in self.vrings:
                vring.close()
            raise
        self.features: int = _VERSION_1 | device.ring_features | _PROTOCOL_FEATURES
        """GET_FEATURES: what device, ring and back end offer."""
        for page in range(2):
            self.features |= device.features(page) << 32 * page

    @property
    def failed(self) -> bool:
        """Whether the device is served no more until a reset, or until its rings are started anew."""
        return bool(self.status & _NEEDS_RESET)

    def set_features(self, features: int) -> None:
        """SET_FEATURES: what driver and front end accepted."""
        if features & ~self.features:
            raise VhostUserError(f"features that were not offered: {features & ~self.features:#x}")
        if features == self._acked:
            return
        self.deactivate()
        self._acked = features
        self.device.acked_features = 0
        for page in range(2):
            # The protocol's own bit is none of the device's.
            self.device.ack_features(page, (features & ~_PROTOCOL_FEATURES) >> 32 * page & 0xFFFFFFFF)
        self._start_wanted = True

    def set_status(self, status: int) -> None:
        """SET_STATUS: 0 resets the device. DRIVER_OK is not waited for: rings that are started and enabled are to be
        served, and not every front end says it (QEMU 7.2 has devices for which it does not)."""
        if status & ~0xFF:
            raise VhostUserError(f"a device status of more than 8 bits: {status:#x}")
        if status == 0:
            self.reset(disable=False)
            return
        self.status = status | self.status & _NEEDS_RESET

    def set_inflight(self, area: InflightArea) -> None:
        """SET_INFLIGHT_FD: keep account of requests in flight there, once rings are started."""
        self.deactivate()
        if self._area is not None:
            self._area.close()
        self._area = area
        self._start_wanted = True

    def memory_changed(self) -> None:
        """The memory table is another: rings that run go on in it."""
        if any(vring.queue.handed_over for vring in self.vrings):
            self.deactivate()  # whoever has them knows the old addresses; settle() starts the device anew
        try:
            for vring in self.vrings:
                vring.place(self.table)
        except (QueueError, VhostUserError) as error:
            self._callback_failed(error)

    def vring_changed(self, vring: Vring) -> None:
        """A ring's size, addresses or kick are others: a device that runs is stopped and, when :meth:`settle` is
        called, started with them."""
        if vring.queue.ready:
            self.deactivate()
        self._start_wanted = True

    def start_vring(self, vring: Vring, kick: EventFd | None) -> None:
        """SET_VRING_KICK."""
        self.deactivate()  # before the old descriptor is closed: the event loop must not know it any more
        if self.failed and not any(other.started for other in self.vrings):
            self.status &= ~_NEEDS_RESET
        vring.set_kick(kick)
        self._start_wanted = True

    def set_call(self, vring: Vring, call: EventFd | None) -> None:
        """SET_VRING_CALL."""
        if vring.queue.handed_over:
            self.deactivate()  # whoever has the ring knows the old descriptor; settle() starts the device anew
        vring.set_call(call)

    def enable_vring(self, vring: Vring, enabled: bool) -> None:
        """SET_VRING_ENABLE: a disabled ring is left as it is."""
        vring.enabled = enabled
        if vring.queue.handed_over:
            self.deactivate()  # whoever has the ring does not hear of this; settle() starts the device anew
            return
        if vring.queue.ready:
            vring.queue.paused = not self._is_enabled(vring)
            if not vring.queue.paused:
                vring.queue.event.signal()  # for what came meanwhile
        elif enabled:
            self._start_wanted = True

    def stop_vring(self, vring: Vring) -> int:
        """GET_VRING_BASE: stop the ring, when its requests in flight are done; the next available entry."""
        drained = self._drain(vring)
        vring.started = False
        if vring.queue.ready:
            if drained and any(other.started and other.queue.ready for other in self.vrings):
                vring.deactivate()
            else:
                # Nothing may touch the ring's memory from now on, whatever the device still holds of it.
                self.deactivate()
                self._start_wanted = True
        return vring.base

    def settle(self) -> None:
        """Start the device, or start it anew, where that is wanted and all is there that it takes."""
        if not self._start_wanted or self.failed or self._acked is None or self.table.memory is None:
            return
        if not any(vring.ready and self._is_enabled(vring) for vring in self.vrings):
            return
        self._start_wanted = False
        if self.active and all(vring.queue.ready == vring.ready for vring in self.vrings):
            return
        self._scope.guard(self._activate)

    def deactivate(self) -> None:
        """Stop the device; its rings are as they were, and it can be started again."""
        if not self.active:
            return
        self.active = False
        for vring in self.vrings:
            vring.deactivate()
        try:
            if not self.device.reset():
                raise RuntimeError(f"{self.name}: the device could not be reset")
        except BaseException:
            self._scope.close()
            raise
        self.device.acked_features = self._device_features
        self._start_wanted = True

    def reset(self, *, disable: bool) -> None:
        """RESET_DEVICE, and SET_STATUS of 0: the device and its rings as at the start; ``disable``: the rings need
        SET_VRING_ENABLE again."""
        self.deactivate()
        for vring in self.vrings:
            vring.reset(disable=disable)
        self.device.acked_features = 0
        self._acked = None
        self.status = 0
        self._start_wanted = False

    def disconnect(self) -> None:
        """The front end is gone: forget all that it set."""
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
        self.status = 0

    def close(self) -> None:
        """The end: close the device."""
        self.disconnect()
        try:
            self.device.close()
        except Exception:
            log.exception("%s: closing the device failed", self.label)
        for vring in self.vrings:
            vring.close()
        self._scope.close()

    def read_config(self, offset: int, length: int) -> bytes:
        """Part of the configuration space."""
        data = bytearray(length)
        self.device.read_config(offset, memoryview(data))
        return bytes(data)

    def fail(self, reason: str, *, error: BaseException | None = None, vring: Vring | None = None) -> None:
        """Serve no more, for ``reason``; tell the front end by the err descriptor of ``vring`` or of all."""
        if self.failed:
            return
        self.status |= _NEEDS_RESET
        self._failures += 1
        write = log.error if self._failures <= _LOGGED_FAILURES else log.debug
        write("%s: %s; it is served no more until it is reset", self.label, reason, exc_info=error)
        try:
            self.deactivate()
        except Exception:
            log.exception("%s: stopping the device failed", self.label)
        for each in self.vrings:
            each.started = False
        for each in [vring] if vring is not None and vring.err is not None else self.vrings:
            if each.err is not None:
                each.err.signal()
        self.on_config_change()

    @property
    def _device_features(self) -> int:
        return (self._acked or 0) & ~_PROTOCOL_FEATURES

    def _is_enabled(self, vring: Vring) -> bool:
        """Without the protocol's feature, rings are enabled from the start ("Ring states")."""
        return vring.enabled or not (self._acked or 0) & _PROTOCOL_FEATURES

    def _activate(self) -> None:
        acked = self._acked or 0
        if not acked & _VERSION_1:
            raise QueueError(0, "the driver is of virtio before 1.0, without VIRTIO_F_VERSION_1")
        self.deactivate()
        self._start_wanted = False
        memory = self.table.memory
        assert memory is not None
        event_idx, indirect = bool(acked & _EVENT_IDX), bool(acked & _INDIRECT)
        self.active = True
        for vring in self.vrings:
            if vring.ready:
                vring.activate(self.table, self._area, event_idx, indirect, self._is_enabled(vring))
            else:
                vring.leave_out()
        queues = [vring.queue for vring in self.vrings]
        self.device.activate(memory, self._interrupt, queues)
        for vring in self.vrings:
            if vring.queue.ready:
                if vring.resumed and vring.call is not None:
                    vring.call.signal()  # who served it before may have died with the signal unsent
                vring.queue.event.signal()  # for what is there already
        sizes = [queue.size for queue in queues if queue.ready]
        again = sum(queue.to_resubmit for queue in queues)
        resubmitted = f"; {again} requests in flight are taken again" if again else ""
        log.info("%s: active, features %#x, queues %s%s", self.name, acked, sizes, resubmitted)

    def _drain(self, vring: Vring) -> bool:
        """Let the loop run until nothing of the ring is in flight; whether that came to be."""
        queue = vring.queue
        queue.paused = True
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while self.active and queue.in_flight:
            left = deadline - time.monotonic()
            if left <= 0:
                log.info("%s: ring %d stops with %d requests in flight", self.name, queue.index, queue.in_flight)
                return False
            self.loop.run_once(left)
        return True

    def _publish(self) -> None:
        for vring in self.vrings:
            vring.queue.publish()

    def _callback_failed(self, error: BaseException) -> None:
        if isinstance(error, QueueError):
            self.fail(str(error), vring=self.vrings[error.queue] if error.queue < len(self.vrings) else None)
        elif isinstance(error, VhostUserError):
            self.fail(str(error))
        else:
            self.fail(f"{type(error).__name__}: {error}", error=error)
