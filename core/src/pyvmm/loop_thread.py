"""An event loop with a thread and timers of its own: for what has to wait for somebody else."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from pyvmm.eventloop import EventLoop


class LoopThread(EventLoop):
    """An :class:`EventLoop` that runs on a thread which it makes.

    Until :meth:`start` there is no thread, and :meth:`call` works at once, where it is called: what needs a fork
    can come before.
    """

    def __init__(self, name: str) -> None:
        """``name`` is the thread's."""
        super().__init__()
        self._own = threading.Thread(target=self.run, name=name, daemon=True)
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

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

    def call_later(self, delay: float, function: Callable[[], object]) -> None:
        """Run ``function`` on the loop's thread in ``delay`` seconds, or somewhat later. From that thread."""
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._order), function))

    def run_once(self, timeout: float | None = None) -> int:
        """As :meth:`EventLoop.run_once`; then what timers say."""
        if self._timers:
            left = max(self._timers[0][0] - time.monotonic(), 0)
            timeout = left if timeout is None else min(left, timeout)
        ready = super().run_once(timeout)
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
        return ready

    def close(self) -> None:
        """End the thread after what it is at, and release the loop's descriptors. Not from the thread itself."""
        if self._own.is_alive():
            self.stop()
            self._own.join()
        self._timers.clear()
        super().close()
