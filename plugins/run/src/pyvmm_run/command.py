"""The command ``pyvmm run``."""

from __future__ import annotations

import os
import signal
import sys
import time

import click
from pyvmm.errors import UsageError
from pyvmm.options import parse_size

from pyvmm_run import processes, protocol
from pyvmm_run.guest import CHANGES
from pyvmm_run.guest_machine import GuestMachine
from pyvmm_run.protocol import GuestLostError
from pyvmm_run.session import Session, TimedOutError
from pyvmm_run.streams import Sink, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any, Final

TIMED_OUT: Final = 124
"""The exit status after --timeout, as of timeout(1)."""

_PASSED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_EPILOG = """\
\b
  pyvmm run -- uname -a
  pyvmm run -it -- bash
  pyvmm run --image disk.img --changes discarded --net -- apt-get update
  tar c src | pyvmm run -v /srv/out:/mnt -w /mnt -- tar xv

\b
The exit status is the command's; 128+N if signal N ended it; 124 after --timeout; 127 and 126 if the guest has no such
command or cannot run it. Signals go to the command; a second one of INT, TERM, HUP or QUIT ends the machine at once.
"""


@click.command(
    "run",
    context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": False},
    epilog=_EPILOG,
)
@click.option("--image", metavar="FILE", help="The root file system: a file with a file system, such as ext4.")
@click.option("--root", metavar="DIR", help="The root file system: a directory of the host.")
@click.option(
    "--changes",
    type=click.Choice(CHANGES),
    default="refused",
    help="Writing to the root file system is refused (the default); or it works, and changes are discarded at the end; "
    "or kept, in FILE or DIR.",
)
@click.option(
    "-v",
    "--volume",
    "volumes",
    multiple=True,
    metavar="DIR:GUEST_DIR[:ro]",
    help="A directory of the host at GUEST_DIR in the guest, which can write there without ro. Can be repeated.",
)
@click.option("--memory", default="512M", metavar="SIZE", help="The guest's memory; 512M by default.")
@click.option("--cpus", type=click.IntRange(1), default=1, metavar="N", help="The guest's CPUs; 1 by default.")
@click.option("--net", is_flag=True, help="A network card that leads to the host's network, by passt.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="End the command after this time."
)
@click.option("-e", "--env", "variables", multiple=True, metavar="NAME=VALUE", help="A variable of the environment.")
@click.option("-w", "--workdir", default="/", metavar="DIR", help="The command's current directory; / by default.")
@click.option("-i", "--interactive", is_flag=True, help="As docker has it; standard input is always passed on.")
@click.option("-t", "--tty", is_flag=True, help="The command has a terminal.")
@click.option("--kernel", metavar="FILE", help="The guest's kernel; by default $PYVMM_KERNEL or the host's own.")
@click.option("--hostname", default="pyvmm", metavar="NAME", help="The guest's host name; pyvmm by default.")
@click.option("--console", metavar="FILE", help="Write the guest kernel's messages to FILE.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT…]")
def command(
    words: Sequence[str],
    volumes: Sequence[str],
    memory: str,
    variables: Sequence[str],
    workdir: str,
    tty: bool,
    interactive: bool,
    timeout: float | None,
    **machine: Any,
) -> int:
    """Run a command in a virtual machine.

    Without --image and --root, the guest has the host's own files, read-only. Nothing is left of the machine when the
    command ends.
    """
    try:
        size = int(parse_size(memory))
    except ValueError as error:
        raise UsageError(f"--memory: {error}") from error
    environment = dict(processes.ENVIRONMENT)
    if tty and "TERM" in os.environ:
        environment["TERM"] = os.environ["TERM"]
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not name or not equals:
            raise UsageError(f"--env: {variable!r} is not NAME=VALUE")
        environment[name] = value
    deadline = None if timeout is None else time.monotonic() + timeout
    with _Signals() as signals, _Machine(GuestMachine(volumes=volumes, memory=size, **machine), signals) as guest:
        terminal = _terminal_size() if tty else None
        request = protocol.command(words, environment, workdir, terminal)
        try:
            return _run(guest, request, deadline, signals, tty)
        except TimedOutError:
            print(f"pyvmm run: the command was ended after {timeout:g} seconds", file=sys.stderr)
            return TIMED_OUT
        except _Ended as ended:
            return 128 + ended.number


def _run(machine: GuestMachine, request: bytes, deadline: float | None, signals: _Signals, tty: bool) -> int:
    """Start the machine and run the command in it; the exit status."""
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    import subprocess

    try:
        machine.start(timeout=left)
    except subprocess.TimeoutExpired:
        raise TimedOutError from None
    session = machine.open_session()
    signals.session = session
    with _RawTerminal(tty):
        try:
            status = session.run(request, Source(0), Sink(1), Sink(2), deadline=deadline)
        except GuestLostError as error:
            if signals.ended:
                raise _Ended(signals.ended) from None
            raise machine.explain(error) from error
        finally:
            signals.session = None
            machine.end_session(session)
    return status if status >= 0 else 128 - status


class _Ended(BaseException):
    """A signal that ends this process before or without its command."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Signals:
    """Within it, signals go to the command; before there is one, they raise :class:`_Ended` in this thread."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.ended = 0
        self.closing = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in _PASSED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        if sys.stdin is not None and os.isatty(0):
            self._before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._resize)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        session = self.session
        if self.closing:
            return
        if session is None:
            self.ended = number
            raise _Ended(number)
        if number in _ENDING and self.ended:
            session.abort()
        else:
            session.send_signal(number)
        if number in _ENDING:
            self.ended = number

    def _resize(self, _number: int, _frame: FrameType | None) -> None:
        if self.session is not None:
            self.session.resize(*_terminal_size())


class _Machine:
    """Closes a machine in peace: a signal that comes meanwhile waits for that."""

    def __init__(self, machine: GuestMachine, signals: _Signals) -> None:
        self._machine = machine
        self._signals = signals

    def __enter__(self) -> GuestMachine:
        return self._machine

    def __exit__(self, *_: object) -> None:
        self._signals.closing = True
        self._machine.close()


class _RawTerminal:
    """Within it, the terminal of standard input passes every key on."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and os.isatty(0)

    def __enter__(self) -> None:
        if self._wanted:
            import termios
            import tty

            self._before = termios.tcgetattr(0)
            tty.setraw(0)

    def __exit__(self, *_: object) -> None:
        if self._wanted:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._before)


def _terminal_size() -> tuple[int, int]:
    for fd in (0, 1, 2):
        try:
            size = os.get_terminal_size(fd)
        except OSError:
            continue
        return size.lines, size.columns
    return 24, 80
