"""A vhost-user socket, which sends and receives whole messages with their file descriptors."""

from __future__ import annotations

import os
import select
import struct
import time

from pyvmm.vhost_user.protocol import (
    MAX_FDS,
    MAX_PAYLOAD,
    NEED_REPLY,
    REPLY,
    VHOST_USER_VERSION,
    DisconnectedError,
    Header,
    VhostUserError,
    request_name,
    unpack_u64,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Final
else:
    import _socket as socket  # its enums take longer to make than all that is done with them

__all__ = ["Connection", "Message"]

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds within which the other side has to take or answer a message."""

_FD_SIZE: Final = struct.calcsize("i")
_ANCILLARY: Final = socket.CMSG_SPACE(MAX_FDS * _FD_SIZE)


class Message:
    """One message. The receiver takes its descriptors; :meth:`close` closes the ones that were not taken. It is a
    context manager that closes at its end.
    """

    def __init__(
        self, request: int, flags: int = VHOST_USER_VERSION, payload: bytes = b"", fds: Sequence[int] = ()
    ) -> None:
        self.request = request
        self.flags = flags
        self.payload = payload
        self.fds = [*fds]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"Message({self.request}, {self.flags}, {self.payload!r}, {self.fds})"

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    @property
    def is_reply(self) -> bool:
        """Whether the message answers a request."""
        return bool(self.flags & REPLY)

    @property
    def needs_reply(self) -> bool:
        """Whether the sender asks for an answer about success or failure."""
        return bool(self.flags & NEED_REPLY)

    def take_fd(self) -> int:
        """Take the only descriptor, which the caller must close. Raises :class:`VhostUserError` if there is not exactly
        one."""
        if len(self.fds) != 1:
            raise VhostUserError(f"{self.name} with {len(self.fds)} descriptors, not 1")
        return self.fds.pop()

    def take_fds(self, count: int) -> list[int]:
        """Take all ``count`` descriptors, which the caller must close. Raises :class:`VhostUserError` for another
        number."""
        if len(self.fds) != count:
            raise VhostUserError(f"{self.name} with {len(self.fds)} descriptors, not {count}")
        fds, self.fds = self.fds, []
        return fds

    @property
    def name(self) -> str:
        """The name of a front end's request, or ``request N``."""
        return request_name(self.request)

    def close(self) -> None:
        """Close the descriptors that were not taken."""
        close_fds(self.fds)
        self.fds = []

    def __enter__(self) -> Message:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Connection:
    """One end of a connected Unix stream socket that speaks vhost-user.

    Every failure raises :class:`VhostUserError`, or its subclass :class:`DisconnectedError` if the other side has
    disconnected. The connection cannot be used after that. One thread may use it at a time. It is a context manager
    that closes at its end.
    """

    def __init__(self, sock: socket.socket, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Take over ``sock``. ``timeout``: seconds within which the other side has to take or answer each message."""
        sock.setblocking(False)
        self.timeout = timeout
        self._socket = sock
        self._head = bytearray()
        self._header: Header | None = None
        self._payload = bytearray()
        self._fds: list[int] = []

    @classmethod
    def from_fd(cls, fd: int, *, timeout: float = DEFAULT_TIMEOUT) -> Connection:
        """Take over the descriptor ``fd``, which is closed on failure. Raises :class:`VhostUserError` if it is no Unix
        stream socket."""
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            close_fds([fd])
            raise VhostUserError(f"a descriptor that is no socket: {error.strerror}") from error
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            sock.close()
            raise VhostUserError("a socket that is no Unix stream socket")
        return cls(sock, timeout=timeout)

    def fileno(self) -> int:
        """The socket's descriptor, to wait for; -1 when closed."""
        return self._socket.fileno()

    def send(
        self,
        request: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = 0,
        timeout: float | None = None,
    ) -> None:
        """Send one message. ``flags``: REPLY or NEED_REPLY; the version is added. The caller keeps the descriptors.

        Waits until the socket has taken it all, up to ``timeout`` seconds (the connection's by default).
        """
        if len(fds) > MAX_FDS or len(payload) > MAX_PAYLOAD:
            raise ValueError(f"{request_name(request)} with {len(payload)} bytes and {len(fds)} descriptors")
        data = memoryview(Header(request, flags | VHOST_USER_VERSION, len(payload)).pack() + payload)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while data:
            try:
                sent = self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise self._lost(error) from error
            else:
                data, ancillary = data[sent:], []

    def reply(self, message: Message, payload: bytes, fds: Sequence[int] = ()) -> None:
        """Answer ``message``."""
        self.send(message.request, payload, fds, flags=REPLY)

    def receive(self, timeout: float | None = None) -> Message:
        """Wait up to ``timeout`` seconds (the connection's by default) for the next whole message, and return it."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            message = self.receive_available()
            if message is not None:
                return message
            self._wait(select.POLLIN, deadline)

    def receive_available(self) -> Message | None:
        """The next message if all of it has arrived, else None. Never waits, so an event loop can call it; the part
        that has arrived is kept.

        It reads no further than one message, so a loop that calls it once each time the socket is readable misses none.
        """
        try:
            while True:
                missing = self._missing()
                if missing == 0:
                    return self._complete()
                data = self._read(missing)
                if data is None:
                    return None
                if self._header is None:
                    self._head += data
                    if len(self._head) == Header.SIZE:
                        self._header = Header.unpack(bytes(self._head))
                else:
                    self._payload += data
        except BaseException:
            self._forget()
            raise

    def exchange(
        self,
        request: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = 0,
        timeout: float | None = None,
    ) -> Message:
        """Send a request and return its answer. Raises if another message comes instead."""
        self.send(request, payload, fds, flags=flags, timeout=timeout)
        message = self.receive(timeout)
        if message.request != request or not message.is_reply:
            message.close()
            kind = "an answer to" if message.is_reply else "a request"
            raise VhostUserError(f"{kind} {request_name(message.request)} where {request_name(request)} was asked")
        return message

    def exchange_ack(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *, timeout: float | None = None
    ) -> None:
        """Send a request with NEED_REPLY (REPLY_ACK must be negotiated). Raises if the answer is not success."""
        with self.exchange(request, payload, fds, flags=NEED_REPLY, timeout=timeout) as message:
            message.take_fds(0)
            if result := unpack_u64(message.payload):
                raise VhostUserError(f"{request_name(request)} was refused ({result:#x})")

    def close(self) -> None:
        """Close the socket, and the descriptors of a message that was not returned yet. Closing twice does nothing."""
        self._forget()
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, exception: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _missing(self) -> int:
        """The number of bytes that the header, or the payload, still lacks."""
        if self._header is None:
            return Header.SIZE - len(self._head)
        return self._header.size - len(self._payload)

    def _complete(self) -> Message:
        assert self._header is not None
        message = Message(self._header.request, self._header.flags, bytes(self._payload), self._fds)
        self._fds = []
        self._forget()
        return message

    def _forget(self) -> None:
        close_fds(self._fds)
        self._fds = []
        self._head.clear()
        self._payload.clear()
        self._header = None

    def _read(self, size: int) -> bytes | None:
        """Up to ``size`` bytes; keeps the descriptors that come with them. None if nothing has arrived."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(size, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self._lost(error) from error
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                count = len(content) // _FD_SIZE
                self._fds += struct.unpack(f"{count}i", content[: count * _FD_SIZE])
        if flags & socket.MSG_CTRUNC or len(self._fds) > MAX_FDS:
            raise VhostUserError(f"a message with more than {MAX_FDS} descriptors, or more than can be opened here")
        if not data:
            raise DisconnectedError(
                "the other side has disconnected" + (" in the middle of a message" if self._head else "")
            )
        return data

    def _wait(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, events)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(max(left * 1000, 1)):
            raise VhostUserError(
                "the other side does not answer" if events & select.POLLIN else "the other side takes no data"
            )

    def _lost(self, error: OSError) -> VhostUserError:
        if isinstance(error, ConnectionError):
            return DisconnectedError("the other side has disconnected")
        return VhostUserError(f"the socket fails: {error.strerror}")


def close_fds(fds: Sequence[int]) -> None:
    """Close each of ``fds``."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass
