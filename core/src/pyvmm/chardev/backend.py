"""The base class of the host's ends of a line."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.chardev.descriptors import DescriptorInput, DescriptorOutput
    from pyvmm.chardev.line import Line
    from pyvmm.device_context import DeviceContext

_LAST_WORDS: Final = 1.0
"""At the machine's end, waiting output is given up if the host takes none of it for this many seconds."""


class Backend:
    """The host's end of a line. All methods are called on the event loop's thread.

    The constructor finds the user's mistakes and raises :class:`PyvmmError`. ``close`` may come without an ``attach``
    before it, and twice.
    """

    line: Line | None = None
    size: tuple[int, int] | None = None
    """The terminal's columns and rows, once attached; None if it is no terminal."""
    on_resize: Callable[[], None] = staticmethod(lambda: None)
    """Called when ``size`` changes. Set it before ``attach``."""
    input: DescriptorInput | None = None
    output: DescriptorOutput | None = None

    def attach(self, line: Line, context: DeviceContext) -> None:
        """Connect to the line and begin to read."""
        self.line = line

    def resume_input(self) -> None:
        """Continue to read: the line has room for input again."""
        if self.input is not None:
            self.input.resume()

    def close(self) -> None:
        """Write waiting output, then release the host's resources."""
        if self.input is not None:
            self.input.stop()
        if self.line is not None and self.output is not None:
            output = self.output
            self.line.drain(lambda: output.wait(_LAST_WORDS))
            self.line.disconnect()
        self.input = self.output = None
