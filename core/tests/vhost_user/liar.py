"""A back end whose answers a test chooses: right, wrong or none."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from pyvmm.testing.waiting import PATIENCE
from pyvmm.vhost_user.connection import Connection, Message, close_fds
from pyvmm.vhost_user.protocol import (
    NEED_REPLY,
    REPLY,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VHOST_USER_VERSION,
    ConfigSpace,
    FrontendRequest,
    Inflight,
    ProtocolFeature,
    VhostUserError,
    VringState,
    pack_u64,
)
from pyvmm.vhost_user.source import BackendSource

FEATURES = 1 << 32 | 1 << 29 | 1 << 28 | 1 << VHOST_USER_F_PROTOCOL_FEATURES | 0b101
PROTOCOL_FEATURES = sum(
    feature.mask
    for feature in (
        ProtocolFeature.MQ,
        ProtocolFeature.REPLY_ACK,
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.CONFIG,
        ProtocolFeature.INFLIGHT_SHMFD,
        ProtocolFeature.RESET_DEVICE,
        ProtocolFeature.STATUS,
    )
)


class _Attentive(Connection):
    """A front end's connection that gives up when no answer will come, since the other side has handled all messages.

    So a stall needs no time, and an answer may take any.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, timeout=PATIENCE)
        self.sent = self.dealt_with = 0
        """Messages to the other side, and those that it is done with, which it says itself."""

    def send(self, *arguments: Any, **more: Any) -> None:
        super().send(*arguments, **more)
        self.sent += 1

    def _wait(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, events)
        while not poll.poll(1):
            is_over = self.dealt_with == self.sent  # by now, all answers are there
            if not poll.poll(0) and (is_over or time.monotonic() > deadline):
                super()._wait(events, 0)  # the time is up


class Liar(BackendSource):
    """Answers on a thread. ``lie(liar, message)`` is called before each answer; if it returns true, it has handled the
    message.

    :attr:`fds` has the front end's descriptors by request, for misuse.
    """

    def __init__(
        self,
        lie: Callable[[Liar, Message], bool] = lambda liar, message: False,
        *,
        features: int = FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
        timeout: float | None = None,
        restartable: bool = False,
    ) -> None:
        """``timeout``: seconds after which the front end gives up; by default when no answer will come any more."""
        self.lie = lie
        self.features = features
        self.protocol_features = protocol_features
        self.timeout = timeout
        self.restartable = restartable
        self.requests: list[int] = []
        self.fds: dict[int, list[int]] = {}
        self.sock: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []

    def connect(self) -> Connection:
        ours, theirs = socket.socketpair()
        self.sock = theirs
        self._socks.append(theirs)
        connection = _Attentive(ours) if self.timeout is None else Connection(ours, timeout=self.timeout)
        thread = threading.Thread(target=self._serve, args=(theirs, connection), daemon=True)
        thread.start()
        self._threads.append(thread)
        return connection

    def close(self) -> None:
        for sock in self._socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join()
        for sock in self._socks:
            sock.close()
        for fds in self.fds.values():
            close_fds(fds)
        self.fds.clear()

    def answer(self, message: Message, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        """A proper answer."""
        self.send(struct.pack("=III", message.request, VHOST_USER_VERSION | REPLY, len(payload)) + payload, fds)

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Any bytes."""
        assert self.sock is not None
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except OSError:
            pass

    def channel_send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Any bytes on the channel for requests of back ends, as far as it takes them."""
        for fd in self.fds.get(FrontendRequest.SET_BACKEND_REQ_FD, ())[-1:]:
            with socket.socket(fileno=os.dup(fd)) as sock:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                try:
                    sock.sendmsg([data], rights, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
                except OSError:
                    pass

    def hang_up(self) -> None:
        """Close the connection."""
        assert self.sock is not None
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _serve(self, sock: socket.socket, front_end: Connection) -> None:
        with Connection(sock.dup(), timeout=10 * PATIENCE) as connection:
            while True:
                try:
                    message = connection.receive()
                except VhostUserError:
                    return
                self.requests.append(message.request)
                kept, message.fds = list(message.fds), []
                self.fds.setdefault(message.request, []).extend(kept)
                if not self.lie(self, message):
                    self._tell_the_truth(message)
                if isinstance(front_end, _Attentive):
                    front_end.dealt_with += 1

    def _tell_the_truth(self, message: Message) -> None:
        match message.request:
            case FrontendRequest.GET_FEATURES:
                self.answer(message, pack_u64(self.features))
            case FrontendRequest.GET_PROTOCOL_FEATURES:
                self.answer(message, pack_u64(self.protocol_features))
            case FrontendRequest.GET_QUEUE_NUM:
                self.answer(message, pack_u64(8))
            case FrontendRequest.GET_STATUS:
                self.answer(message, pack_u64(0xF))
            case FrontendRequest.GET_CONFIG:
                wanted = ConfigSpace.unpack(message.payload)
                self.answer(message, ConfigSpace(wanted.offset, bytes(range(len(wanted.data)))).pack())
            case FrontendRequest.GET_VRING_BASE:
                self.answer(message, VringState.unpack(message.payload).pack())
            case FrontendRequest.GET_INFLIGHT_FD:
                wanted_area = Inflight.unpack(message.payload)
                fd = os.memfd_create("inflight")
                os.ftruncate(fd, 1 << 16)
                description = Inflight(1 << 16, 0, wanted_area.num_queues, wanted_area.queue_size)
                self.answer(message, description.pack(), (fd,))
                os.close(fd)
            case _ if message.flags & NEED_REPLY and self.protocol_features & ProtocolFeature.REPLY_ACK.mask:
                self.answer(message, pack_u64(0))
