"""Raw mode of a terminal, its restoration in every case, and job control (credentials(7), termios(3))."""

from __future__ import annotations

import os
import signal
import threading

from pyvmm._native import lib
from pyvmm.host import leftovers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any


def make_raw(fd: int) -> None:
    """Put the terminal ``fd`` in raw mode, as cfmakeraw(3) does. Raises :class:`OSError` if it has been closed."""
    error = lib.pyvmm_terminal_make_raw(fd)
    if error:
        raise OSError(error, os.strerror(error))


def in_foreground(fd: int) -> bool:
    """Whether this process may read the terminal ``fd``: it is not in the background of a shell."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # not the controlling terminal: no job control applies


class _Handlers:
    """Handlers of signals, and those that were there before. Only the main thread can set them."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def set(self, number: int, handler: Any) -> None:
        """Set a handler, unless other code handles the signal. On another thread than the main one, do nothing."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_DFL:
            self._before[number] = signal.signal(number, handler)

    def restore(self) -> None:
        """Restore all. On another thread than the main one they stay."""
        if threading.current_thread() is threading.main_thread():
            while self._before:
                signal.signal(*self._before.popitem())


class JobControl:
    """Keeps a process in a shell's background from being stopped by the terminal, from :meth:`enter` to :meth:`leave`.

    A read of the terminal then fails (EIO) instead of raising SIGTTIN, and a write succeeds instead of raising SIGTTOU.
    If ``enter`` is not called on the main thread, it does nothing.
    """

    def __init__(self) -> None:
        self._handlers = _Handlers()

    def enter(self) -> None:
        """Ignore both signals, unless other code handles them."""
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            self._handlers.set(number, signal.SIG_IGN)

    def leave(self) -> None:
        """Restore both signals. Leaving twice does nothing."""
        self._handlers.restore()


class RawTerminal:
    """A terminal that is raw while the process is in its foreground, from :meth:`enter` to :meth:`leave`.

    It is restored at the process's end at the latest, also if a signal such as SIGQUIT, SIGABRT or SIGSEGV ends the
    process. It is also restored while the process is stopped, but only if ``enter`` was called on the main thread,
    since no other thread can handle that signal.
    """

    def __init__(self, fd: int, on_change: Callable[[], None] = lambda: None) -> None:
        """``on_change`` is called from a signal handler when :attr:`size` may have changed, or the process may have
        come to the foreground or the background; also only if ``enter`` was called on the main thread."""
        self.fd = fd
        self._on_change = on_change
        self._is_raw = False
        self._handlers = _Handlers()

    def enter(self) -> None:
        """Make the terminal raw and keep it raw."""
        leftovers.add(self.leave)
        self._handlers.set(signal.SIGTSTP, self._on_stop)
        self._handlers.set(signal.SIGCONT, self._on_continue)
        self._handlers.set(signal.SIGWINCH, self._on_window_change)
        self.make_raw()

    def make_raw(self) -> bool:
        """Make the terminal raw, if it is not raw yet and this process is in its foreground. Returns whether it was
        made raw now."""
        if self._is_raw or not in_foreground(self.fd):
            return False
        self._is_raw = lib.pyvmm_terminal_enter(self.fd) == 0
        return self._is_raw

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
        self._restore()
        self._handlers.restore()

    def _restore(self) -> None:
        if self._is_raw:
            self._is_raw = False
            lib.pyvmm_terminal_leave()

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._restore()
        # The default action of SIGTSTP does not stop an orphaned process group, which a session's leader often has.
        os.kill(os.getpid(), signal.SIGSTOP)

    def _on_continue(self, _number: int, _frame: FrameType | None) -> None:
        """Adopt the terminal as it is now. After a SIGSTOP, which cannot be handled, the shell may have changed it."""
        if in_foreground(self.fd):
            self._is_raw = lib.pyvmm_terminal_enter(self.fd) == 0
        else:
            self._restore()
        self._on_change()

    def _on_window_change(self, _number: int, _frame: FrameType | None) -> None:
        self._on_change()
