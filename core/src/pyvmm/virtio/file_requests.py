"""Requests that read or write a file, from the available to the used ring in one native call, without the GIL.

This serves devices whose requests are a header, data and a status. The device describes a plain transfer; it gets every
other request as a chain and serves that itself.
"""

from __future__ import annotations

from pyvmm._native import ffi, lib
from pyvmm.host import cpus
from pyvmm.host.eventfd import EventFd
from pyvmm.startup.record import record
from pyvmm.virtio.queue import DescriptorChain, Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from pyvmm.host.aio import IoEngine, IoFile
    from pyvmm.host.eventloop import LoopScope
    from pyvmm.memory import GuestMemory

__all__ = ["MAX_BYTES", "MAX_REQUESTS", "TransferError", "TransferFormat", "Transfers"]

_move = lib.pyvmm_file_requests_move
_publish = lib.pyvmm_queue_publish
_OTHER: Final[int] = lib.PYVMM_FILE_REQUESTS_OTHER
_BUDGET: Final[int] = lib.PYVMM_FILE_REQUESTS_BUDGET
_AGAIN: Final[int] = lib.PYVMM_FILE_REQUESTS_AGAIN

MAX_REQUESTS: Final = 64
"""The most requests that one native call starts."""

MAX_BYTES: Final = 4 << 20
"""One native call starts no further request after this number of bytes."""


MAX_POLL: Final = 50_000
"""The time for which an empty queue is polled before the driver is asked for a kick, in nanoseconds."""


@record
class TransferFormat:
    """The layout of requests: a header and data to write; data to read and a status byte. Numbers are little-endian."""

    header_size: int
    """Bytes, up to 64."""

    type_offset: int
    """The offset of the request's type in the header; the type has 32 bits."""

    position_offset: int
    """The offset of the file position in the header; the position has 64 bits."""

    unit: int
    """The unit of a position, in bytes. A request whose data is not a multiple of it is no plain transfer."""

    read_type: int
    write_type: int
    done: int
    """The status of success."""

    failed: int
    """The status of a transfer that failed on the host, wholly or in part."""


@record
class TransferError:
    """The reason of a failed transfer."""

    is_write: bool
    offset: int
    """Bytes."""

    error: int
    """An errno; ENODATA where the file ended."""


class Transfers:
    """The plain transfers of an active queue: :meth:`serve` carries them out and yields the other requests.

    No other code may take the queue's chains. The object belongs to one activation: drain the engine before its end.
    """

    def __init__(
        self,
        queue: Queue,
        memory: GuestMemory,
        engine: IoEngine,
        file: IoFile,
        format: TransferFormat,
        *,
        end: int,
        loop: LoopScope | None = None,
    ) -> None:
        """``end``: the first byte of ``file`` that requests cannot reach. Writes are plain transfers if
        :attr:`writable` is set; it is unset at first.

        ``loop``: the event loop that waits for the queue's kicks and for the engine's descriptor. Give it only if the
        engine serves no other queue. :meth:`serve` then waits for more requests itself, as long as nothing else on the
        loop has work. With more than one CPU, it polls an empty ring for a moment (:data:`MAX_POLL`) before it asks the
        driver for a kick."""
        self._queue = queue
        self._loop = loop
        self._memory = memory
        self._engine = engine
        self._ring = queue.ring  # lives as long as transfers are under way
        self._file = file
        buffers = max(queue.size, lib.PYVMM_MAX_CHAIN)
        self._iov = ffi.new("struct iovec[]", buffers)
        self._addresses = ffi.new("uint64_t[]", buffers)
        self._native: Any = ffi.new(
            "struct pyvmm_file_requests *",
            {
                "aio": engine.native,
                "file": file.native,
                "header_size": format.header_size,
                "type_offset": format.type_offset,
                "position_offset": format.position_offset,
                "unit": format.unit,
                "end": end,
                "read_type": format.read_type,
                "write_type": format.write_type,
                "status_done": format.done,
                "status_failed": format.failed,
                "max_requests": MAX_REQUESTS,
                "max_bytes": MAX_BYTES,
                "max_poll": MAX_POLL if loop is not None and cpus.has_several() else 0,
                "loop": -1,
                "max_buffers": buffers,
                "iov": self._iov,
                "addresses": self._addresses,
            },
        )
        self._budgets = max(2 * queue.size // MAX_REQUESTS, 1)
        header_end = max(format.header_size, format.type_offset + 4, format.position_offset + 8)
        if header_end > lib.PYVMM_FILE_REQUESTS_MAX_HEADER:
            raise ValueError("the header is too long")

    @property
    def writable(self) -> bool:
        """Whether requests of the write type are plain transfers."""
        return bool(self._native.writable)

    @writable.setter
    def writable(self, value: bool) -> None:
        self._native.writable = value

    @property
    def write_flags(self) -> int:
        """Flags for pwritev2(2), such as os.RWF_DSYNC."""
        return int(self._native.write_flags)

    @write_flags.setter
    def write_flags(self, value: int) -> None:
        self._native.write_flags = value

    @property
    def finished(self) -> int:
        """The number of transfers completed since the activation."""
        return int(self._native.finished)

    def serve(self) -> Iterator[DescriptorChain]:
        """Complete finished transfers and start available ones. Yields each request that is no plain transfer.

        Call it on a kick, and when the engine's descriptor is readable. It stops after about twice the ring's size;
        then the queue kicks itself. Raises :class:`~pyvmm.virtio.queue.QueueError`.
        """
        native, queue, ring, loop = self._native, self._queue, self._ring, self._loop
        budgets, turns = self._budgets, 2 * queue.size
        while budgets and turns:
            interrupt = queue.interrupt
            if queue.native is not ring or interrupt is None:
                if queue.paused and queue.ring is ring:
                    self._engine.dispatch()  # started transfers must still finish
                return  # else not active any more
            if loop is not None and type(queue.event) is EventFd:
                native.loop, native.idle_until = loop.fileno(), loop.idle_until()
                native.kick, native.call = queue.event.fd, interrupt.call_fd
            else:
                native.loop = -1  # a polled ring's kick must not be drained
            stop = _move(ring, native)
            interrupt.used_signals += native.calls
            if native.interrupt:
                interrupt.signal_used_queue()
            if stop == _BUDGET:
                budgets -= 1
            elif stop == _OTHER:
                turns -= 1
                yield self._chain()
            elif stop == _AGAIN:
                turns -= 1
            else:
                queue.check(stop)
                return
        queue.event.signal()

    def publish(self) -> None:
        """Publish transfers that were completed outside of :meth:`serve`. Queues that share an engine complete each
        other's transfers, so each must publish after the last of them was served."""
        queue = self._queue
        if queue.native is self._ring and _publish(self._ring) and queue.interrupt is not None:
            queue.interrupt.signal_used_queue()

    def take_error(self) -> TransferError | None:
        """The error of the last failed transfer; None if none failed since the last call."""
        native = self._native
        if native.failed == native.told:
            return None
        native.told = native.failed
        return TransferError(bool(native.error_write), int(native.error_offset), int(native.error))

    def _chain(self) -> DescriptorChain:
        """The chain that was taken last."""
        chain = self._native.chain
        iov, addresses, slice_ = self._iov, self._addresses, self._memory.slice
        views = [slice_(addresses[i], iov[i].iov_len) for i in range(chain.readable + chain.writable)]
        return DescriptorChain(
            self._queue,
            chain.head,
            views[: chain.readable],
            views[chain.readable :],
            chain.readable_length,
            chain.writable_length,
        )
