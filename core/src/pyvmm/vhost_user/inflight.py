"""The buffer that tracks requests in flight and outlives a back end ("Inflight I/O tracking")."""

from __future__ import annotations

import mmap
import os

from pyvmm.limits import PAGE_SIZE
from pyvmm.vhost_user.connection import close_fds
from pyvmm.vhost_user.protocol import INFLIGHT_ALIGNMENT, MAX_VRINGS, Inflight, VhostUserError
from pyvmm.virtio.queue import MAX_QUEUE_SIZE, inflight_size


class InflightArea:
    """One mapped buffer with a part for each queue. :meth:`Queue.activate` uses the parts."""

    def __init__(self, fd: int, description: Inflight) -> None:
        """Map the range of ``fd`` that ``description`` gives. This object closes ``fd``, also on failure. Raises
        :class:`VhostUserError` if the range does not fit.
        """
        self.fd = fd
        self.description = description
        try:
            if description.mmap_size < area_size(description.num_queues, description.queue_size):
                raise VhostUserError(f"an inflight area too small for its queues: {description}")
            if description.mmap_offset % 8:
                raise VhostUserError(f"an inflight area at an odd offset: {description.mmap_offset:#x}")
            start = description.mmap_offset % PAGE_SIZE
            try:
                self._map = mmap.mmap(fd, start + description.mmap_size, offset=description.mmap_offset - start)
            except (OSError, ValueError, OverflowError) as error:
                raise VhostUserError(f"an inflight area that cannot be mapped: {error}") from error
        except VhostUserError:
            close_fds([fd])
            raise
        self._start = start

    @classmethod
    def create(cls, num_queues: int, queue_size: int) -> InflightArea:
        """A new area of zeros, for GET_INFLIGHT_FD."""
        size = area_size(num_queues, queue_size)
        try:
            fd = os.memfd_create("vhost-user-inflight", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
        except OSError as error:
            raise VhostUserError(f"no memory for an inflight area of {size} bytes: {error.strerror}") from error
        return cls(fd, Inflight(size, 0, num_queues, queue_size))

    def queue(self, index: int) -> memoryview | None:
        """The part of queue ``index``; None if the area has no such part."""
        if index >= self.description.num_queues:
            return None
        stride = _stride(self.description.queue_size)
        start = self._start + index * stride
        return memoryview(self._map)[start : start + stride]

    def close(self) -> None:
        """Close the descriptor. The mapping lasts until the last queue has released it."""
        close_fds([self.fd])
        try:
            self._map.close()
        except BufferError:
            pass


def area_size(num_queues: int, queue_size: int) -> int:
    """Bytes of an area for ``num_queues`` queues of ``queue_size`` descriptors; raises :class:`VhostUserError`."""
    if not 1 <= num_queues <= MAX_VRINGS or not 1 <= queue_size <= MAX_QUEUE_SIZE:
        raise VhostUserError(f"an inflight area for {num_queues} queues of {queue_size}")
    return num_queues * _stride(queue_size)


def _stride(queue_size: int) -> int:
    return -(-inflight_size(queue_size) // INFLIGHT_ALIGNMENT) * INFLIGHT_ALIGNMENT
