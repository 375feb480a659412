"""The protocol between the host and the guest's program: frames of bounded length, see ``agent/PROTOCOL.md``.

What comes from the guest is not trusted: a frame that breaks the protocol raises :class:`ProtocolError`.
"""

from __future__ import annotations

import os
import struct

from pyvmm.errors import PyvmmError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Final

VERSION: Final = 1

HELLO_PORT: Final = 1024
"""The host's port: the guest connects to it when it is up."""

COMMAND_PORT: Final = 1025
"""The guest's port: each connection is a command."""

MAX_DATA: Final = 1 << 16
"""Bytes of a frame beyond its header."""

WINDOW: Final = 1 << 18
"""Bytes of a stream that may be on their way: so many are sent without a credit, and then as many as credits say."""

MAX_REQUEST: Final = 4 << 20
"""Bytes of a request: about what Linux takes as arguments and environment."""

REQUEST: Final = 1
START: Final = 2
DATA: Final = 3
END: Final = 4
CREDIT: Final = 5
SIGNAL: Final = 6
SIZE: Final = 7
HELLO: Final = 16
STARTED: Final = 17
FAILED: Final = 18
EXIT: Final = 19

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

_HEADER: Final = struct.Struct("<BBHI")
_U32: Final = struct.Struct("<I")

_LENGTHS: Final = {
    DATA: (1, MAX_DATA),
    END: (0, 0),
    CREDIT: (4, 4),
    HELLO: (4, 4),
    STARTED: (0, 0),
    FAILED: (4, 4 + 256),
    EXIT: (4, 4),
}
"""The shortest and the longest payload of each type of frame that a guest sends."""

_STREAMS: Final = {DATA: (STDOUT, STDERR), END: (STDOUT, STDERR), CREDIT: (STDIN,)}
"""The streams of those types that have one; the others have stream 0."""


class ProtocolError(PyvmmError):
    """The guest's program says what the protocol does not allow."""


class GuestLostError(PyvmmError):
    """The machine, or the guest's program in it, ended before the command did."""


def frame(type: int, stream: int = 0, data: bytes = b"") -> bytes:
    """A frame for the guest."""
    return _HEADER.pack(type, stream, 0, len(data)) + data


def credit(stream: int, length: int) -> bytes:
    """A frame: the guest may send ``length`` more bytes of ``stream``."""
    return frame(CREDIT, stream, _U32.pack(length))


def signal(number: int) -> bytes:
    """A frame: a signal for the command."""
    return frame(SIGNAL, 0, _U32.pack(number))


def size(rows: int, columns: int) -> bytes:
    """A frame: the size of the command's terminal."""
    return frame(SIZE, 0, struct.pack("<HH", rows & 0xFFFF, columns & 0xFFFF))


def request(texts: Iterable[str | bytes]) -> bytes:
    """The frames of a request with its start. Raises :class:`UsageError` for texts that cannot be sent."""
    encoded = [os.fsencode(text) for text in texts]
    for text in encoded:
        if b"\0" in text:
            raise UsageError(f"{os.fsdecode(text[:60])!r}: an argument or a variable cannot have a zero byte")
    whole = b"".join(text + b"\0" for text in encoded)
    if len(whole) > MAX_REQUEST:
        raise UsageError(f"a command with {len(whole)} bytes of arguments and environment; at most {MAX_REQUEST}")
    parts = [frame(REQUEST, 0, whole[at : at + MAX_DATA]) for at in range(0, len(whole), MAX_DATA)]
    return b"".join([*parts, frame(START)])


def command(
    arguments: Sequence[str | bytes],
    environment: Mapping[str, str],
    directory: str,
    terminal: tuple[int, int] | None = None,
) -> bytes:
    """The request to run a command; ``terminal`` is the size of its terminal, rows and columns."""
    texts: list[str | bytes] = [b"a" + os.fsencode(argument) for argument in arguments]
    texts += [f"e{name}={value}" for name, value in environment.items()]
    texts.append(f"d{directory}")
    if terminal is not None:
        texts.append(f"t{terminal[0]} {terminal[1]}")
    return request(texts)


class Frame:
    """A frame of the guest's."""

    __slots__ = ("data", "stream", "type")

    def __init__(self, type: int, stream: int, data: bytes) -> None:
        self.type = type
        self.stream = stream
        self.data = data

    @property
    def number(self) -> int:
        """The first four bytes as a number."""
        number: int = _U32.unpack_from(self.data)[0]
        return number

    @property
    def errno(self) -> int:
        """The number of a FAILED; raises :class:`ProtocolError` for what is no errno."""
        if not 0 < self.number < 4096:
            raise ProtocolError(f"the guest's program breaks the protocol: {self.number} is no errno")
        return self.number

    @property
    def text(self) -> str:
        """The rest as printable text: FAILED has one."""
        return self.data[4:].decode(errors="replace").encode("unicode_escape").decode()


class Decoder:
    """Makes frames of a guest's bytes. It holds one frame at most."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    @property
    def is_between_frames(self) -> bool:
        """Whether there is no part of a frame."""
        return not self._bytes

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that ``data`` completes. Raises :class:`ProtocolError`."""
        self._bytes += data
        at = 0
        while len(self._bytes) - at >= _HEADER.size:
            type, stream, zero, length = _HEADER.unpack_from(self._bytes, at)
            shortest, longest = _LENGTHS.get(type, (1, 0))
            if zero or not shortest <= length <= longest or stream not in _STREAMS.get(type, (0,)):
                raise ProtocolError(
                    f"the guest's program breaks the protocol: a frame of type {type}, stream {stream}, length {length}"
                )
            end = at + _HEADER.size + length
            if len(self._bytes) < end:
                break
            yield Frame(type, stream, bytes(self._bytes[at + _HEADER.size : end]))
            at = end
        del self._bytes[:at]
