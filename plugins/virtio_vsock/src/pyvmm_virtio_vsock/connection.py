"""One stream between a port of the guest and a Unix socket of the host (virtio 1.2, sections 5.10.6.3 and 5.10.6.5)."""

from __future__ import annotations

import os
import select
import socket
from typing import NamedTuple

from pyvmm.host.eventloop import READABLE, WRITABLE, LoopScope

from pyvmm_virtio_vsock.constants import (
    VIRTIO_VSOCK_OP_CREDIT_REQUEST,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_REQUEST,
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_SHUTDOWN_RCV,
    VIRTIO_VSOCK_SHUTDOWN_SEND,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, Protocol

    from pyvmm.host.eventloop import Timer
else:
    Protocol = object

SHUTDOWN_MASK: Final = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND

_MAX_BUFFERS: Final = 1024
"""The most buffers in one system call: UIO_MAXIOV in <linux/uio.h>."""

_U32: Final = 0xFFFFFFFF


class Ports(NamedTuple):
    """The ports that identify a stream, since each side has only one address."""

    host: int
    guest: int


class Owner(Protocol):
    """The owner of a connection, as the connection calls it."""

    def want_room(self, connection: Connection) -> None:
        """Note that ``connection`` has something for the guest."""

    def fill(self) -> None:
        """Give connections that want room their turn, as far as the guest has room."""

    def host_left(self, connection: Connection) -> None:
        """Handle the end of the host's program before the guest has answered."""

    def cannot_watch(self, connection: Connection, error: OSError) -> None:
        """The host refuses to say when its socket is ready. The owner resets the stream, later."""


class Connection:
    """A stream, from its first packet to its last.

    Data for the guest is not buffered here: it stays in the host's socket until the guest has room and gives credit. At
    most one control packet of each kind is due. Data from the guest goes to the socket immediately; the part that the
    socket does not take waits here, up to ``buf_alloc`` bytes, which is the guest's credit.
    """

    def __init__(self, ports: Ports, sock: socket.socket, buf_alloc: int, loop: LoopScope, owner: Owner) -> None:
        """Take over the non-blocking ``sock``. ``buf_alloc`` is in bytes."""
        self.ports = ports
        self.buf_alloc = buf_alloc
        self.fwd_cnt = 0
        self.established = False
        self.timer: Timer | None = None
        """A timer that runs while the guest owes an answer."""
        self.burst = 1
        """The number of chains for the next read. It grows while reads fill all chains."""

        self._socket = sock
        self._loop = loop
        self._owner = owner
        self._watched: int | None = None
        self._due: list[int] = []
        self._shut_by_host = 0
        self._shut_by_guest = 0
        self._readable = False  # the host's socket may have data, or be at its end
        self._tx_cnt = 0
        self._peer_buf_alloc = 0
        self._peer_fwd_cnt = 0
        self._asked_for_credit = False
        self._unsent = bytearray()
        self._told_fwd_cnt = 0

    # From the guest.

    def take_credit(self, buf_alloc: int, fwd_cnt: int) -> None:
        """Take the guest's credit, which each of its packets contains."""
        had_none = not self.credit
        self._peer_buf_alloc, self._peer_fwd_cnt = buf_alloc, fwd_cnt
        if had_none and self.credit:
            self._asked_for_credit = False
            if self._readable:
                self._owner.want_room(self)

    def establish(self, greeting: bytes = b"") -> None:
        """Mark the stream as established. ``greeting`` is sent to the host's program."""
        self.established = True
        if greeting and self._send([memoryview(greeting)]) < 0:
            self._host_receives_no_more()
        if self._readable:
            self._owner.want_room(self)
        self.watch()

    def receive(self, views: Sequence[memoryview], length: int) -> bool:
        """Take the ``length`` bytes in ``views``. Returns False if the guest must not send them."""
        if not self.established or self._shut_by_guest & VIRTIO_VSOCK_SHUTDOWN_SEND:
            return False
        if len(self._unsent) + length > self.buf_alloc:
            return False
        if self._shut_by_host & VIRTIO_VSOCK_SHUTDOWN_RCV:
            self._pass_on(length)  # the guest sent it before it knew of the shutdown
            return True
        done = 0 if self._unsent else self._send(views[:_MAX_BUFFERS])
        if done < 0:
            self._pass_on(length)
            self._host_receives_no_more()
        else:
            self._pass_on(done)
            if done < length:
                for view in views:
                    self._unsent += view[done:]
                    done = max(0, done - len(view))
        self.watch()
        return True

    def shut_down(self, flags: int) -> bool:
        """Take the guest's SHUTDOWN with ``flags``: it will not receive, or not send, any more. Returns whether that
        ends the stream."""
        self._shut_by_guest |= flags & SHUTDOWN_MASK
        if self._shut_by_guest == SHUTDOWN_MASK:
            return True
        if self._shut_by_guest & VIRTIO_VSOCK_SHUTDOWN_RCV:
            self._readable = False
            self._shut_socket(socket.SHUT_RD)
        elif self._shut_by_guest and not self._unsent:
            self._shut_socket(socket.SHUT_WR)
        self.watch()
        return False

    # To the guest.

    def say(self, op: int) -> None:
        """Send a control packet as soon as there is room for it."""
        if op not in self._due:
            self._due.append(op)
        self._owner.want_room(self)

    def next_control(self) -> tuple[int, int] | None:
        """Take the next control packet to send: its op and flags. None if there is none."""
        if not self._due:
            return None
        op = self._due.pop(0)
        return op, self._shut_by_host if op == VIRTIO_VSOCK_OP_SHUTDOWN else 0

    def tell_credit(self) -> tuple[int, int]:
        """The values buf_alloc and fwd_cnt for a packet that is sent now."""
        self._told_fwd_cnt = self.fwd_cnt
        return self.buf_alloc, self.fwd_cnt

    @property
    def guest_knows(self) -> bool:
        """Whether the guest knows of the stream."""
        return VIRTIO_VSOCK_OP_REQUEST not in self._due

    @property
    def credit(self) -> int:
        """The number of bytes for which the guest has room (section 5.10.6.3)."""
        return max(0, self._peer_buf_alloc - (self._tx_cnt - self._peer_fwd_cnt & _U32))

    def has_data(self) -> bool:
        """Whether there may be data that the guest may get. If only credit is missing, ask the guest for it."""
        if not self._readable or not self._reads:
            return False
        if self.credit:
            return True
        if not self._asked_for_credit:
            self._asked_for_credit = True
            self.say(VIRTIO_VSOCK_OP_CREDIT_REQUEST)
        return False

    def read(self, views: Sequence[memoryview], room: int) -> int:
        """Read into ``views``, which have ``room`` bytes, no more than the credit. Returns the number of bytes; 0 if
        there are none now."""
        try:
            count = os.readv(self._socket.fileno(), views[:_MAX_BUFFERS])
        except BlockingIOError:
            self._readable = False
            self.watch()
            return 0
        except OSError:  # ECONNRESET: the program closed it without reading all of the guest's data
            count = 0
        if count == 0:
            self._host_sends_no_more()
        else:
            self._tx_cnt = self._tx_cnt + count & _U32
            self._readable = count == room
        self.watch()
        return count

    # The host's side.

    def watch(self) -> None:
        """Wait only for events that can be handled now, since epoll reports a hang-up as long as it lasts."""
        interest: int = READABLE if self._reads and not self._readable else 0
        if self._unsent:
            interest |= WRITABLE
        is_idle = not interest and (self._readable or self._shut_by_host & VIRTIO_VSOCK_SHUTDOWN_RCV)
        events = None if is_idle else interest
        if events == self._watched:
            return
        fd = self._socket.fileno()
        try:
            if events is None:
                self._loop.remove(fd)
            elif self._watched is None:
                self._loop.add(fd, self._on_ready, events)
            else:
                self._loop.modify(fd, events)
        except OSError as error:
            self._owner.cannot_watch(self, error)
            return
        self._watched = events

    def release(self) -> tuple[socket.socket, bytearray]:
        """Give up the socket, and the data that it has not taken yet. Returns both."""
        if self.timer is not None:
            self.timer.cancel()
        self._loop.remove(self._socket.fileno())
        return self._socket, self._unsent

    @property
    def _reads(self) -> bool:
        """Whether data from the host still goes to the guest."""
        shut = self._shut_by_host & VIRTIO_VSOCK_SHUTDOWN_SEND or self._shut_by_guest & VIRTIO_VSOCK_SHUTDOWN_RCV
        return self.established and not shut

    def _on_ready(self, ready: int) -> None:
        if not self.established:
            self._on_early_hang_up()
        else:
            if self._unsent:
                self._flush()
            elif not self._reads and ready & (select.EPOLLHUP | select.EPOLLERR):
                self._host_receives_no_more()
            if self._reads and ready & ~WRITABLE:
                self._readable = True
                self._owner.want_room(self)
            self.watch()
        self._owner.fill()

    def _on_early_hang_up(self) -> None:
        """Handle a socket that the host's program has closed early. The data that it sent before goes to the guest if
        the guest accepts."""
        try:
            self._readable = bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            pass
        if self._readable:
            self.watch()
        else:
            self._owner.host_left(self)

    def _send(self, views: Sequence[memoryview]) -> int:
        """Send to the socket. Returns the number of bytes taken; -1 if no program receives them any more."""
        try:
            return self._socket.sendmsg(views, (), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def _flush(self) -> None:
        with memoryview(self._unsent) as view:
            done = self._send([view])
        if done < 0:
            self._host_receives_no_more()
            return
        del self._unsent[:done]
        self._pass_on(done)
        if not self._unsent and self._shut_by_guest & VIRTIO_VSOCK_SHUTDOWN_SEND:
            self._shut_socket(socket.SHUT_WR)

    def _pass_on(self, length: int) -> None:
        """Count ``length`` bytes of the guest as passed on. The guest is told before it has used up its credit."""
        self.fwd_cnt = self.fwd_cnt + length & _U32
        if self.fwd_cnt - self._told_fwd_cnt & _U32 >= self.buf_alloc // 2:
            self.say(VIRTIO_VSOCK_OP_CREDIT_UPDATE)

    def _host_receives_no_more(self) -> None:
        self._shut_by_host |= VIRTIO_VSOCK_SHUTDOWN_RCV
        self._pass_on(len(self._unsent))
        self._unsent.clear()
        self.say(VIRTIO_VSOCK_OP_SHUTDOWN)

    def _host_sends_no_more(self) -> None:
        self._readable = False
        self._shut_by_host |= VIRTIO_VSOCK_SHUTDOWN_SEND
        poll = select.poll()
        poll.register(self._socket, 0)
        if poll.poll(0):  # the program has closed it, not only shut it down
            self._host_receives_no_more()
        else:
            self.say(VIRTIO_VSOCK_OP_SHUTDOWN)

    def _shut_socket(self, how: int) -> None:
        try:
            self._socket.shutdown(how)
        except OSError:
            pass  # the program at its other end has gone; reading or writing will show that
