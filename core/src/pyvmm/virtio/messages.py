"""Transfer of whole messages between a queue and a file descriptor, many in one native call, without the GIL.

A message is the data that one readv(2) or writev(2) moves: a frame of a tap, a datagram, a packet of a character
device. It is copied between the descriptor and guest memory directly; no Python code sees it.
"""

from __future__ import annotations

from pyvmm._native import ffi, lib
from pyvmm.host import cpus
from pyvmm.host.eventfd import EventFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from pyvmm.host.eventloop import EventLoop, LoopScope
    from pyvmm.virtio.queue import Queue

__all__ = ["MAX_BYTES", "MAX_MESSAGES", "MAX_TIME", "BothWays", "FromDescriptor", "Stop", "Stream", "ToDescriptor"]

MAX_MESSAGES: Final = 256
"""The most messages that one call moves, so that other devices on the loop get their turn."""

MAX_BYTES: Final = 1 << 20
"""One call moves no further message after this number of bytes, for the same reason."""

MAX_TIME: Final = 5
"""The longest time for which one call moves messages both ways before other work on the loop gets its turn, in
milliseconds."""

_SPIN_TIME: Final = 16_000
"""The time for which a call polls before it asks for a kick, in nanoseconds: about the cost of a kick and a wake-up."""

_LENGTH_SIZE: Final = 4


class Stop:
    """The reason why a call ended. It says which event to wait for before the next call."""

    EMPTY: Final[int] = lib.PYVMM_MESSAGES_EMPTY
    """The ring has no chains, or too few. The driver was asked to kick."""

    WAIT: Final[int] = lib.PYVMM_MESSAGES_WAIT
    """The descriptor would block."""

    BUDGET: Final[int] = lib.PYVMM_MESSAGES_BUDGET
    """The call has done its share; there may be more to do now."""

    ERROR: Final[int] = lib.PYVMM_MESSAGES_ERROR
    """The descriptor cannot be read; ``error`` says why."""


class Stream:
    """A stream socket on which each message follows its length, a 32-bit number in network byte order."""

    def __init__(self, fd: int, *, header: int, max_size: int) -> None:
        """``header``: the number of bytes at the start of a message in the ring that the stream lacks. They are left
        out on the way to the stream, and are zeros on the way back. ``max_size``: bytes of the longest message in the
        stream. The caller keeps ``fd`` and closes it."""
        self.fd = fd
        self._input = ffi.new("uint8_t[]", 2 * (_LENGTH_SIZE + max_size))
        self._rest = ffi.new("uint8_t[]", _LENGTH_SIZE + max_size)
        self.native: Any = ffi.new("struct pyvmm_message_stream *")
        """A ``struct pyvmm_message_stream *``, for native code."""
        self.native.fd = fd
        self.native.header = header
        self.native.max_size = max_size
        self.native.input = self._input
        self.native.input_size = len(self._input)
        self.native.rest = self._rest

    @property
    def has_more(self) -> bool:
        """Whether the stream may hold messages, read from the socket, for which no ring had room."""
        return bool(lib.pyvmm_message_stream_has_more(self.native))


class _Messages:
    """The common part of both directions."""

    def __init__(self, queue: Queue, channel: int | Stream, min_size: int, max_size: int) -> None:
        self.queue = queue
        # As long as two of the longest chains, and one element behind them that receiving needs.
        buffers = 2 * max(queue.size, lib.PYVMM_MAX_CHAIN)
        self._iov = ffi.new("struct iovec[]", buffers + 1)
        self.native: Any = ffi.new("struct pyvmm_messages *")
        """A ``struct pyvmm_messages *``, for native code."""
        self._channel = channel
        if isinstance(channel, Stream):
            self.native.fd = channel.fd
            self.native.stream = channel.native
        else:
            self.native.fd = channel
        self.native.iov = self._iov
        self.native.max_buffers = buffers
        self.native.min_size = min_size
        self.native.max_size = max_size
        self.native.max_messages = MAX_MESSAGES
        self.native.max_bytes = MAX_BYTES

    @property
    def messages(self) -> int:
        """The number of messages moved since the start."""
        return int(self.native.messages)

    @property
    def dropped(self) -> int:
        """The number of messages dropped since the start."""
        return int(self.native.dropped)

    @property
    def error(self) -> int:
        """The last errno of the descriptor; 0 when there was none."""
        return int(self.native.error)

    def _done(self, result: int) -> int:
        if self.native.interrupt and self.queue.interrupt is not None:
            self.queue.interrupt.signal_used_queue()
        self.queue.check(result)
        return result


class ToDescriptor(_Messages):
    """Writes each chain of a queue to a descriptor as one message, and completes it."""

    def __init__(self, queue: Queue, channel: int | Stream, *, min_size: int, max_size: int) -> None:
        """``channel``: a descriptor that keeps messages apart, or a stream. ``min_size``, ``max_size``: bytes of a
        message. Shorter and longer ones are dropped, and so are messages that the descriptor refuses. No other code may
        take the queue's chains."""
        super().__init__(queue, channel, min_size, max_size)

    def move(self) -> int:
        """Move what there is; raises :class:`~pyvmm.virtio.queue.QueueError`."""
        if self.queue.native is None:
            return Stop.EMPTY
        return self._done(lib.pyvmm_messages_to_fd(self.queue.native, self.native))


class FromDescriptor(_Messages):
    """Reads messages from a descriptor into a queue's chains, and completes the chains."""

    def __init__(
        self,
        queue: Queue,
        channel: int | Stream,
        *,
        min_size: int,
        max_size: int,
        merge: bool = False,
        count_offset: int = -1,
        clear: int = 0,
    ) -> None:
        """``channel``: as for :class:`ToDescriptor`.
        ``min_size``: the least bytes that a message has and that a chain must have.
        ``max_size``: bytes of the largest expected message. Larger ones are taken if they fit.
        ``merge``: whether one message may use several chains.
        ``count_offset``: the offset in a message at which the number of its chains is stored, in 16 bits; -1 to store
        none.
        ``clear``: leading bytes of each message that are set to 0.

        A message that does not fit into one chain, or with ``merge`` into the available chains, is dropped whole. With
        ``merge``, no message is read while the available chains have less than ``max_size`` bytes and the driver holds
        more than half of its chains back. No other code may take the queue's chains.
        """
        if max(count_offset + 2, clear) > min_size:
            raise ValueError("what is stored in a message must be within its shortest")
        super().__init__(queue, channel, min_size, max_size)
        self.native.merge = merge
        self.native.count_offset = count_offset
        self.native.clear = clear

    def move(self) -> int:
        """Move what there is; raises :class:`~pyvmm.virtio.queue.QueueError`."""
        if self.queue.native is None:
            return Stop.EMPTY
        return self._done(lib.pyvmm_messages_from_fd(self.queue.native, self.native))


class BothWays:
    """Moves messages from a queue to a descriptor, and from the descriptor into another queue, as long as there are
    any.

    It does not return between two messages, so that no call in Python delays them: it waits for more itself, but only
    while nothing else on the event loop is ready or due. If messages never stop coming, other work gets its turn after
    :data:`MAX_TIME`.
    """

    def __init__(self, to: ToDescriptor, back: FromDescriptor, loop: EventLoop | LoopScope) -> None:
        """``to``, ``back``: both of the same descriptor, which is no stream. ``loop``: the event loop that waits for
        the descriptor and the queues' kicks."""
        self._to = to
        self._back = back
        self._native: Any = ffi.new("struct pyvmm_message_pair *")
        self._native.to = to.native
        self._native.back = back.native
        self._loop = loop
        self._native.loop = loop.fileno()
        # With one CPU, polling would keep the CPU from the thread that could bring more.
        self._native.spin_ns = _SPIN_TIME if cpus.has_several() else 0
        self._native.max_ms = MAX_TIME

    def move(self) -> tuple[int, int]:
        """Move all messages that are there or come meanwhile. Returns the reason why each direction stopped; raises as
        they do."""
        to, back, native = self._to.queue, self._back.queue, self._native
        plain = type(to.event) is EventFd and type(back.event) is EventFd  # a polled ring's kick must not be drained
        if not plain or to.native is None or back.native is None or to.interrupt is None or back.interrupt is None:
            return self._to.move(), self._back.move()
        native.to_queue, native.back_queue = to.native, back.native
        native.to_kick, native.back_kick = to.event.fd, back.event.fd
        native.to_call, native.back_call = to.interrupt.call_fd, back.interrupt.call_fd
        native.idle_until = self._loop.idle_until()
        lib.pyvmm_message_pair_move(native)
        to.interrupt.used_signals += native.to_calls
        back.interrupt.used_signals += native.back_calls
        to.check(native.to_stop)
        back.check(native.back_stop)
        return native.to_stop, native.back_stop
