"""virtio-rng: entropy for the guest (virtio 1.2, section 5.4)."""

from __future__ import annotations

from pyvmm.virtio.constants import VIRTIO_ID_RNG
from pyvmm.virtio.device import VirtioDevice

from pyvmm_virtio_rng.rate import RateLimit
from pyvmm_virtio_rng.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.host.eventloop import Timer
    from pyvmm.virtio.queue import Queue

    from pyvmm_virtio_rng import RngOptions


QUEUE_SIZE: Final = 16

MAX_REQUEST: Final = 4096
"""The most bytes that one request gets, whatever it asks for: a device may use less than the buffer (section 5.4.6.1).
So the driver gets at most 128 KiB in a turn of the event loop."""

POLL_INTERVAL: Final = 0.01
"""Seconds between two tries of a source that has no data and cannot be watched by epoll."""


class Rng(VirtioDevice):
    """Fills the driver's buffers from a file, as fast as the file and the rate limit allow."""

    device_type = VIRTIO_ID_RNG
    queue_max_sizes = (QUEUE_SIZE,)

    def __init__(self, options: RngOptions) -> None:
        self.source = Source(options.source)
        self.limit = RateLimit(options.rate) if options.rate else None
        self._timer: Timer | None = None
        self._watched: Source | None = None
        """The source, while the loop watches it for data."""

    def on_kick(self, queue: Queue) -> None:
        if self._timer is not None or self._watched is not None:
            return  # it continues by itself
        if self.source.has_ended:
            return  # this was logged once, however often the driver resets the device
        for chain in queue:
            length = min(chain.writable_length, MAX_REQUEST)
            if length and self.limit is not None:
                length = self.limit.available(length)
                if not length:
                    queue.unpop(chain)
                    self._wait(queue, self.limit.delay)
                    return
            # A chain without a writable buffer is completed without data.
            count = self.source.read_into(chain.writable_views(0, length)) if length else 0
            if count is None:
                queue.unpop(chain)
                self._watch(queue)
                return
            if self.limit is not None:
                self.limit.take(count)
            chain.complete(count)

    def reset(self) -> bool:
        self._stop_waiting()
        return super().reset()

    def close(self) -> None:
        self.source.close()

    def _watch(self, queue: Queue) -> None:
        """Continue when the source has data."""
        try:
            self.context.loop.add(self.source.fd, lambda _: self._resume(queue))
            self._watched = self.source
        except PermissionError:  # epoll refuses files without poll support, such as /dev/hwrng
            self._wait(queue, POLL_INTERVAL)

    def _wait(self, queue: Queue, seconds: float) -> None:
        self._timer = self.context.loop.call_later(seconds, lambda: self._resume(queue))

    def _resume(self, queue: Queue) -> None:
        self._stop_waiting()
        self.on_kick(queue)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watched is not None:
            self.context.loop.remove(self._watched.fd)
            self._watched = None
