"""A machine's life as a program sees it: its state, its events, and its end, which any thread may wait for."""

from __future__ import annotations

from _thread import TIMEOUT_MAX, allocate_lock, get_ident

from pyvmm.errors import UsageError
from pyvmm.logs import logger
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue
    from typing import Final, Literal, Self

    from pyvmm.exit_reason import ExitReason

    State = Literal["made", "running", "ended", "closed"]

__all__ = ["MachineEvent", "MachineEvents"]

log = logger(__name__)

MAX_EVENTS: Final = 1024
"""Events that wait for a program that does not look at them; later ones are dropped, but for the last."""


@record
class MachineEvent:
    """Something that happened in a machine's life."""

    kind: str
    """``started``: the vCPUs run. ``console_connected``: somebody is at the host's end of a device's line: the program,
    or a client of ``unix=``. ``driver_up``: the guest has a driver for a virtio device; once for each device.
    ``ended``: the run is over; the last event."""

    device: str = ""
    """The id of the device; empty where it is about the whole machine."""

    reason: ExitReason | None = None
    """Why the run ended, for ``ended``; None for a machine that never ran."""


class Life:
    """State and events of one machine. Any thread may call any method."""

    def __init__(self, name: str) -> None:
        """``name``: the machine's, for messages; empty if it has none."""
        self._title = f"machine {name!r}" if name else "the machine"
        self._lock = allocate_lock()
        self.state: State = "made"
        self.reason: ExitReason | None = None
        self.failure: BaseException | None = None
        """What the run raised, if it did."""
        self._thread = 0
        self._past: dict[tuple[str, str], MachineEvent] = {}
        """The first event of each kind and device."""
        self._listeners: list[Callable[[MachineEvent], object]] = []
        self._at_end: list[Callable[[], object]] = []

    def begin(self) -> None:
        """The run begins. Raises :class:`UsageError` from the second time on, and for a closed machine."""
        with self._lock:
            if self.state == "made":
                self.state = "running"
                self._thread = get_ident()
                return
            what = "is closed" if self.state == "closed" else "was started before"
        raise UsageError(f"{self._title} {what}; make another Machine for another run")

    def is_on_my_thread(self) -> None:
        """The calling thread is the one that runs the machine."""
        self._thread = get_ident()

    def end(self, reason: ExitReason, failure: BaseException | None) -> None:
        """The run is over, and the machine's threads have ended, but for the calling one."""
        with self._lock:
            self.state, self.reason, self.failure = "ended", reason, failure
        self._finish(MachineEvent("ended", reason=reason))

    def close(self) -> None:
        """The machine is closed; it does not run."""
        with self._lock:
            before, self.state = self.state, "closed"
        if before == "made":
            self._finish(MachineEvent("ended"))

    def tell(self, event: MachineEvent) -> None:
        """Call the listeners, on the calling thread. One that raises is logged."""
        with self._lock:
            self._past.setdefault((event.kind, event.device), event)
            listeners = self._listeners.copy()
        for listener in listeners:
            try:
                listener(event)
            except Exception:
                log.exception("%s: a function for its events fails", self._title)

    def listen(self, listener: Callable[[MachineEvent], object], *, from_first: bool = False) -> Callable[[], None]:
        """Call ``listener`` for each later event, until the returned function is called.

        ``from_first``: also for the earlier ones, on the calling thread; then it must return immediately.
        """
        with self._lock:
            if from_first:
                for event in self._past.values():
                    listener(event)
            self._listeners.append(listener)

        def forget() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return forget

    def at_end(self, function: Callable[[], object]) -> Callable[[], None]:
        """Call ``function``, which must return immediately, when the machine has ended, or now if it has. The returned
        function takes that back."""
        with self._lock:
            has_ended = self.state in ("ended", "closed")
            if not has_ended:
                self._at_end.append(function)
        if has_ended:
            function()

        def forget() -> None:
            with self._lock:
                if function in self._at_end:
                    self._at_end.remove(function)

        return forget

    def check_wait(self, what: str) -> None:
        """Raise :class:`UsageError` for a wait for the end that could never end."""
        if self.state == "running" and get_ident() == self._thread:
            raise UsageError(f"{what}: {self._title} cannot end on the thread that runs it; call stop() there")

    def wait(self, timeout: float | None) -> ExitReason:
        """Wait for the end: why the run ended. Raises what the run raised; TimeoutError after ``timeout`` seconds;
        :class:`UsageError` for a machine that was not started."""
        if self.state == "made":
            raise UsageError(f"wait: {self._title} was not started; call start() first")
        self.check_wait("wait")
        if not self.join(timeout):
            raise self.timeout(timeout)
        if self.failure is not None:
            raise self.failure
        if self.reason is None:
            raise UsageError(f"wait: {self._title} was closed before it ran")
        return self.reason

    def join(self, timeout: float | None = None) -> bool:
        """Wait up to ``timeout`` seconds for the end; whether it has come."""
        ended = allocate_lock()
        ended.acquire()
        forget = self.at_end(ended.release)
        try:
            return ended.acquire(timeout=-1 if timeout is None else min(max(timeout, 0), TIMEOUT_MAX))
        finally:
            forget()

    def timeout(self, timeout: float | None) -> TimeoutError:
        """The error for a machine that has not ended after ``timeout`` seconds."""
        return TimeoutError(f"{self._title} has not ended after {timeout} s")

    def _finish(self, last: MachineEvent) -> None:
        self.tell(last)
        with self._lock:
            functions, self._at_end = self._at_end, []
        for function in functions:
            function()


class MachineEvents:
    """An iterator over all events of a machine, from its first to its last. ``next()`` waits for an event.

    One thread at a time. At most 1,024 events wait; later ones are dropped, but for the last.
    """

    def __init__(self, life: Life) -> None:
        from queue import SimpleQueue

        self._queue: SimpleQueue[MachineEvent] = SimpleQueue()
        self._over = False
        self._forget = life.listen(self._put, from_first=True)

    def _put(self, event: MachineEvent) -> None:
        if event.kind == "ended" or self._queue.qsize() < MAX_EVENTS:
            self._queue.put(event)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> MachineEvent:
        if self._over:
            raise StopIteration
        event = self._queue.get()
        if event.kind == "ended":
            self._over = True
            self._forget()
        return event
