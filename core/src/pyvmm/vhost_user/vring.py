"""One ring's state, as a front end has set it, and the :class:`Queue` through which a device sees the ring ("Ring
states")."""

from __future__ import annotations

from pyvmm.host.eventfd import EventFd
from pyvmm.vhost_user.protocol import VhostUserError, VringAddr
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import Queue, inflight_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.vhost_user.inflight import InflightArea
    from pyvmm.vhost_user.memory_table import MemoryTable


class PolledEvent(EventFd):
    """A kick that is always signalled, for a ring that has to be polled."""

    def __init__(self) -> None:
        super().__init__()
        self.signal()

    def drain(self) -> int:
        """Stay signalled."""
        return 1


class VringInterrupt(Interrupt):
    """The interrupt of one queue: the ring's call descriptor, which may change at any time, or none."""

    def __init__(self, vring: Vring) -> None:
        super().__init__(EventFd(-1))
        self._vring = vring

    @property
    def call_fd(self) -> int:
        """The front end's call descriptor; -1 if there is none."""
        return self._vring.call.fd if self._vring.call is not None else -1

    def signal_used_queue(self) -> None:
        """Signal the call descriptor. If the front end polls the ring, there is none."""
        self.used_signals += 1
        if self._vring.call is not None:
            self._vring.call.signal()


class Vring:
    """A ring's size, addresses, descriptors and state."""

    def __init__(self, index: int, max_size: int) -> None:
        # The front end's kick replaces it while the ring is served. A device may signal any of its queues.
        self._unheard = EventFd()
        self.queue = Queue(index, max_size, self._unheard)
        self.size = 0
        """The number of SET_VRING_NUM; 0 before that."""
        self.addresses: VringAddr | None = None
        self.base = 0
        """The next available entry: from SET_VRING_BASE, or where the queue stopped."""
        self.kick: EventFd | None = None
        self.call: EventFd | None = None
        self.err: EventFd | None = None
        self.started = False
        """Whether the ring is started: from SET_VRING_KICK to GET_VRING_BASE."""
        self.enabled = False
        """Whether SET_VRING_ENABLE has enabled the ring."""
        self.resumed = False
        """Whether the ring was served before, by this back end or by another."""
        self.interrupt = VringInterrupt(self)
        self._account: bytearray | None = None

    @property
    def ready(self) -> bool:
        """Whether everything that the queue needs is set."""
        return self.started and self.size > 0 and self.addresses is not None and self.kick is not None

    def set_kick(self, event: EventFd | None) -> None:
        """Take the kick's descriptor and start the ring. None: the ring has to be polled."""
        _close(self.kick)
        self.kick = event or PolledEvent()
        self.started = True

    def set_call(self, event: EventFd | None) -> None:
        """Take the call descriptor. None: the front end polls the used ring."""
        _close(self.call)
        self.call = event

    def set_err(self, event: EventFd | None) -> None:
        """Take the descriptor for errors, if any."""
        _close(self.err)
        self.err = event

    def set_base(self, base: int) -> None:
        """Continue from available entry ``base``. If the queue did not stop there, the ring counts as a new one."""
        if base != self.base:
            self._account = None
        self.base = base

    def activate(
        self, table: MemoryTable, area: InflightArea | None, event_idx: bool, indirect: bool, enabled: bool
    ) -> None:
        """Let the queue serve the ring. Raises :class:`QueueError` and :class:`VhostUserError`."""
        assert table.memory is not None and self.kick is not None
        queue = self.queue
        queue.size = self.size
        self._place(table)
        queue.event = self.kick
        queue.paused = not enabled
        inflight = area.queue(queue.index) if area is not None else None
        if inflight is None:
            # Requests in flight must survive a stop and start by the same front end.
            if self._account is None or len(self._account) != inflight_size(self.size):
                self._account = bytearray(inflight_size(self.size))
            inflight = memoryview(self._account)
        queue.activate(table.memory, self.interrupt, event_idx, indirect, base=self.base, inflight=inflight)
        queue.ready = True
        self.resumed = queue.used_idx() != 0

    def leave_out(self) -> None:
        """Leave the ring unserved while others may be served: its queue's kick is ignored."""
        self.queue.event = self._unheard

    def place(self, table: MemoryTable) -> None:
        """Find the rings in a changed memory table. Raises as :meth:`activate` does."""
        if self.queue.ready:
            self._place(table)
            self.queue.place()

    def deactivate(self) -> None:
        """Stop the queue where it is."""
        if self.queue.ready:
            self.base = self.queue.stop()
            self.queue.ready = False

    def reset(self, *, disable: bool) -> None:
        """Return to the stopped state, for a device reset. The call and err descriptors are kept: a front end sends
        them only once."""
        self.deactivate()
        self.leave_out()
        self._account = None
        self.size = self.base = 0
        self.addresses = None
        _close(self.kick)
        self.kick = None
        self.started = self.resumed = False
        if disable:
            self.enabled = False

    def forget(self) -> None:
        """Close the front end's descriptors, after it has disconnected."""
        self.reset(disable=True)
        self.set_call(None)
        self.set_err(None)

    def close(self) -> None:
        """Close all descriptors, at the end."""
        self.forget()
        self._unheard.close()

    def _place(self, table: MemoryTable) -> None:
        addresses = self.addresses
        if addresses is None:
            raise VhostUserError(f"ring {self.queue.index} has no addresses")
        self.queue.descriptor_table = table.guest_address(addresses.descriptor)
        self.queue.available_ring = table.guest_address(addresses.available)
        self.queue.used_ring = table.guest_address(addresses.used)


def _close(event: EventFd | None) -> None:
    if event is not None:
        event.close()
