"""The event loop on which devices run: one thread, epoll(7), callbacks that do not block."""

from __future__ import annotations

import select
import time
from _thread import allocate_lock, get_ident
from bisect import insort_left

from pyvmm.host.eventfd import EventFd
from pyvmm.logs import logger
from pyvmm.startup.closing import call_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    T = TypeVar("T")

__all__ = ["READABLE", "WRITABLE", "EventLoop", "LoopScope", "Timer"]

log = logger(__name__)

_LONGEST_WAIT: Final = 10_000_000_000
"""Nanoseconds."""

READABLE: Final = select.EPOLLIN
"""Wait until a descriptor can be read."""

WRITABLE: Final = select.EPOLLOUT
"""Wait until a descriptor can be written."""


class _Call:
    """A function that another thread asks the loop to run, and the function's result."""

    __slots__ = ("_under_way", "error", "function", "result")

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.result: object = None
        self.error: BaseException | None = None
        self._under_way = allocate_lock()
        self._under_way.acquire()

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise  # Ctrl-C belongs to the thread that received it
        finally:
            self._under_way.release()

    def wait(self) -> None:
        """Wait until the function has run. Call it once."""
        self._under_way.acquire()


class Timer:
    """A call that the loop makes later."""

    __slots__ = ("_loop", "deadline", "function")

    def __init__(self, loop: EventLoop, deadline: float, function: Callable[[], object]) -> None:
        self._loop = loop
        self.deadline = deadline
        """The time of the call, by time.monotonic()."""
        self.function = function

    def cancel(self) -> None:
        """Cancel the call. It does nothing if the call was made or cancelled before. On the loop's thread."""
        self._loop.forget(self)


class EventLoop:
    """Calls a function when a file descriptor is ready, or at a given time.

    Any thread may call :meth:`call`, :meth:`post` and :meth:`stop`. All other methods belong to the loop's own thread:
    the thread in :meth:`run`, or any one thread before :meth:`run` is called.
    """

    _now = staticmethod(time.monotonic)
    """The clock for timers."""

    def __init__(self) -> None:
        self._epoll = select.epoll(-1)
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._removed: set[int] = set()
        self._posted: list[Callable[[], object]] = []
        self._timers: list[Timer] = []  # the next one last
        self._wake = EventFd()
        self._thread: int | None = None
        self._stopping = False
        self._closed = False
        self._lock = allocate_lock()
        self.add(self._wake.fd, self._run_posted)

    def add(self, fd: int, callback: Callable[[int], None], events: int = READABLE) -> None:
        """Call ``callback(ready)`` whenever ``fd`` is ready for one of ``events``, level-triggered.

        ``ready`` has the bits of <sys/epoll.h>. A regular file raises :class:`PermissionError`: it is always
        ready.
        """
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def fileno(self) -> int:
        """An epoll descriptor that is readable while a descriptor of the loop is ready, so that native code knows when
        to return."""
        return self._epoll.fileno()

    def modify(self, fd: int, events: int) -> None:
        """Wait for other ``events``; 0 pauses the descriptor, except for hang-up and errors."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching ``fd``. Call it before the descriptor is closed; a descriptor that was not added is ignored."""
        if self._callbacks.pop(fd, None) is not None:
            self._removed.add(fd)
            try:
                self._epoll.unregister(fd)
            except (OSError, ValueError):
                pass  # closed already, or the loop is: the kernel forgot it with the last reference

    def call_later(self, seconds: float, function: Callable[[], object]) -> Timer:
        """Call ``function`` once, after ``seconds``, or as soon as the loop is free after that."""
        timer = Timer(self, self._now() + seconds, function)
        insort_left(self._timers, timer, key=lambda other: -other.deadline)
        return timer

    def forget(self, timer: Timer) -> None:
        """As :meth:`Timer.cancel`."""
        if timer in self._timers:
            self._timers.remove(timer)

    def post(self, function: Callable[[], object]) -> None:
        """Run ``function`` on the loop's thread soon, without waiting for it. Any thread may call this."""
        self._posted.append(function)
        self._wake.signal()

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the loop's thread, and return its result or raise its exception. Any thread may call
        this.

        While no thread is in :meth:`run`, ``function`` runs on the calling thread.
        """
        with self._lock:
            direct = self._thread is None or self._thread == get_ident()
            if not direct:
                call = _Call(function)
                self._posted.append(call.run)
                self._wake.signal()
        if direct:
            return function()
        call.wait()
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        with self._lock:
            self._thread = get_ident()
        try:
            while not self._stopping:
                self.run_once()
        finally:
            with self._lock:
                self._thread = None
            self._stopping = False
            self._run_posted()

    def run_once(self, timeout: float | None = None) -> int:
        """Wait up to ``timeout`` seconds (for ever if None), then serve ready descriptors and due timers. Returns their
        number."""
        if self._timers:
            due = max(self._timers[-1].deadline - self._now(), 0)
            timeout = due if timeout is None else min(timeout, due)
        ready = self._epoll.poll(timeout)
        self._removed.clear()
        for fd, events in ready:
            # An earlier callback of this round may have removed it, and even added another file with the same number.
            callback = self._callbacks.get(fd) if fd not in self._removed else None
            if callback is not None:
                callback(events)
        return len(ready) + self._run_timers()

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the loop's, or no thread is in :meth:`run`."""
        return self._thread is None or self._thread == get_ident()

    def idle_until(self) -> int:
        """The time until which the loop's thread is free, as long as :meth:`fileno` is not readable: nanoseconds by
        time.monotonic_ns(); 0 if no thread is in :meth:`run`. Native code that waits instead of the loop needs it."""
        if self._thread is None or self._stopping or self._closed:
            return 0
        latest = time.monotonic_ns() + _LONGEST_WAIT
        return min(int(self._timers[-1].deadline * 1e9), latest) if self._timers else latest

    def stop(self) -> None:
        """End :meth:`run` after the current round. Any thread and any signal handler may call this."""
        self._stopping = True
        self._wake.signal()

    def close(self) -> None:
        """Release the loop's own descriptors, not those that were added."""
        if not self._closed:
            self._closed = True
            self._epoll.close()
            self._wake.close()

    def _run_timers(self) -> int:
        """Make the due calls, but not the calls that these add."""
        count, now = 0, self._now()
        for _ in range(len(self._timers)):
            if not self._timers or self._timers[-1].deadline > now:
                break
            count += 1
            self._timers.pop().function()
        return count

    def _run_posted(self, _: int = 0) -> None:
        self._wake.drain()
        # Functions that these functions post run later, so that other descriptors get their turn. If one raises, the
        # others still run, since other threads may wait for them.
        functions = self._posted[:]
        del self._posted[: len(functions)]  # others may have posted meanwhile
        call_all(functions)


class _Registration:
    """A descriptor that a scope has added."""

    __slots__ = ("callback", "ends_with_reset", "events", "fd", "suspended")

    def __init__(self, fd: int, callback: Callable[[int], None], events: int, ends_with_reset: bool) -> None:
        self.fd = fd
        self.callback = callback
        self.events = events
        self.ends_with_reset = ends_with_reset
        self.suspended = False


class LoopScope:
    """One device's share of an event loop.

    Descriptors, timers and posted functions of a device end with its scope, at :meth:`close`. Those that are added
    during a call of :meth:`until_reset` end earlier, at :meth:`reset` or :meth:`fail`. What a callback adds lasts as
    long as what the callback was added for.

    A callback that raises does not end the loop: ``on_error`` is called with the exception. ``after``, when given, is
    called after each callback.
    """

    def __init__(
        self,
        loop: EventLoop,
        on_error: Callable[[BaseException], None],
        after: Callable[[], None] | None = None,
    ) -> None:
        self.loop = loop
        self._on_error = on_error
        self._after = after
        self._registrations: dict[int, _Registration] = {}
        self._running: _Registration | None = None
        """The registration whose callback runs now."""
        self._ends_with_reset = False
        """Whether registrations that are added now end with a reset."""
        self._closed = self._reset = 0
        """The numbers of closings and resets. Timers and posted functions compare them with the numbers when they were
        added."""

    def add(self, fd: int, callback: Callable[[int], None], events: int = READABLE) -> None:
        """As :meth:`EventLoop.add`."""
        registration = _Registration(fd, callback, events, self._ends_with_reset)
        self._listen(registration)
        self._registrations[fd] = registration

    def fileno(self) -> int:
        """As :meth:`EventLoop.fileno`."""
        return self.loop.fileno()

    def idle_until(self) -> int:
        """As :meth:`EventLoop.idle_until`."""
        return self.loop.idle_until()

    def modify(self, fd: int, events: int) -> None:
        """As :meth:`EventLoop.modify`."""
        registration = self._registrations.get(fd)
        if registration is None or not registration.suspended:
            self.loop.modify(fd, events)
        if registration is not None:
            registration.events = events

    def remove(self, fd: int) -> None:
        """As :meth:`EventLoop.remove`."""
        self.loop.remove(fd)
        self._registrations.pop(fd, None)

    def call_later(self, seconds: float, function: Callable[[], object]) -> Timer:
        """As :meth:`EventLoop.call_later`."""
        return self.loop.call_later(seconds, self._unless_ended(function, self._ends_with_reset))

    def post(self, function: Callable[[], object]) -> None:
        """As :meth:`EventLoop.post`. A reset drops functions that another thread has posted."""
        self.loop.post(self._unless_ended(function, self._ends_with_reset or not self.loop.is_here))

    def guard(self, function: Callable[[], object]) -> None:
        """Run ``function`` in the same way as a callback of this scope."""
        self._run(function, self._ends_with_reset, self._running)

    def until_reset(self, function: Callable[[], T]) -> T:
        """Run ``function``, and return its result or raise its exception. Callbacks that it adds end at the next
        :meth:`reset`."""
        return self._adding(function, ends_with_reset=True)

    def until_close(self, function: Callable[[], T]) -> T:
        """Run ``function``, and return its result or raise its exception. Callbacks that it adds last until
        :meth:`close`."""
        return self._adding(function, ends_with_reset=False)

    def reset(self) -> None:
        """Remove callbacks that end with a reset, and resume callbacks that :meth:`fail` has suspended."""
        self._reset += 1
        for registration in list(self._registrations.values()):
            if registration.ends_with_reset:
                self.remove(registration.fd)
            elif registration.suspended:
                registration.suspended = False
                self._listen(registration)

    def fail(self) -> None:
        """Remove callbacks that end with a reset. ``on_error`` calls this when the device has failed.

        If the callback that has just raised does not end with a reset, it is suspended until :meth:`reset`. Otherwise a
        descriptor that stays ready would keep the loop busy for ever.
        """
        self._reset += 1
        for registration in list(self._registrations.values()):
            if registration.ends_with_reset:
                self.remove(registration.fd)
            elif registration is self._running and not registration.suspended:
                self.loop.remove(registration.fd)
                registration.suspended = True

    def close(self) -> None:
        """Remove everything that was added or posted."""
        self._closed += 1
        for fd in list(self._registrations):
            self.remove(fd)

    def _adding(self, function: Callable[[], T], *, ends_with_reset: bool) -> T:
        before, self._ends_with_reset = self._ends_with_reset, ends_with_reset
        try:
            return function()
        finally:
            self._ends_with_reset = before

    def _listen(self, registration: _Registration) -> None:
        callback, ends_with_reset = registration.callback, registration.ends_with_reset

        def guarded(ready: int) -> None:
            self._run(lambda: callback(ready), ends_with_reset, registration)

        self.loop.add(registration.fd, guarded, registration.events)

    def _unless_ended(self, function: Callable[[], object], ends_with_reset: bool) -> Callable[[], None]:
        closed, reset = self._closed, self._reset

        def run() -> None:
            if self._closed == closed and not (ends_with_reset and self._reset != reset):
                self._run(function, ends_with_reset, None)

        return run

    def _run(self, function: Callable[[], object], ends_with_reset: bool, running: _Registration | None) -> None:
        before = self._ends_with_reset, self._running
        self._ends_with_reset, self._running = ends_with_reset, running
        try:
            function()
            if self._after is not None:
                self._after()
        except Exception as error:
            self._on_error(error)
        finally:
            self._ends_with_reset, self._running = before
