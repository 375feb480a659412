"""Child processes that do not outlive this process: making, watching, ending and reaping them.

A child's stdin is /dev/null; its stdout and stderr go to a :class:`~pyvmm.host.child_log.LogRelay`. It inherits no
descriptors but those that it is given, from 3 on. It has a process group of its own and no terminal, so that no
terminal's signals reach it and it cannot use a terminal. It shares its parent's session: the kernel may divide CPUs by
sessions (the autogroup of sched(7)), and with a session of its own a device would wait long for its turn on a busy
host. The kernel kills the child when the thread that made it ends (PR_SET_PDEATHSIG of prctl(2)). So a thread that
lasts as long as this process makes it, whichever thread asks for it."""

from __future__ import annotations

# This is the module signal without its enums, which take longer to make than all uses of them here.
import _signal as signal  # type: ignore[import-not-found]
import fcntl
import os
import select
import sys
import termios
import time

from pyvmm._native import lib
from pyvmm.host import leftovers, standard_streams
from pyvmm.host.child_log import LogRelay
from pyvmm.host.lasting_thread import on_lasting_thread
from pyvmm.host.shortage import shortage
from pyvmm.host.standard_streams import flush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Final, NoReturn

__all__ = ["FIRST_FD", "Child", "default_signals", "enter", "fork", "spawn"]

FIRST_FD: Final = 3
"""The number of the first descriptor that a process is given."""

_PIPE_SIZE: Final = 1 << 18
_PARENTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that a terminal or a service manager sends to all processes. The children ignore them; the parent handles
them."""

_ERRNO_INSTEAD: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that would end a process. When they are ignored, only the write fails, with EPIPE or EFBIG."""

_STANDARD: Final = [number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP)]
"""The standard signals of signal(7) whose disposition can be set, without the real-time signals."""

_END: Final = signal.SIGUSR1
"""The signal by which the parent makes the process remove its files and end immediately."""

NO_RESOURCES: Final = 71
"""The exit status of a process that could not begin, since something of the host's is used up (EX_OSERR of
<sysexits.h>)."""

_NAME_SIZE: Final = 15

_living: Final[set[Child]] = set()
"""The children of this process that it has not reaped."""


class Child:
    """A child process, as its parent sees it. One thread may use it at a time."""

    def __init__(self, name: str, pid: int, log_fd: int) -> None:
        """Take over the child ``pid`` and the reading end of its log."""
        self.name = name
        self.pid = pid
        _living.add(self)
        self.outcome = ""
        """The way in which the process ended: ``was killed by SIGKILL``, ``ended with status 1``; empty before its
        end."""
        self.status = -1
        """The exit status of a process that has ended by itself; -1 before its end."""
        try:
            self.log = LogRelay(log_fd, name)
            self.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # somebody has SIGCHLD ignored, and it is gone
            self.pidfd = -1
            self.outcome = "ended"
        except OSError:
            # Nobody could watch it. It has made nothing yet, or removes that at this signal.
            _living.discard(self)
            os.kill(pid, _END)
            os.waitpid(pid, 0)
            raise

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.wait(0)

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the process's end, and reap the process. Returns whether it has ended."""
        if self.outcome:
            return True
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(max(timeout, 0) * 1000):
            return False
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:
            result = None
        self.outcome = _outcome(result)
        if result is not None and result.si_code == os.CLD_EXITED:
            self.status = result.si_status
        _living.discard(self)
        return True

    def kill(self) -> None:
        """End the process immediately, if it has not ended."""
        if not self.outcome:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def end(self, seconds: float) -> None:
        """Have it remove what it made and end; one that has not ended in ``seconds`` is killed."""
        if not self.outcome:
            try:
                signal.pidfd_send_signal(self.pidfd, _END)
            except ProcessLookupError:
                pass
            if not self.wait(seconds):
                self.kill()

    def close(self) -> None:
        """End the process immediately, reap it, relay the rest of its log; closing twice does nothing."""
        if self.pidfd >= 0:
            self.kill()
            # A process that is stuck in the kernel (state D) is not waited for: it ends when the kernel is done.
            self.wait(1.0)
            os.close(self.pidfd)
            self.pidfd = -1
        self.log.close()


def fork(name: str, body: Callable[[], int], fds: Sequence[int] = ()) -> Child:
    """Fork this process; the child runs ``body`` and exits with the status that it returns. Use it only while this
    process has no other Python thread: locks that such a thread holds would stay locked in the child.

    ``body`` finds ``fds`` from :data:`FIRST_FD` on.
    """
    reading, writing = _log_pipe()
    ours = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        flush(stream)  # so that the fork does not write their buffers again

    def make() -> Child:
        pid = os.fork()
        if pid == 0:
            _run(name, ours, body, [*fds], writing)
        return Child(name, pid, reading)

    try:
        with leftovers.Making():
            return on_lasting_thread(make)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)


def spawn(
    name: str, arguments: Sequence[str], fds: Sequence[int] = (), environment: Mapping[str, str] = os.environ
) -> Child:
    """Start another program, from any thread. The program has to call :func:`enter` first, with this process's id."""
    reading, writing = _log_pipe()
    null = -1
    moved: list[int] = []
    try:
        null = standard_streams.null()
        _move([writing, *fds, null], moved)
    except BaseException:
        for fd in (reading, *moved):
            os.close(fd)
        raise
    finally:
        for fd in (writing, null) if null >= 0 else (writing,):
            os.close(fd)
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_DUP2, moved[-1], 0),
        (os.POSIX_SPAWN_DUP2, moved[0], 1),
        (os.POSIX_SPAWN_DUP2, moved[0], 2),
        *((os.POSIX_SPAWN_DUP2, fd, FIRST_FD + i) for i, fd in enumerate(moved[1:-1])),
    ]

    def make() -> Child:
        pid = os.posix_spawn(
            arguments[0],
            [*arguments],
            environment,
            file_actions=actions,
            setpgroup=0,
            setsigdef=_STANDARD,
            setsigmask=(),
        )
        return Child(name, pid, reading)

    try:
        with leftovers.Making():
            return on_lasting_thread(make)
    except BaseException:
        os.close(reading)
        raise
    finally:
        for fd in moved:
            os.close(fd)


def enter(name: str, parent: int) -> None:
    """In the new process: set its name, and let it end when ``parent``, the process that made it, ends."""
    result = lib.pyvmm_process_die_with(parent)
    if result:
        os._exit(1)  # the parent has ended already
    lib.pyvmm_process_set_name(f"pyvmm:{name}".encode()[:_NAME_SIZE])
    _give_up_terminal()


def _give_up_terminal() -> None:
    """Give up the controlling terminal, as setsid(2) does."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return  # there is none
    try:
        fcntl.ioctl(fd, termios.TIOCNOTTY)
    finally:
        os.close(fd)


def set_signals() -> None:
    """Set the dispositions of a child process. It ends when its parent closes their connection or, immediately, by
    SIGUSR1. A write that fails raises an error instead of ending the process."""
    for number in _STANDARD:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (*_PARENTS, *_ERRNO_INSTEAD):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(_END, _end)


def default_signals() -> None:
    """Set the dispositions that another program expects, for a fork that becomes one: all defaults, none blocked."""
    for number in _STANDARD:
        if signal.getsignal(number) is not signal.SIG_DFL:  # None is a handler in C, which exec resets
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def end_all(timeout: float) -> None:
    """End the children of this process immediately; they have ``timeout`` seconds together to remove their files. Call
    it when this process ends: the kernel then kills the children that are left."""
    children = [child for child in list(_living) if child.pidfd >= 0]  # other threads may make some
    for child in children:
        try:
            signal.pidfd_send_signal(child.pidfd, _END)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + timeout
    for child in children:
        child.wait(deadline - time.monotonic())


def _end(_number: int, _frame: object) -> None:
    def end() -> NoReturn:
        leftovers.remove_all()
        os._exit(1)

    leftovers.at_a_safe_point(end)


def set_title(title: str) -> None:
    """Set the name that ps(1) shows for this process; it is cut to the size of the process's arguments."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        # Fields 48 and 49 of proc(5); the first here is field 3.
        lib.pyvmm_process_set_title(int(fields[45]), int(fields[46]), os.fsencode(title))
    except (OSError, IndexError, ValueError):
        pass


def has_threads() -> bool:
    """Whether this process has more than one thread, including threads that Python did not make."""
    try:
        return len(os.listdir("/proc/self/task")) > 1
    except OSError:
        return True


def _log_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)  # room for output while the parent does not read
    except OSError:
        pass  # a user's pipes may have a limit (pipe(7))
    return reading, writing


def _run(name: str, parent: int, body: Callable[[], int], fds: list[int], log_fd: int) -> NoReturn:
    """Run a fork. It never returns to the calling frames: their files are closed here, and closing them again would
    close other files with the same numbers."""
    status = 1
    try:
        enter(name, parent)
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        _living.clear()
        leftovers.begin_fork()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        set_signals()
        _keep(log_fd, fds)
        status = body()
    except BaseException as error:
        if isinstance(error, OSError) and shortage(error):
            status = NO_RESOURCES
        else:
            import traceback

            traceback.print_exc()
    finally:
        leftovers.remove_all()
        os._exit(status)


def _move(fds: Sequence[int], moved: list[int]) -> None:
    """Fill ``moved`` with copies of ``fds``, out of the way of the numbers that they are to have in the process: also
    where few can be open."""
    for fd in fds:
        moved.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD + len(fds)))


def _keep(log_fd: int, fds: list[int]) -> None:
    """Close all descriptors but ``fds``, which move to 3 and up, and the log, which is stdout and stderr."""
    close_all_but([0, 1, 2, log_fd, *fds])  # so that there is room for copies
    moved: list[int] = []
    _move([log_fd, *fds], moved)
    null = standard_streams.null()
    os.dup2(null, 0)
    os.dup2(moved[0], 1)
    os.dup2(moved[0], 2)
    for i, fd in enumerate(moved[1:]):
        os.dup2(fd, FIRST_FD + i, inheritable=False)
    close_from(FIRST_FD + len(fds))
    # The old ones may belong to other code: a test, a notebook.
    sys.stdin = open(0, closefd=False)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)


def close_all_but(fds: list[int]) -> None:
    """Close all descriptors but ``fds``."""
    first = 0
    for fd in sorted(fds):
        if first < fd:  # Python takes an empty range at 0 for all descriptors
            os.closerange(first, fd)
        first = fd + 1
    close_from(first)


def close_from(first: int) -> None:
    """Close all descriptors from number ``first`` on."""
    try:
        last = max(map(int, os.listdir("/proc/self/fd")))
    except OSError:  # a jail without /proc
        last = os.sysconf("SC_OPEN_MAX")
    os.closerange(first, last + 1)


def _outcome(result: os.waitid_result | None) -> str:
    if result is None:
        return "ended"
    if result.si_code == os.CLD_EXITED:
        return f"ended with status {result.si_status}"
    from signal import Signals

    try:
        name = Signals(result.si_status).name
    except ValueError:
        name = f"signal {result.si_status}"
    return f"was killed by {name}"
