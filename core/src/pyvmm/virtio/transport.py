"""A virtio device's life, the same for all transports (virtio 1.2, sections 2 and 3)."""

from __future__ import annotations

from pyvmm._native import lib
from pyvmm.device_context import DeviceContext, MachineView
from pyvmm.errors import PyvmmError, cause_of
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm.host.shortage import shortage
from pyvmm.logs import logger
from pyvmm.virtio.queue import Queue, QueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final, TypeVar

    from pyvmm.exit_reason import ExitReason
    from pyvmm.host.eventfd import EventFd
    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.interrupt import Interrupt

    T = TypeVar("T")

__all__ = ["TRANSPORT_FEATURES", "VirtioTransport"]

log = logger(__name__)

_LOGGED_FAILURES: Final = 10
"""The number of a device's failures that are logged as errors. A driver that breaks the device and resets it, again and
again, must not fill the log."""

TRANSPORT_FEATURES: Final = 1 << lib.VIRTIO_F_VERSION_1
"""The transport features that a driver must accept."""


class VirtioTransport:
    """Base class of transports, which connect a :class:`VirtioDevice` to its driver.

    It holds the common part of all transports: attaching the device, its features, its activation and reset, the
    hand-over of calls to the device's event loop, failure and the end. A subclass adds the driver's access to the
    device, such as the registers of virtio-mmio, and the interrupts.

    Every method of the device is called on the thread of its event loop. An exception that leaves one of them fails
    the device; the machine runs on.
    """

    def __init__(
        self,
        device: VirtioDevice,
        name: str,
        loop: EventLoop,
        queues: Sequence[Queue],
        queue_interrupts: Sequence[Interrupt],
        config_interrupt: Interrupt,
        stop: Callable[[ExitReason], None] = lambda reason: None,
        machine: MachineView | None = None,
    ) -> None:
        """Attach ``device``, under the id ``name``. Raises what the device's ``attach`` raises.

        ``loop`` is the event loop for devices without a loop of their own. ``queue_interrupts`` has one interrupt for
        each of ``queues``, and ``config_interrupt`` is for configuration changes and failures; one object may serve as
        all of them. ``stop`` ends the machine, and ``machine`` is the device's view of it.
        """
        self.device = device
        self.name = name
        self.queues = queues
        self.queue_interrupts = queue_interrupts
        self.config_interrupt = config_interrupt
        self.driver_status = 0
        """The bits of the device status that the driver has set (section 2.1)."""
        self.acked_features = 0
        """The features that the driver has accepted, as one number."""
        self.config_generation = 0
        """A 32-bit number that changes with each change of the configuration space."""
        self.device_activated = False
        """Whether the device is active: between DRIVER_OK and a reset."""
        self.driver_was_ok = False
        """Whether a driver ever brought the device up."""
        self.on_first_driver: Callable[[], object] = lambda: None
        """Called when a driver has brought the device up for the first time, on the thread of the device's loop."""
        self.needs_reset = False
        """Whether the device has failed and waits for a reset (DEVICE_NEEDS_RESET)."""
        self._failures = 0
        self._machine = machine or MachineView()
        self._loop: EventLoop = device.own_loop or loop
        self._scope = LoopScope(self._loop, self._callback_failed, self._publish)
        try:
            self._loop.call(lambda: device.attach(DeviceContext(name, self._scope, stop, machine=self._machine)))
        except BaseException:
            self._release()
            raise
        self.offered_features: int = self._offered_features()
        """The features of device, rings and transport, as one number."""

    @property
    def title(self) -> str:
        """The device's name in the log: :attr:`DeviceContext.title`."""
        return self._machine.title(self.name)

    @property
    def label(self) -> str:
        """The device's id and its package, for messages."""
        return self._machine.label(self.name)

    @property
    def interrupt_events(self) -> list[EventFd]:
        """The eventfds that interrupt the driver, each once."""
        return list({interrupt.event: None for interrupt in (self.config_interrupt, *self.queue_interrupts)})

    def start(self) -> None:
        """Start the device's own thread, if it has one. From here on the process may have threads."""
        if self.device.own_loop is not None:
            self.device.own_loop.start()

    def close(self) -> None:
        """End the device and release the transport's resources. Call it on the loop's thread, after the last vCPU has
        stopped."""
        active, self.device_activated = self.device_activated, False
        try:
            self._loop.call(lambda: self.device.end(active))
        except Exception:
            log.exception("%s: closing it failed", self.label)
        if active or any(queue.ready for queue in self.queues):
            self._stop_queues()
        self._release()

    # Called by the device, on any thread.

    def config_changed(self) -> None:
        """Note that the configuration space has changed. The caller interrupts the driver."""
        self.config_generation = self.config_generation + 1 & 0xFFFFFFFF

    def fail(self, reason: str, error: BaseException | None = None) -> None:
        """Stop serving the device until the driver resets it. ``reason`` is logged, once.

        The traceback of ``error`` is logged with it, unless the driver or the host is to blame for the error.
        """
        if self.needs_reset:
            return
        self._failures += 1
        write = log.error if self._failures <= _LOGGED_FAILURES else log.debug
        told = error is None or isinstance(error, QueueError | PyvmmError) or shortage(error)
        bug = None if told else error
        write("%s: %s; it is not served until the driver resets it", self.label, reason, exc_info=bug)
        self.needs_reset = True
        self._tell_failure(error)

    # A subclass may override these. They run on the loop's thread, unless they say otherwise.

    @property
    def _memory(self) -> GuestMemory:
        """Guest memory, for an activation."""
        raise NotImplementedError

    def _start_queues(self, event_idx: bool, indirect: bool) -> None:
        """Activate the queues that are ready. ``event_idx`` and ``indirect``: the features that the driver accepted."""
        raise NotImplementedError

    def _stop_queues(self) -> None:
        """Release the queues and guest memory."""
        raise NotImplementedError

    def _tell_failure(self, error: BaseException | None) -> None:
        """Tell the driver that the device has failed, with ``error`` if there is one. Called on any thread."""
        self.config_changed()
        self.config_interrupt.event.signal()

    def _release(self) -> None:
        """Release the transport's resources, at the end of its life."""
        self._loop.call(self._scope.close)
        if self.device.own_loop is not None:
            self.device.own_loop.close()
        for queue in self.queues:
            queue.event.close()
        for event in self.interrupt_events:
            event.close()

    # The steps of a device's life.

    def _offered_features(self) -> int:
        offered: int = TRANSPORT_FEATURES | self.device.ring_features
        for page in range(4):
            offered |= (self._call(lambda page=page: self.device.features(page)) or 0) << 32 * page  # type: ignore[misc]
        return offered

    def _tell_features(self, features: int) -> bool:
        """Tell the device which features the driver has accepted. Returns whether that succeeded."""

        def tell() -> bool:
            for page in range(4):
                self.device.ack_features(page, features >> 32 * page & 0xFFFFFFFF)
            return True

        return bool(self._call(tell))

    def _activate(self) -> None:
        """Start queues and device with the features that the driver has accepted."""
        event_idx = bool(self.acked_features >> lib.VIRTIO_RING_F_EVENT_IDX & 1)
        indirect = bool(self.acked_features >> lib.VIRTIO_RING_F_INDIRECT_DESC & 1)
        self._start_queues(event_idx, indirect)
        is_first = not self.driver_was_ok
        self.driver_was_ok = self.device_activated = True
        self.device.activate(self._memory, self.config_interrupt, self.queues)
        if is_first:
            self.on_first_driver()
        sizes = [queue.size for queue in self.queues if queue.ready]
        again = sum(queue.to_resubmit for queue in self.queues)
        resubmitted = f"; {again} requests in flight are repeated" if again else ""
        log.info("%s: active, features %#x, queues %s%s", self.title, self.acked_features, sizes, resubmitted)

    def _deactivate(self) -> bool:
        """Reset the device, if it is active, and remove all that it has added to its loop since the negotiation.

        Returns whether the device could be reset.
        """
        if self.device_activated and not self._scope.until_close(self.device.reset):
            return False
        self.device_activated = False
        self._scope.reset()
        return True

    # Calls of the device.

    def _call(self, function: Callable[[], T]) -> T | None:
        """Call the device on the loop's thread. Returns None if the call raised, which fails the device.

        Callbacks that the device adds to its loop meanwhile are removed by a reset or a failure.
        """

        def run() -> T:
            result = self._scope.until_reset(function)
            self._publish()
            return result

        failures: list[Exception] = []
        try:
            return self._loop.call(run)
        except Exception as error:
            failures.append(error)
        # Popped, since the error's traceback refers to this frame: together they would stay until garbage is collected.
        self._loop.call(lambda: self._callback_failed(failures.pop()))
        return None

    def _publish(self) -> None:
        for queue in self.queues:
            queue.publish()

    def _callback_failed(self, error: BaseException) -> None:
        self._scope.fail()
        for queue in self.queues:
            queue.take_back()
            queue.paused = True  # other callbacks of the device must find nothing to serve
        reason = str(error) if isinstance(error, QueueError | PyvmmError) else shortage(error) or cause_of(error)
        self.fail(reason, error)
