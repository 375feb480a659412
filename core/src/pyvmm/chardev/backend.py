"""What all that can be at the host's end of a line has in common."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.chardev.descriptors import DescriptorInput, DescriptorOutput
    from pyvmm.chardev.line import Line
    from pyvmm.device_context import DeviceContext

_LAST_WORDS: Final = 1.0
"""Seconds without reading anything after which a host gets no more of the output that a machine ends with."""


class Backend:
    """The host's end of a line. All methods are called on the event loop's thread.

    What the user may have got wrong is found when it is made, by :class:`PyvmmError`. ``close`` may come without
    an ``attach`` before it, and twice.
    """

    line: Line | None = None
    size: tuple[int, int] | None = None
    """Columns and rows of the terminal that it is, once attached; None where it is none."""
    on_resize: Callable[[], None] = staticmethod(lambda: None)
    """Called when ``size`` is another one. Set before it is attached."""
    input: DescriptorInput | None = None
    output: DescriptorOutput | None = None

    def attach(self, line: Line, context: DeviceContext) -> None:
        """Connect to the line and begin to read."""
        self.line = line

    def resume_input(self) -> None:
        """The line has room for input again."""
        if self.input is not None:
            self.input.resume()

    def close(self) -> None:
        """Write what still waits, then let go of the host."""
        if self.input is not None:
            self.input.stop()
        if self.line is not None and self.output is not None:
            output = self.output
            self.line.drain(lambda: output.wait(_LAST_WORDS))
            self.line.disconnect()
        self.input = self.output = None
