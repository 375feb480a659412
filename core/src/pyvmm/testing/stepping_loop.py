"""An event loop that a test runs turn by turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pyvmm.host.eventloop import EventLoop
from pyvmm.testing.waiting import PATIENCE

__all__ = ["SteppingLoop"]

_MANY: Final = 100_000
"""The number of turns after which a loop that is still busy counts as never at rest."""


class SteppingLoop(EventLoop):
    """An :class:`~pyvmm.host.eventloop.EventLoop` that runs turn by turn, on the test's own thread."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead = 0.0
        """The lead of the timers' clock over the host's, in seconds."""

    def settle(self) -> int:
        """Run until nothing is ready or due. Returns the number of turns; raises AssertionError if there is no end."""
        for turns in range(_MANY):
            if not self.run_once(0):
                return turns
        raise AssertionError("the loop does not come to rest")

    def advance(self, seconds: float) -> int:
        """Let ``seconds`` pass for the timers, without waiting, and :meth:`settle`."""
        self._ahead += seconds
        return self.settle()

    def run_until(
        self, condition: Callable[[], bool], *, timeout: float = PATIENCE, longest_wait: float | None = None
    ) -> None:
        """Serve until ``condition`` holds; raises AssertionError after ``timeout`` seconds.

        ``longest_wait``: the longest turn, in seconds, if the condition can come true without the loop.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"it did not come true in {timeout} s"
            self.run_once(left if longest_wait is None else min(left, longest_wait))

    def _now(self) -> float:
        return time.monotonic() + self._ahead
