"""The commands to a balloon while its machine runs, by ``socket=PATH``."""

from __future__ import annotations

from pyvmm.host.control_socket import Answer, ControlSocket
from pyvmm.options import format_size, parse_size

from pyvmm_virtio_balloon import MAX_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any, Final, Protocol

    from pyvmm.device_context import DeviceContext
    from pyvmm.memory import GuestMemory
else:
    Protocol = object

PATIENCE: Final = 5.0
"""Seconds within which a guest has to send its statistics."""


class Inflatable(Protocol):
    """The part of a balloon that commands need."""

    context: DeviceContext
    memory: GuestMemory
    queues: Sequence[Any]
    statistics: dict[str, int]
    on_statistics: list[Callable[[], None]]
    """Functions to call once when the guest has answered."""

    target: int
    """The bytes that the guest should give up."""

    @property
    def actual(self) -> int:
        """The bytes that the guest has given up."""

    def ask_statistics(self) -> bool:
        """Ask the guest for its statistics. Returns whether its driver supports them."""


class Commands:
    """A control socket for one balloon."""

    def __init__(self, balloon: Inflatable, path: Path) -> None:
        self._balloon = balloon
        self._socket = ControlSocket(path, f"balloon: socket={path}")

    def attach(self) -> None:
        """Start to take commands."""
        self._socket.attach(self._balloon.context.loop, {"size": self._size, "stats": self._stats})

    def close(self) -> None:
        """Stop taking commands."""
        self._socket.close()

    def _size(self, argument: str, answer: Answer) -> None:
        """``size SIZE``: set the memory that the guest should give up. ``size``: only report it."""
        balloon = self._balloon
        if argument:
            try:
                size = parse_size(argument)
            except ValueError as error:
                raise ValueError(f"{argument!r} {error}") from error
            if balloon.queues and size > balloon.memory.size:
                raise ValueError(f"{argument!r} is more than the guest has: {format_size(balloon.memory.size)}")
            if size > MAX_SIZE:
                raise ValueError(f"{argument!r} is too large for a balloon")
            balloon.target = size
        answer({"target": balloon.target, "actual": balloon.actual})

    def _stats(self, argument: str, answer: Answer) -> None:
        """``stats``: ask the guest for new memory statistics."""
        balloon = self._balloon
        if argument:
            raise ValueError("stats has no argument")
        if not balloon.ask_statistics():
            raise ValueError("the guest has no driver that supports statistics")

        def came() -> None:
            timer.cancel()
            if balloon.statistics:
                answer({"target": balloon.target, "actual": balloon.actual, **balloon.statistics})
            else:
                answer({"error": "the guest's driver is gone"})

        def is_late() -> None:
            balloon.on_statistics.remove(came)
            answer({"error": f"the guest did not answer in {PATIENCE:.0f} seconds"})

        timer = balloon.context.loop.call_later(PATIENCE, is_late)
        balloon.on_statistics.append(came)
