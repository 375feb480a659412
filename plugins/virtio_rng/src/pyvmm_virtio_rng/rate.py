"""A limit on the bytes per second."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

_BATCH: Final = 64
"""The least bytes to wait for: Linux asks for this many at a time."""


class RateLimit:
    """Allows ``rate`` bytes per second. After a pause, up to ``rate`` bytes may pass at once."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._tokens = float(rate)
        self._last = clock()

    @property
    def delay(self) -> float:
        """The time after which some bytes may pass, if none may pass now, in seconds."""
        return min(_BATCH / self.rate, 1.0)

    def available(self, wanted: int) -> int:
        """The number of bytes that may pass now, up to ``wanted``."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._last) * self.rate, self.rate)
        self._last = now
        return min(int(self._tokens), wanted)

    def take(self, count: int) -> None:
        """Count ``count`` bytes as passed."""
        self._tokens -= count
