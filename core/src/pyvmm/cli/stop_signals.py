"""The signals that ask a process to end, for a program whose main thread is in an event loop."""

from __future__ import annotations

# signal without its enums, which take longer to make than all that is done with them.
import _signal as signal  # type: ignore[import-not-found]
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from pyvmm.host.eventloop import EventLoop


class StopSignals:
    """Within it, SIGINT, SIGTERM and SIGHUP call ``stop`` with their number, on the main thread, which is to run
    ``loop``; one that is ignored stays ignored."""

    def __init__(self, loop: EventLoop, stop: Callable[[int], object]) -> None:
        self._loop = loop
        self._stop = stop

    def __enter__(self) -> Self:
        # Python calls a handler between two steps of its own, so a signal that comes as the loop is about to wait has
        # to wake it.
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop.add(self._reading, self._drain)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
        try:
            for number, handler in self._before.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, lambda number, _: self._stop(number))
        except BaseException:  # such as Ctrl-C meanwhile
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._loop.remove(self._reading)
        os.close(self._reading)
        os.close(self._writing)

    def _drain(self, _: int) -> None:
        os.read(self._reading, 4096)
