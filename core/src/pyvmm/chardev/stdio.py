"""``stdio``: the VMM's own standard input and output."""

from __future__ import annotations

import os
import sys

from pyvmm.chardev.backend import Backend
from pyvmm.chardev.descriptors import DescriptorInput, DescriptorOutput, reopen
from pyvmm.chardev.escape import HELP, EscapeKeys
from pyvmm.errors import UsageError
from pyvmm.exit_reason import End, ExitReason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pyvmm.chardev.line import Line
    from pyvmm.chardev.terminal import JobControl, RawTerminal
    from pyvmm.device_context import DeviceContext


class Stdio(Backend):
    """The terminal, or a pipe or file that the shell uses instead.

    If both are a terminal, it is raw: each key goes to the guest, except those of :class:`EscapeKeys`. If only one is a
    terminal, it keeps its settings, so that Ctrl-c ends the VMM. The guest gets every byte of a pipe or a file, Ctrl-a
    included.
    """

    _owner: ClassVar[Stdio | None] = None

    def __init__(self, kind: str) -> None:
        """Raises :class:`UsageError` if another device has them."""
        if Stdio._owner is not None:
            raise UsageError(
                f"{kind}: standard input and output serve one device, and {Stdio._owner.kind} has them; "
                f"give file=, unix= or pty to one of the two"
            )
        self.kind: str = kind
        Stdio._owner = self
        self._terminal: RawTerminal | None = None
        self._job_control: JobControl | None = None
        self._fds: list[int] = []

    def attach(self, line: Line, context: DeviceContext) -> None:
        super().attach(line, context)
        # Python has no file object for a descriptor that was closed at its start. Another file may have its number now.
        stdin = 0 if sys.__stdin__ is not None else None
        stdout = 1 if sys.__stdout__ is not None else None
        if stdout is not None:
            self.output = DescriptorOutput(context.title, self._reopen(stdout, os.O_WRONLY))
            line.connect(self.output)
        if stdin is None:
            return
        interpret = may_read = None
        if os.isatty(stdin) or (stdout is not None and os.isatty(stdout)):
            from pyvmm.chardev.terminal import JobControl

            self._job_control = JobControl()
            self._job_control.enter()
        if os.isatty(stdin):
            may_read = self._is_in_foreground
            self._stdin = stdin
            self._keys = EscapeKeys(lambda: context.stop(ExitReason(End.QUIT)), lambda: line.send(HELP))
            interpret = self._on_keys
            if stdout is not None and os.isatty(stdout):
                from pyvmm.chardev.terminal import RawTerminal

                self._terminal = RawTerminal(stdin, lambda: context.loop.post(self._on_change))
                self._terminal.enter()
                self.size = self._terminal.size
        self.input = DescriptorInput(self._reopen(stdin, os.O_RDONLY), line, interpret=interpret, may_read=may_read)
        self.input.start(context.loop)

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._terminal is not None:
                self._terminal.leave()
                self._terminal = None
            if self._job_control is not None:
                self._job_control.leave()
                self._job_control = None
        while self._fds:
            os.close(self._fds.pop())
        if Stdio._owner is self:
            Stdio._owner = None

    def _on_keys(self, data: bytes) -> bytes:
        return self._keys.feed(data)

    def _is_in_foreground(self) -> bool:
        """Whether this process has the terminal in its foreground; if so, make the terminal raw."""
        from pyvmm.chardev.terminal import in_foreground

        if not in_foreground(self._stdin):
            return False
        if self._terminal is not None and self._terminal.make_raw():
            self._look_at_size()  # a process in the background gets no SIGWINCH
        return True

    def _on_change(self) -> None:
        self._look_at_size()
        self.resume_input()

    def _look_at_size(self) -> None:
        before = self.size
        if self._terminal is not None:
            self.size = self._terminal.size
        if self.size != before:
            self.on_resize()

    def _reopen(self, fd: int, flags: int) -> int:
        opened = reopen(fd, flags)
        if opened != fd:
            self._fds.append(opened)
        return opened
