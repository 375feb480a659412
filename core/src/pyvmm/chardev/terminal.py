"""Raw mode of a terminal, and the way back from it whatever happens."""

from __future__ import annotations

import os
import signal
import termios
import threading
from contextlib import contextmanager

from pyvmm._native import lib
from pyvmm.host import leftovers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any


def make_raw(fd: int) -> list[Any]:
    """Put the terminal ``fd`` in raw mode, as cfmakeraw(3) has it; how it was set before."""
    before = termios.tcgetattr(fd)
    iflag, oflag, cflag, lflag, ispeed, ospeed, chars = termios.tcgetattr(fd)
    iflag &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    oflag &= ~termios.OPOST
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    chars[termios.VMIN], chars[termios.VTIME] = 1, 0
    # Not TCSAFLUSH, which throws away what was typed ahead, nor TCSADRAIN, which waits for ever after Ctrl-s.
    termios.tcsetattr(fd, termios.TCSANOW, [iflag, oflag, cflag, lflag, ispeed, ospeed, chars])
    return before


def in_foreground(fd: int) -> bool:
    """Whether this process may read the terminal ``fd``: it is not in the background of a shell."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # not our controlling terminal: nobody's job control is in the way


class JobControl:
    """Keeps a process in a shell's background from being stopped by the terminal, from :meth:`enter` to :meth:`leave`.

    A read of the terminal is an error there (EIO) in place of SIGTTIN, and a write works in place of SIGTTOU. Where
    ``enter`` is not called on the main thread, it does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}

    def enter(self) -> None:
        """Ignore both signals, where nobody else handles them."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTTIN, signal.SIGTTOU):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, signal.SIG_IGN)

    def leave(self) -> None:
        """End that. Leaving twice does nothing."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


class RawTerminal:
    """A terminal that is raw while the process is in its foreground, from :meth:`enter` to :meth:`leave`.

    It is restored at the process's end at the latest, also where a signal such as SIGQUIT, SIGABRT or SIGSEGV ends it,
    and while the process is stopped. Where ``enter`` is not called on the main thread, nobody can be told of a stop:
    then it is not.
    """

    def __init__(self, fd: int, on_resize: Callable[[], None] = lambda: None) -> None:
        """``on_resize`` is called, as a signal handler is, when :attr:`size` may have changed; on the main thread
        only, as the above."""
        self.fd = fd
        self._on_resize = on_resize
        self._saved: list[Any] | None = None
        self._handlers: dict[int, Any] = {}

    def enter(self) -> None:
        """Make it raw and keep it so."""
        leftovers.add(self.leave)
        if threading.current_thread() is threading.main_thread():
            for number, handler in (
                (signal.SIGTSTP, self._on_stop),
                (signal.SIGCONT, self._on_continue),
                (signal.SIGWINCH, self._on_window_change),
            ):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, handler)
        self.make_raw()

    def make_raw(self) -> None:
        """Make it raw if it is not and this process has it in the foreground."""
        if self._saved is None and in_foreground(self.fd):
            lib.pyvmm_terminal_guard(self.fd)
            try:
                self._saved = make_raw(self.fd)
            except termios.error:
                lib.pyvmm_terminal_unguard()  # hung up: there is nothing left to be raw

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows; zeros where it does not know."""
        try:
            return os.get_terminal_size(self.fd)
        except OSError:
            return 0, 0

    def leave(self) -> None:
        """Restore it. Leaving twice does nothing."""
        leftovers.discard(self.leave)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        self._restore()

    def _restore(self) -> None:
        if self._saved is not None:
            with _sigttou_blocked():
                try:
                    termios.tcsetattr(self.fd, termios.TCSANOW, self._saved)
                except termios.error:
                    pass
            self._saved = None
            lib.pyvmm_terminal_unguard()

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _on_continue(self, _number: int, _frame: FrameType | None) -> None:
        self.make_raw()
        self._on_resize()  # while it was stopped, or in the background, nobody told

    def _on_window_change(self, _number: int, _frame: FrameType | None) -> None:
        self._on_resize()


@contextmanager
def _sigttou_blocked() -> Iterator[None]:
    """Let a background process restore the terminal: by default it would be stopped for that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
