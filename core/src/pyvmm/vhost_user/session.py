"""A front end's requests to a back end over one connection, each of them a method ("Front-end message types")."""

from __future__ import annotations

import os

from pyvmm._native import lib
from pyvmm.host.shortage import Need
from pyvmm.vhost_user.connection import Connection, close_fds
from pyvmm.vhost_user.protocol import (
    MAX_CONFIG_SIZE,
    VHOST_USER_F_PROTOCOL_FEATURES,
    ConfigSpace,
    FrontendRequest,
    Inflight,
    MemoryRegion,
    Number,
    ProtocolFeature,
    VhostUserError,
    VringAddr,
    VringFd,
    VringState,
    pack_memory_table,
    pack_u64,
    unpack_u64,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.queue import Queue
else:
    import _socket as socket  # its enums take longer to make than all that is done with them

__all__ = ["InflightBuffer", "Session"]

STOP_TIMEOUT: Final = 20.0
"""Seconds within which a back end has to end its requests in flight when the device is reset."""

_WANTED: Final = (
    ProtocolFeature.MQ,
    ProtocolFeature.REPLY_ACK,
    ProtocolFeature.BACKEND_REQ,
    ProtocolFeature.CONFIG,
    ProtocolFeature.RESET_DEVICE,
    ProtocolFeature.STATUS,
)
_USER_ADDRESSES: Final = 1 << 44
"""The start of guest memory in the user addresses that the back end is given. These are not the addresses in this
process, so that no back end learns its memory layout. The back end only needs them to find the rings."""

_PROTOCOL_FEATURES: Final = 1 << VHOST_USER_F_PROTOCOL_FEATURES
_VERSION_1: Final = 1 << lib.VIRTIO_F_VERSION_1
_STATUS_FEATURES_OK: Final[int] = (
    lib.VIRTIO_CONFIG_S_ACKNOWLEDGE | lib.VIRTIO_CONFIG_S_DRIVER | lib.VIRTIO_CONFIG_S_FEATURES_OK
)


class InflightBuffer:
    """The shared memory in which successive back ends track requests in flight."""

    def __init__(self, fd: int, description: Inflight) -> None:
        self.fd = fd
        self.description = description

    def close(self) -> None:
        """Close the buffer."""
        close_fds([self.fd])
        self.fd = -1


class Session:
    """A connection on which protocol features are negotiated.

    Each method waits until the back end has carried out the request, if the back end can say so (REPLY_ACK). It raises
    :class:`VhostUserError` on failure; the session cannot be used after that. One thread may use it at a time.
    """

    def __init__(self, connection: Connection, *, inflight: bool = False) -> None:
        """Take over ``connection``, also on failure. ``inflight``: negotiate INFLIGHT_SHMFD if it is offered."""
        self.connection = connection
        self.channel: Connection | None = None
        """The connection for the back end's requests (BACKEND_REQ); None if it makes none."""
        self.protocol_features = 0
        self.max_queues = 0
        """The answer to GET_QUEUE_NUM; 0 if the back end does not say."""
        try:
            self._negotiate(inflight)
        except BaseException:
            self.close()
            raise

    def has(self, feature: Number) -> bool:
        """Whether protocol feature ``feature`` was negotiated."""
        return bool(self.protocol_features & feature.mask)

    def set_features(self, features: int) -> None:
        """Send the features that the driver accepted. Raises if the device refuses them, which it can say with
        STATUS."""
        if self.features & _PROTOCOL_FEATURES:
            features |= _PROTOCOL_FEATURES
        self._request(FrontendRequest.SET_FEATURES, pack_u64(features))
        if self.has(ProtocolFeature.STATUS):
            self.set_status(_STATUS_FEATURES_OK)
            if not self.get_status() & lib.VIRTIO_CONFIG_S_FEATURES_OK:
                raise VhostUserError(f"it refuses the features {features:#x}")

    def set_status(self, status: int) -> None:
        """Send the device status (needs STATUS)."""
        self._request(FrontendRequest.SET_STATUS, pack_u64(status))

    def get_status(self) -> int:
        """The device status as the device sees it (needs STATUS)."""
        return self._ask_u64(FrontendRequest.GET_STATUS)

    def read_config(self, size: int) -> bytes:
        """The first ``size`` bytes of the configuration space, 256 at most (needs CONFIG)."""
        if not 0 <= size <= MAX_CONFIG_SIZE:
            raise ValueError(f"{size} bytes of configuration space")
        with self.connection.exchange(FrontendRequest.GET_CONFIG, ConfigSpace(0, bytes(size)).pack()) as message:
            message.take_fds(0)
            if not message.payload:  # "zero length of payload to indicate an error"
                raise VhostUserError(f"it has no {size} bytes of configuration space")
            answer = ConfigSpace.unpack(message.payload)
        if answer.offset != 0 or len(answer.data) != size:
            raise VhostUserError(
                f"{len(answer.data)} bytes at {answer.offset} of configuration space where {size} were asked"
            )
        return answer.data

    def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space (needs CONFIG)."""
        self._request(FrontendRequest.SET_CONFIG, ConfigSpace(offset, data).pack())

    def set_memory(self, memory: GuestMemory) -> None:
        """Share guest memory."""
        regions = [
            MemoryRegion(region.base, region.size, _USER_ADDRESSES + region.base, region.offset)
            for region in memory.regions
        ]
        fds = memory.fds if len(memory.fds) == len(regions) else memory.fds * len(regions)
        self._request(FrontendRequest.SET_MEM_TABLE, pack_memory_table(regions), fds)

    def start_ring(self, queue: Queue, base: int, call: int, err: int) -> None:
        """Set up the ring of ``queue``, to continue from available entry ``base``, and start it.

        ``call`` and ``err``: the descriptors that the back end signals for used buffers and for errors.
        """
        index = queue.index
        self._request(FrontendRequest.SET_VRING_NUM, VringState(index, queue.size).pack())
        self._request(FrontendRequest.SET_VRING_BASE, VringState(index, base).pack())
        addresses = VringAddr(
            index,
            0,
            descriptor=_USER_ADDRESSES + queue.descriptor_table,
            used=_USER_ADDRESSES + queue.used_ring,
            available=_USER_ADDRESSES + queue.available_ring,
        )
        self._request(FrontendRequest.SET_VRING_ADDR, addresses.pack())
        for request, fd in (
            (FrontendRequest.SET_VRING_ERR, err),
            (FrontendRequest.SET_VRING_CALL, call),
            (FrontendRequest.SET_VRING_KICK, queue.event.fd),
        ):
            self._request(request, VringFd(index).pack(), [fd])

    def enable_rings(self, indices: Sequence[int]) -> None:
        """Enable started rings, so that the back end serves them, and set DRIVER_OK."""
        if self.features & _PROTOCOL_FEATURES:
            for index in indices:
                self._request(FrontendRequest.SET_VRING_ENABLE, VringState(index, 1).pack())
        if self.has(ProtocolFeature.STATUS):
            self.set_status(_STATUS_FEATURES_OK | lib.VIRTIO_CONFIG_S_DRIVER_OK)

    def reset(self, indices: Sequence[int]) -> None:
        """Stop the rings of ``indices`` and reset the device. After that the back end does not touch guest memory."""
        if self.has(ProtocolFeature.RESET_DEVICE):
            self._request(FrontendRequest.RESET_DEVICE, timeout=STOP_TIMEOUT)
        # This is the protocol's own way to stop a ring. A ring that is stopped already answers immediately.
        for index in indices:
            request = FrontendRequest.GET_VRING_BASE
            with self.connection.exchange(request, VringState(index, 0).pack(), timeout=STOP_TIMEOUT) as message:
                message.take_fds(0)
                state = VringState.unpack(message.payload)
            if state.index != index:
                raise VhostUserError(f"the base of ring {state.index} where that of ring {index} was asked")
        if self.has(ProtocolFeature.STATUS) and not self.has(ProtocolFeature.RESET_DEVICE):
            self.set_status(0)

    def get_inflight(self, num_queues: int, queue_size: int) -> InflightBuffer:
        """A new buffer to track requests in flight (needs INFLIGHT_SHMFD)."""
        wanted = Inflight(0, 0, num_queues, queue_size)
        with self.connection.exchange(FrontendRequest.GET_INFLIGHT_FD, wanted.pack()) as message:
            description = Inflight.unpack(message.payload)
            if not description.mmap_size:
                raise VhostUserError(f"it has no inflight buffer for {num_queues} queues of {queue_size}")
            fd = message.take_fd()
        buffer = InflightBuffer(fd, description)
        try:
            size = os.fstat(fd).st_size
        except OSError as error:
            buffer.close()
            raise VhostUserError(f"an inflight buffer that is no file: {error.strerror}") from error
        if size < description.mmap_offset + description.mmap_size:
            buffer.close()
            raise VhostUserError(f"an inflight buffer of {size} bytes, shorter than it says: {description}")
        return buffer

    def set_inflight(self, buffer: InflightBuffer) -> None:
        """Let the back end track its requests in ``buffer``. It repeats the requests that another back end left
        there."""
        self._request(FrontendRequest.SET_INFLIGHT_FD, buffer.description.pack(), [buffer.fd])

    def close(self) -> None:
        """Close the connection, which tells the back end to end. Closing twice does nothing."""
        self.connection.close()
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def _negotiate(self, inflight: bool) -> None:
        self._request(FrontendRequest.SET_OWNER)
        self.features = self._ask_u64(FrontendRequest.GET_FEATURES)
        """The features that device, rings and back end offer (GET_FEATURES)."""
        if not self.features & _VERSION_1:
            raise VhostUserError("it does not offer VIRTIO_F_VERSION_1: it is older than virtio 1.0")
        if self.features & _PROTOCOL_FEATURES:
            wanted = sum(feature.mask for feature in _WANTED)
            if inflight:
                wanted |= ProtocolFeature.INFLIGHT_SHMFD.mask
            features = self._ask_u64(FrontendRequest.GET_PROTOCOL_FEATURES) & wanted
            self._request(FrontendRequest.SET_PROTOCOL_FEATURES, pack_u64(features))
            self.protocol_features = features
        if self.has(ProtocolFeature.MQ):
            self.max_queues = self._ask_u64(FrontendRequest.GET_QUEUE_NUM)
        if self.has(ProtocolFeature.BACKEND_REQ):
            with Need("vhost-user"):
                ours, theirs = socket.socketpair()
            self.channel = Connection(ours, timeout=self.connection.timeout)
            try:
                self._request(FrontendRequest.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
            finally:
                theirs.close()

    def _request(
        self, request: Number, payload: bytes = b"", fds: Sequence[int] = (), timeout: float | None = None
    ) -> None:
        """Send a request that has no answer of its own."""
        if self.has(ProtocolFeature.REPLY_ACK):
            self.connection.exchange_ack(request, payload, fds, timeout=timeout)
        else:
            self.connection.send(request, payload, fds, timeout=timeout)

    def _ask_u64(self, request: Number) -> int:
        with self.connection.exchange(request) as message:
            message.take_fds(0)
            return unpack_u64(message.payload)
