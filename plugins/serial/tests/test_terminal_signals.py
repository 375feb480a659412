"""A terminal is as it was after a signal that Python code does not see."""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyvmm._native import lib
from pyvmm.testing.waiting import PATIENCE, wait_until

from plugins.serial.tests.terminal import Terminal

CRASHES = ["QUIT", "ABRT", "SEGV", "BUS", "ILL", "FPE", "SYS", "TRAP"]
OTHERS = ["TERM", "HUP", "USR1", "USR2", "ALRM", "XCPU", "VTALRM", "PROF", "IO", "PWR", "STKFLT"]


@contextmanager
def raw_terminal(command: str) -> Iterator[Terminal]:
    terminal = Terminal(command)
    try:
        terminal.expect(b"ready\r\n")
        assert terminal.is_raw
        yield terminal
    finally:
        terminal.close()


def assert_ends_and_restores(terminal: Terminal, number: int) -> None:
    os.kill(terminal.process.pid, number)

    assert terminal.process.wait(PATIENCE) == -number
    assert termios.tcgetattr(terminal.slave) == terminal.before


@pytest.mark.parametrize("faulthandler", ["", "1"])
@pytest.mark.parametrize("name", CRASHES)
def test_crash_restores_the_terminal(name: str, faulthandler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", faulthandler)
    number = signal.Signals[f"SIG{name}"]
    with raw_terminal("echo") as terminal:
        assert_ends_and_restores(terminal, number)
        if faulthandler and name in ("ABRT", "SEGV", "BUS", "ILL", "FPE"):
            terminal.expect(b"Fatal Python error")


@pytest.mark.parametrize("name", OTHERS)
def test_signal_that_ends_a_process_by_default_restores_the_terminal(name: str) -> None:
    with raw_terminal("echo") as terminal:
        assert_ends_and_restores(terminal, signal.Signals[f"SIG{name}"])


@pytest.mark.parametrize("name", ["QUIT", "ABRT"])
def test_main_thread_that_hangs_in_c_does_not_keep_the_terminal_raw(name: str) -> None:
    with raw_terminal("hang") as terminal:
        assert_ends_and_restores(terminal, signal.Signals[f"SIG{name}"])


def stop_and_continue(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGTSTP)
    os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
    terminal.process.send_signal(signal.SIGCONT)
    wait_until(lambda: terminal.is_raw)


def test_faulthandler_that_is_enabled_later_prints_once() -> None:
    with raw_terminal("faulthandler") as terminal:
        stop_and_continue(terminal)  # now each of the two has the other as its former action

        assert_ends_and_restores(terminal, signal.SIGSEGV)

        terminal.expect(b"Fatal Python error")
        assert terminal.read_waiting().count(b"Fatal Python error") == 1


def test_sigquit_that_ends_nothing_leaves_the_terminal_raw() -> None:
    with raw_terminal("faulthandler") as terminal:
        stop_and_continue(terminal)
        for _ in range(2):
            terminal.screen = b""
            terminal.process.send_signal(signal.SIGQUIT)
            wait_until(lambda: terminal.read_waiting().count(b"(most recent call first)") >= 2)  # of two threads
            wait_until(lambda: terminal.is_raw)

        assert_ends_and_restores(terminal, signal.SIGTERM)


def test_fork_that_dies_leaves_the_terminal_of_its_parent_raw() -> None:
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    try:
        assert lib.pyvmm_terminal_enter(slave) == 0
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGUSR1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGUSR1
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
    finally:
        lib.pyvmm_terminal_leave()
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
