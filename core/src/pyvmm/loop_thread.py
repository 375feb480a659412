"""An event loop with a thread of its own: for what has to wait for somebody else."""

from __future__ import annotations

import threading

from pyvmm.eventloop import EventLoop

__all__ = ["LoopThread"]


class LoopThread(EventLoop):
    """An :class:`EventLoop` that runs on a thread which it makes.

    Until :meth:`start` there is no thread, and :meth:`call` works at once, where it is called: what needs a fork
    can come before.
    """

    def __init__(self, name: str) -> None:
        """``name`` is the thread's."""
        super().__init__()
        self._own = threading.Thread(target=self.run, name=name, daemon=True)

    @property
    def name(self) -> str:
        """The thread's name."""
        return self._own.name

    @name.setter
    def name(self, name: str) -> None:
        self._own.name = name

    def start(self) -> None:
        """Start the thread; returns when it takes calls. Starting twice does nothing."""
        if self._own.ident is None:
            running = threading.Event()
            self.post(running.set)
            self._own.start()
            running.wait()

    def close(self) -> None:
        """End the thread after what it is at, and release the loop's descriptors. Not from the thread itself."""
        if self._own.is_alive():
            self.stop()
            self._own.join()
        super().close()
