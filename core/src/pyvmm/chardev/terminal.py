"""Raw mode of a terminal, and its restoration in every case."""

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
    """Put the terminal ``fd`` in raw mode, as cfmakeraw(3) does. Returns its settings from before."""
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
    # Not TCSAFLUSH, which drops keys typed ahead, nor TCSADRAIN, which waits for ever after Ctrl-s.
    termios.tcsetattr(fd, termios.TCSANOW, [iflag, oflag, cflag, lflag, ispeed, ospeed, chars])
    return before


def in_foreground(fd: int) -> bool:
    """Whether this process may read the terminal ``fd``: it is not in the background of a shell."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # not the controlling terminal: no job control applies


class JobControl:
    """Keeps a process in a shell's background from being stopped by the terminal, from :meth:`enter` to :meth:`leave`.

    A read of the terminal then fails (EIO) instead of raising SIGTTIN, and a write succeeds instead of raising SIGTTOU.
    If ``enter`` is not called on the main thread, it does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}

    def enter(self) -> None:
        """Ignore both signals, unless other code handles them."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTTIN, signal.SIGTTOU):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, signal.SIG_IGN)

    def leave(self) -> None:
        """Restore both signals. Leaving twice does nothing."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


class RawTerminal:
    """A terminal that is raw while the process is in its foreground, from :meth:`enter` to :meth:`leave`.

    It is restored at the process's end at the latest, also if a signal such as SIGQUIT, SIGABRT or SIGSEGV ends the
    process. It is also restored while the process is stopped, but only if ``enter`` was called on the main thread,
    since no other thread can handle that signal.
    """

    def __init__(self, fd: int, on_resize: Callable[[], None] = lambda: None) -> None:
        """``on_resize`` is called from a signal handler when :attr:`size` may have changed; also only if ``enter`` was
        called on the main thread."""
        self.fd = fd
        self._on_resize = on_resize
        self._saved: list[Any] | None = None
        self._handlers: dict[int, Any] = {}

    def enter(self) -> None:
        """Make the terminal raw and keep it raw."""
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
        """Make the terminal raw, if it is not raw yet and this process is in its foreground."""
        if self._saved is None and in_foreground(self.fd):
            lib.pyvmm_terminal_guard(self.fd)
            try:
                self._saved = make_raw(self.fd)
            except termios.error:
                lib.pyvmm_terminal_unguard()  # the terminal was closed (hang-up)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows; zeros if the terminal does not know them."""
        try:
            return os.get_terminal_size(self.fd)
        except OSError:
            return 0, 0

    def leave(self) -> None:
        """Restore the terminal. Leaving twice does nothing."""
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
        self._on_resize()  # a stopped or background process gets no SIGWINCH

    def _on_window_change(self, _number: int, _frame: FrameType | None) -> None:
        self._on_resize()


@contextmanager
def _sigttou_blocked() -> Iterator[None]:
    """Let a background process restore the terminal. By default, SIGTTOU would stop it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
