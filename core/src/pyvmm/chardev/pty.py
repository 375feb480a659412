"""``pty``: a pseudo-terminal that a terminal program can open (pty(7))."""

from __future__ import annotations

import os
import select
import sys

from pyvmm.chardev.backend import Backend
from pyvmm.chardev.descriptors import DescriptorInput, DescriptorOutput
from pyvmm.errors import HostError
from pyvmm.host.eventloop import READABLE
from pyvmm.host.standard_streams import write_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.chardev.line import Line
    from pyvmm.device_context import DeviceContext


class Pty(Backend):
    """The master's end of a new pty. A program may open the slave, close it and open it again.

    While no program has the slave open, output is lost: a line that is not plugged in does not make the guest wait.
    """

    def __init__(self, kind: str) -> None:
        """Raises :class:`HostError` if the host has no pty left."""
        from pyvmm.chardev.terminal import make_raw

        try:
            self._master, slave = os.openpty()
        except OSError as error:
            raise HostError(f"{kind}: no pseudo-terminal: {error.strerror}; see /proc/sys/kernel/pty/max") from error
        os.set_blocking(self._master, False)
        # Otherwise it would echo the guest's output to the guest until a terminal program sets it.
        make_raw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        self._reader = os.dup(self._master)

    def attach(self, line: Line, context: DeviceContext) -> None:
        super().attach(line, context)
        self.output = _PtyOutput(context.title, self._master)
        line.connect(self.output)
        self.input = _PtyInput(self._reader, line, events=READABLE | select.EPOLLET)
        self.input.start(context.loop)
        write_line(sys.stderr, f"{context.title}: {self.path}")

    def close(self) -> None:
        super().close()
        if self._master >= 0:
            os.close(self._master)
            os.close(self._reader)
            self._master = -1


class _PtyOutput(DescriptorOutput):
    """Writes to the master. Without an open slave the kernel would keep some KiB for a later one; such output is
    dropped instead."""

    def __init__(self, name: str, fd: int) -> None:
        super().__init__(name, fd)
        self._hang_up = select.poll()
        self._hang_up.register(fd, 0)

    def write(self, data: bytes) -> int:
        return len(data) if self._hang_up.poll(0) else super().write(data)


class _PtyInput(DescriptorInput):
    """Reads the master. Without an open slave it always reports a hang-up, so it is watched for changes only."""

    def _on_readable(self, _: int) -> None:
        while self._read():
            pass

    def _end(self) -> None:
        """Handle EIO: the last program closed the slave. Another one may open it; its first key is then a change."""
        from termios import TCOFLUSH, tcflush

        tcflush(self.fd, TCOFLUSH)  # output that the last program has not read
