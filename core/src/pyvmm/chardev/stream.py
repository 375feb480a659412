"""``stream``: the ``console`` of the :class:`~pyvmm.machine.Machine` that a program runs."""

from __future__ import annotations

import os

from pyvmm.chardev.backend import Backend
from pyvmm.chardev.descriptors import DescriptorInput, PeerOutput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.chardev.line import Line
    from pyvmm.device_context import DeviceContext


class Stream(Backend):
    """Two pipes between the device and the program."""

    def __init__(self) -> None:
        self._fds: tuple[int, ...] = ()

    def attach(self, line: Line, context: DeviceContext) -> None:
        """Raises :class:`UsageError` where no program runs the machine."""
        super().attach(line, context)
        reading, writing = self._fds = context.open_stream(self.close)
        self.output = PeerOutput(context.title, writing)
        line.connect(self.output)
        self.input = DescriptorInput(reading, line)
        self.input.start(context.loop)
        context.tell("console_connected")

    def close(self) -> None:
        super().close()
        for fd in self._fds:
            os.close(fd)
        self._fds = ()
