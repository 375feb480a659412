"""The interfaces between the two ends of a line of bytes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pyvmm.host.eventloop import LoopScope
else:
    Protocol = object

__all__ = ["Line", "Output"]


class Output(Protocol):
    """The destination of the guest's output."""

    def write(self, data: bytes) -> int:
        """Write without blocking. Returns the number of bytes taken, 0 if none can be taken now. Any thread may call
        it.

        Never raises OSError: data that can never be written is taken and lost.
        """

    def watch(self, loop: LoopScope, callback: Callable[[int], None]) -> bool:
        """Call ``callback`` while the output can be written. Returns False, and calls nothing, if it always can. Use it
        on the loop's thread."""

    def unwatch(self, loop: LoopScope) -> None:
        """Stop calling ``callback``. Use it on the loop's thread."""


class Line(Protocol):
    """The guest's end of the line, to which the host's end connects. All methods are called on the loop's thread."""

    def connect(self, output: Output) -> None:
        """Send the guest's output to ``output``."""

    def disconnect(self) -> None:
        """Drop output, and waiting output too: a line that is not plugged in does not make the guest wait."""

    def send(self, data: bytes) -> None:
        """Write ``data``, a message of the VMM, to the output as if the guest had written it."""

    def input_room(self) -> int:
        """The number of bytes that may be delivered now. After a 0, :meth:`Backend.resume_input` is called when there
        is room."""

    def deliver(self, data: bytes) -> None:
        """Take input, up to the free room. The rest is lost."""

    def drain(self, wait: Callable[[], bool]) -> None:
        """Write waiting output, before the end. ``wait`` waits until the host can take more; it returns False if the
        host does not."""
