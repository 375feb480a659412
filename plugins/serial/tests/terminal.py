"""A terminal with a process in its foreground, for tests."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from pyvmm.testing.waiting import PATIENCE

PROGRAM = Path(__file__).with_name("program.py")


class Terminal:
    """A terminal with a process in it."""

    def __init__(
        self,
        command: str,
        *,
        nohup: bool = False,
        program: Sequence[str] = (sys.executable, str(PROGRAM)),
        stdout: int | None = None,
    ) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.screen = b""

        def take_terminal() -> None:
            os.setsid()
            os.close(os.open(os.ttyname(self.slave), os.O_RDWR))  # becomes the controlling one
            os.tcsetpgrp(self.slave, os.getpgrp())
            if nohup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)

        self.process = subprocess.Popen(
            [*program, command],
            stdin=self.slave,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            preexec_fn=take_terminal,
            pass_fds=[self.slave],
        )

    def expect(self, text: bytes) -> None:
        """Read the screen until ``text`` is there."""
        while text not in self.screen:
            ready, _, _ = select.select([self.master], [], [], PATIENCE)
            assert ready, f"{text!r} did not come, but {self.screen[-200:]!r}"
            self.screen += os.read(self.master, 65536)

    def read_all(self, size: int) -> bytes:
        """The next ``size`` bytes of the screen."""
        data = bytearray(self.screen)
        while len(data) < size and select.select([self.master], [], [], PATIENCE)[0]:
            data += os.read(self.master, 65536)
        return bytes(data)

    def read_waiting(self) -> bytes:
        """The screen, with what is there now."""
        while select.select([self.master], [], [], 0)[0]:
            self.screen += os.read(self.master, 65536)
        return self.screen

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)
        self.master = self.slave = -1
