"""The multiplexer of a guest's streams over two queues (virtio 1.2, section 5.10.6)."""

from __future__ import annotations

import socket
from collections import deque

from pyvmm.host.shortage import shortage
from pyvmm.logs import logger

from pyvmm_virtio_vsock.connection import SHUTDOWN_MASK, Connection, Ports
from pyvmm_virtio_vsock.constants import (
    VIRTIO_VSOCK_OP_CREDIT_REQUEST,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_REQUEST,
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_RST,
    VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_TYPE_STREAM,
    VMADDR_CID_HOST,
)
from pyvmm_virtio_vsock.drain import Drain
from pyvmm_virtio_vsock.handshake import Handshake
from pyvmm_virtio_vsock.packet import HEADER_SIZE, Header, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from pyvmm.host.eventloop import LoopScope
    from pyvmm.host.unix_listener import UnixListener
    from pyvmm.virtio.queue import DescriptorChain, Queue

log = logger(__name__)

MAX_STREAMS: Final = 512
"""The most streams at a time, including those that are being made or ended. Each has a descriptor."""

LARGE_BUFFER: Final = 256 << 10
SMALL_BUFFER: Final = 16 << 10
LARGE_BUFFERS: Final = 64
"""The first LARGE_BUFFERS streams give the guest LARGE_BUFFER bytes of credit each; further ones give SMALL_BUFFER. So
a host that does not read costs less than 24 MiB in all."""

MAX_REPLIES: Final = 256
"""The most resets that wait for room in the guest's ring. With that many, no more packets are taken."""

MAX_BURST: Final = 16
"""The most chains that one read of a socket fills."""

MAX_BYTES: Final = 1 << 20
"""About the most bytes that are moved in one turn, so that other devices on the loop get their turn."""

ANSWER_TIMEOUT: Final = 10.0
"""Seconds within which a guest has to accept a stream."""

CLOSE_TIMEOUT: Final = 60.0
"""Seconds within which a guest has to end a stream that the host has left (section 5.10.6.5). It may still be
reading."""

_FIRST_HOST_PORT: Final = 1 << 30
"""The first port for programs that connect to the guest. The guest may know ports below it."""

_LAST_HOST_PORT: Final = (1 << 31) - 1


class Muxer:
    """Streams between a guest and the Unix sockets of its host, from one activation of the device to its end."""

    def __init__(self, loop: LoopScope, listener: UnixListener, cid: int, rxq: Queue, drains: set[Drain]) -> None:
        """``cid`` is the guest's. ``drains``: the rests of ended streams; each removes itself."""
        self._loop = loop
        self._listener = listener
        self._cid = cid
        self._rxq = rxq
        self._drains = drains
        self._connections: dict[Ports, Connection] = {}
        self._handshakes: set[Handshake] = set()
        self._ready: dict[Connection, None] = {}
        """The connections that have something for the guest, in the order of their turns."""
        self._replies: deque[bytes] = deque()
        self._next_port = _FIRST_HOST_PORT
        self._told = False
        self.dropped = 0
        """The number of invalid packets from the guest."""
        self._handlers: dict[int, Callable[[Connection, Header, Sequence[memoryview]], bool]] = {
            VIRTIO_VSOCK_OP_RESPONSE: self._on_response,
            VIRTIO_VSOCK_OP_RST: self._on_rst,
            VIRTIO_VSOCK_OP_SHUTDOWN: self._on_shutdown,
            VIRTIO_VSOCK_OP_RW: lambda connection, header, views: connection.receive(views, header.len),
            VIRTIO_VSOCK_OP_CREDIT_UPDATE: lambda *_: True,
            VIRTIO_VSOCK_OP_CREDIT_REQUEST: self._on_credit_request,
        }

    def start(self) -> None:
        """Start to accept programs on the host."""
        self._loop.add(self._listener.fileno(), self._on_client)

    def stop(self) -> None:
        """End all streams: the guest has gone. Its data is still sent to the host."""
        self._loop.remove(self._listener.fileno())
        for handshake in self._handshakes:
            handshake.close()
        self._handshakes.clear()
        for connection in self._connections.values():
            self._let_go(connection)
        self._connections.clear()
        self._ready.clear()
        self._replies.clear()

    @property
    def streams(self) -> int:
        """The number of streams, including those that are being made or ended."""
        return len(self._connections) + len(self._handshakes) + len(self._drains)

    @property
    def is_full(self) -> bool:
        """Whether the guest's packets must wait until the guest takes resets."""
        return len(self._replies) >= MAX_REPLIES

    # From the guest.

    def receive(self, chain: DescriptorChain) -> int:
        """Handle a packet from the guest. Returns the bytes of its payload."""
        data = chain.read(0, HEADER_SIZE)
        if len(data) < HEADER_SIZE:
            self.dropped += 1
            return 0
        header = Header.unpack(data)
        # Lengths are checked first: in a packet with wrong lengths, no other field can be trusted.
        if header.len > chain.readable_length - HEADER_SIZE or header.src_cid != self._cid:
            self.dropped += 1
            return 0
        connection = self._connections.get(Ports(header.dst_port, header.src_port))
        if header.dst_cid != VMADDR_CID_HOST or header.type != VIRTIO_VSOCK_TYPE_STREAM or connection is None:
            self._receive_first(header)
        else:
            connection.take_credit(header.buf_alloc, header.fwd_cnt)
            handler = self._handlers.get(header.op)
            views = chain.readable_views(HEADER_SIZE, header.len) if header.len else ()
            if handler is None or not handler(connection, header, views):
                self._remove(connection, f"the guest broke its rules with {header}", reset=True)
        return header.len

    def _receive_first(self, header: Header) -> None:
        """Handle a packet that belongs to no existing stream."""
        is_ours = header.dst_cid == VMADDR_CID_HOST and header.type == VIRTIO_VSOCK_TYPE_STREAM
        if not is_ours or header.op != VIRTIO_VSOCK_OP_REQUEST or not self._connect(header):
            self._refuse(header)

    def _connect(self, header: Header) -> bool:
        """Connect a stream from the guest to a port of the host. Returns whether a program accepted it."""
        if self.streams >= MAX_STREAMS:
            log.debug("a stream is refused: there are %d", MAX_STREAMS)
            return False
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._tell(error)
            return False
        try:
            sock.connect(f"{self._listener.lasting_path}_{header.dst_port}")
        except OSError as error:  # also EAGAIN: the listener's queue is full
            sock.close()
            log.debug("port %d of the host: %s", header.dst_port, error.strerror)
            return False
        connection = self._add(Ports(header.dst_port, header.src_port), sock)
        connection.take_credit(header.buf_alloc, header.fwd_cnt)
        connection.say(VIRTIO_VSOCK_OP_RESPONSE)
        connection.establish()
        return True

    def _on_response(self, connection: Connection, header: Header, views: Sequence[memoryview]) -> bool:
        if connection.established or not connection.guest_knows:
            return False
        if connection.timer is not None:
            connection.timer.cancel()
        connection.establish(b"OK %d\n" % connection.ports.host)
        return True

    def _on_rst(self, connection: Connection, header: Header, views: Sequence[memoryview]) -> bool:
        self._remove(connection, "the guest reset it", reset=False)
        return True

    def _on_shutdown(self, connection: Connection, header: Header, views: Sequence[memoryview]) -> bool:
        if not connection.established:
            return False
        if connection.shut_down(header.flags):
            self._remove(connection, "the guest closed it", reset=True)
        return True

    def _on_credit_request(self, connection: Connection, header: Header, views: Sequence[memoryview]) -> bool:
        connection.say(VIRTIO_VSOCK_OP_CREDIT_UPDATE)
        return True

    def _refuse(self, header: Header) -> None:
        """Answer a packet with a reset: no stream takes it."""
        if header.op != VIRTIO_VSOCK_OP_RST:
            self._replies.append(
                pack(
                    *(header.dst_cid, header.src_cid, header.dst_port, header.src_port),
                    *(0, header.type, VIRTIO_VSOCK_OP_RST, 0, 0, 0),
                )
            )

    # From the host.

    def host_left(self, connection: Connection) -> None:
        """As :meth:`Owner.host_left`."""
        self._remove(connection, "the host's program has left", reset=connection.guest_knows)

    def cannot_watch(self, connection: Connection, error: OSError) -> None:
        """As :meth:`Owner.cannot_watch`."""
        self._tell(error)

        def end() -> None:
            if self._connections.get(connection.ports) is connection:
                self._remove(connection, "the host cannot watch it", reset=connection.guest_knows)
                self.fill()

        self._loop.post(end)  # whoever called is not done with it

    def _tell(self, error: OSError) -> None:
        """Log why the host has no room for a stream, once a life of the device's."""
        if not self._told:
            self._told = True
            log.warning("%s: %s; streams are reset", self._listener.path, shortage(error) or error.strerror)

    def _on_client(self, _: int) -> None:
        client = self._listener.accept()
        if client is None:
            return
        if self.streams >= MAX_STREAMS:
            log.debug("a program of the host is turned away: there are %d streams", MAX_STREAMS)
            client.close()
        else:
            try:
                self._handshakes.add(Handshake(client, self._loop, self._on_line))
            except OSError as error:  # it cannot be watched
                self._listener.refused(error)
                client.close()

    def _on_line(self, handshake: Handshake, port: int | None) -> None:
        self._handshakes.discard(handshake)
        if port is None:
            handshake.socket.close()
            return
        ports = Ports(self._next_port, port)
        while ports in self._connections:
            ports = Ports(_next_host_port(ports.host), port)
        self._next_port = _next_host_port(ports.host)
        connection = self._add(ports, handshake.socket)
        connection.say(VIRTIO_VSOCK_OP_REQUEST)
        connection.watch()
        self.fill()

    # To the guest.

    def want_room(self, connection: Connection) -> None:
        """As :meth:`Owner.want_room`."""
        self._ready[connection] = None

    def fill(self) -> None:
        """Give the guest packets and data, with a turn for each stream, as far as it has room."""
        rxq, moved = self._rxq, 0
        for _ in range(2 * rxq.size):
            if not self._replies and not self._ready:
                return
            chain = rxq.pop()
            if chain is None:
                return  # the driver kicks when it adds chains
            if chain.writable_length < HEADER_SIZE:
                chain.complete(0)
            elif self._replies:
                self._put(chain, self._replies.popleft())
            else:
                moved += self._take_turn(next(iter(self._ready)), chain)
                if moved >= MAX_BYTES:
                    break
        rxq.event.signal()

    def _take_turn(self, connection: Connection, chain: DescriptorChain) -> int:
        """Put a packet of ``connection`` into ``chain``; a burst of data also uses the next chains. Returns the data's
        bytes."""
        del self._ready[connection]
        moved = 0
        control = connection.next_control()
        if control is not None:
            self._put(chain, self._header(connection, *control))
            self._expect_answer(connection, *control)
        elif not connection.has_data():
            self._rxq.unpop(chain)
            return 0
        elif chain.writable_length == HEADER_SIZE:
            chain.complete(0)  # a driver with buffers without room gets no data
        else:
            moved = self._move_data(connection, chain)
        self._ready[connection] = None
        return moved

    def _move_data(self, connection: Connection, chain: DescriptorChain | None) -> int:
        """Read from the host into ``chain`` and the next chains. Returns the number of bytes."""
        credit, room = connection.credit, 0
        parts: list[tuple[DescriptorChain, int]] = []
        views: list[memoryview] = []
        while chain is not None:
            size = chain.writable_length - HEADER_SIZE
            if size <= 0:
                self._rxq.unpop(chain)
                break
            if size <= credit - room and len(chain.writable[0]) == HEADER_SIZE:
                views += chain.writable[1:]  # Linux's layout
            else:
                size = min(size, credit - room)
                views += chain.writable_views(HEADER_SIZE, size)
            parts.append((chain, size))
            room += size
            if room == credit or len(parts) >= connection.burst:
                break
            chain = self._rxq.pop()
        count = left = connection.read(views, room)
        connection.burst = min(2 * connection.burst, MAX_BURST) if count == room else 1
        used = 0
        while left:
            chain, size = parts[used]
            size = min(size, left)
            chain.write(0, self._header(connection, VIRTIO_VSOCK_OP_RW, length=size))
            chain.complete(HEADER_SIZE + size)
            left -= size
            used += 1
        for chain, _ in reversed(parts[used:]):
            self._rxq.unpop(chain)
        return count

    def _expect_answer(self, connection: Connection, op: int, flags: int) -> None:
        seconds = 0.0
        if op == VIRTIO_VSOCK_OP_REQUEST:
            seconds = ANSWER_TIMEOUT
        elif op == VIRTIO_VSOCK_OP_SHUTDOWN and flags == SHUTDOWN_MASK:
            seconds = CLOSE_TIMEOUT
        if seconds:
            connection.timer = self._loop.call_later(seconds, lambda: self._give_up(connection))

    def _give_up(self, connection: Connection) -> None:
        self._remove(connection, "the guest owes an answer", reset=True)
        self.fill()

    @staticmethod
    def _put(chain: DescriptorChain, header: bytes) -> None:
        chain.write(0, header)
        chain.complete(HEADER_SIZE)

    def _header(self, connection: Connection, op: int, flags: int = 0, length: int = 0) -> bytes:
        host_port, guest_port = connection.ports
        buf_alloc, fwd_cnt = connection.tell_credit()
        return pack(
            *(VMADDR_CID_HOST, self._cid, host_port, guest_port),
            *(length, VIRTIO_VSOCK_TYPE_STREAM, op, flags, buf_alloc, fwd_cnt),
        )

    # Streams.

    def _add(self, ports: Ports, sock: socket.socket) -> Connection:
        large = sum(connection.buf_alloc > SMALL_BUFFER for connection in self._connections.values())
        large += sum(drain.size > SMALL_BUFFER for drain in self._drains)
        buf_alloc = LARGE_BUFFER if large < LARGE_BUFFERS else SMALL_BUFFER
        connection = Connection(ports, sock, buf_alloc, self._loop, self)
        self._connections[ports] = connection
        return connection

    def _remove(self, connection: Connection, why: str, *, reset: bool) -> None:
        """End a stream immediately. ``reset``: whether to tell the guest."""
        log.debug("%s ends: %s", connection.ports, why)
        del self._connections[connection.ports]
        self._ready.pop(connection, None)
        if reset:
            self._replies.append(self._header(connection, VIRTIO_VSOCK_OP_RST))
        self._let_go(connection)

    def _let_go(self, connection: Connection) -> None:
        sock, rest = connection.release()
        if rest:
            try:
                self._drains.add(Drain(sock, rest, self._loop, self._drains.discard))
                return
            except OSError as error:  # it cannot be watched
                self._tell(error)
        sock.close()


def _next_host_port(port: int) -> int:
    return port + 1 if port < _LAST_HOST_PORT else _FIRST_HOST_PORT
