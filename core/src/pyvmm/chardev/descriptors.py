"""Reading and writing file descriptors of the host, of any kind, without ever blocking."""

from __future__ import annotations

import os
import select
import stat

from pyvmm.host.eventloop import READABLE, WRITABLE, LoopScope
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.chardev.line import Line
    from pyvmm.host.eventloop import Timer

log = logger(__name__)

_READ_SIZE: Final = 4096

BACKLOG: Final = 1 << 20
"""The most typed or pasted bytes that wait for a guest that reads slowly. Further bytes wait in the terminal."""

_STALLED: Final = 1.0
"""Seconds in which a guest reads nothing, after which the terminal is read even if :data:`BACKLOG` bytes wait."""

_BACKGROUND_INTERVAL: Final = 0.25
"""Seconds between checks whether a process in a shell's background has come to the foreground."""

_READS_A_TURN: Final = 64
"""The most reads in a turn from a file that always has more, so that other devices on the loop get their turn."""


def reopen(fd: int, flags: int) -> int:
    """A new, non-blocking descriptor for the pipe or terminal behind ``fd``; ``fd`` itself if none can be made.

    O_NONBLOCK belongs to the open file, which an inherited descriptor shares with the shell and with all other programs
    on the terminal. So it must not be set there. A file that is opened again has a flag of its own. The kernel refuses
    that for sockets, and for the terminal of another user. A regular file keeps its descriptor, since the position also
    belongs to the open file.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            pass
    return fd


class DescriptorOutput:
    """Writes to a file descriptor."""

    def __init__(self, name: str, fd: int) -> None:
        """``name`` is its name in the log."""
        self.name = name
        self.fd = fd
        self._failed = False
        mode = os.fstat(fd).st_mode
        self._is_file = stat.S_ISREG(mode) or stat.S_ISBLK(mode)
        self._blocks = os.get_blocking(fd) and not self._is_file
        self._is_pipe = stat.S_ISFIFO(mode)
        self._watched = False

    def write(self, data: bytes) -> int:
        """As :meth:`Output.write`."""
        try:
            if not self._blocks:
                return os.write(self.fd, data)
            fits = self._what_fits(data)
            return os.write(self.fd, fits) if fits else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(error)
            return len(data)

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` until the descriptor can be written. Returns whether it can."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def _lose(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            log.warning("%s: %s; output is lost", self.name, error.strerror)

    def _what_fits(self, data: bytes) -> bytes:
        # A ready pipe takes PIPE_BUF bytes (pipe(7)); of anything else only a single byte is certain to fit.
        if not self.wait(0):
            return b""
        return data[: select.PIPE_BUF] if self._is_pipe else data[:1]

    def watch(self, loop: LoopScope, callback: Callable[[int], None]) -> bool:
        """As :meth:`Output.watch`."""
        if not self._watched:
            try:
                loop.add(self.fd, callback, WRITABLE)
            except PermissionError:
                self._blocks = False  # epoll refuses files that never block: a regular file, /dev/null
                return False
            self._watched = True
        return True

    def unwatch(self, loop: LoopScope) -> None:
        """As :meth:`Output.unwatch`."""
        if self._watched:
            loop.remove(self.fd)
            self._watched = False


class PeerOutput(DescriptorOutput):
    """Writes to a socket or a pipe; what comes after the other end has left is lost."""

    def _lose(self, error: OSError) -> None:
        """EPIPE is no fault."""


class DescriptorInput:
    """Reads a file descriptor into a line while the line has room. Use it on the loop's thread."""

    def __init__(
        self,
        fd: int,
        line: Line,
        *,
        on_end: Callable[[], None] | None = None,
        interpret: Callable[[bytes], bytes] | None = None,
        may_read: Callable[[], bool] | None = None,
        events: int = READABLE,
    ) -> None:
        """``on_end`` is called once, at the end of input.

        ``interpret`` gets all input first and returns the part for the guest. Input is then read even if the line has
        no room, so that a person's way out does not depend on the guest. Up to :data:`BACKLOG` bytes wait for the
        guest. Then reading waits for room, as long as the guest reads. If the guest reads nothing, reading goes on and
        the bytes are lost. ``may_read`` returns whether this process may read now: in the background of a shell it may
        not read the terminal.
        """
        self.fd = fd
        self._may_read = may_read
        self._timer: Timer | None = None
        self._backlog = bytearray()
        self._is_stalled = False
        self._lost = False
        self._line = line
        self._on_end = on_end
        self._interpret = interpret
        self._events = events
        self._loop: LoopScope | None = None
        self._watched = False
        self._ended = False

    def start(self, loop: LoopScope) -> None:
        """Read from now on."""
        self._loop = loop
        self.resume()

    def resume(self) -> None:
        """Read again, after the line had no room."""
        self._deliver()
        if self._ended or self._loop is None:
            return
        if self._may_read is not None and not self._may_read():
            self._look_again()
            return
        if self._watched:
            return
        if self._room() <= 0:
            self._wait_for_room()
            return
        try:
            self._loop.add(self.fd, self._on_readable, self._events)
            self._watched = True
        except PermissionError:
            # epoll refuses files that never block: a regular file, /dev/null. Such a file is read when the line has
            # room.
            for _ in range(_READS_A_TURN):
                if self._ended or not self._read():
                    return
            self._loop.post(self.resume)

    def stop(self) -> None:
        """Stop reading."""
        self._ended = True
        self._unwatch()
        self._cancel_timer()

    def _on_readable(self, _: int) -> None:
        self._read()

    def _read(self) -> bool:
        """Read once. Returns whether there may be more now."""
        if self._may_read is not None and not self._may_read():
            self._look_again()
            return False
        room = self._room()
        if room <= 0:
            # It is not enough to wait for no events: epoll always reports a hang-up, again and again.
            self._unwatch()
            self._wait_for_room()
            return False
        try:
            data = os.read(self.fd, min(room, _READ_SIZE))
        except BlockingIOError:
            return False
        except OSError as error:
            if self._may_read is not None and not self._may_read():  # the shell has just taken the terminal
                self._look_again()
                return False
            log.debug("fd %d: %s", self.fd, error.strerror)
            data = b""
        if not data:
            self._end()
            return False
        if self._interpret is None:
            self._line.deliver(data)
            return True
        self._backlog += self._interpret(data)
        self._deliver()
        if len(self._backlog) > BACKLOG:
            del self._backlog[BACKLOG:]
            if not self._lost:
                self._lost = True
                log.warning("the guest reads no input; input beyond %d bytes is lost", BACKLOG)
        return True

    def _room(self) -> int:
        """The number of bytes that may be read now."""
        if self._interpret is None:
            return self._line.input_room()
        return _READ_SIZE if self._is_stalled else BACKLOG - len(self._backlog)

    def _deliver(self) -> None:
        """Give the guest waiting input, up to the line's room. The line says when it has room again."""
        while self._backlog and (room := self._line.input_room()) > 0:
            self._line.deliver(bytes(self._backlog[:room]))
            del self._backlog[:room]
            self._is_stalled = False
            self._cancel_timer()

    def _look_again(self) -> None:
        """Check again later whether this process may read: a shell does not tell a running job that it came to the
        foreground."""
        self._unwatch()
        self._call_later(_BACKGROUND_INTERVAL, self.resume)

    def _wait_for_room(self) -> None:
        """Wait until the line has room. A guest that reads nothing does not leave a person's keys unread."""
        if self._interpret is not None:
            self._call_later(_STALLED, self._on_stall)

    def _on_stall(self) -> None:
        self._is_stalled = True
        self.resume()

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call ``function`` later, unless another call waits."""

        def run() -> None:
            self._timer = None
            function()

        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(seconds, run)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self.stop()
        if self._on_end is not None:
            self._on_end()

    def _unwatch(self) -> None:
        if self._watched and self._loop is not None:
            self._loop.remove(self.fd)
        self._watched = False
