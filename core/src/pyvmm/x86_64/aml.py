"""The part of ACPI machine language that describes devices (ACPI 6.5, chapter 20; resources: section 6.4)."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "buffer",
    "device",
    "eisa_id",
    "hardware_id",
    "integer",
    "interrupt",
    "io_ports",
    "memory",
    "method",
    "name",
    "name_string",
    "package",
    "resource_template",
    "return_",
    "scope",
    "string",
]

ZERO_OP: Final = b"\x00"
ONE_OP: Final = b"\x01"
NAME_OP: Final = b"\x08"
BYTE_PREFIX: Final = b"\x0a"
WORD_PREFIX: Final = b"\x0b"
DWORD_PREFIX: Final = b"\x0c"
STRING_PREFIX: Final = b"\x0d"
QWORD_PREFIX: Final = b"\x0e"
SCOPE_OP: Final = b"\x10"
BUFFER_OP: Final = b"\x11"
PACKAGE_OP: Final = b"\x12"
METHOD_OP: Final = b"\x14"
RETURN_OP: Final = b"\xa4"
DEVICE_OP: Final = b"\x5b\x82"

IO_PORT_DESCRIPTOR: Final = 0x47
END_TAG: Final = b"\x79\x00"
MEMORY32_FIXED_DESCRIPTOR: Final = 0x86
WORD_ADDRESS_DESCRIPTOR: Final = 0x88
EXTENDED_INTERRUPT_DESCRIPTOR: Final = 0x89
QWORD_ADDRESS_DESCRIPTOR: Final = 0x8A


def package_length(length: int) -> bytes:
    """PkgLength for ``length`` bytes that follow it; the number it encodes counts itself too (section 20.2.4)."""
    if length + 1 < 1 << 6:
        return bytes([length + 1])
    for extra in (1, 2, 3):
        total = length + 1 + extra
        if total < 1 << (4 + 8 * extra):
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little")
    raise ValueError(f"{length} bytes are too many for an AML package")


def name_string(path: str) -> bytes:
    r"""A name: ``\`` for the root, then segments of up to four characters (section 20.2.2)."""
    root, segments = path.startswith("\\"), path.lstrip("\\").split(".")
    encoded = [segment.ljust(4, "_").encode("ascii") for segment in segments]
    if any(len(segment) != 4 for segment in encoded) or len(segments) > 2:
        raise ValueError(f"not a name of one or two segments: {path!r}")
    return (b"\\" if root else b"") + (b"\x2e" if len(segments) == 2 else b"") + b"".join(encoded)


def integer(value: int) -> bytes:
    """An integer constant of up to 64 bits, in its shortest encoding."""
    if value == 0:
        return ZERO_OP
    if value == 1:
        return ONE_OP
    if value < 1 << 8:
        return BYTE_PREFIX + struct.pack("<B", value)
    if value < 1 << 16:
        return WORD_PREFIX + struct.pack("<H", value)
    if value < 1 << 32:
        return DWORD_PREFIX + struct.pack("<I", value)
    return QWORD_PREFIX + struct.pack("<Q", value)


def string(text: str) -> bytes:
    """A string constant, in ASCII."""
    return STRING_PREFIX + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """A PNP id such as ``PNP0501``, compressed to a 32-bit number (section 19.3.4)."""
    vendor = 0
    for letter in text[:3]:
        if not "A" <= letter <= "Z":
            raise ValueError(f"not a PNP id: {text!r}")
        vendor = vendor << 5 | ord(letter) - 0x40
    if len(text) != 7:
        raise ValueError(f"not a PNP id: {text!r}")
    (value,) = struct.unpack("<I", struct.pack(">HH", vendor, int(text[3:], 16)))
    return DWORD_PREFIX + struct.pack("<I", value)


def hardware_id(text: str) -> bytes:
    """The value of ``_HID``: a PNP id as a number, an ACPI id such as ``LNRO0005`` as a string (section 6.1.5)."""
    return eisa_id(text) if len(text) == 7 else string(text)


def name(path: str, value: bytes) -> bytes:
    """An object named ``path``."""
    return NAME_OP + name_string(path) + value


def package(*elements: bytes) -> bytes:
    """A package of up to 255 elements."""
    body = bytes([len(elements)]) + b"".join(elements)
    return PACKAGE_OP + package_length(len(body)) + body


def buffer(data: bytes) -> bytes:
    """A buffer with ``data`` in it."""
    body = integer(len(data)) + data
    return BUFFER_OP + package_length(len(body)) + body


def scope(path: str, *terms: bytes) -> bytes:
    """``terms`` in the namespace below ``path``."""
    body = name_string(path) + b"".join(terms)
    return SCOPE_OP + package_length(len(body)) + body


def device(path: str, *terms: bytes) -> bytes:
    """A device with ``terms`` in it."""
    body = name_string(path) + b"".join(terms)
    return DEVICE_OP + package_length(len(body)) + body


def method(path: str, arguments: int, *terms: bytes, serialized: bool = False) -> bytes:
    """A control method with a number of ``arguments``, 0 to 7, that executes ``terms`` (section 20.2.5.2)."""
    if not 0 <= arguments <= 7:
        raise ValueError(f"a method takes 0 to 7 arguments, not {arguments}")
    body = name_string(path) + bytes([arguments | serialized << 3]) + b"".join(terms)
    return METHOD_OP + package_length(len(body)) + body


def return_(value: bytes) -> bytes:
    """The statement that ends a method and returns ``value``."""
    return RETURN_OP + value


def resource_template(*descriptors: bytes) -> bytes:
    """The value of ``_CRS``; the end tag's checksum of 0 means that there is none (section 6.4.2.9)."""
    return buffer(b"".join(descriptors) + END_TAG)


def io_ports(base: int, size: int) -> bytes:
    """Fixed I/O ports, decoded with 16 bits (sections 6.4.2.5 and, past 255 ports, 6.4.3.5.3)."""
    if size <= 255:
        return struct.pack("<BBHHBB", IO_PORT_DESCRIPTOR, 1, base, base, 1, size)
    # A consumed I/O range, minimum and maximum fixed, both ISA and non-ISA ports
    fields = (0, base, base + size - 1, 0, size)
    return struct.pack("<BHBBB5H", WORD_ADDRESS_DESCRIPTOR, 13, 1, 0x0D, 0x03, *fields)


def memory(base: int, size: int) -> bytes:
    """Fixed, writable, uncached physical addresses (sections 6.4.3.4 and, past 4 GiB, 6.4.3.5.1)."""
    if base + size <= 1 << 32:
        return struct.pack("<BHBII", MEMORY32_FIXED_DESCRIPTOR, 9, 1, base, size)
    fields = (0, base, base + size - 1, 0, size)
    return struct.pack("<BHBBB5Q", QWORD_ADDRESS_DESCRIPTOR, 43, 0, 0x0D, 0x01, *fields)


def interrupt(gsi: int) -> bytes:
    """One interrupt that the device consumes: edge-triggered, active high, exclusive (section 6.4.3.6)."""
    consumer, edge = 1 << 0, 1 << 1
    return struct.pack("<BHBBI", EXTENDED_INTERRUPT_DESCRIPTOR, 6, consumer | edge, 1, gsi)
