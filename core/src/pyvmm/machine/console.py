"""The program's end of a guest's serial port or console: a stream of bytes in both directions.

Between the two ends is a pipe for each direction (pipe(7)). So both directions are bounded, and the slow end makes the
other one wait. A pair of sockets would hold a few hundred writes only, however short they are, and a serial port writes
single bytes.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from _thread import allocate_lock

from pyvmm.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Self

__all__ = ["Console"]

CHUNK: Final = 1 << 16
"""Bytes that one read takes, at most, if the caller does not say how many."""

PIPE_SIZE: Final = 1 << 18
"""Bytes that wait for a program that does not read."""

MAX_SEARCHED: Final = 1 << 20
"""Bytes in which :meth:`Console.read_until` looks for what it waits for."""


class Console:
    """A stream of bytes from and to a device of the guest.

    It holds what the guest writes from the first byte on. If nobody reads, 256 KiB wait here (64 KiB where the host
    gives no more). More than that waits in the device, which then makes the guest wait as its kind does. After the
    end of the run, what waits here can still be read, also when the machine is closed. One thread may read while
    another one writes.
    """

    def __init__(self, device: str, reading: int, writing: int) -> None:
        """Take over the two ends of pipes, which do not block, for the device with the id ``device``."""
        self.device = device
        """The id of the device."""
        self.reading = reading
        self.writing = writing
        self._rest = b""
        """What was received and not yet read."""
        self._tail = b""
        """What was left in the pipe when it was closed."""
        self._lock = allocate_lock()
        self._users = 0
        self._closed = False

    def read(self, size: int = CHUNK, timeout: float | None = None) -> bytes:
        """Wait until the guest has written something: 1 to ``size`` bytes of it, or none if there will be no more.

        Raises TimeoutError if nothing comes in ``timeout`` seconds.
        """
        return self.take(size) or self._receive(size, _deadline(timeout), f"nothing was written in {timeout} s")

    def read_until(self, marker: bytes, timeout: float | None = None) -> bytes:
        """Wait until the guest has written ``marker``: all that it has written up to and with it.

        What comes behind it is left for the next read. Raises TimeoutError if it does not come in ``timeout``
        seconds, EOFError if it never will, and :class:`HostError` if 1 MiB has come without it. What has come is then
        left for the next read.
        """
        deadline = _deadline(timeout)
        while (found := self.take_until(marker)) is None:
            self.keep(marker, self._receive(CHUNK, deadline, f"{marker!r} was not written in {timeout} s"))
        return found

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """Send all of ``data`` to the guest, waiting for it where it is slow.

        Raises TimeoutError if that takes more than ``timeout`` seconds, and BrokenPipeError if the machine has ended.
        A part of it may have been sent then.
        """
        deadline = _deadline(timeout)
        view = memoryview(data)
        with Use(self):
            while view and not self._closed:
                try:
                    view = view[os.write(self.writing, view) :]
                except BlockingIOError:
                    self._wait(
                        self.writing, select.POLLOUT, deadline, f"{len(view)} bytes were not taken in {timeout} s"
                    )
        if view:
            raise self.gone()

    def close(self) -> None:
        """Release the program's end. What the guest writes from now on is lost; closing twice does nothing.

        A thread that is in :meth:`read` or :meth:`write` keeps it open until it returns.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                if not self._users:
                    self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For this class and its asyncio twin.

    def take(self, size: int) -> bytes:
        """Up to ``size`` bytes that were received before."""
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def take_tail(self, size: int) -> bytes:
        """Up to ``size`` bytes that were left when the console was closed."""
        data, self._tail = self._tail[:size], self._tail[size:]
        return data

    def take_until(self, marker: bytes) -> bytes | None:
        """What was received up to ``marker``; None if it has not come."""
        at = self._rest.find(marker)
        return self.take(at + len(marker)) if at >= 0 else None

    def keep(self, marker: bytes, data: bytes) -> None:
        """Keep what was received while ``marker`` is waited for; raises as :meth:`read_until`."""
        if not data:
            raise EOFError(f"{self.device}: the machine ended and has not written {marker!r}")
        self._rest += data
        if len(self._rest) > MAX_SEARCHED and marker not in self._rest:
            raise HostError(f"{self.device}: more than {MAX_SEARCHED >> 20} MiB came without {marker!r}")

    def gone(self) -> BrokenPipeError:
        """The error for a write to a machine that has ended."""
        return BrokenPipeError(f"{self.device}: the machine has ended, or its console was closed")

    @property
    def closed(self) -> bool:
        """Whether the program's end is released."""
        return self._closed

    def enter(self) -> None:
        """The pipes are in use, and so are not closed."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """They are not."""
        with self._lock:
            self._users -= 1
            if self._closed and not self._users:
                self._finish()

    def _receive(self, size: int, deadline: float | None, message: str) -> bytes:
        with Use(self):
            while not self._closed:
                try:
                    return os.read(self.reading, size)
                except BlockingIOError:
                    self._wait(self.reading, select.POLLIN, deadline, message)
        return self.take_tail(size)

    def _wait(self, fd: int, events: int, deadline: float | None, message: str) -> None:
        poll = select.poll()
        poll.register(fd, events)
        if not poll.poll(None if deadline is None else max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError(f"{self.device}: {message}")

    def _finish(self) -> None:
        """Keep what can still be read, and close the pipes."""
        if self.reading < 0:
            return
        try:
            while data := os.read(self.reading, CHUNK):
                self._tail += data
        except OSError:
            pass
        os.close(self.reading)
        os.close(self.writing)
        self.reading = self.writing = -1


class Use:
    """Within it, a console's pipes stay open."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> None:
        self._console.enter()

    def __exit__(self, *_: object) -> None:
        self._console.leave()


class Consoles:
    """The consoles of one machine, by the ids of their devices."""

    def __init__(self) -> None:
        self.by_device: dict[str, Console] = {}
        self._on_end: list[Callable[[], object]] = []

    def open(self, device: str, on_end: Callable[[], object]) -> tuple[int, int]:
        """Make a console for ``device``: two descriptors that do not block, from which the device reads its input and
        to which it writes its output.

        ``on_end`` is called on the loop's thread at the end of the run, and writes what the device still has.
        """
        fds: list[int] = []
        try:
            for _ in range(2):
                fds += os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise HostError(f"{device}: no pipes for its stream: {error.strerror}") from error
        input_, to_input, from_output, output = fds
        try:
            fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            pass  # a user may have a limit on them all (pipe(7))
        self.by_device[device] = Console(device, from_output, to_input)
        self._on_end.append(on_end)
        return input_, output

    def end(self) -> None:
        """The run is over: the program can read all that was written, and then the stream's end."""
        while self._on_end:
            self._on_end.pop()()

    def close(self) -> None:
        """Release the program's ends."""
        for console in self.by_device.values():
            console.close()


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
