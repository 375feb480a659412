"""The guest's side of a socket device for tests: what its driver does with the rings, and streams as it sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyvmm.testing.driver_ring import DriverRing, GuestBuffer
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm_virtio_vsock import VsockOptions
from pyvmm_virtio_vsock.constants import (
    VIRTIO_VSOCK_OP_CREDIT_REQUEST,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_REQUEST,
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_RST,
    VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_TYPE_STREAM,
)
from pyvmm_virtio_vsock.device import Vsock
from pyvmm_virtio_vsock.muxer import Muxer
from pyvmm_virtio_vsock.packet import HEADER_SIZE, Header, pack

REQUEST, RESPONSE, RST = VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_RST
SHUTDOWN, RW = VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_OP_RW
CREDIT_UPDATE, CREDIT_REQUEST = VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST
RCV, SEND, BOTH = 1, 2, 3

CID = 3
HOST = 2
BUF_ALLOC = 256 << 10


@dataclass(frozen=True)
class Packet:
    """What the device has put into the receive ring."""

    header: Header
    data: bytes

    @property
    def op(self) -> int:
        return self.header.op


class Guest(VirtioDriver):
    """A machine with nothing but the socket device, and its driver."""

    def __init__(self, path: Path, cid: int = CID) -> None:
        self.vsock = Vsock(VsockOptions(path, cid))
        super().__init__(self.vsock, name="vsock0")
        self.path = path
        self.cid = cid
        self._spare: dict[tuple[int, ...], list[list[GuestBuffer]]] = {}
        self._sent: list[GuestBuffer] = []

    def __enter__(self) -> Guest:
        return self

    @property
    def muxer(self) -> Muxer:
        """The streams, as long as the driver is up."""
        assert self.vsock._muxer is not None
        return self.vsock._muxer

    @property
    def rx(self) -> DriverRing:
        return self.rings[0]

    @property
    def tx(self) -> DriverRing:
        return self.rings[1]

    @property
    def events(self) -> DriverRing:
        return self.rings[2]

    def up(self, count: int = 64, *lengths: int, features: Sequence[int] | None = None) -> None:
        """Start, and give the device ``count`` receive chains of buffers of ``lengths``, by default as Linux's."""
        self.start(features)
        self._spare.clear()
        self.post(count, *lengths)

    def post(self, count: int = 1, *lengths: int) -> None:
        """More receive chains."""
        lengths = lengths or (HEADER_SIZE, 4096)
        spare = self._spare.setdefault(lengths, [])
        for _ in range(count):
            buffers = spare.pop() if spare else [self.heap.allocate(length) for length in lengths]
            self.rx.add((), buffers)
        self.rx.kick()
        self.run()

    def packets(self) -> list[Packet]:
        """What the device has sent since the last time."""
        self.run()
        packets = []
        for used in self.rx.take_used():
            assert used.chain is not None
            lengths = tuple(buffer.length for buffer in used.chain.writable)
            data = used.chain.written()[: used.length]
            self._spare.setdefault(lengths, []).append([*used.chain.writable])
            if used.length:
                header = Header.unpack(data[:HEADER_SIZE])
                assert (header.src_cid == HOST or header.op == RST) and header.dst_cid == self.cid
                assert len(data) == HEADER_SIZE + header.len
                packets.append(Packet(header, data[HEADER_SIZE:]))
        return packets

    def packet(self) -> Packet:
        """The one packet that the device has sent."""
        [packet] = self.packets()
        return packet

    def send_raw(self, *buffers: bytes | GuestBuffer) -> None:
        """Put a packet into the transmit ring, kick, and let the device take it."""
        self.tx.add(buffers)
        self.tx.kick()
        self.run()
        for used in self.tx.take_used():
            assert used.length == 0

    def send(self, header: Header, data: bytes = b"") -> None:
        """Send a packet; its buffers come from the heap's end, and go."""
        start = self.heap._next
        self.send_raw(pack(*header), *([data] if data else []))
        self.heap._next = start


class Stream:
    """A stream as the guest sees it."""

    def __init__(self, guest: Guest, host_port: int, guest_port: int, *, buf_alloc: int = BUF_ALLOC) -> None:
        self.guest = guest
        self.host_port = host_port
        self.guest_port = guest_port
        self.buf_alloc = buf_alloc
        self.fwd_cnt = 0
        self.tx_cnt = 0
        self.peer_buf_alloc = 0
        self.peer_fwd_cnt = 0

    @property
    def credit(self) -> int:
        """Bytes that the device has room for, as far as was heard."""
        return self.peer_buf_alloc - (self.tx_cnt - self.peer_fwd_cnt)

    def hear(self, packet: Packet) -> Packet:
        """Note the credit that a packet of this stream gives."""
        header = packet.header
        assert (header.src_port, header.dst_port) == (self.host_port, self.guest_port)
        self.peer_buf_alloc, self.peer_fwd_cnt = header.buf_alloc, header.fwd_cnt
        return packet

    def header(self, op: int, length: int = 0, flags: int = 0, **fields: int) -> Header:
        header = Header(
            self.guest.cid,
            HOST,
            self.guest_port,
            self.host_port,
            length,
            VIRTIO_VSOCK_TYPE_STREAM,
            op,
            flags,
            self.buf_alloc,
            self.fwd_cnt & 0xFFFFFFFF,
        )
        return header._replace(**fields)

    def send(self, op: int, data: bytes = b"", flags: int = 0, **fields: int) -> None:
        self.tx_cnt += len(data)
        self.guest.send(self.header(op, len(data), flags, **fields), data)

    def read(self, packets: Sequence[Packet]) -> bytes:
        """The data of ``packets``, all of which must be data; it is taken, and the device told with the next one."""
        assert {packet.op for packet in packets} <= {RW}, packets
        data = b"".join(packet.data for packet in packets)
        self.fwd_cnt += len(data)
        return data
