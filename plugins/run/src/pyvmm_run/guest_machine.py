"""The machine of a guest that takes commands: its start, its end, and connections to it."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from pyvmm.errors import HostError, PyvmmError, UsageError

from pyvmm_run import initramfs, modules, protocol
from pyvmm_run.guest import Guest
from pyvmm_run.protocol import Decoder, GuestLostError, ProtocolError
from pyvmm_run.session import CommandError, Session, TimedOutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, Literal, Self

_END_TIMEOUT: Final = 10.0
"""Seconds that a machine has to end by itself before it is killed."""

_LOG_SHOWN: Final = 2000
"""Bytes of the machine's messages that an error has."""


class GuestMachine:
    """A machine whose guest takes commands."""

    def __init__(
        self,
        *,
        image: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] | None = None,
        volumes: Sequence[str] = (),
        changes: Literal["refused", "discarded", "kept"] = "refused",
        memory: int = 512 << 20,
        cpus: int = 1,
        net: bool = False,
        kernel: str | os.PathLike[str] | None = None,
        hostname: str = "pyvmm",
        console: str | os.PathLike[str] | None = None,
    ) -> None:
        """Describe it; :meth:`start` starts it, or the first command.

        ``volumes``: directories of the host for the guest, as ``DIR:GUEST_DIR`` or ``DIR:GUEST_DIR:ro``. ``changes``:
        writing to the root file system is ``refused``; or it works, and what was written is ``discarded`` with the
        machine; or ``kept``, in ``root`` or ``image``. ``memory`` is in bytes. ``net``: the guest has a network card
        that leads to the host's network, by passt. ``kernel`` is by default $PYVMM_KERNEL or the host's own.
        ``console``: a file for the guest kernel's messages.
        """
        self.guest = Guest(image=image, root=root, volumes=volumes, changes=changes, net=net, hostname=hostname)
        self._kernel = kernel
        self._memory = memory
        self._cpus = cpus
        self._console = console
        self._lock = threading.RLock()
        self._directory = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._host: socket.socket | None = None
        self._sessions: set[Session] = set()
        self._closed = False
        self._aborted = False

    @property
    def is_running(self) -> bool:
        """Whether the machine has started and has not ended."""
        return self._host is not None and self._process is not None and self._process.poll() is None

    def start(self, *, timeout: float | None = None) -> Self:
        """Boot the machine, and return when it takes commands. Raises subprocess.TimeoutExpired after ``timeout``
        seconds; the machine is closed then, as after any other failure."""
        with self._lock:
            if self._closed:
                raise UsageError("the sandbox is closed; make another one")
            if self._host is None:
                try:
                    self._start(None if timeout is None else time.monotonic() + timeout)
                except TimedOutError:
                    self.close()
                    raise subprocess.TimeoutExpired("the start of a machine", timeout or 0) from None
                except BaseException:
                    self.close()
                    raise
        return self

    def open_session(self) -> Session:
        """A connection for one command; the machine is started where it was not. Raises :class:`GuestLostError`."""
        self.start()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(f"{self._directory}/vsock")
            connection.sendall(f"CONNECT {protocol.COMMAND_PORT}\n".encode())
            _read_line(connection)
        except OSError as error:
            connection.close()
            raise GuestLostError(self._why_lost() or f"the guest's program takes no commands: {error}") from error
        except BaseException:
            connection.close()
            raise
        session = Session(connection)
        with self._lock:
            self._sessions.add(session)
        return session

    def end_session(self, session: Session) -> None:
        """Forget a session whose command has ended."""
        with self._lock:
            self._sessions.discard(session)

    def explain(self, error: GuestLostError) -> PyvmmError:
        """``error`` with the reason why the machine ended, where it has."""
        reason = self._why_lost()
        return GuestLostError(reason) if reason else error

    def abort(self) -> None:
        """End the machine and its commands soon, from any thread or task: what waits for them fails."""
        self._aborted = True
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
        for session in list(self._sessions):
            session.abort()

    def close(self) -> None:
        """End the machine and its commands, and remove what it has on the host. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            for session in self._sessions:
                session.abort()
            self._sessions.clear()
            if self._host is not None:
                self._host.close()
                self._host = None
            process, self._process = self._process, None
            if process is not None:
                self._end(process)
            if self._directory:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the machine -------------------------------------------------------------------------------------------------

    def _start(self, deadline: float | None) -> None:
        self._directory = _make_directory()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{self._directory}/vsock_{protocol.HELLO_PORT}")
            listener.listen(1)
            self._process = self._start_machine(self._directory)
            if self._aborted:
                raise GuestLostError("the machine was given up")
            self._host = self._accept(listener, deadline)
        self._set_up(self._host, deadline)

    def _module_files(self, kernel: Path) -> list[Path]:
        directory = modules.directory_of(kernel)
        if directory is None:
            return []
        return modules.Modules(directory).in_load_order(self.guest.modules, self.guest.optional_modules)

    def _start_machine(self, directory: str) -> subprocess.Popen[bytes]:
        """The machine's process. Its sockets, and what else it needs, are in ``directory``."""
        kernel = Path(self._kernel) if self._kernel is not None else _find_kernel()
        Path(directory, "initrd").write_bytes(initramfs.make(self._module_files(kernel)))
        devices = [f"vsock:path={_escaped(directory)}/vsock", *self.guest.devices]
        if self._console is not None:
            devices.append(f"serial:file={_escaped(os.path.abspath(self._console))}")
        configuration = {
            "kernel": os.path.abspath(kernel),
            "initrd": f"{directory}/initrd",
            "cmdline": "loglevel=7" if self._console is not None else "quiet",
            "memory": self._memory,
            "cpus": self._cpus,
            "devices": devices,
        }
        command = [sys.executable, "-m", "pyvmm_run.machine_process", json.dumps(configuration)]
        # A session of its own, so that a Ctrl-C of the terminal is the command's alone. Its input is a pipe of ours,
        # whose end is also the end of this process, however it ends.
        with open(f"{directory}/log", "wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, bufsize=0, start_new_session=True
            )

    def _accept(self, listener: socket.socket, deadline: float | None) -> socket.socket:
        assert self._process is not None
        pidfd = os.pidfd_open(self._process.pid)
        try:
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            ready = dict(poll.poll(_milliseconds(deadline)))
            if listener.fileno() in ready:
                return listener.accept()[0]
        finally:
            os.close(pidfd)
        if not ready:
            raise TimedOutError
        raise HostError(self._why_lost())

    def _set_up(self, host: socket.socket, deadline: float | None) -> None:
        decoder = Decoder()
        hello = _next_frame(host, decoder, deadline)
        if hello is None:
            raise GuestLostError(self._why_lost() or "the guest's program ended before it was set up")
        if hello.type != protocol.HELLO:
            raise ProtocolError(f"the guest's program breaks the protocol: it begins with a frame of type {hello.type}")
        if hello.number != protocol.VERSION:
            raise ProtocolError(f"the guest's program speaks version {hello.number}, not {protocol.VERSION}")
        host.settimeout(None)
        host.sendall(protocol.request(self.guest.setup()))
        answer = _next_frame(host, decoder, deadline)
        if answer is None:
            raise GuestLostError(self._why_lost() or "the guest's program ended before it was set up")
        if answer.type == protocol.FAILED:
            raise HostError(self.guest.setup_failure(CommandError(answer.errno, answer.text)))
        if answer.type != protocol.STARTED:
            raise ProtocolError(f"the guest's program breaks the protocol: it answers by a frame of type {answer.type}")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        try:
            if self.guest.has_to_end_itself and process.poll() is None:
                _wait(process, _END_TIMEOUT)  # its connection has ended: it writes what it has to, and powers off
            process.stdin.close()
            _wait(process, _END_TIMEOUT)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _why_lost(self) -> str:
        """One line that says why the machine has ended; empty where it runs."""
        process = self._process
        if process is None:
            return "the sandbox was closed"
        if _wait(process, 2.0) is None:
            return ""
        try:
            log = Path(self._directory, "log").read_bytes()[-_LOG_SHOWN:].decode(errors="replace")
        except OSError:
            log = ""
        lines = [line for line in log.splitlines() if line.strip()]
        if process.returncode == 0:
            reason = lines[-1] if lines else "the machine ended"
            return f"the machine ended before the command did: {reason}; --console FILE shows the kernel's messages"
        return lines[-1] if lines else f"the machine ended with status {process.returncode}"


def _find_kernel() -> Path:
    """As the command ``pyvmm`` finds it."""
    from pyvmm.cli.kernel_search import find_kernel

    return find_kernel(with_initrd=False).kernel


def _make_directory() -> str:
    try:
        return tempfile.mkdtemp(prefix="pyvmm-run-", dir=_short_place())
    except OSError as error:
        raise HostError(
            f"a temporary directory cannot be made: {error.strerror}; give one that can be written, as TMPDIR"
        ) from error


def _short_place() -> str | None:
    """A directory whose name is not too long for a socket's; None for the default."""
    return None if len(os.fsencode(tempfile.gettempdir())) <= 60 else "/tmp"


def _escaped(path: str) -> str:
    """A path within a device's text: a comma is doubled there."""
    return path.replace(",", ",,")


def _milliseconds(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000


def _read_line(connection: socket.socket) -> None:
    """The answer of the vsock device: ``OK PORT``. Raises OSError where there is none."""
    line = b""
    while not line.endswith(b"\n"):
        data = connection.recv(1)
        if not data or len(line) > 32:
            raise ConnectionError("the connection was refused")
        line += data


def _next_frame(host: socket.socket, decoder: Decoder, deadline: float | None) -> protocol.Frame | None:
    """The guest's next frame, which is the only one that it sends now; None at the end of the connection."""
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOutError
        host.settimeout(left)
        try:
            data = host.recv(4096)
        except TimeoutError:
            continue
        except OSError:
            return None
        if not data:
            return None
        frames = list(decoder.feed(data))
        if len(frames) > 1 or (frames and not decoder.is_between_frames):
            raise ProtocolError("the guest's program breaks the protocol: more than was asked for")
        if frames:
            return frames[0]


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
