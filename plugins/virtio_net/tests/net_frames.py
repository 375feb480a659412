"""Frames for tests: Ethernet, IPv4, TCP and UDP, and the header that goes before each (virtio 1.2, 5.1.6)."""

from __future__ import annotations

import struct

NO_OFFLOAD = bytes(12)
ETHERNET = bytes.fromhex("ffffffffffff 020000000001")
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 3, 4, 5


def header(
    flags: int = 0, gso_type: int = 0, hdr_len: int = 0, gso_size: int = 0, start: int = 0, offset: int = 0
) -> bytes:
    """struct virtio_net_hdr_v1 with num_buffers 0."""
    return struct.pack("<BBHHHHH", flags, gso_type, hdr_len, gso_size, start, offset, 0)


def plain(size: int, number: int = 0) -> bytes:
    """A frame of ``size`` bytes of a protocol that no stack touches, told apart by ``number``."""
    pattern = bytes((i * 7 + number) & 0xFF for i in range(256))
    return (ETHERNET + struct.pack(">HI", 0x88B5, number) + pattern * (size // 256 + 1))[:size]


def checksum(data: bytes) -> int:
    """The Internet checksum, not inverted (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _ipv4(protocol: int, length: int) -> bytes:
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return ip[:10] + struct.pack(">H", ~checksum(ip) & 0xFFFF) + ip[12:]


def _pseudo(ip: bytes, length: int) -> bytes:
    return ip[12:20] + struct.pack(">BBH", 0, ip[9], length)


def tcp(payload: bytes, flags: int = 0x10) -> bytes:
    """A TCP segment over IPv4 of any length, its checksum partial as CHECKSUM_PARTIAL means it."""
    length = 20 + len(payload)
    ip = _ipv4(6, length)
    partial = checksum(_pseudo(ip, length))
    head = struct.pack(">HHIIBBHHH", 1000, 2000, 1, 1, 5 << 4, flags, 1000, partial, 0)
    return ETHERNET + b"\x08\0" + ip + head + payload


def udp(payload: bytes) -> bytes:
    """A UDP datagram over IPv4, its checksum partial."""
    length = 8 + len(payload)
    ip = _ipv4(17, length)
    return ETHERNET + b"\x08\0" + ip + struct.pack(">HHHH", 1000, 2000, length, checksum(_pseudo(ip, length))) + payload


def checksum_is_good(frame: bytes) -> bool:
    """Whether the TCP or UDP checksum of a frame over IPv4 is complete and right."""
    ip = frame[14:34]
    end = 14 + int.from_bytes(ip[2:4], "big")
    segment = frame[34:end]
    return checksum(_pseudo(ip, len(segment)) + segment) == 0xFFFF


TCP_CSUM = header(NEEDS_CSUM, start=34, offset=16)
UDP_CSUM = header(NEEDS_CSUM, start=34, offset=6)


def tso(gso_size: int = 1448) -> bytes:
    """The header of a TCP segment that is to be cut into ones of ``gso_size`` bytes of payload."""
    return header(NEEDS_CSUM, GSO_TCPV4, 54, gso_size, 34, 16)
