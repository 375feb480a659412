"""A virtio device that a vhost-user back end serves: another process, of pyvmm or of another program.

No request passes through this process: the back end gets the queues' ioeventfds as kicks and the transport's irqfd as
calls, and it shares guest memory. Only the driver's accesses to registers pass through here: features, status,
configuration. The device waits for the back end, for a bounded time, on a thread of its own.
"""

from __future__ import annotations

import time

from pyvmm.errors import PyvmmError
from pyvmm.host.eventfd import EventFd
from pyvmm.host.loop_thread import LoopThread
from pyvmm.logs import logger
from pyvmm.vhost_user.protocol import (
    NEED_REPLY,
    BackendRequest,
    DisconnectedError,
    ProtocolFeature,
    VhostUserError,
    pack_u64,
    request_name,
)
from pyvmm.vhost_user.session import InflightBuffer, Session
from pyvmm.virtio.device import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from pyvmm.device_context import DeviceContext
    from pyvmm.memory import GuestMemory
    from pyvmm.vhost_user.connection import Connection, Message
    from pyvmm.vhost_user.source import BackendSource
    from pyvmm.virtio.interrupt import Interrupt
    from pyvmm.virtio.queue import Queue

__all__ = ["DEVICE_FEATURES", "VhostUserDevice"]

log = logger(__name__)

DEVICE_FEATURES: Final = (1 << 24) - 1 | ((1 << 64) - (1 << 50))
"""The feature bits of device types (virtio 1.2, section 2.2): 0 to 23, and 50 and up."""

RESTART_TIMEOUT: Final = 10.0
"""Seconds within which a lost back end has to be back."""

MAX_RESTARTS: Final = 5
RESTART_WINDOW: Final = 60.0
"""At most MAX_RESTARTS restarts are made within RESTART_WINDOW seconds. Otherwise a request that kills each process
would be retried for ever."""

_RETRY_DELAY: Final = 0.1
_MAX_CONFIG_WRITES: Final = 64
_CHANNEL_BURST: Final = 32
"""The number of requests that a back end may make in :data:`_CHANNEL_PAUSE` seconds; further ones wait."""
_CHANNEL_PAUSE: Final = 0.5


class VhostUserDevice(VirtioDevice):
    """A virtio device of any type, served by a back end.

    A back end that sends wrong answers, stalls or disconnects fails this device and nothing else. If the source can
    give another back end, that one continues where the lost one stopped, requests in flight included.
    """

    config: bytes | bytearray
    needs_memfd = True

    def __init__(
        self,
        source: BackendSource,
        *,
        device_type: int,
        queue_max_sizes: Sequence[int],
        config_size: int = 0,
        config: bytes | None = None,
        feature_mask: int = DEVICE_FEATURES,
    ) -> None:
        """Connect to a back end. Raises :class:`PyvmmError` if that fails or if the back end lacks something.

        ``config_size``: bytes of the back end's configuration space, 0 to 256. ``config``: a constant configuration
        space, used instead of the back end's. ``feature_mask``: the device's features that may be offered.
        """
        self.device_type = device_type
        self.queue_max_sizes = tuple(queue_max_sizes)
        self.config = config or b""
        self._source = source
        self.config_size = 0 if config is not None else config_size
        self.feature_mask = feature_mask & DEVICE_FEATURES
        self._session: Session | None = None
        self._lost = ""
        """The reason why the session ended."""
        self._acked: int | None = None
        self._active = False
        self._config_writes: dict[tuple[int, int], bytes] = {}
        """The driver's writes, oldest first. A restarted back end gets them again."""
        self._inflight: InflightBuffer | None = None
        self._restarts: list[float] = []
        self._channel_used = 0
        self._err = EventFd()
        self.own_loop = LoopThread("vhost-user")
        try:
            self._session = self._connect()
            features = self._session.features
            self.device_features = features & self.feature_mask
            self.ring_features = features & type(self).ring_features
            self._read_config()
        except VhostUserError as error:
            reason = self._source.end(error)
            self._abandon()
            raise VhostUserError(reason) from error
        except BaseException:
            self._abandon()
            raise

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)
        assert self.own_loop is not None
        self.own_loop.name = context.name
        self._source.watch(self.own_loop, context.stop)
        self._watch()

    def ack_features(self, page: int, value: int) -> None:
        """Send the features to the back end once all pages are known. The back end may then have another
        configuration."""
        super().ack_features(page, value)
        if page == 3:
            self._acked = self.acked_features
            self._attempt(self._send_features)

    def read_config(self, offset: int, data: memoryview) -> None:
        """Answer from memory. A back end that cannot announce changes is asked each time."""
        if self._session is not None and self._session.channel is None:
            self._attempt(self._read_config)
        super().read_config(offset, data)

    def write_config(self, offset: int, data: memoryview) -> None:
        if offset + len(data) > self.config_size:
            return
        key = offset, len(data)
        self._config_writes.pop(key, None)
        if len(self._config_writes) < _MAX_CONFIG_WRITES:
            self._config_writes[key] = bytes(data)
        if self._session is not None:
            self._attempt(lambda session: self._write_config(session, offset, bytes(data)))

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        self.memory = mem
        self.interrupt = interrupt
        self.queues = queues
        self._active = True
        self._watch()
        self._attempt(self._start)

    def reset(self) -> bool:
        """Make the back end stop using guest memory. If the back end is lost and there is no other, the reset fails and
        the driver cannot use the device again."""
        rings = self._ready_queues()
        self._active = False
        self._acked = None
        self.acked_features = 0
        self._config_writes.clear()
        if self._inflight is not None:
            self._inflight.close()
            self._inflight = None
        try:
            if self._session is None:
                self._recover(VhostUserError(self._lost))
            else:
                self._attempt(lambda session: session.reset([queue.index for queue in rings]))
        except VhostUserError as error:
            log.info("%s: %s", self.name, error)
            return False
        self._watch()
        self._attempt(self._read_config)
        self.queues = ()
        return True

    def end(self, active: bool) -> None:
        """Close the connection without waiting for the back end: the closed connection tells it of the end."""
        self.close()

    def close(self) -> None:
        """Close the connection; a back end of pyvmm then ends."""
        self._close_session()
        if self._inflight is not None:
            self._inflight.close()
            self._inflight = None
        self._source.close()
        self._err.close()

    def _abandon(self) -> None:
        assert self.own_loop is not None
        self.close()
        self.own_loop.close()

    # Requests to the back end, as long as a session lasts.

    def _connect(self) -> Session:
        session = Session(self._source.connect(), inflight=self._source.restartable)
        try:
            self.check(session)
        except BaseException:
            session.close()
            raise
        return session

    def check(self, session: Session) -> None:
        """Check that the back end has the queues, the configuration space and the accepted features of this device;
        raises :class:`VhostUserError`. A subclass may adjust ``config_size`` and ``feature_mask`` to the first back
        end."""
        if session.max_queues and session.max_queues < len(self.queue_max_sizes):
            raise VhostUserError(f"it has {session.max_queues} queues, not {len(self.queue_max_sizes)}")
        if self.config_size and not session.has(ProtocolFeature.CONFIG):
            raise VhostUserError("it has no configuration space (VHOST_USER_PROTOCOL_F_CONFIG)")
        if missing := (self._acked or 0) & ~session.features:
            raise VhostUserError(f"it lacks the features {missing:#x}, which the driver uses")

    def _send_features(self, session: Session) -> None:
        session.set_features(self._acked or 0)
        self._read_config(session)

    def _read_config(self, session: Session | None = None) -> None:
        session = session or self._session
        if self.config_size and session is not None:
            self.config = session.read_config(self.config_size)

    def _write_config(self, session: Session, offset: int, data: bytes) -> None:
        session.write_config(offset, data)
        self._read_config(session)

    def _start(self, session: Session, *, resumed: bool = False) -> None:
        session.set_memory(self.memory)
        rings = self._ready_queues()
        if session.has(ProtocolFeature.INFLIGHT_SHMFD) and rings:
            if self._inflight is None:
                self._inflight = session.get_inflight(len(self.queues), max(queue.size for queue in rings))
            session.set_inflight(self._inflight)
        for queue in rings:
            call = self._call_event(queue).fd
            # Requests that a lost back end completed are done. An inflight buffer tells the next one more exactly.
            base = queue.used_idx() if resumed else 0
            session.start_ring(queue, base, call, self._err.fd)
        session.enable_rings([queue.index for queue in rings])

    def _ready_queues(self) -> list[Queue]:
        return [queue for queue in self.queues if queue.ready]

    def _call_event(self, queue: Queue) -> EventFd:
        """The eventfd that the back end signals for used buffers of ``queue``; several queues may have the same one."""
        return (queue.interrupt or self.interrupt).event

    # Loss and recovery of the session.

    def _attempt(self, function: Callable[[Session], object]) -> None:
        """Run ``function`` with the session. If that fails, :meth:`_recover` gets another session in the wanted
        state."""
        if self._session is None:
            raise VhostUserError(self._lost)
        try:
            function(self._session)
        except VhostUserError as error:
            self._recover(error)

    def _recover(self, error: VhostUserError) -> None:
        """Replace the session, lost for ``error``, with a new one in the same state, or raise."""
        if self._session is not None:
            self._close_session()
            self._lost = self._source.end(error)
        deadline = time.monotonic() + RESTART_TIMEOUT
        while self._may_restart() and time.monotonic() < deadline:
            log.warning("%s: %s; a new one replaces it", self.context.label, self._lost)
            self._session = self._reconnect(deadline)
            try:
                self._restore(self._session)
            except VhostUserError as failure:
                self._close_session()
                self._lost = self._source.end(failure)
            else:
                self._watch()
                return
        raise VhostUserError(self._lost)

    def _may_restart(self) -> bool:
        if not self._source.restartable:
            return False
        now = time.monotonic()
        if len(self._restarts) == MAX_RESTARTS and now - self._restarts[0] < RESTART_WINDOW:
            window = now - self._restarts[0]
            log.error("%s: %d restarts in %d s did not help", self.context.label, MAX_RESTARTS, window)
            return False
        self._restarts = [*self._restarts[1 - MAX_RESTARTS :], now]
        return True

    def _reconnect(self, deadline: float) -> Session:
        """A new session. Raises :class:`VhostUserError` if there is none before ``deadline``."""
        while True:
            try:
                return self._connect()
            except PyvmmError as error:
                # The lost one's resources on the host, such as a lock, may be released a little after its end.
                if time.monotonic() > deadline:
                    self._lost = str(error)
                    raise VhostUserError(self._lost) from error
                log.debug("%s: %s; trying again", self.name, error)
                time.sleep(_RETRY_DELAY)

    def _restore(self, session: Session) -> None:
        """Bring a new back end into the state in which the driver had the lost one."""
        if self._acked is not None:
            session.set_features(self._acked)
        for (offset, _), data in self._config_writes.items():
            session.write_config(offset, data)
        self._read_config(session)
        if self._active:
            self._start(session, resumed=True)
            rings = self._ready_queues()
            for queue in rings:
                queue.event.signal()  # the lost one may have taken the kick but not its request
            for call in {self._call_event(queue) for queue in rings}:
                call.signal()  # and may have owed an interrupt

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        if hasattr(self, "context"):
            self.context.loop.remove(session.connection.fileno())
            self.context.loop.remove(self._source.end_fd)
            if session.channel is not None:
                self.context.loop.remove(session.channel.fileno())
        session.close()

    # Messages that the back end sends unasked.

    def _watch(self) -> None:
        """Watch the back end's descriptors. A failure of the device has removed them from the loop."""
        session, loop = self._session, self.context.loop
        if session is None:
            return
        self._channel_used = 0
        for fd, callback in (
            (session.connection.fileno(), self._on_message),
            (self._err.fd, self._on_err),
            (self._source.end_fd, self._on_end),
            (session.channel.fileno() if session.channel is not None else -1, self._on_channel),
        ):
            if fd >= 0:
                loop.remove(fd)
                loop.add(fd, callback)

    def _on_message(self, _: int) -> None:
        """The back end has disconnected, or sends an unasked message on the connection."""

        def receive(session: Session) -> None:
            message = session.connection.receive_available()
            if message is not None:
                message.close()
                raise VhostUserError(f"it sends {message.name}, which nobody asked")

        self._attempt(receive)

    def _on_end(self, _: int) -> None:
        def end(_: Session) -> None:
            raise DisconnectedError("the other side has disconnected")

        self._attempt(end)

    def _on_err(self, _: int) -> None:
        self._err.drain()
        self.context.loop.remove(self._err.fd)  # until the driver has reset the device
        if self._active:
            self.interrupt.signal_needs_reset("its back end reports an error in a ring")

    def _on_channel(self, _: int) -> None:
        self._attempt(self._receive_request)

    def _receive_request(self, session: Session) -> None:
        channel = session.channel
        assert channel is not None
        message = channel.receive_available()
        if message is None:
            return
        with message:
            self._answer(session, channel, message)
        self._channel_used += 1
        if self._channel_used == 1:
            self.context.loop.call_later(_CHANNEL_PAUSE, self._channel_rested)
        if self._channel_used == _CHANNEL_BURST:
            self.context.loop.remove(channel.fileno())

    def _answer(self, session: Session, channel: Connection, message: Message) -> None:
        known = message.request == BackendRequest.CONFIG_CHANGE_MSG
        if known:
            self._read_config(session)
            if self._active:
                self.interrupt.signal_config_change()
        else:
            log.debug("%s: %s is not supported", self.name, request_name(message.request, BackendRequest))
        if message.flags & NEED_REPLY and session.has(ProtocolFeature.REPLY_ACK):
            channel.reply(message, pack_u64(0 if known else 1))

    def _channel_rested(self) -> None:
        paused, self._channel_used = self._channel_used >= _CHANNEL_BURST, 0
        if paused and self._session is not None and self._session.channel is not None:
            self.context.loop.add(self._session.channel.fileno(), self._on_channel)
