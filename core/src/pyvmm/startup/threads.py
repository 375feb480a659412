"""The machine's own threads, without the module ``threading``: its imports take a tenth of a start. Devices may use
``threading`` all the same."""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, start_new_thread

from pyvmm._native import lib
from pyvmm.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Crew", "begin"]

_BEGIN_TIMEOUT = 30.0
"""Seconds that a thread has to begin. It says at once that it cannot, unless there is no memory even for that."""

alone = False
"""Whether the process is the command's own, which ends without waiting for threads. Any other process imports
``threading`` before there are threads: it takes the thread that imports it first for the main thread."""


def begin(function: Callable[[], object], name: str) -> Callable[[], None]:
    """Run ``function`` on a thread that top(1), gdb and perf know by the first 15 bytes of ``name``.

    Returns a function that waits for the thread's end. The process's end does not wait for it. An error that
    ``function`` raises is a bug, and is printed; SystemExit is ignored.

    Raises :class:`HostError` where the host has no thread left.
    """
    if not alone:
        import threading  # noqa: F401 - see above
    over = allocate_lock()
    over.acquire()
    begun = allocate_lock()
    begun.acquire()
    runs: list[bool] = []
    known_as = os.fsencode(name)[:15]

    def run(_: _AtEnd) -> None:
        runs.append(True)
        begun.release()
        try:
            lib.pyvmm_process_set_name(known_as)
            function()
        except SystemExit:
            pass
        except BaseException:
            if sys.stderr is not None:
                try:
                    print(f"Exception in thread {name}:", file=sys.stderr)
                except OSError:
                    pass
            sys.excepthook(*sys.exc_info())
        finally:
            over.release()

    def join() -> None:
        with over:
            pass

    def never_ran() -> None:
        if not runs:
            begun.release()

    try:
        with _silence:
            start_new_thread(run, (_AtEnd(never_ran),))
            # With no memory for its first frame, a thread ends without a step: nobody would ever wake who waits.
            begun.acquire(timeout=_BEGIN_TIMEOUT)
    except RuntimeError as error:
        raise HostError(
            f"{name}: the host has no thread for it; raise its limits (ulimit -u, ulimit -v, a cgroup's pids.max), or "
            f"give the machine fewer CPUs"
        ) from error
    if not runs:
        raise HostError(f"{name}: the host has no memory for the thread; raise its limits (ulimit -v), or free some")
    return join


class _AtEnd:
    """Calls a function when the last reference to it goes: with the thread that it was given to, even where that never
    ran."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def __del__(self) -> None:
        self._function()


class _Silence:
    """Within it, nothing is printed of errors that nobody can catch."""

    def __init__(self) -> None:
        self._lock = allocate_lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._before, sys.unraisablehook = sys.unraisablehook, lambda _: None

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._before
        self._lock.release()


_silence = _Silence()


class Crew:
    """Threads that share a resource. The last one to leave releases it; after :meth:`close`, no thread can enter."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._nobody = allocate_lock()
        self._closed = False
        self._count = 0

    def enter(self) -> bool:
        """Enter; False if :meth:`close` was called before."""
        with self._lock:
            if self._closed:
                return False
            self._count += 1
            if self._count == 1:
                self._nobody.acquire()
            return True

    def leave(self, last: Callable[[], object]) -> None:
        """Leave. The thread that is the last one to leave calls ``last``."""
        with self._lock:
            self._count -= 1
            if self._count == 0:
                try:
                    last()
                finally:
                    self._nobody.release()

    def close(self) -> None:
        """Let no more threads enter, and wait until all have left."""
        with self._lock:
            self._closed = True
        with self._nobody:
            pass
