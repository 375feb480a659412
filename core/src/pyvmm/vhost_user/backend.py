"""The back end of vhost-user: it serves any plugin's virtio device to a front end (QEMU, crosvm, another pyvmm)."""

from __future__ import annotations

import os
import stat

from pyvmm.host.eventfd import EventFd
from pyvmm.logs import logger
from pyvmm.vhost_user import protocol
from pyvmm.vhost_user.connection import Connection, Message
from pyvmm.vhost_user.inflight import InflightArea
from pyvmm.vhost_user.protocol import (
    BackendRequest,
    ConfigSpace,
    DisconnectedError,
    FrontendRequest,
    Inflight,
    MemoryRegion,
    Number,
    ProtocolFeature,
    VhostUserError,
    VringAddr,
    VringFd,
    VringState,
    pack_u64,
    unpack_u64,
)
from pyvmm.vhost_user.served_device import ServedDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Final, TypeAlias

    from pyvmm.device_context import MachineView
    from pyvmm.exit_reason import ExitReason
    from pyvmm.host.eventloop import EventLoop
    from pyvmm.vhost_user.vring import Vring
    from pyvmm.virtio.device import VirtioDevice

log = logger(__name__)

PROTOCOL_FEATURES: Final = sum(
    feature.mask
    for feature in (
        ProtocolFeature.MQ,
        ProtocolFeature.REPLY_ACK,
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.CONFIG,
        ProtocolFeature.INFLIGHT_SHMFD,
        ProtocolFeature.RESET_DEVICE,
        ProtocolFeature.CONFIGURE_MEM_SLOTS,
        ProtocolFeature.STATUS,
    )
)
"""The features that this back end offers in GET_PROTOCOL_FEATURES."""

_NEEDS: Final = {
    FrontendRequest.GET_QUEUE_NUM: ProtocolFeature.MQ,
    FrontendRequest.SET_BACKEND_REQ_FD: ProtocolFeature.BACKEND_REQ,
    FrontendRequest.GET_CONFIG: ProtocolFeature.CONFIG,
    FrontendRequest.SET_CONFIG: ProtocolFeature.CONFIG,
    FrontendRequest.GET_INFLIGHT_FD: ProtocolFeature.INFLIGHT_SHMFD,
    FrontendRequest.SET_INFLIGHT_FD: ProtocolFeature.INFLIGHT_SHMFD,
    FrontendRequest.RESET_DEVICE: ProtocolFeature.RESET_DEVICE,
    FrontendRequest.GET_MAX_MEM_SLOTS: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    FrontendRequest.ADD_MEM_REG: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    FrontendRequest.REM_MEM_REG: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    FrontendRequest.SET_STATUS: ProtocolFeature.STATUS,
    FrontendRequest.GET_STATUS: ProtocolFeature.STATUS,
}
"""Requests that are legal only when a protocol feature was negotiated."""

_MESSAGES_A_TURN: Final = 64

Answer: TypeAlias = "bytes | tuple[bytes, int] | None"
"""A reply's payload, with a descriptor if the reply carries one; None for a request without a reply of its own."""


class Backend:
    """Serves ``device`` to one front end after the other. Use it on the loop's thread.

    ::

        backend = Backend(device, "block0", loop)
        backend.serve(connected_socket, on_disconnect=loop.stop)
        loop.run()
        backend.close()

    A front end that breaks the protocol is disconnected. A device that fails is stopped, and the rings' err descriptors
    tell the front end. Neither ends the loop.
    """

    def __init__(
        self,
        device: VirtioDevice,
        name: str,
        loop: EventLoop,
        stop: Callable[[ExitReason], None] = lambda reason: None,
        machine: MachineView | None = None,
    ) -> None:
        """Attach ``device``, which :meth:`close` closes. ``stop`` ends the machine, and ``machine`` is the device's
        view of it."""
        self._loop = loop
        self._connection: Connection | None = None
        self._channel: Connection | None = None
        self._on_disconnect: Callable[[], None] = lambda: None
        self._protocol_features = 0
        self._served = ServedDevice(device, name, loop, stop, self._tell_config_change, machine)
        self.name = self._served.title
        """The device's name in the log."""

    @property
    def connected(self) -> bool:
        """Whether a front end is connected."""
        return self._connection is not None

    def serve(self, sock: socket.socket, on_disconnect: Callable[[], None] = lambda: None) -> None:
        """Take over ``sock``, which is connected to a front end, and serve the front end while the loop runs.

        ``on_disconnect`` is called when the front end has left or was disconnected; then another one may be served.
        Raises RuntimeError if a front end is connected already.
        """
        if self._connection is not None:
            raise RuntimeError(f"{self.name}: a front end is connected already")
        self._connection = Connection(sock)
        self._on_disconnect = on_disconnect
        self._loop.add(self._connection.fileno(), self._readable)
        log.info("%s: a front end has connected", self.name)

    def disconnect(self) -> None:
        """Disconnect the front end, if there is one, and return the device to its initial state."""
        if self._connection is None:
            return
        self._loop.remove(self._connection.fileno())
        self._connection.close()
        self._connection = None
        self._close_channel()
        self._protocol_features = 0
        self._served.disconnect()
        self._on_disconnect()

    def close(self) -> None:
        """Disconnect the front end and close the device."""
        self._on_disconnect = lambda: None
        self.disconnect()
        self._served.close()

    def _readable(self, _: int) -> None:
        try:
            for _ in range(_MESSAGES_A_TURN):
                if self._connection is None:
                    return
                message = self._connection.receive_available()
                if message is None:
                    break
                with message:
                    self._take(message)
            self._served.settle()
        except DisconnectedError as error:
            log.info("%s: the front end: %s", self.name, error)
            self.disconnect()
        except VhostUserError as error:
            log.error("%s: the front end breaks the protocol: %s; it is disconnected", self.name, error)
            self.disconnect()
        except OSError as error:
            log.error("%s: the host refuses the front end something: %s; it is disconnected", self.name, error.strerror)
            self.disconnect()
        except Exception:
            log.exception("%s: serving the front end failed; it is disconnected", self.name)
            self.disconnect()

    def _take(self, message: Message) -> None:
        """Carry out one message, and answer it if the front end asks for an answer."""
        assert self._connection is not None
        if message.is_reply:
            raise VhostUserError(f"an answer to {message.name}, which nobody asked")
        wants_ack = message.needs_reply and self._has(ProtocolFeature.REPLY_ACK)
        try:
            answer = self._carry_out(message)
        except VhostUserError as error:
            if not wants_ack or message.request in _ANSWERED:
                raise
            log.warning("%s: refused: %s", self.name, error)
            self._connection.reply(message, pack_u64(1))
            return
        if self._connection is None:
            return  # lost while requests in flight were finishing
        if isinstance(answer, tuple):
            payload, fd = answer
            self._connection.reply(message, payload, [fd])
        elif answer is not None:
            self._connection.reply(message, answer)
        elif message.needs_reply and self._has(ProtocolFeature.REPLY_ACK):
            self._connection.reply(message, pack_u64(0))

    def _carry_out(self, message: Message) -> Answer:
        handler = _HANDLERS.get(message.request)
        if handler is None:
            raise VhostUserError(f"{message.name} is not supported")
        feature = _NEEDS.get(message.request)  # type: ignore[call-overload]
        if feature is not None and not self._has(feature):
            raise VhostUserError(f"{message.name} without {feature.name} negotiated")
        return handler(self, message)

    def _has(self, feature: Number) -> bool:
        return bool(self._protocol_features & feature.mask)

    def _vring(self, index: int) -> Vring:
        if index >= len(self._served.vrings):
            raise VhostUserError(f"ring {index} of {len(self._served.vrings)}")
        return self._served.vrings[index]

    # Features.

    def _get_features(self, message: Message) -> Answer:
        return pack_u64(self._served.features)

    def _set_features(self, message: Message) -> Answer:
        self._served.set_features(unpack_u64(message.payload))
        return None

    def _get_protocol_features(self, message: Message) -> Answer:
        return pack_u64(PROTOCOL_FEATURES)

    def _set_protocol_features(self, message: Message) -> Answer:
        features = unpack_u64(message.payload)
        if features & ~PROTOCOL_FEATURES:
            raise VhostUserError(f"protocol features that were not offered: {features & ~PROTOCOL_FEATURES:#x}")
        self._protocol_features = features
        return None

    def _get_queue_num(self, message: Message) -> Answer:
        return pack_u64(len(self._served.vrings))

    def _get_max_mem_slots(self, message: Message) -> Answer:
        return pack_u64(protocol.MAX_MEMORY_REGIONS)

    # The session and the device's state.

    def _set_owner(self, message: Message) -> Answer:
        return None

    def _reset_owner(self, message: Message) -> Answer:
        """Deprecated. If it does anything, it should "disable all rings"."""
        for vring in self._served.vrings:
            self._served.enable_vring(vring, False)
        return None

    def _reset_device(self, message: Message) -> Answer:
        self._served.reset(disable=True)
        return None

    def _set_status(self, message: Message) -> Answer:
        self._served.set_status(unpack_u64(message.payload))
        return None

    def _get_status(self, message: Message) -> Answer:
        return pack_u64(self._served.status)

    def _set_backend_req_fd(self, message: Message) -> Answer:
        channel = Connection.from_fd(message.take_fd())
        self._close_channel()
        self._channel = channel
        return None

    # The configuration space.

    def _get_config(self, message: Message) -> Answer:
        wanted = ConfigSpace.unpack(message.payload)
        data = self._served.get_config(wanted.offset, len(wanted.data))
        # "zero length of payload to indicate an error"
        return ConfigSpace(wanted.offset, data, wanted.flags).pack() if data or not wanted.data else b""

    def _set_config(self, message: Message) -> Answer:
        config = ConfigSpace.unpack(message.payload)
        self._served.set_config(config.offset, config.data)
        return None

    def _tell_config_change(self) -> None:
        """Send CONFIG_CHANGE_MSG. If the socket is full, drop it: the messages that wait there tell the front end the
        same."""
        if self._channel is None or not self._has(ProtocolFeature.CONFIG):
            return
        try:
            self._channel.send(BackendRequest.CONFIG_CHANGE_MSG, timeout=0)
        except DisconnectedError:
            self._close_channel()
        except VhostUserError as error:
            log.debug("%s: a configuration change could not be sent: %s", self.name, error)

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # Memory.

    def _set_mem_table(self, message: Message) -> Answer:
        regions = protocol.unpack_memory_table(message.payload)
        self._served.table.set(regions, message.take_fds(len(regions)))
        self._served.memory_changed()
        return None

    def _add_mem_reg(self, message: Message) -> Answer:
        region = MemoryRegion.unpack(message.payload)
        self._served.table.add(region, message.take_fd())
        self._served.memory_changed()
        return None

    def _rem_mem_reg(self, message: Message) -> Answer:
        """The message should carry no descriptor. If it carries one, that is closed."""
        self._served.table.remove(MemoryRegion.unpack(message.payload))
        self._served.memory_changed()
        return None

    # Requests in flight.

    def _get_inflight_fd(self, message: Message) -> Answer:
        wanted = Inflight.unpack(message.payload)
        if wanted.num_queues > len(self._served.vrings):
            raise VhostUserError(f"an inflight area for {wanted.num_queues} of {len(self._served.vrings)} rings")
        area = InflightArea.create(wanted.num_queues, wanted.queue_size)
        fd = os.dup(area.fd)
        area.close()
        message.fds.append(fd)  # closed with the message, when it is answered
        return area.description.pack(), fd

    def _set_inflight_fd(self, message: Message) -> Answer:
        description = Inflight.unpack(message.payload)
        self._served.set_inflight(InflightArea(message.take_fd(), description))
        return None

    # Rings.

    def _set_vring_num(self, message: Message) -> Answer:
        state = VringState.unpack(message.payload)
        vring = self._vring(state.index)
        if not 0 < state.num <= vring.queue.max_size or state.num & (state.num - 1):
            raise VhostUserError(f"ring {state.index} of size {state.num}; it may have {vring.queue.max_size}")
        if vring.size != state.num:
            self._served.vring_changed(vring)
            vring.size = state.num
        return None

    def _set_vring_addr(self, message: Message) -> Answer:
        addresses = VringAddr.unpack(message.payload)
        vring = self._vring(addresses.index)
        if vring.addresses != addresses:
            self._served.vring_changed(vring)
            vring.addresses = addresses
        return None

    def _set_vring_base(self, message: Message) -> Answer:
        state = VringState.unpack(message.payload)
        vring = self._vring(state.index)
        if state.num > 0xFFFF:
            raise VhostUserError(f"ring {state.index} with base {state.num:#x}")
        if vring.queue.ready:
            raise VhostUserError(f"ring {state.index} gets another base while it runs")
        vring.set_base(state.num)
        return None

    def _get_vring_base(self, message: Message) -> Answer:
        state = VringState.unpack(message.payload)
        vring = self._vring(state.index)
        assert self._connection is not None
        fd = self._connection.fileno()
        # Wait for requests in flight. The front end's next message has to wait meanwhile.
        self._loop.remove(fd)
        base = self._served.stop_vring(vring)
        if self._connection is not None:
            self._loop.add(fd, self._readable)
        return VringState(state.index, base).pack()

    def _set_vring_kick(self, message: Message) -> Answer:
        vring, event = self._vring_event(message)
        self._served.start_vring(vring, event)
        return None

    def _set_vring_call(self, message: Message) -> Answer:
        vring, event = self._vring_event(message)
        self._served.set_call(vring, event)
        return None

    def _set_vring_err(self, message: Message) -> Answer:
        vring, event = self._vring_event(message)
        vring.set_err(event)
        return None

    def _set_vring_enable(self, message: Message) -> Answer:
        state = VringState.unpack(message.payload)
        if state.num > 1:
            raise VhostUserError(f"ring {state.index} is to be enabled with {state.num}, neither 0 nor 1")
        self._served.enable_vring(self._vring(state.index), bool(state.num))
        return None

    def _vring_event(self, message: Message) -> tuple[Vring, EventFd | None]:
        record = VringFd.unpack(message.payload)
        vring = self._vring(record.index)
        if not record.has_fd:
            message.take_fds(0)
            return vring, None
        fd = message.take_fd()
        # The descriptor must be an eventfd, which is an anonymous inode. A read of a file, pipe or socket could block
        # or never end.
        if stat.S_IFMT(os.fstat(fd).st_mode):
            os.close(fd)
            raise VhostUserError(f"{message.name} with a descriptor that is no eventfd")
        try:
            os.set_blocking(fd, False)
        except OSError as error:
            os.close(fd)
            raise VhostUserError(f"{message.name} with a descriptor that cannot be set: {error.strerror}") from error
        return vring, EventFd(fd)


_HANDLERS: Final[dict[int, Callable[[Backend, Message], Answer]]] = {
    FrontendRequest.GET_FEATURES: Backend._get_features,
    FrontendRequest.SET_FEATURES: Backend._set_features,
    FrontendRequest.SET_OWNER: Backend._set_owner,
    FrontendRequest.RESET_OWNER: Backend._reset_owner,
    FrontendRequest.SET_MEM_TABLE: Backend._set_mem_table,
    FrontendRequest.SET_VRING_NUM: Backend._set_vring_num,
    FrontendRequest.SET_VRING_ADDR: Backend._set_vring_addr,
    FrontendRequest.SET_VRING_BASE: Backend._set_vring_base,
    FrontendRequest.GET_VRING_BASE: Backend._get_vring_base,
    FrontendRequest.SET_VRING_KICK: Backend._set_vring_kick,
    FrontendRequest.SET_VRING_CALL: Backend._set_vring_call,
    FrontendRequest.SET_VRING_ERR: Backend._set_vring_err,
    FrontendRequest.GET_PROTOCOL_FEATURES: Backend._get_protocol_features,
    FrontendRequest.SET_PROTOCOL_FEATURES: Backend._set_protocol_features,
    FrontendRequest.GET_QUEUE_NUM: Backend._get_queue_num,
    FrontendRequest.SET_VRING_ENABLE: Backend._set_vring_enable,
    FrontendRequest.SET_BACKEND_REQ_FD: Backend._set_backend_req_fd,
    FrontendRequest.GET_CONFIG: Backend._get_config,
    FrontendRequest.SET_CONFIG: Backend._set_config,
    FrontendRequest.GET_INFLIGHT_FD: Backend._get_inflight_fd,
    FrontendRequest.SET_INFLIGHT_FD: Backend._set_inflight_fd,
    FrontendRequest.RESET_DEVICE: Backend._reset_device,
    FrontendRequest.GET_MAX_MEM_SLOTS: Backend._get_max_mem_slots,
    FrontendRequest.ADD_MEM_REG: Backend._add_mem_reg,
    FrontendRequest.REM_MEM_REG: Backend._rem_mem_reg,
    FrontendRequest.SET_STATUS: Backend._set_status,
    FrontendRequest.GET_STATUS: Backend._get_status,
}

_ANSWERED: Final = frozenset(
    {
        FrontendRequest.GET_FEATURES,
        FrontendRequest.GET_PROTOCOL_FEATURES,
        FrontendRequest.GET_QUEUE_NUM,
        FrontendRequest.GET_VRING_BASE,
        FrontendRequest.GET_CONFIG,
        FrontendRequest.GET_INFLIGHT_FD,
        FrontendRequest.GET_MAX_MEM_SLOTS,
        FrontendRequest.GET_STATUS,
    }
)
"""Requests with a reply of their own. A front end would mistake an acknowledgement (a u64) for that reply."""
