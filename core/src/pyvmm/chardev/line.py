"""The two ends of a line of bytes, as each sees the other."""

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
        """Write without blocking: how many bytes were taken, 0 for none just now. On any thread.

        Never raises OSError: what cannot be written ever is taken and lost.
        """

    def watch(self, loop: LoopScope, callback: Callable[[int], None]) -> bool:
        """Call ``callback`` while it can be written to; False where it always can. On the loop's thread."""

    def unwatch(self, loop: LoopScope) -> None:
        """Stop that. On the loop's thread."""


class Line(Protocol):
    """The guest's end, for what is on the host to be plugged in. All of it is called on the loop's thread."""

    def connect(self, output: Output) -> None:
        """Send the guest's output to ``output``."""

    def disconnect(self) -> None:
        """Drop output, and waiting output too: a line that is not plugged in does not make the guest wait."""

    def send(self, data: bytes) -> None:
        """Write ``data`` to the output, as if the guest had: for words of the VMM's own."""

    def input_room(self) -> int:
        """How many bytes may be delivered now. After a 0, :meth:`Backend.resume_input` is called when there is
        room."""

    def deliver(self, data: bytes) -> None:
        """Take input, up to the free room. The rest is lost."""

    def drain(self, wait: Callable[[], bool]) -> None:
        """Write what waits, before the end; ``wait`` waits until the host takes more, or says that it will not."""
