"""The signals that ask the command to end: SIGINT, SIGTERM and SIGHUP.

The command's process handles them from its first import on, so that none raises KeyboardInterrupt at an arbitrary
place. The effect of a signal depends on the state of the process:

- before the machine runs, it ends the process immediately: nothing is lost, since no guest has run;
- while the machine runs, it asks the machine to stop;
- while the machine is being closed, it waits for the end.

A second signal always ends the process immediately. Before that, everything that the process has made on the host is
removed.
"""

from __future__ import annotations

# This is the module signal without its enums, which take longer to make than all uses of them here.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys

from pyvmm.host import leftovers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn, Self

    from pyvmm.host.eventloop import EventLoop

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

CHILDREN_TIMEOUT: Final = 5.0
"""Seconds within which child processes have to remove their files if this process ends immediately. They need a few
milliseconds; only a process that hangs needs more."""

_stop: Callable[[int], object] | None = None
"""Stops the run; None before and after it."""

_first = 0
"""The first signal that came; 0 for none."""

_has_run = False


def take() -> None:
    """Handle the signals for the rest of the process's life. A signal that is ignored stays ignored.

    SIGTTOU is ignored: after ``stty tostop``, a message on stderr would stop a machine in the background of a shell.
    """
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)


class StopSignals:
    """A context manager within which the signals call ``stop`` with their number, on the main thread, which has to run
    ``loop``.

    In the command's process only the first signal does so. In a program that calls the command, the signals are handled
    only within the context, and a signal that is ignored stays ignored.
    """

    def __init__(self, loop: EventLoop, stop: Callable[[int], object]) -> None:
        self._loop = loop
        self._stop = stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python calls a handler only between two of its own steps, so a signal that comes just before the loop waits
        # has to wake the loop.
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop.add(self._reading, self._drain)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        global _stop, _has_run
        _stop, _has_run = self._stop, True
        try:
            for number in NUMBERS:
                handler = signal.getsignal(number)
                if handler is not signal.SIG_IGN and handler is not _on_signal:
                    self._before[number] = handler
                    signal.signal(number, lambda number, _: self._stop(number))
        except BaseException:  # such as a KeyboardInterrupt in a program
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        global _stop
        _stop = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._loop.remove(self._reading)
        os.close(self._reading)
        os.close(self._writing)

    def _drain(self, _: int) -> None:
        os.read(self._reading, 4096)


def _on_signal(number: int, _: object) -> None:
    global _first
    is_first = not _first
    _first = _first or number
    if not is_first or not _has_run:
        _end(number)
    elif _stop is not None:
        _stop(number)


def _end(number: int) -> None:
    """End the process as soon as nothing is being made."""

    def end() -> NoReturn:
        for other in NUMBERS:
            signal.signal(other, signal.SIG_IGN)
        end_children = getattr(sys.modules.get("pyvmm.host.child"), "end_all", None)
        if end_children is not None:
            end_children(CHILDREN_TIMEOUT)
        leftovers.remove_all()
        os._exit(128 + number)

    leftovers.at_a_safe_point(end)
