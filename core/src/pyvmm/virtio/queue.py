"""Split virtqueues as a device sees them: an iterator of finished chains (virtio 1.2, section 2.7).

Native code handles the ring itself (walking, checks, barriers); this module makes Python objects of its batches.
"""

from __future__ import annotations

from pyvmm._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Final

    from pyvmm.host.eventfd import EventFd
    from pyvmm.memory import GuestAddress, GuestMemory
    from pyvmm.virtio.interrupt import Interrupt

__all__ = ["MAX_QUEUE_SIZE", "DescriptorChain", "Queue", "QueueError"]

MAX_QUEUE_SIZE: Final[int] = lib.PYVMM_MAX_QUEUE_SIZE
"""The largest size that a queue can have (virtio 1.2, section 2.7)."""

_BATCH: Final = 64
"""The most chains that one native call takes."""

_RULES: Final = {
    lib.PYVMM_RULE_QUEUE_SIZE: "the queue's size is 0, not a power of two or above the maximum",
    lib.PYVMM_RULE_RING_ALIGNMENT: "descriptor table, available or used ring is misaligned",
    lib.PYVMM_RULE_RING_ADDRESS: "descriptor table, available or used ring is not in guest memory",
    lib.PYVMM_RULE_RING_OVERLAP: "descriptor table, available and used ring overlap",
    lib.PYVMM_RULE_AVAIL_INDEX: "the available index is more than a ring ahead",
    lib.PYVMM_RULE_HEAD: "the head of a chain is outside the descriptor table",
    lib.PYVMM_RULE_HEAD_IN_FLIGHT: "a chain was made available again before it was used",
    lib.PYVMM_RULE_NEXT: "a next field is outside the descriptor table",
    lib.PYVMM_RULE_CHAIN_LENGTH: "a chain loops or is too long",
    lib.PYVMM_RULE_INDIRECT_NOT_NEGOTIATED: "an indirect descriptor without VIRTIO_F_INDIRECT_DESC",
    lib.PYVMM_RULE_INDIRECT_NEXT: "a descriptor with INDIRECT and NEXT",
    lib.PYVMM_RULE_INDIRECT_NESTED: "an indirect descriptor in an indirect table",
    lib.PYVMM_RULE_INDIRECT_SIZE: "an indirect table is empty, of odd length or too long",
    lib.PYVMM_RULE_INDIRECT_ADDRESS: "an indirect table is not in guest memory",
    lib.PYVMM_RULE_BUFFER_EMPTY: "a buffer has no length",
    lib.PYVMM_RULE_BUFFER_ADDRESS: "a buffer is not in guest memory",
    lib.PYVMM_RULE_BUFFER_ORDER: "a buffer to read comes after one to write",
    lib.PYVMM_RULE_TOTAL_LENGTH: "a chain has 4 GiB or more",
}


class QueueError(Exception):
    """The driver broke a rule of the ring; the queue is served no more until a reset."""

    def __init__(self, queue: int, reason: str) -> None:
        super().__init__(f"queue {queue}: {reason}")
        self.queue = queue
        self.reason = reason


class DescriptorChain:
    """One request: buffers for the device to read, then buffers for it to write.

    The buffers are views into guest memory. A guest may change their contents at any time, so copy a value before you
    check and use it (:meth:`read` copies).

    The readable bytes are one sequence, and the writable bytes are another, however the driver has divided them into
    buffers (virtio 1.2, section 2.7.4). So serve a request with a header and data, and room for data and a status, by
    offsets::

        header = chain.read(0, HEADER.size)
        data = chain.read(HEADER.size, chain.readable_length - HEADER.size)
        room = chain.writable_length - 1
        written = chain.write(0, answer[:room].ljust(room, b"\\0")) + chain.write(room, status)
        chain.complete(written)

    Each sequence may be shorter than the request needs, or empty.
    """

    _native: Any

    __slots__ = ("_native", "_queue", "_readable", "_writable", "head", "readable_length", "writable_length")

    def __init__(
        self,
        queue: Queue,
        head: int,
        readable: Sequence[memoryview],
        writable: Sequence[memoryview],
        readable_length: int,
        writable_length: int,
    ) -> None:
        self._queue = queue
        self._native = queue._native
        self._readable = readable
        self._writable = writable
        self.head = head
        """The index of the chain's first descriptor. It identifies the chain while it is in flight."""
        self.readable_length = readable_length
        """The number of readable bytes in all buffers: below 4 GiB."""
        self.writable_length = writable_length
        """The number of writable bytes in all buffers: below 4 GiB."""

    @property
    def readable(self) -> Sequence[memoryview]:
        """The buffers for the device to read, in order."""
        return self._readable

    @property
    def writable(self) -> Sequence[memoryview]:
        """The buffers for the device to write, in order."""
        return self._writable

    def read(self, offset: int, length: int) -> bytes:
        """A copy of ``length`` readable bytes from ``offset`` on; fewer if the chain has fewer."""
        return b"".join(self.readable_views(offset, length))

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Copy ``data`` to the writable bytes from ``offset`` on; returns the number of bytes that fitted."""
        done = 0
        for view in self.writable_views(offset, len(data)):
            view[:] = data[done : done + len(view)]
            done += len(view)
        return done

    def readable_views(self, offset: int, length: int) -> list[memoryview]:
        """Views of ``length`` readable bytes from ``offset`` on, for os.pwritev and the like."""
        return _cut(self._readable, offset, length)

    def writable_views(self, offset: int, length: int) -> list[memoryview]:
        """Views of ``length`` writable bytes from ``offset`` on, for os.preadv and the like."""
        return _cut(self._writable, offset, length)

    def complete(self, written: int = 0) -> None:
        """Give the chain back: the device wrote ``written`` bytes at the start of the writable buffers.

        Call it once for each chain, in any order, immediately or later. The driver sees the chain when the queue is
        published, which happens when the device's callback returns.

        Complete a request that is too short for an answer with 0; otherwise the driver waits for ever. A
        :class:`QueueError` fails the whole device until a reset. Raise it only if device and driver can no longer agree
        on the ring's state.
        """
        self._queue._complete(self._native, self.head, written)


class Queue:
    """One virtqueue: ``for chain in queue`` takes the chains that the driver made available."""

    def __init__(self, index: int, max_size: int, event: EventFd) -> None:
        self.index = index
        self.max_size = max_size
        self.event = event
        """Signalled when the driver kicks; an ioeventfd."""
        self.size = max_size
        self.ready = False
        self.descriptor_table: GuestAddress = 0
        self.available_ring: GuestAddress = 0
        self.used_ring: GuestAddress = 0
        self._memory: GuestMemory | None = None
        self.interrupt: Interrupt | None = None
        """The line to the driver; None while the queue is not active."""
        self.paused = False
        """While true, no chain is handed out. Chains that were handed out before can be completed."""
        self._native: Any = None
        self._take_over: Callable[[], int] | None = None
        self._inflight: Any = None
        self._taken: list[DescriptorChain] = []
        """Chains that were taken in a batch and are not handed out yet. The next one is last."""
        self._pending = 0

    def activate(
        self,
        memory: GuestMemory,
        interrupt: Interrupt,
        event_idx: bool,
        indirect: bool,
        *,
        base: int | None = None,
        inflight: memoryview | None = None,
    ) -> None:
        """Check the rings and start to serve them; raises :class:`QueueError`.

        ``base``: the available entry up to which the queue was served before, as :meth:`stop` returned it.
        ``inflight``: a shared buffer of :func:`inflight_size` bytes, zeros at first, that tracks the chains in flight
        (vhost-user, "Inflight I/O tracking"). Chains that its last user left there are handed out again first, whatever
        ``base`` says.
        """
        native = ffi.new("struct pyvmm_queue *")
        # This check comes before any allocation of the size that the driver gave.
        self.check(
            lib.pyvmm_queue_setup(
                native,
                memory.native(),
                self.size,
                self.max_size,
                self.descriptor_table,
                self.available_ring,
                self.used_ring,
                event_idx,
                indirect,
            )
        )
        self._chains = ffi.new("struct pyvmm_chain[]", _BATCH)
        # Room for the longest possible chain, so that one always fits.
        self._max_buffers = max(self.size, lib.PYVMM_MAX_CHAIN) + self.size
        self._iov = ffi.new("struct iovec[]", self._max_buffers)
        self._addresses = ffi.new("uint64_t[]", self._max_buffers)
        self._native = native
        self._memory = memory
        self.interrupt = interrupt
        if base is not None:
            lib.pyvmm_queue_resume(native, base)
        if inflight is not None:
            try:
                self._track(inflight)
            except QueueError:
                self._deactivate()
                raise

    def place(self) -> None:
        """Continue with rings that moved, or whose memory was mapped again; raises :class:`QueueError`."""
        if self._native is not None:
            self.check(lib.pyvmm_queue_place(self._native, self.descriptor_table, self.available_ring, self.used_ring))

    def stop(self) -> int:
        """Stop serving, until :meth:`activate`. Returns the available entry to continue from.

        Completed chains are published. Chains that were handed out and not completed stay in flight, with
        ``inflight``; completing them later does nothing.
        """
        if self._native is None:
            return 0
        self.take_back()
        self._put_back()
        self.publish()
        base = self.next_avail
        self._deactivate()
        return base

    def hand_over(self, take_over: Callable[[], int]) -> int:
        """Let other code, such as the kernel's vhost, serve the rings from the returned available entry on.

        No chain is handed out here from then on. ``take_over`` is called once, by :meth:`take_back` or when the queue
        is stopped or reset: it stops the other code and returns the available entry to continue from.
        """
        self._put_back()
        self.publish()
        self._take_over = take_over
        return self.next_avail

    def take_back(self) -> None:
        """Serve the rings here again, if they were handed over."""
        take_over, self._take_over = self._take_over, None
        if take_over is not None:
            base = take_over()
            if self._native is not None:
                lib.pyvmm_queue_resume(self._native, base)

    @property
    def handed_over(self) -> bool:
        """Whether other code serves the rings."""
        return self._take_over is not None

    def reset(self) -> None:
        """Return to the state before the driver set up the queue."""
        self.take_back()
        self._deactivate()
        self.paused = False
        self.size = self.max_size
        self.ready = False
        self.descriptor_table = self.available_ring = self.used_ring = 0
        self.event.drain()

    @property
    def native(self) -> Any:
        """The ring as a ``struct pyvmm_queue *`` for native code; None while no chain may be taken."""
        return None if self.paused or self.handed_over else self._native

    @property
    def ring(self) -> Any:
        """The same, also while no chain may be taken; None while the queue is not active. Each activation has a new
        one. A queue may be active and paused: a front end may have paused it before the activation."""
        return self._native

    @property
    def in_flight(self) -> int:
        """The number of chains that were handed out and not completed."""
        return int(self._native.outstanding) - self.to_resubmit - len(self._taken) if self._native else 0

    @property
    def to_resubmit(self) -> int:
        """The number of chains, in flight at the activation, that are still to be handed out again."""
        return int(self._native.resubmit_count - self._native.resubmitted) if self._native else 0

    @property
    def next_avail(self) -> int:
        """The index of the next available entry to take, modulo 2¹⁶."""
        return int(self._native.next_avail) - len(self._taken) & 0xFFFF if self._native else 0

    def __iter__(self) -> Iterator[DescriptorChain]:
        """Chains until the ring is empty, but no more than twice the ring at a time.

        If more are left, the queue kicks itself, so that other devices on the loop get their turn.
        """
        for _ in range(2 * self.size):
            chain = self.pop()
            if chain is None:
                return
            yield chain
        self.event.signal()

    def pop(self) -> DescriptorChain | None:
        """The next available chain; None when there is none: then the driver will kick again."""
        if self.paused or self.handed_over or (not self._taken and not self._take()):
            return None
        return self._taken.pop()

    def unpop(self, chain: DescriptorChain) -> None:
        """Put back ``chain``, which was popped last and not completed. The next pop returns it."""
        if chain._native is self._native:  # otherwise it went with a reset
            self._taken.append(chain)

    def publish(self) -> None:
        """Show completed chains to the driver, and interrupt the driver if it wants that."""
        if self._pending:
            self._pending = 0
            if lib.pyvmm_queue_publish(self._native) and self.interrupt is not None:
                self.interrupt.signal_used_queue()

    def used_idx(self) -> int:
        """The used index in guest memory."""
        return int(lib.pyvmm_queue_used_idx(self._native)) if self._native else 0

    def _deactivate(self) -> None:
        self._native = None
        self._inflight = None
        self._memory = None
        self.interrupt = None
        self._taken.clear()
        self._pending = 0

    def _put_back(self) -> None:
        """Make chains that were taken in a batch, but not handed out, available again."""
        for chain in self._taken:  # in the reverse order of taking
            lib.pyvmm_queue_untake(self._native, chain.head)
        self._taken.clear()

    def _track(self, inflight: memoryview) -> None:
        if len(inflight) < inflight_size(self.size):
            raise QueueError(self.index, "the inflight buffer is too short")
        self._inflight = ffi.from_buffer("struct pyvmm_inflight *", inflight, require_writable=True)
        self._resubmit = ffi.new("uint16_t[]", self.size)
        if lib.pyvmm_queue_track(self._native, self._inflight, self._resubmit) < 0:
            raise QueueError(self.index, "the inflight buffer is of another version or size")

    def _take(self) -> bool:
        """Take a batch. If the ring is empty, ask for a kick and check the ring once more."""
        native = self._native
        if native is None:
            return False
        take = lib.pyvmm_queue_take
        count = take(native, self._chains, _BATCH, self._iov, self._addresses, self._max_buffers)
        if count == 0:
            self.publish()
            if not lib.pyvmm_queue_enable_kick(native):
                return False
            count = take(native, self._chains, _BATCH, self._iov, self._addresses, self._max_buffers)
        self.check(count)
        if count == 0:
            return False  # the driver decreased its index meanwhile
        lib.pyvmm_queue_disable_kick(native)
        assert self._memory is not None
        slice_ = self._memory.slice
        iov, addresses = self._iov, self._addresses
        for i in reversed(range(count)):
            chain = self._chains[i]
            middle = chain.first + chain.readable
            views = [slice_(addresses[j], iov[j].iov_len) for j in range(chain.first, middle + chain.writable)]
            self._taken.append(
                DescriptorChain(
                    self,
                    chain.head,
                    views[: chain.readable],
                    views[chain.readable :],
                    chain.readable_length,
                    chain.writable_length,
                )
            )
        return True

    def _complete(self, native: Any, head: int, written: int) -> None:
        if native is not self._native:
            return  # the driver reset the device while the request was under way
        if lib.pyvmm_queue_complete(self._native, head, written):
            raise RuntimeError(f"queue {self.index}: chain {head} was completed before")
        self._pending += 1

    def check(self, result: int) -> None:
        """Raise :class:`QueueError` if native code returned a broken rule."""
        if result < 0:
            raise QueueError(self.index, _RULES[-result])


def inflight_size(queue_size: int) -> int:
    """Bytes of an inflight buffer for a queue of ``queue_size`` (vhost-user, "Inflight I/O tracking")."""
    return int(lib.pyvmm_inflight_size(queue_size))


def _cut(views: Sequence[memoryview], offset: int, length: int) -> list[memoryview]:
    """Views of ``length`` bytes from ``offset`` on, in ``views`` end to end."""
    if offset == 0 and len(views) == 1 and len(views[0]) == length:
        return [views[0]]
    cut = []
    for view in views:
        size = len(view)
        if offset >= size:
            offset -= size
            continue
        if length <= 0:
            break
        part = view[offset : offset + length]
        cut.append(part)
        length -= len(part)
        offset = 0
    return cut
