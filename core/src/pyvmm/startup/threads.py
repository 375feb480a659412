"""Threads of the machine's own, without the module ``threading``, which brings functools and collections: with what
those import in turn a tenth of a start. What devices do with ``threading`` is their affair."""

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

alone = False
"""Whether the process is the command's and ends as that does. In any other ``threading`` is imported before there are
threads, since to it the one that imports it first is the main thread: the one that the interpreter's end waits for."""


def begin(function: Callable[[], object], name: str) -> Callable[[], None]:
    """Run ``function`` on a thread that top(1), gdb and perf know by the first 15 bytes of ``name``.

    What is returned waits for its end. The process's end does not. What ``function`` raises is printed as the bug that
    it is, but for SystemExit.

    Raises :class:`HostError` where the host has no thread left.
    """
    if not alone:
        import threading  # noqa: F401 - see above
    over = allocate_lock()
    over.acquire()
    known_as = os.fsencode(name)[:15]

    def run() -> None:
        try:
            lib.pyvmm_process_set_name(known_as)
            function()
        except SystemExit:
            pass
        except BaseException:
            print(f"Exception in thread {name}:", file=sys.stderr)
            sys.excepthook(*sys.exc_info())
        finally:
            over.release()

    def join() -> None:
        with over:
            pass

    try:
        start_new_thread(run, ())
    except RuntimeError as error:
        raise HostError(
            f"{name}: the host has no thread for it; raise its limits (ulimit -u, ulimit -v, a cgroup's pids.max), or "
            f"give the machine fewer CPUs"
        ) from error
    return join


class Crew:
    """Threads at work on something that lasts until the last of them has left it, and which nobody enters later."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._nobody = allocate_lock()
        self._closed = False
        self._count = 0

    def enter(self) -> bool:
        """Take part, where it is not too late."""
        with self._lock:
            if self._closed:
                return False
            self._count += 1
            if self._count == 1:
                self._nobody.acquire()
            return True

    def leave(self, last: Callable[[], object]) -> None:
        """Take part no more; who is the last one there calls ``last`` on leaving."""
        with self._lock:
            self._count -= 1
            if self._count == 0:
                try:
                    last()
                finally:
                    self._nobody.release()

    def close(self) -> None:
        """Let nobody in, and wait for those who are."""
        with self._lock:
            self._closed = True
        with self._nobody:
            pass
