"""Asynchronous file I/O for devices: an engine that runs requests outside the GIL and calls back on the loop."""

from __future__ import annotations

import errno
import os

from pyvmm._native import ffi, lib
from pyvmm.errors import HostError
from pyvmm.host.shortage import shortage
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, TypeAlias

__all__ = ["MAX_DEPTH", "IoEngine", "IoEngineFullError", "IoFile", "direct_alignment"]

log = logger(__name__)

Buffer: TypeAlias = "memoryview | bytearray | bytes"

ENVIRONMENT: Final = "PYVMM_AIO"
"""The environment variable that chooses the backend: ``io_uring`` or ``threads``."""

BACKENDS: Final = ("io_uring", "threads")
MAX_DEPTH: Final[int] = lib.PYVMM_AIO_MAX_DEPTH
"""The most requests that an engine can have in flight."""

_READ: Final[int] = lib.PYVMM_AIO_READ
_WRITE: Final[int] = lib.PYVMM_AIO_WRITE
_FDATASYNC: Final[int] = lib.PYVMM_AIO_FDATASYNC
_FALLOCATE: Final[int] = lib.PYVMM_AIO_FALLOCATE

INLINE_WRITE: Final = 1 << 20
"""An engine that may wait writes up to this many bytes of one submission immediately: 0.25 ms of copying."""

_BATCH: Final = 64
"""The most results that one native call returns."""

_REFUSED: Final = (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
"""The errors of io_uring_setup(2), and of mmap(2) of its rings, if a kernel, a sysctl, a seccomp filter or a limit
forbids it."""

_told = False


class IoEngineFullError(Exception):
    """The engine is full: as many requests as it has room for are in flight."""


class IoFile:
    """A file descriptor for an :class:`IoEngine`. The owner of the descriptor closes it."""

    def __init__(
        self,
        fd: int,
        *,
        cached: bool = True,
        unaligned_fd: int = -1,
        memory_alignment: int = 1,
        offset_alignment: int = 1,
    ) -> None:
        """``cached``: whether reads go through the page cache, so that the engine may try one immediately without
        waiting.

        With O_DIRECT on ``fd``, ``cached`` is false, and ``unaligned_fd`` is the same file without O_DIRECT. It serves
        unaligned transfers: those in which a buffer's address or length is not a multiple of ``memory_alignment``, or
        the offset or length is not a multiple of ``offset_alignment``. Both are in bytes and powers of two.
        """
        for alignment in (memory_alignment, offset_alignment):
            if alignment < 1 or alignment & (alignment - 1):
                raise ValueError(f"not a power of two: {alignment}")
        self.fd = fd
        self.unaligned_fd = unaligned_fd
        self.native: Any = ffi.new(
            "struct pyvmm_aio_file *",
            {
                "fd": fd,
                "unaligned_fd": unaligned_fd,
                "memory_mask": memory_alignment - 1,
                "offset_mask": offset_alignment - 1,
                "cached": cached,
                "nowait": cached,
            },
        )

    def fileno(self) -> int:
        """The file descriptor."""
        return self.fd


class IoEngine:
    """Runs file requests in the background, many at a time, in no particular order.

    :meth:`preadv` and the similar methods prepare a request, and :meth:`submit` starts all prepared ones. A finished
    request calls its ``on_done(result)``: within :meth:`submit` if the result is there immediately, else within
    :meth:`dispatch`, which the event loop has to call when :attr:`fd` is readable. ``result`` is the number of bytes
    moved, which is less than requested only at the file's end; 0 for other requests; or a negative errno. A transfer
    that the kernel makes in parts is continued. The engine holds the buffers until ``on_done``.

    One thread at a time may use an engine. A forked child must make its own engine; it may only close its copy of the
    parent's.
    """

    may_wait = False
    """Whether engines that are made from now on may write to the page cache immediately, although the kernel may have
    to wait for room there. Set it if no other device uses the loop, as in a device's own process."""

    def __init__(self, depth: int = 256, *, backend: str | None = None, threads: int = 8) -> None:
        """An engine for ``depth`` requests in flight, 1 to 4096.

        ``backend``: ``io_uring`` or ``threads``. The default is $PYVMM_AIO; else io_uring, if the kernel (5.6 and
        later) allows it; else up to ``threads`` threads, each started when it is first needed. Raises
        :class:`HostError` if the requested backend is not available.
        """
        backend = backend or os.environ.get(ENVIRONMENT) or None
        if backend not in (None, *BACKENDS):
            raise HostError(f"{ENVIRONMENT}: {backend!r} is not one of {', '.join(BACKENDS)}")
        self.backend, self._native = _open(depth, backend, threads)
        if self.may_wait:
            self._native.inline_write = INLINE_WRITE
        self.fd: int = self._native.fd
        """A descriptor that is readable when :meth:`dispatch` has something to do; level-triggered."""
        self.depth = depth
        self._results = ffi.new("struct pyvmm_aio_result[]", _BATCH)
        self._iov = ffi.new("struct iovec[]", 256)
        self._iov_room = 256
        self._tag = 0
        self._under_way: dict[int, tuple[Callable[[int], None], object]] = {}

    @property
    def in_use(self) -> int:
        """The number of requests that are prepared or in flight."""
        return int(self._native.in_use) if self._native is not None else 0

    @property
    def pending(self) -> int:
        """The number of requests whose ``on_done`` was not called yet."""
        return len(self._under_way)

    @property
    def native(self) -> Any:
        """The engine as a ``struct pyvmm_aio *`` for native code that prepares requests of its own; None when
        closed."""
        return self._native

    def preadv(
        self,
        file: IoFile,
        buffers: Sequence[Buffer],
        offset: int,
        on_done: Callable[[int], None],
        *,
        flags: int = 0,
    ) -> None:
        """Read into ``buffers``, which must be writable, from byte ``offset`` on; ``flags`` as of preadv2(2)."""
        self._prepare(_READ, file, flags, offset, 0, buffers, on_done)

    def pwritev(
        self,
        file: IoFile,
        buffers: Sequence[Buffer],
        offset: int,
        on_done: Callable[[int], None],
        *,
        flags: int = 0,
    ) -> None:
        """Write ``buffers`` from byte ``offset`` on; ``flags`` as of pwritev2(2), such as os.RWF_DSYNC."""
        self._prepare(_WRITE, file, flags, offset, 0, buffers, on_done)

    def fdatasync(self, file: IoFile, on_done: Callable[[int], None]) -> None:
        """Flush written data to the disk: at least the writes whose ``on_done`` was called before."""
        self._prepare(_FDATASYNC, file, 0, 0, 0, (), on_done)

    def fallocate(self, file: IoFile, mode: int, offset: int, length: int, on_done: Callable[[int], None]) -> None:
        """Change the allocation of a range of bytes as fallocate(2) does."""
        self._prepare(_FALLOCATE, file, mode, offset, length, (), on_done)

    def submit(self) -> None:
        """Start the prepared requests. Calls ``on_done`` of requests that are finished already; that may prepare and
        start more."""
        while self._native is not None and (self._native.prepared or self._native.ready):
            if lib.pyvmm_aio_submit(self._native):
                self._finish()

    def dispatch(self) -> int:
        """Call ``on_done`` of finished requests, without waiting, and start the requests that it prepares. Returns the
        number of finished ones."""
        count = self._finish()
        self.submit()
        return count

    def drain(self, *, cancel: bool = False) -> None:
        """Wait until no request is in flight, and call each ``on_done``.

        With ``cancel``, requests that have not begun or can be interrupted end with -ECANCELED. Requests that their
        ``on_done`` prepares are cancelled, too.
        """
        while self.in_use:
            before = self.in_use
            lib.pyvmm_aio_drain(self._native, cancel)
            if not self._finish() and self.in_use == before:
                return  # a fork's copy

    def close(self) -> None:
        """Cancel the requests, wait for them, and release descriptors, threads and buffers. Their ``on_done`` is not
        called."""
        if self._native is not None:
            lib.pyvmm_aio_free(self._native)
            self._native = None
            self.fd = -1
            self._under_way.clear()

    def __enter__(self) -> IoEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(
        self,
        op: int,
        file: IoFile,
        flags: int,
        offset: int,
        length: int,
        buffers: Sequence[Buffer],
        on_done: Callable[[int], None],
    ) -> None:
        count = len(buffers)
        if count > self._iov_room:
            self._iov = ffi.new("struct iovec[]", count)
            self._iov_room = count
        iov = self._iov
        from_buffer = ffi.from_buffer
        writable = op == _READ
        held = [from_buffer(buffer, require_writable=writable) for buffer in buffers]
        for i, data in enumerate(held):
            entry = iov[i]
            entry.iov_base = data
            entry.iov_len = len(data)
        tag = self._tag
        error = lib.pyvmm_aio_prepare(self._native, file.native, op, flags, offset, length, iov, count, tag)
        if error:
            if error == -errno.EAGAIN:
                raise IoEngineFullError(f"{self.depth} requests are under way")
            raise OSError(-error, os.strerror(-error))
        self._tag = tag + 1
        self._under_way[tag] = on_done, (held, file)

    def _finish(self) -> int:
        """Call ``on_done`` of finished requests; returns their number. The first error of a callback is raised after
        all calls."""
        total = 0
        failure: Exception | None = None
        results, under_way = self._results, self._under_way
        while self._native is not None:
            count = lib.pyvmm_aio_reap(self._native, results, _BATCH)
            total += count
            # Copied first, since a callback may call this method again.
            for tag, result in [(results[i].tag, results[i].result) for i in range(count)]:
                on_done, _ = under_way.pop(tag)
                try:
                    on_done(result)
                except Exception as error:
                    failure = failure or error
            if count < _BATCH:
                break
        if failure is not None:
            raise failure
        return total


def direct_alignment(fd: int) -> tuple[int, int] | None:
    """The alignment that O_DIRECT needs for memory and for offsets, in bytes; (0, 0) if the file does not support
    O_DIRECT.

    None if the kernel or the file system does not tell (statx(2), STATX_DIOALIGN, Linux 6.1).
    """
    memory, offset = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    if lib.pyvmm_aio_direct_alignment(fd, memory, offset):
        return None
    return memory[0], offset[0]


def _open(depth: int, backend: str | None, threads: int) -> tuple[str, Any]:
    global _told
    error = ffi.new("int *")
    for name in BACKENDS if backend is None else (backend,):
        native = lib.pyvmm_aio_new(depth, threads if name == "threads" else 0, error)
        if native:
            return name, native
        if error[0] == errno.EINVAL:
            raise ValueError(f"no engine for depth {depth} and {threads} threads")
        if backend is None and name == "io_uring" and error[0] in _REFUSED:
            if not _told:
                _told = True
                log.info("the host refuses io_uring (%s): I/O goes through threads", os.strerror(error[0]))
            continue
        break
    reason = shortage(OSError(error[0], os.strerror(error[0])))
    raise HostError(
        f"{name}: the host refuses it for disk I/O: {reason or os.strerror(error[0])}"
        + (f"; set {ENVIRONMENT}=threads" if name == "io_uring" and not reason else "")
    )
