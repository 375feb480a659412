"""A limit on bytes a second."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

_BATCH: Final = 64
"""Bytes that are worth a wait: what Linux asks for at a time."""


class RateLimit:
    """Lets through ``rate`` bytes a second, after a rest up to as many at once."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._tokens = float(rate)
        self._last = clock()

    @property
    def delay(self) -> float:
        """Seconds after which there is something, where there is nothing now."""
        return min(_BATCH / self.rate, 1.0)

    def available(self, wanted: int) -> int:
        """How many bytes may pass now, up to ``wanted``."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._last) * self.rate, self.rate)
        self._last = now
        return min(int(self._tokens), wanted)

    def take(self, count: int) -> None:
        """Let ``count`` bytes pass."""
        self._tokens -= count
