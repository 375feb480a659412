"""The signals that ask a process to end, for a program whose main thread is in an event loop."""

from __future__ import annotations

# signal without its enums, which take longer to make than all that is done with them.
import _signal as signal  # type: ignore[import-not-found]
import os
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvmm.eventloop import EventLoop


@contextmanager
def stopped_by_signals(loop: EventLoop, stop: Callable[[int], object]) -> Iterator[None]:
    """Within it, SIGINT, SIGTERM and SIGHUP call ``stop`` with their number, on the main thread, which is to run
    ``loop``; one that is ignored stays ignored."""

    def drain(_: int) -> None:
        os.read(reading, 4096)

    # Python calls a handler between two steps of its own, so a signal that comes as the loop is about to wait has to
    # wake it.
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    loop.add(reading, drain)
    wakeup_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: stop(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        loop.remove(reading)
        os.close(reading)
        os.close(writing)
