"""Log records and stderr of a pyvmm process, relayed through a pipe to its parent.

A log record is one line with level, logger and message, marked by control characters that no other line has. Any other
line is relayed as text. The reader does not trust the process: it bounds the amount, and lets no control characters
through to a terminal.
"""

from __future__ import annotations

import os
import select

from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    import re
    from typing import Final

    from pyvmm.host.eventloop import EventLoop, LoopScope

__all__ = ["LogRelay"]

RECORD: Final = b"\x1e"
"""The first character of a line that is a log record."""

FIELD: Final = b"\x1f"
"""The separator of a record's fields."""

_CONTROLS: Final = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if n not in (9, 10)}

MAX_LINE: Final = 1 << 16
"""The longest line, in bytes; longer ones are cut into several."""

MAX_LOGGERS: Final = 32
"""The most loggers that one child process can create in this process."""

LINES_A_SECOND: Final = 500
"""The most lines relayed in a second. A process that writes more has to wait."""

_CHUNK: Final = 1 << 13
_DRAINED: Final = 1 << 20

log = logger("pyvmm.process")


class LogRelay:
    """The reading end of the pipe."""

    def __init__(self, fd: int, name: str) -> None:
        """Take over ``fd``. ``name`` is put before each line that does not begin with it."""
        os.set_blocking(fd, False)
        self._fd = fd
        self.name = name
        self._rest = b""
        self._lines = 0
        self._counting = False
        self._loggers: set[str] = set()
        self._loop: EventLoop | LoopScope | None = None
        self._expected_to_end = False
        self.ignored: re.Pattern[bytes] | None = None
        """A pattern of lines to drop."""

    def expect_end(self) -> None:
        """Log later lines at a lower level: they come from a process that was told to end."""
        self._expected_to_end = True

    def watch(self, loop: EventLoop | LoopScope) -> None:
        """Relay lines as they arrive, on ``loop``."""
        self._loop = loop
        loop.add(self._fd, self._readable)

    def unwatch(self) -> None:
        """Stop relaying on the loop. Output stays in the pipe until :meth:`drain`."""
        if self._loop is not None:
            self._loop.remove(self._fd)
            self._loop = None

    def drain(self) -> None:
        """Relay the output that is in the pipe, without waiting."""
        for _ in range(_DRAINED // _CHUNK):
            if not self._read():
                break

    def fileno(self) -> int:
        """The pipe's descriptor."""
        return self._fd

    def close(self) -> None:
        """Relay the rest, and close the pipe; closing twice does nothing."""
        if self._fd >= 0:
            self.unwatch()
            self.drain()
            if self._rest:
                self._emit(self._rest)
            os.close(self._fd)
            self._fd = -1

    def _readable(self, events: int) -> None:
        assert self._loop is not None
        if not self._read() and events & (select.EPOLLHUP | select.EPOLLERR):
            self.unwatch()
            return
        if not self._counting:
            self._counting = True
            self._loop.call_later(1.0, self._second_over)
        if self._lines >= LINES_A_SECOND:
            # The pipe fills up, and then the process has to wait.
            self._loop.remove(self._fd)

    def _second_over(self) -> None:
        paused, self._lines, self._counting = self._lines >= LINES_A_SECOND, 0, False
        if paused and self._loop is not None:
            self._loop.add(self._fd, self._readable)

    def _read(self) -> bool:
        """Relay some output. Returns whether there was any."""
        try:
            data = os.read(self._fd, _CHUNK)
        except OSError:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > MAX_LINE:
            lines.append(self._rest[:MAX_LINE])
            self._rest = self._rest[MAX_LINE:]
        for line in lines:
            self._emit(line)
        self._lines += len(lines)
        return bool(data)

    def _emit(self, line: bytes) -> None:
        to, level, message = self._parse(line)
        text = message.translate(_CONTROLS).rstrip()
        if not text or (self.ignored is not None and self.ignored.fullmatch(line)):
            return
        if not text.startswith((f"{self.name}: ", f"{self.name} (")):  # a failure names the package as well
            text = f"{self.name}: {text}"
        to.log(level, "%s", text)

    def _parse(self, line: bytes) -> tuple[logging.Logger, int, str]:
        import logging

        fields = line.split(FIELD, 2)
        if len(fields) == 3 and fields[0].startswith(RECORD):
            try:
                level = min(max(int(fields[0][1:]), logging.DEBUG), logging.CRITICAL)
                return self._logger(fields[1].decode()), level, fields[2].decode("unicode_escape")
            except ValueError:
                pass
        level = logging.DEBUG if self._expected_to_end else logging.WARNING
        return log, level, line.decode("utf-8", "backslashreplace")

    def _logger(self, name: str) -> logging.Logger:
        """The logger called ``name``. A process can create only a limited number, since loggers are never freed."""
        if name not in self._loggers:
            plain = name.replace("_", "").replace(".", "")
            if len(self._loggers) >= MAX_LOGGERS or not (plain.isascii() and plain.isalnum() and len(name) <= 100):
                return log
            self._loggers.add(name)
        return logger(name)


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` to ``fd``, which blocks."""
    while data:
        data = data[os.write(fd, data) :]
