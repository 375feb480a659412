"""The serial device: a UART, a line, and the host's end of the line."""

from __future__ import annotations

from pyvmm.chardev.options import open_backend
from pyvmm.logs import logger

from pyvmm_serial.cable import Line
from pyvmm_serial.uart import Uart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.device_context import DeviceContext

    from pyvmm_serial import SerialOptions

log = logger(__name__)


class Serial(Uart):
    """A serial port that is connected to the host."""

    def __init__(self, options: SerialOptions) -> None:
        """Raises :class:`PyvmmError` if the host's end cannot be opened."""
        self.options = options
        self.line = Line()
        self.backend = open_backend("serial", options)
        super().__init__(self.line)

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)
        self.line.attach(self, context.loop, self.backend.resume_input)
        self.backend.attach(self.line, context)

    def close(self) -> None:
        self.line.detach()  # there is no guest left to interrupt
        super().close()
        self.backend.close()
        if self.line.lost:
            log.warning(
                "%s: %d bytes of output were lost, since the host did not read them in time", self.name, self.line.lost
            )
            self.line.lost = 0
