"""``file=PATH``: the guest's output in a file; no input."""

from __future__ import annotations

import os

from pyvmm.chardev.backend import Backend
from pyvmm.chardev.descriptors import DescriptorOutput
from pyvmm.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from pyvmm.chardev.line import Line
    from pyvmm.device_context import DeviceContext


class File(Backend):
    """A file that is made, or emptied, when the machine starts; a FIFO that somebody reads or a device will do."""

    def __init__(self, kind: str, path: Path) -> None:
        """Raises :class:`UsageError` for a path that cannot be written."""
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o666)
        except OSError as error:
            raise UsageError(f"{kind}: file={path}: {error.strerror}; give a path that can be written") from error

    def attach(self, line: Line, context: DeviceContext) -> None:
        super().attach(line, context)
        self.output = DescriptorOutput(f"{context.name}: {self.path}", self._fd)
        line.connect(self.output)

    def close(self) -> None:
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
