"""The source of a device's back end, and the back end's fate."""

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
    """Gives a :class:`VhostUserDevice` a connection to its back end, and another one when that is lost.

    All methods but the constructor are called on the device's own loop.
    """

    restartable: bool = False
    """Whether :meth:`connect` may give another back end in place of one that is lost."""

    end_fd: int = -1
    """A descriptor that is readable when the back end has ended, where there is one that knows before the connection
    does."""

    def connect(self) -> Connection:
        """A connection to a back end. Raises :class:`~pyvmm.errors.PyvmmError`."""
        raise NotImplementedError

    def watch(self, loop: LoopThread, stop: Callable[[ExitReason], None]) -> None:
        """The device has its place in a machine, which ``stop`` ends: what else is to be heard of the back end, also of
        the next one, can be waited for on ``loop``."""

    def end(self, error: VhostUserError) -> str:
        """The connection is of no more use, for ``error``: have the back end end too if that can be. Says, in a few
        words that follow the device's name, what happened."""
        return f"its back end: {error}"

    def close(self) -> None:
        """The device is closed, and so is its connection."""
