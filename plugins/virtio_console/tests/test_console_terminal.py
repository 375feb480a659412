"""A console on a terminal: sizes, keys, and the way out of it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm.testing.waiting import PATIENCE

PROGRAM = Path(__file__).with_name("console_program.py")


class Terminal:
    """A terminal with a console's process in its foreground."""

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        rows: int = 24,
        stdout: int | None = None,
        program: tuple[str, ...] = (sys.executable, str(PROGRAM)),
    ) -> None:
        self.master, self.slave = os.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.screen = b""

        def take_terminal() -> None:
            os.setsid()
            os.close(os.open(os.ttyname(self.slave), os.O_RDWR))  # becomes the controlling one
            os.tcsetpgrp(self.slave, os.getpgrp())

        self.process = subprocess.Popen(
            [*program, *arguments],
            stdin=self.slave,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            preexec_fn=take_terminal,
            pass_fds=[self.slave],
        )

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("<HHHH", rows, columns, 0, 0))

    def expect(self, text: bytes) -> None:
        """Read the screen until ``text`` is there."""
        while text not in self.screen:
            ready, _, _ = select.select([self.master], [], [], PATIENCE)
            assert ready, f"{text!r} did not come, but {self.screen[-200:]!r}"
            self.screen += os.read(self.master, 65536)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    terminal.expect(b"80x24\r\n")
    yield terminal
    terminal.close()


def test_guest_hears_of_the_terminals_size_and_of_each_change(terminal: Terminal) -> None:
    for columns, rows in ((132, 50), (20, 5), (1, 1), (65535, 65535)):
        terminal.resize(columns, rows)
        terminal.expect(b"%dx%d\r\n" % (columns, rows))


def test_change_while_stopped_is_told_when_it_goes_on(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGTSTP)
    os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
    terminal.resize(100, 30)

    terminal.process.send_signal(signal.SIGCONT)

    terminal.expect(b"100x30\r\n")


def test_change_in_the_background_is_told_in_the_foreground() -> None:
    script = f"set -m; {sys.executable} {PROGRAM} & read key; fg; echo ended with $?"
    terminal = Terminal(script, program=("bash", "-c"))
    terminal.expect(b"80x24")
    terminal.resize(100, 30)

    terminal.type(b"\r")

    terminal.expect(b"100x30\r\n")
    terminal.type(b"q")
    terminal.expect(b"ended with 0")
    terminal.close()


def test_all_that_is_pasted_arrives(terminal: Terminal) -> None:
    pasted = bytes(32 + at % 64 for at in range(64 << 10))
    typing = threading.Thread(target=terminal.type, args=[pasted])  # a terminal takes a few KiB, and then waits
    typing.start()
    expected = b"".join(b"<%c>" % byte for byte in pasted)
    while len(echoed := terminal.screen[terminal.screen.find(b"<") :]) < len(expected):
        ready, _, _ = select.select([terminal.master], [], [], PATIENCE)
        assert ready, len(terminal.screen)
        terminal.screen += os.read(terminal.master, 65536)
    typing.join()
    assert echoed == expected


def test_keys_are_the_guests_and_ctrl_a_x_ends_the_machine(terminal: Terminal) -> None:
    terminal.type(b"\x03\x1a\r")
    terminal.expect(b"<\x03><\x1a><\r>")

    terminal.type(b"\x01x")

    assert terminal.process.wait(PATIENCE) == 3
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_help_is_for_the_person(terminal: Terminal) -> None:
    terminal.type(b"\x01h")

    terminal.expect(b"Ctrl-a x ")


def test_guest_that_breaks_its_rings_does_not_take_the_way_out() -> None:
    terminal = Terminal("broken")
    terminal.expect(b"80x24\r\n")
    for _ in range(20):
        terminal.type(b"z" * 100)

    terminal.type(b"\x01x")

    assert terminal.process.wait(PATIENCE) == 3
    assert termios.tcgetattr(terminal.slave) == terminal.before
    terminal.close()


def test_output_that_goes_elsewhere_has_no_size(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as log:
        terminal = Terminal(stdout=log.fileno())
        terminal.type(b"q\n")
        assert terminal.process.wait(PATIENCE) == 0
    terminal.close()

    assert (tmp_path / "log").read_bytes() == b"ready\r\n<q><\n>"
