"""The serial device: a UART, a line, and what is at its other end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyvmm.device import DeviceContext

from pyvmm_serial.line import Line
from pyvmm_serial.uart import Uart

if TYPE_CHECKING:
    from pyvmm_serial import SerialOptions
    from pyvmm_serial.backend import Backend

log = logging.getLogger(__name__)


class Serial(Uart):
    """A serial port that leads to the host."""

    def __init__(self, options: SerialOptions) -> None:
        """Raises :class:`PyvmmError` where the host's end cannot be had."""
        self.options = options
        self.line = Line()
        self.backend = _open(options)
        super().__init__(self.line)

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)
        self.line.attach(self, context.loop, self.backend.resume_input)
        self.backend.attach(self.line, context)

    def close(self) -> None:
        self.line.detach()  # there is no guest left to be interrupted
        super().close()
        self.backend.close()
        if self.line.lost:
            log.warning("%s: %d bytes were lost, since nobody read them in time", self.name, self.line.lost)
            self.line.lost = 0


def _open(options: SerialOptions) -> Backend:
    # Each is imported when it is used: sockets and terminals cost start-up time.
    if options.file is not None:
        from pyvmm_serial.file import File

        return File(options.file)
    if options.unix is not None:
        from pyvmm_serial.unix_socket import UnixSocket

        return UnixSocket(options.unix)
    if options.backend == "pty":
        from pyvmm_serial.pty import Pty

        return Pty()
    from pyvmm_serial.stdio import Stdio

    return Stdio()
