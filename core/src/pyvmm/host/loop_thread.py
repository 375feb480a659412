"""An event loop with a thread of its own, for a device that waits for another process."""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.host.eventloop import EventLoop
from pyvmm.startup.threads import begin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LoopThread"]


class LoopThread(EventLoop):
    """An :class:`EventLoop` that runs on a thread of its own.

    Until :meth:`start` there is no thread, and :meth:`call` runs on the calling thread. So the process can still fork
    before the start.
    """

    def __init__(self, name: str) -> None:
        """``name`` is the thread's name. It may be changed until the start."""
        super().__init__()
        self.name = name
        self._join: Callable[[], None] | None = None

    def start(self) -> None:
        """Start the thread; returns when it takes calls. Starting twice does nothing."""
        if self._join is None:
            waiting = allocate_lock()
            waiting.acquire()

            def serve() -> None:
                try:
                    self.run()
                finally:
                    if waiting.locked():
                        waiting.release()

            self.post(waiting.release)
            self._join = begin(serve, self.name)
            waiting.acquire()
            waiting.release()

    def close(self) -> None:
        """End the thread after its current round, and release the loop's descriptors. The thread itself must not call
        this."""
        if self._join is not None and not self._closed:
            self.stop()
            self._join()
        super().close()
