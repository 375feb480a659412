"""Commands in a guest, as :mod:`subprocess` runs them on the host: ``run``, ``popen``, files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time

from pyvmm.errors import UsageError

from pyvmm_run import protocol
from pyvmm_run.protocol import GuestLostError
from pyvmm_run.session import CommandError, TimedOutError
from pyvmm_run.streams import Sink, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import IO, Any, Final

    from pyvmm_run.guest_machine import GuestMachine
    from pyvmm_run.session import Session

ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
"""A command's environment, unless the caller gives another one."""


class Abort:
    """Ends a command that another thread waits for."""

    def __init__(self) -> None:
        self.is_wanted = False
        self.session: Session | None = None

    def __call__(self) -> None:
        self.is_wanted = True
        if self.session is not None:
            self.session.abort()


def run(
    machine: GuestMachine,
    args: Sequence[str | bytes],
    *,
    input: bytes | str | None = None,
    capture_output: bool = False,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    text: bool = False,
    timeout: float | None = None,
    check: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    abort: Abort | None = None,
) -> subprocess.CompletedProcess[Any]:
    """As :func:`subprocess.run`; ``abort`` can end it early."""
    begin = time.monotonic()
    _check_args(args)
    if capture_output:
        stdout = stderr = subprocess.PIPE
    source = _source(stdin) if input is None else Source(input.encode() if isinstance(input, str) else input)
    out, err = _sink(stdout, 1), _sink(stderr, 2)
    request = protocol.command(args, ENVIRONMENT if env is None else env, cwd)
    try:
        machine.start(timeout=timeout)
        status = _serve(machine, request, source, out, err, None if timeout is None else begin + timeout, abort)
    except (TimedOutError, subprocess.TimeoutExpired):
        assert timeout is not None
        raise subprocess.TimeoutExpired(list(args), timeout, _collected(out), _collected(err)) from None
    except CommandError as error:
        raise _as_os_error(error) from None
    result: subprocess.CompletedProcess[Any] = subprocess.CompletedProcess(
        list(args), status, _result(out, text), _result(err, text)
    )
    if check:
        result.check_returncode()
    return result


def read_file(machine: GuestMachine, path: str, *, timeout: float | None = None, abort: Abort | None = None) -> bytes:
    """The contents of a file in the guest. Raises OSError as the guest's kernel does."""
    out = Sink(None, collects=True)
    _copy(machine, f"r{path}", path, Source(b""), out, timeout, abort)
    assert out.collected is not None
    return bytes(out.collected)


def write_file(
    machine: GuestMachine,
    path: str,
    data: bytes | str,
    *,
    timeout: float | None = None,
    abort: Abort | None = None,
) -> None:
    """Write a file in the guest anew. Raises OSError as the guest's kernel does."""
    source = Source(data.encode() if isinstance(data, str) else data)
    _copy(machine, f"w{path}", path, source, Sink(None), timeout, abort)


class Popen:
    """A command that runs in a sandbox, like :class:`subprocess.Popen`.

    Its streams are served by a thread of its own. ``stdin``, ``stdout`` and ``stderr`` are files where PIPE was asked
    for, else None.
    """

    def __init__(
        self,
        machine: GuestMachine,
        args: Sequence[str | bytes],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        """Start it. Raises OSError where the guest cannot start it. ``on_end`` is called when it has ended."""
        _check_args(args)
        self.args = list(args)
        self.returncode: int | None = None
        self._failure: BaseException | None = None
        self._done = threading.Event()
        self._on_end = on_end
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            theirs_in, self.stdin = _pipe(stdin, ours, theirs, text, writes=True)
            theirs_out, self.stdout = _pipe(stdout, ours, theirs, text, writes=False)
            theirs_err, self.stderr = _pipe(stderr, ours, theirs, text, writes=False)
            source, out, err = _source(theirs_in), _sink(theirs_out, 1), _sink(theirs_err, 2)
            request = protocol.command(args, ENVIRONMENT if env is None else env, cwd)
            self._session = machine.open_session()
            started = threading.Event()
            closers = theirs.pop_all()
            threading.Thread(
                target=self._serve,
                args=(machine, request, source, out, err, started, closers),
                name="pyvmm-run",
                daemon=True,
            ).start()
            started.wait()
            if isinstance(self._failure, CommandError):
                raise _as_os_error(self._failure)
            if self._failure is not None and not self._done.is_set():
                raise self._failure
            ours.pop_all()

    def _serve(
        self,
        machine: GuestMachine,
        request: bytes,
        source: Source,
        out: Sink,
        err: Sink,
        started: threading.Event,
        closers: contextlib.ExitStack,
    ) -> None:
        try:
            self.returncode = self._session.run(request, source, out, err, on_start=started.set)
        except GuestLostError as error:
            self._failure = machine.explain(error)
        except BaseException as error:
            self._failure = error
        finally:
            machine.end_session(self._session)
            closers.close()
            self._on_end()
            started.set()
            self._done.set()

    def poll(self) -> int | None:
        """The status where the command has ended, else None. Raises what ended it where it has none."""
        if not self._done.is_set():
            return None
        if self._failure is not None:
            raise self._failure
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The status, when the command has ended. Raises subprocess.TimeoutExpired."""
        if not self._done.wait(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        status = self.poll()
        assert status is not None
        return status

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Send ``input``, read all output, and wait for the end. Raises subprocess.TimeoutExpired."""
        read: dict[str, Any] = {"stdout": None, "stderr": None}

        def write() -> None:
            assert self.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                if input is not None:
                    self.stdin.write(input)
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()

        def reader(name: str, file: IO[Any]) -> Callable[[], None]:
            def take() -> None:
                read[name] = file.read()

            return take

        threads = [threading.Thread(target=write, daemon=True)] if self.stdin is not None else []
        for name, file in (("stdout", self.stdout), ("stderr", self.stderr)):
            if file is not None:
                threads.append(threading.Thread(target=reader(name, file), daemon=True))
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join()
        return read["stdout"], read["stderr"]

    def send_signal(self, number: int) -> None:
        """Send a signal to the command and the processes of its group."""
        if not self._done.is_set():
            self._session.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(15)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(9)

    def __enter__(self) -> Popen:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                with contextlib.suppress(BrokenPipeError):
                    file.close()
        self._done.wait()


def _serve(
    machine: GuestMachine,
    request: bytes,
    source: Source,
    out: Sink,
    err: Sink,
    deadline: float | None,
    abort: Abort | None,
) -> int:
    session = machine.open_session()
    try:
        if abort is not None:
            abort.session = session
            if abort.is_wanted:
                session.abort()
        return session.run(request, source, out, err, deadline=deadline)
    except GuestLostError as error:
        raise machine.explain(error) from error
    finally:
        machine.end_session(session)


def _copy(
    machine: GuestMachine,
    text: str,
    path: str,
    source: Source,
    out: Sink,
    timeout: float | None,
    abort: Abort | None,
) -> None:
    if not path.startswith("/"):
        raise UsageError(f"{path!r}: give the absolute path of a file in the guest")
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        status = _serve(machine, protocol.request([text]), source, out, Sink(None), deadline, abort)
    except TimedOutError:
        assert timeout is not None
        raise subprocess.TimeoutExpired(path, timeout) from None
    if status:
        raise OSError(status, os.strerror(status) if status > 0 else "killed in the guest", path)


def _check_args(args: Sequence[str | bytes]) -> None:
    if isinstance(args, str | bytes) or not args:
        raise UsageError(f"{args!r}: give a command as a list of its words, such as ['uname', '-a']")


def _as_os_error(error: CommandError) -> OSError:
    return OSError(error.errno, os.strerror(error.errno), error.what)


def _source(stdin: int | IO[Any] | None) -> Source:
    if stdin is None:
        return Source(0)
    if stdin == subprocess.DEVNULL:
        return Source(b"")
    if stdin == subprocess.PIPE:
        raise UsageError("stdin: PIPE is for popen; give run an input")
    return Source(stdin if isinstance(stdin, int) else stdin.fileno())


def _sink(file: int | IO[Any] | None, own: int) -> Sink:
    if file is None:
        return Sink(own)
    if file == subprocess.DEVNULL:
        return Sink(None)
    if file == subprocess.PIPE:
        return Sink(None, collects=True)
    if file == subprocess.STDOUT:
        raise UsageError("STDOUT: the guest's streams are apart; have the command's shell join them (2>&1)")
    return Sink(file if isinstance(file, int) else file.fileno())


def _pipe(
    wanted: int | IO[Any] | None, ours: contextlib.ExitStack, theirs: contextlib.ExitStack, text: bool, *, writes: bool
) -> tuple[int | IO[Any] | None, Any]:
    """The descriptor for the thread and the file for the caller, where a pipe is wanted."""
    if wanted != subprocess.PIPE:
        return wanted, None
    reading, writing = os.pipe2(os.O_CLOEXEC)
    inner, outer = (reading, writing) if writes else (writing, reading)
    theirs.callback(os.close, inner)
    if text:
        file: IO[Any] = os.fdopen(outer, "w" if writes else "r", encoding="utf-8")
    else:
        file = os.fdopen(outer, "wb" if writes else "rb")
    ours.callback(file.close)
    return inner, file


def _collected(sink: Sink) -> bytes | None:
    return None if sink.collected is None else bytes(sink.collected)


def _result(sink: Sink, text: bool) -> bytes | str | None:
    data = _collected(sink)
    return data.decode() if text and data is not None else data
