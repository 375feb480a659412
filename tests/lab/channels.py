"""The pipes between ``run`` and a command in the machine, and QEMU as their other end."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import termios
import time
import tty
from types import TracebackType

QUIT = b"\x1d" * 3
"""Ctrl-] three times in a row ends an interactive machine."""

_ALIVE = b"alive"
_CHUNK = 1 << 16
_PIPE_SIZE = 1 << 20


class Interrupted(BaseException):
    """A signal arrived that ends us."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class TimedOut(Exception):
    """The command took longer than it may."""


class Silent(Exception):
    """The machine has not said for long that it lives."""


class Channels:
    """Decides how stdin, stdout and stderr travel, and carries them.

    With a terminal at stdin and stdout the command gets one too (a virtio console).
    Otherwise each of the three has a virtio port, but stderr goes with stdout where
    both are the same file, so that their lines stay in order.
    """

    def __init__(self) -> None:
        self._qemu_ends: list[int] = []
        self._our_ends: list[int] = []
        self._qemu_arguments: list[str] = []
        self._readers: dict[int, int] = {}  # where to read, and where to write it
        self._qemu_stdin = -1  # QEMU's end
        self._stdin = -1  # ours

        self.terminal = os.isatty(0) and os.isatty(1) and _in_foreground()
        self._device("virtio-serial-pci")
        self._status = self._output_port("status")
        if self.terminal:
            self._console()
            return
        self._readers[self._output_port("out")] = 1
        if not os.path.sameopenfile(1, 2):
            self._readers[self._output_port("err")] = 2
        if _has_input():
            self._input_port("in")

    def __enter__(self) -> Channels:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for fd in (*self._qemu_ends, *self._our_ends):
            os.close(fd)

    def memory_file(self, data: bytes) -> str:
        """A path under which QEMU, and only it, finds ``data``."""
        fd = os.memfd_create("lab")
        self._qemu_ends.append(fd)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        return f"/proc/self/fd/{fd}"

    def supervise(self, qemu: list[str], timeout: int | None, silence: int) -> tuple[int | None, str]:
        """Run QEMU until the command has ended.

        Returns the command's exit status, None if the machine died before, and
        what QEMU said. Raises ``TimedOut`` after ``timeout`` seconds, if there is a limit, ``Silent``
        after ``silence`` seconds without a sign of life.
        """
        with _Alarm(timeout), open(os.memfd_create("qemu-errors"), "w+b") as errors:
            process = subprocess.Popen(
                # Whatever becomes of us, QEMU does not outlive it.
                ["setpriv", "--pdeathsig", "KILL", *qemu, *self._qemu_arguments],
                stdin=self._qemu_stdin if self._qemu_stdin >= 0 else subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=self._qemu_ends,
                start_new_session=True,
            )
            try:
                while self._qemu_ends:
                    os.close(self._qemu_ends.pop())
                with _RawTerminal(self.terminal):
                    status = self._carry(process.pid, silence)
            finally:
                process.kill()
                process.wait()
            errors.seek(0)
            return status, errors.read().decode(errors="replace").rstrip()

    # What QEMU gets.

    def _device(self, device: str) -> None:
        self._qemu_arguments += ["-device", device]

    def _chardev(self, chardev: str) -> None:
        self._qemu_arguments += ["-chardev", chardev]

    def _output_port(self, name: str) -> int:
        reader, writer = self._pipe()
        self._our_ends.append(reader)
        self._qemu_ends.append(writer)
        number = len(self._qemu_ends)
        self._qemu_arguments += ["-add-fd", f"fd={writer},set={number}"]
        self._chardev(f"file,id={name},path=/dev/fdset/{number},append=on")
        self._device(f"virtserialport,chardev={name},name={name}")
        return reader

    def _input_port(self, name: str) -> None:
        self._qemu_stdin, self._stdin = self._pipe()
        self._qemu_ends.append(self._qemu_stdin)
        self._our_ends.append(self._stdin)
        # Of all chardevs, this one passes an end of file on.
        self._chardev(f"stdio,id={name},signal=off")
        self._device(f"virtserialport,chardev={name},name={name}")

    def _console(self) -> None:
        ours, qemus = socket.socketpair()
        self._stdin = ours.detach()
        self._our_ends.append(self._stdin)
        self._qemu_ends.append(qemus.detach())
        self._readers[self._stdin] = 1
        self._chardev(f"socket,id=terminal,fd={self._qemu_ends[-1]}")
        self._device("virtconsole,chardev=terminal")

    def _pipe(self) -> tuple[int, int]:
        reader, writer = os.pipe()
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except PermissionError:  # this user has many pipes already: a small one does too
            pass
        return reader, writer

    # What we do meanwhile.

    def _carry(self, pid: int, silence: int) -> int | None:
        """Move data until the status is there or QEMU is gone."""
        for fd in (*self._readers, self._stdin, self._status):
            if fd >= 0:
                os.set_blocking(fd, False)
        pidfd = os.pidfd_open(pid)
        self._our_ends.append(pidfd)
        typed = b""
        pending = b""
        reading = self._stdin >= 0
        said = b""
        alive = time.monotonic()
        while True:
            poll = select.poll()
            for fd in (*self._readers, self._status, pidfd):
                poll.register(fd, select.POLLIN)
            if pending:
                poll.register(self._stdin, select.POLLIN | select.POLLOUT)
            elif reading:
                poll.register(0, select.POLLIN)
            left = alive + silence - time.monotonic()
            if left <= 0:
                raise Silent
            ready = dict(poll.poll(left * 1000))

            for source, target in list(self._readers.items()):
                if ready.get(source, 0) & ~select.POLLOUT:
                    self._drain(source, target)
            if self._status in ready or pidfd in ready:
                said += _read(self._status)
                report = b"\n".join(said.split(b"\n")[-2:-1])  # the last whole line, if there is one
                if pidfd in ready or report not in (b"", _ALIVE):
                    return self._finish(report)
                alive = time.monotonic()
            if 0 in ready:
                pending = os.read(0, _CHUNK)
                typed = (typed + pending)[-len(QUIT) :]
                if self.terminal and typed == QUIT:
                    raise Interrupted(signal.SIGINT)
                reading = bool(pending)
                if not reading and not self.terminal:
                    self._close_stdin()
            if pending and ready.get(self._stdin, 0) & (select.POLLOUT | select.POLLERR):
                try:
                    pending = pending[os.write(self._stdin, pending) :]
                except BrokenPipeError:
                    pending, reading = b"", False

    def _finish(self, report: bytes) -> int | None:
        """The command's output is complete when its status is there."""
        for source, target in list(self._readers.items()):
            self._drain(source, target)
        word, _, status = report.decode().strip().partition(" ")
        return int(status) if word == "exit" else None

    def _drain(self, source: int, target: int) -> None:
        while data := _read(source):
            _write_all(target, data)

    def _close_stdin(self) -> None:
        self._our_ends.remove(self._stdin)
        os.close(self._stdin)
        self._stdin = -1


def _read(fd: int) -> bytes:
    """What is there now: nothing is no error."""
    try:
        return os.read(fd, _CHUNK)
    except (BlockingIOError, ConnectionResetError):
        return b""


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # our caller made it so
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except BrokenPipeError:
            raise Interrupted(signal.SIGPIPE) from None


def _in_foreground() -> bool:
    """A background job that reads its terminal or sets its modes is stopped."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _has_input() -> bool:
    """Whether stdin can hold anything for the command."""
    try:
        status = os.fstat(0)
    except OSError as error:
        if error.errno == errno.EBADF:
            return False
        raise
    if os.isatty(0):
        return _in_foreground()
    null = os.stat(os.devnull)
    return not (stat.S_ISCHR(status.st_mode) and status.st_rdev == null.st_rdev)


class _Alarm:
    """Raises ``TimedOut`` in the block after ``seconds``, if there is such a limit."""

    def __init__(self, seconds: int | None) -> None:
        self._seconds = seconds or 0

    def __enter__(self) -> None:
        def expire(_signum: int, _frame: object) -> None:
            raise TimedOut

        signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


class _RawTerminal:
    """The terminal hands every key on, if ``wanted``; afterwards it is as it was."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted

    def __enter__(self) -> None:
        if self._wanted:
            self._before = termios.tcgetattr(0)
            print("Ctrl-] three times ends the machine", file=sys.stderr)
            tty.setraw(0)

    def __exit__(self, *_: object) -> None:
        if self._wanted:
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
