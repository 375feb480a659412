"""The host's ends of a command's streams: where its input comes from, and where its output goes."""

from __future__ import annotations

import os
import select
import socket
import stat

from pyvmm_run.protocol import MAX_DATA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_SMALL: Final = 4096
"""Bytes that a pipe or a terminal takes without waiting once poll() says that it takes some (PIPE_BUF)."""


class Source:
    """A command's input: bytes, or a descriptor."""

    def __init__(self, source: bytes | memoryview | int) -> None:
        """``source``: a descriptor stays the caller's, and keeps its flags."""
        self.fd = source if isinstance(source, int) else -1
        self._data = memoryview(b"" if isinstance(source, int) else source)
        self.ended = False

    def read(self, most: int) -> bytes:
        """The next bytes, at most ``most`` and a frame's; nothing at the end. A descriptor is to be readable."""
        most = min(most, MAX_DATA)
        if self.fd >= 0:
            try:
                data = os.read(self.fd, most)
            except BlockingIOError:
                return b""
            except OSError:
                data = b""  # such as a terminal that is gone
        else:
            data, self._data = bytes(self._data[:most]), self._data[most:]
        self.ended = not data
        return data


class Sink:
    """Where a stream of a command's output goes: memory, a descriptor, or nowhere."""

    def __init__(self, fd: int | None, *, collects: bool = False) -> None:
        """``fd`` stays the caller's, and keeps its flags."""
        self.collected: bytearray | None = bytearray() if collects else None
        self.pending = bytearray()
        self.broken = False
        """Whether nobody reads any more what is written there."""
        self.fd = -1
        self._own = -1
        self._kind = ""
        if fd is not None:
            self.fd = fd
            mode = os.fstat(fd).st_mode
            self._kind = "file" if stat.S_ISREG(mode) else "socket" if stat.S_ISSOCK(mode) else "other"
            if self._kind == "socket":
                self._socket = socket.socket(fileno=os.dup(fd))
            elif stat.S_ISFIFO(mode):
                try:  # another open file, so that O_NONBLOCK is ours alone
                    self.fd = self._own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                    self._kind = "file"
                except OSError:
                    pass

    def take(self, data: bytes) -> int:
        """Take ``data``; how many bytes are done with by now, of this and of what was pending."""
        if self.collected is not None:
            self.collected += data
            return len(data)
        if self.fd < 0 or self.broken:
            return len(data)
        self.pending += data
        return self.flush()

    def flush(self) -> int:
        """Write what can be written; how many bytes are done with."""
        done = 0
        while self.pending and not self.broken:
            try:
                if self._kind == "socket":
                    n = self._socket.send(self.pending, socket.MSG_DONTWAIT)
                elif self._kind == "file":
                    n = os.write(self.fd, self.pending)
                elif self._can_write():
                    n = os.write(self.fd, bytes(self.pending[:_SMALL]))
                else:
                    break
            except BlockingIOError:
                break
            except OSError:
                self.broken = True
                break
            del self.pending[:n]
            done += n
        if self.broken:
            done += len(self.pending)
            self.pending.clear()
        return done

    def close(self) -> None:
        """Forget the descriptor."""
        if self._own >= 0:
            os.close(self._own)
            self._own = -1
        if self._kind == "socket":
            self._socket.close()

    def _can_write(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(0))
