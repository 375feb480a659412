"""DISCARD and WRITE_ZEROES on a file: by fallocate(2) if the file system supports it, otherwise by writing zeros."""

from __future__ import annotations

import errno
import mmap

from pyvmm_virtio_block.request import Segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from pyvmm.host.aio import IoEngine, IoFile

# <linux/falloc.h>
_KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02 | _KEEP_SIZE
ZERO_RANGE: Final = 0x10 | _KEEP_SIZE

_ZEROS: Final = 64 * 1024
_ZEROS_A_WRITE: Final = 64
"""If nothing else works, one write writes this many buffers of _ZEROS zero bytes."""


class RangeRequest:
    """The ranges of one request, carried out one after the other. ``on_done(result)`` gets 0 or a negative errno."""

    def __init__(
        self, engine: IoEngine, file: IoFile, segments: Sequence[Segment], on_done: Callable[[int], None]
    ) -> None:
        self.engine = engine
        self.file = file
        self.segments = list(reversed(segments))
        self.on_done = on_done
        self.segment = self.segments[-1] if segments else Segment(0, 0, False)
        """The current range."""

    def start(self) -> None:
        """Prepare the next range, or finish if there is none."""
        if self.segments:
            self.segment = self.segments.pop()
            self.do(self.segment)
        else:
            self.on_done(0)

    def do(self, segment: Segment) -> None:
        """Prepare the operation for ``segment``. Its end calls :meth:`finished`."""
        raise NotImplementedError

    def finished(self, result: int) -> None:
        """Continue after a range."""
        if result < 0:
            self.on_done(result)
        else:
            self.start()


class Discard(RangeRequest):
    """Frees the ranges. A range that the file system cannot free stays unchanged: a discard promises nothing."""

    def do(self, segment: Segment) -> None:
        self.engine.fallocate(self.file, PUNCH_HOLE, segment.offset, segment.length, self._punched)

    def _punched(self, result: int) -> None:
        self.finished(0 if result == -errno.EOPNOTSUPP else result)


class WriteZeroes(RangeRequest):
    """Zeroes the ranges, each in the best way that the file system supports."""

    def __init__(
        self,
        engine: IoEngine,
        file: IoFile,
        segments: Sequence[Segment],
        on_done: Callable[[int], None],
        refused: set[int],
    ) -> None:
        """``refused``: the modes of fallocate(2) that the file system is known not to support."""
        super().__init__(engine, file, segments, on_done)
        self.refused = refused
        self._mode = 0
        self._done = 0

    def do(self, segment: Segment) -> None:
        # A range that must stay allocated is not turned into a hole.
        modes = (PUNCH_HOLE, ZERO_RANGE) if segment.unmap else (ZERO_RANGE,)
        self._mode = next((mode for mode in modes if mode not in self.refused), 0)
        if self._mode:
            self.engine.fallocate(self.file, self._mode, segment.offset, segment.length, self._allocated)
        else:
            self._done = 0
            self._write()

    def _allocated(self, result: int) -> None:
        if result == -errno.EOPNOTSUPP:
            self.refused.add(self._mode)
            self.do(self.segment)
        else:
            self.finished(result)

    def _write(self) -> None:
        length = min(self.segment.length - self._done, _ZEROS * _ZEROS_A_WRITE)
        self.engine.pwritev(self.file, _zeros(length), self.segment.offset + self._done, self._written)

    def _written(self, result: int) -> None:
        if result <= 0:
            self.finished(result or -errno.EIO)
            return
        self._done += result
        if self._done == self.segment.length:
            self.finished(0)
        else:
            self._write()


_zeros_map: mmap.mmap | None = None


def _zeros(length: int) -> list[memoryview]:
    """Page-aligned buffers with ``length`` zeros together; most are the same buffer."""
    global _zeros_map
    if _zeros_map is None:
        _zeros_map = mmap.mmap(-1, _ZEROS, prot=mmap.PROT_READ)
    view = memoryview(_zeros_map)
    whole, rest = divmod(length, _ZEROS)
    return [view] * whole + ([view[:rest]] if rest else [])
