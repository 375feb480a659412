"""The source of a device's back end: connects to it, watches it and ends it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.exit_reason import ExitReason
    from pyvmm.host.loop_thread import LoopThread
    from pyvmm.vhost_user.connection import Connection
    from pyvmm.vhost_user.protocol import VhostUserError

__all__ = ["BackendSource"]


class BackendSource:
    """Gives a :class:`VhostUserDevice` a connection to its back end, and a new connection if that one is lost.

    All methods but the constructor are called on the device's own loop.
    """

    restartable: bool = False
    """Whether :meth:`connect` may replace a lost back end by another."""

    end_fd: int = -1
    """A descriptor that becomes readable when the back end has ended, possibly before the connection is closed; -1 for
    none."""

    def connect(self) -> Connection:
        """A connection to a back end. Raises :class:`~pyvmm.errors.PyvmmError`."""
        raise NotImplementedError

    def watch(self, loop: LoopThread, stop: Callable[[ExitReason], None]) -> None:
        """Start to watch the back end, and later ones, on ``loop``: the device is attached to a machine. ``stop`` ends
        the machine."""

    def end(self, error: VhostUserError) -> str:
        """End the back end, if possible, since the connection has failed for ``error``. Returns a phrase for messages
        that says what happened; the device's name precedes it."""
        return f"its back end: {error}"

    def close(self) -> None:
        """Release the source's resources. The device and its connection are closed."""
