"""One ring as a front end has set it up, beside the :class:`Queue` that a device sees of it ("Ring states")."""

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
    """A kick that is always there: for a ring whose front end said that it is to be polled."""

    def __init__(self) -> None:
        super().__init__()
        self.signal()

    def drain(self) -> int:
        """Stay signalled."""
        return 1


class VringInterrupt(Interrupt):
    """The line of one queue: the ring's own call descriptor, which may change at any time, or none."""

    def __init__(self, vring: Vring) -> None:
        super().__init__(EventFd(-1))
        self._vring = vring

    @property
    def call_fd(self) -> int:
        """The front end's, or -1."""
        return self._vring.call.fd if self._vring.call is not None else -1

    def signal_used_queue(self) -> None:
        """Signal the call descriptor; where the front end polls the ring, there is none."""
        self.used_signals += 1
        if self._vring.call is not None:
            self._vring.call.signal()


class Vring:
    """A ring's size, addresses, descriptors and state."""

    def __init__(self, index: int, max_size: int) -> None:
        # The front end's takes its place while the ring is served. A device may signal any of its queues.
        self._unheard = EventFd()
        self.queue = Queue(index, max_size, self._unheard)
        self.size = 0
        """SET_VRING_NUM; 0 before it came."""
        self.addresses: VringAddr | None = None
        self.base = 0
        """SET_VRING_BASE, or where the queue stopped: the next available entry."""
        self.kick: EventFd | None = None
        self.call: EventFd | None = None
        self.err: EventFd | None = None
        self.started = False
        """Since SET_VRING_KICK, up to GET_VRING_BASE."""
        self.enabled = False
        """SET_VRING_ENABLE."""
        self.resumed = False
        """Whether the ring was served before, by us or by another."""
        self.interrupt = VringInterrupt(self)
        self._account: bytearray | None = None

    @property
    def ready(self) -> bool:
        """Whether all is known that a queue needs."""
        return self.started and self.size > 0 and self.addresses is not None and self.kick is not None

    def set_kick(self, event: EventFd | None) -> None:
        """Take the kick's descriptor; None: the ring is to be polled. It starts the ring."""
        _close(self.kick)
        self.kick = event or PolledEvent()
        self.started = True

    def set_call(self, event: EventFd | None) -> None:
        """Take the call's descriptor; None: the front end polls the used ring."""
        _close(self.call)
        self.call = event

    def set_err(self, event: EventFd | None) -> None:
        """Take the descriptor for errors, if any."""
        _close(self.err)
        self.err = event

    def set_base(self, base: int) -> None:
        """Go on from available entry ``base``. Where that is not where the queue stopped, it is another ring."""
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
            # Not to be lost when the device is stopped and started by the same front end.
            if self._account is None or len(self._account) != inflight_size(self.size):
                self._account = bytearray(inflight_size(self.size))
            inflight = memoryview(self._account)
        queue.activate(table.memory, self.interrupt, event_idx, indirect, base=self.base, inflight=inflight)
        queue.ready = True
        self.resumed = queue.used_idx() != 0

    def leave_out(self) -> None:
        """The ring is not served while others may be: nobody hears its queue's kick."""
        self.queue.event = self._unheard

    def place(self, table: MemoryTable) -> None:
        """The memory table is another: find the rings anew. Raises as :meth:`activate`."""
        if self.queue.ready:
            self._place(table)
            self.queue.place()

    def deactivate(self) -> None:
        """Stop the queue where it is."""
        if self.queue.ready:
            self.base = self.queue.stop()
            self.queue.ready = False

    def reset(self, *, disable: bool) -> None:
        """Back to the stopped state, as at a device reset. The call and err descriptors are kept: a front end sends
        them once."""
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
        """The front end is gone: close all that is its."""
        self.reset(disable=True)
        self.set_call(None)
        self.set_err(None)

    def close(self) -> None:
        """The end."""
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
