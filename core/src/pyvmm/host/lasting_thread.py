"""A thread that lasts as long as the process. It makes child processes, which the kernel ends with the thread that made
them.

The main thread is such a thread. When another thread first asks, a second one is started, which waits for further
requests.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, get_native_id

from pyvmm.startup.threads import begin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["on_lasting_thread"]

_NAME = "maker"


class _LastingThread:
    """The thread, and the one function that it calls next. One caller may use it at a time."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.turn = allocate_lock()
        self._asked = allocate_lock()
        self._asked.acquire()
        self._done = allocate_lock()
        self._done.acquire()
        self._function: Callable[[], None] = lambda: None
        begin(self._serve, _NAME)

    def call(self, function: Callable[[], None]) -> None:
        """Call ``function`` on the thread and wait for its return. ``function`` must not raise."""
        self._function = function
        self._asked.release()
        self._done.acquire()

    def _serve(self) -> None:
        while True:
            self._asked.acquire()
            try:
                self._function()
            finally:
                self._function = lambda: None
                self._done.release()


_lock = allocate_lock()
_thread: _LastingThread | None = None


def on_lasting_thread(function: Callable[[], T]) -> T:
    """Call ``function``: directly if this is the main thread, else on the lasting thread. Returns its result or raises
    its error.

    Raises :class:`~pyvmm.errors.HostError` if the host has no thread left.
    """
    if get_native_id() == os.getpid():
        return function()
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = _the_thread()
    with thread.turn:
        thread.call(call)
    if errors:
        raise errors.pop()
    return results.pop()


def _the_thread() -> _LastingThread:
    global _thread
    with _lock:
        if _thread is None or _thread.process != os.getpid():  # a fork does not have its parent's threads
            _thread = _LastingThread()
        return _thread
