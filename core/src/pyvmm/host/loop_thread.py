"""An event loop with a thread of its own: for what has to wait for somebody else."""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.host.eventloop import EventLoop
from pyvmm.startup.threads import begin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LoopThread"]


class LoopThread(EventLoop):
    """An :class:`EventLoop` that runs on a thread which it makes.

    Until :meth:`start` there is no thread, and :meth:`call` works at once, where it is called: what needs a fork
    can come before.
    """

    def __init__(self, name: str) -> None:
        """``name`` is the thread's, and may be changed until it is started."""
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
        """End the thread after what it is at, and release the loop's descriptors. Not from the thread itself."""
        if self._join is not None and not self._closed:
            self.stop()
            self._join()
        super().close()
