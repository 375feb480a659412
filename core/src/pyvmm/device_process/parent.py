"""The processes in which a machine's devices run: one each, made before the machine has threads.

A device's process is a fork, so that the processes share imported modules. A process that replaces a dead one is a new
program. By then the machine has threads, whose locks a fork would inherit. Also, an attacker who crashed a device by
its addresses does not know the addresses in a new program.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import sys
import time

from pyvmm import logs
from pyvmm.device_process import request_file
from pyvmm.device_process.child import serve as serve_device
from pyvmm.device_request import DISABLED_PLUGINS, view_of
from pyvmm.errors import HostError, UsageError
from pyvmm.exit_reason import End, ExitReason
from pyvmm.host import child
from pyvmm.host.shortage import NO_THREAD, Need, shortage
from pyvmm.host.working_directory import working_directory
from pyvmm.startup.record import record
from pyvmm.vhost_user.connection import Connection, close_fds
from pyvmm.vhost_user.front_end import VhostUserDevice
from pyvmm.vhost_user.protocol import DisconnectedError, VhostUserError
from pyvmm.vhost_user.source import BackendSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import Final

    from pyvmm.device_context import MachineView
    from pyvmm.device_request import DeviceRequest
    from pyvmm.host.child import Child
    from pyvmm.host.loop_thread import LoopThread
else:
    import _socket as socket  # its enums take longer to make than all that is done with them

log = logs.logger(__name__)

RESTART_TIMEOUT: Final = 30.0
"""Seconds within which a new process has to make its device. A busy host is slow."""

END_TIMEOUT: Final = 5.0
"""Seconds within which all processes have to end after the machine, for example to write data."""

_TIDY_TIMEOUT: Final = 1.0
"""Seconds that a process which is to be killed has to remove its sockets first."""

_DEATH_TIMEOUT: Final = 1.0
"""Seconds within which a process has to end after its connection was closed."""

_PROGRAM: Final = "pyvmm.cli.device_program"
"""The module that ``python -m`` runs instead of a fork."""

_CHUNK: Final = 1 << 16


@record
class _Facts:
    """A device's properties, as its process tells them."""

    identity: str
    device_type: int
    config_size: int
    queue_max_sizes: tuple[int, ...]


class DeviceError(Exception):
    """An error of a device's own code while the device was made: a bug, with its traceback."""


class DeviceProcess(BackendSource):
    """The process of one device."""

    def __init__(self, request: DeviceRequest, machine: MachineView) -> None:
        """``machine`` is the device's view of its machine."""
        self.request = request
        self.machine = machine
        self.restartable = request.restart
        self._directory = working_directory()
        """The directory from which relative paths in the device's options start, also for a process that is made
        later."""
        self._python_path = [os.path.join(self._directory, entry) for entry in sys.path]
        self.child: Child | None = None
        self._tell_fd = -1
        self._told = b""
        self._connection: Connection | None = None
        self._facts: _Facts | None = None
        self._loop: LoopThread | None = None
        self._stop: Callable[[ExitReason], None] = lambda reason: None

    @property
    def end_fd(self) -> int:  # type: ignore[override]
        """The process's pidfd."""
        return self.child.pidfd if self.child is not None else -1

    def start(self, *, new_program: bool) -> None:
        """Make the process. :meth:`facts` waits for the result."""
        with Need(self.request.id):
            ours, theirs = socket.socketpair()
            self._connection = Connection(ours)
            try:
                self._tell_fd, tell_fd = os.pipe()
            except BaseException:
                theirs.close()
                raise
        self._told = b""
        level = logs.level()
        request, parent = self.request, os.getpid()
        fds = [theirs.fileno(), tell_fd]
        request_fd = -1
        try:
            if new_program:
                command = [sys.executable, "-P", "-m", _PROGRAM]
                # The new program finds plugins in the same places as this one.
                environment = {**os.environ, "PYTHONPATH": os.pathsep.join(self._python_path)}
                if request.plugin is not None:
                    environment[DISABLED_PLUGINS] = ",".join(request.plugin.disabled)
                arguments = [*command, str(parent), str(level), request.id, self._directory, self.machine.to_text()]
                request_fd = request_file.write(request)
                self.child = child.spawn(request.id, arguments, [*fds, request_fd], environment)
            else:

                def serve() -> int:
                    return serve_device(request, self.machine, parent, level)

                self.child = child.fork(request.id, serve, fds)
            self.child.log.name = self.machine.title(request.id)
        except OSError as error:
            lack = NO_THREAD if error.errno == errno.EAGAIN else shortage(error)
            raise HostError(
                f"{request.id}: no process for the device: {lack or error.strerror}; or give process=off"
            ) from error
        finally:
            theirs.close()
            close_fds([tell_fd] if request_fd < 0 else [tell_fd, request_fd])

    def facts(self, timeout: float | None = None) -> _Facts:
        """Wait until the device is made. Raises the error that making it raised."""
        word, *fields = self._hear(timeout)
        match word:
            case "is":
                identity, *numbers = fields
                device_type, config_size, *sizes = map(int, numbers)
                return _Facts(identity, device_type, config_size, tuple(sizes))
            case "failed":
                status, message = fields
                raise UsageError(message) if int(status) == UsageError.exit_status else HostError(message)
            case _:
                raise DeviceError(f"{self.request.spec}, in its process:\n{''.join(fields)}")

    def make(self) -> VhostUserDevice:
        """The device for the machine; raises as :meth:`facts` does."""
        self._facts = self.facts()
        try:
            return VhostUserDevice(
                self,
                device_type=self._facts.device_type,
                queue_max_sizes=self._facts.queue_max_sizes,
                config_size=self._facts.config_size,
            )
        except VhostUserError as error:
            raise HostError(f"{self.request.id}: {error}") from error

    def connect(self) -> Connection:
        if self._connection is None:
            self._bury()
            self.start(new_program=True)
            try:
                if self.facts(RESTART_TIMEOUT) != self._facts:
                    raise HostError(f"{self.request.id}: the device is not the same as before")
            except BaseException as error:
                self._drop_connection()  # the next attempt has to begin anew
                if isinstance(error, DeviceError):
                    raise HostError(f"{self.request.id}: {error}") from error
                raise
            if self._loop is not None:
                self.watch(self._loop, self._stop)
        connection, self._connection = self._connection, None
        assert connection is not None
        return connection

    def watch(self, loop: LoopThread, stop: Callable[[ExitReason], None]) -> None:
        self._loop, self._stop = loop, stop
        assert self.child is not None
        self.child.log.watch(loop)
        loop.add(self._tell_fd, self._on_told)

    def end(self, error: VhostUserError) -> str:
        assert self.child is not None
        if self.child.wait(_DEATH_TIMEOUT if isinstance(error, DisconnectedError) else 0):
            self.child.log.drain()
            return f"its process {self.child.outcome}"
        self.child.end(_TIDY_TIMEOUT)
        self.child.wait(_DEATH_TIMEOUT)
        self.child.log.drain()
        return f"its process was killed, since {error}"

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove(self._tell_fd)
            self._loop = None
        if self.child is not None:
            self.child.log.unwatch()

    def finish(self, deadline: float) -> None:
        """Wait until the process has ended by itself, up to ``deadline`` of time.monotonic(), else kill it."""
        self._drop_connection()
        if self.child is not None and not self.child.wait(deadline - time.monotonic()):
            log.warning("%s: its process did not end and is killed", self.machine.title(self.request.id))
        self._bury()

    def _drop_connection(self) -> None:
        """Close a connection that nobody has taken."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _bury(self) -> None:
        """Release everything of the last process; kill it if it has not ended."""
        if self._loop is not None:
            self._loop.remove(self._tell_fd)
        close_fds([self._tell_fd] if self._tell_fd >= 0 else [])
        self._tell_fd = -1
        if self.child is not None:
            self.child.close()
            self.child = None

    def _hear(self, timeout: float | None) -> list[str]:
        """The next line that the process sends."""
        assert self.child is not None
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._tell_fd, select.POLLIN)
        poll.register(self.child.log, select.POLLIN)
        while b"\n" not in self._told:
            left = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
            ready = dict(poll.poll(left))
            if not ready:
                raise HostError(f"{self.request.id}: the device is not ready after {timeout:.0f} s")
            if self.child.log.fileno() in ready:
                self.child.log.drain()
                if ready[self.child.log.fileno()] & select.POLLHUP:
                    poll.unregister(self.child.log)
            if self._tell_fd in ready:
                data = os.read(self._tell_fd, _CHUNK)
                if not data:
                    self.child.wait(_DEATH_TIMEOUT)
                    self.child.log.drain()
                    if self.child.status == child.NO_RESOURCES:
                        raise HostError(
                            f"{self.request.id}: its process cannot begin with so little of the host; raise the limits "
                            f"(ulimit -n, ulimit -v), or give process=off"
                        )
                    raise HostError(
                        f"{self.request.id}: its process {self.child.outcome or 'gave up'} before the device was made"
                    )
                self._told += data
        self.child.log.drain()
        line, _, self._told = self._told.partition(b"\n")
        return [field.decode("unicode_escape") for field in line.split(b"\t")]

    def _on_told(self, _: int) -> None:
        """End the machine, if the device asks for it. Only one line is read, since no other is expected."""
        assert self._loop is not None
        self._loop.remove(self._tell_fd)
        try:
            word, *fields = self._hear(0)
            if word == "stop":
                name, detail = fields
                self._stop(ExitReason(End.called(name), detail))
        except (HostError, ValueError):
            pass  # the process has ended, which the connection shows, or sends nonsense


class DeviceProcesses:
    """All device processes of a machine. It is a context manager: at its end, the processes end."""

    def __init__(self) -> None:
        self._processes: dict[str, DeviceProcess] = {}

    def start(self, requests: Sequence[DeviceRequest], machine: MachineView | None = None) -> None:
        """Start the processes of those devices of ``requests`` that need one. ``machine`` is the devices' view of the
        machine."""
        machine = machine or view_of(requests)
        wanted = [request for request in requests if request.process]
        if not wanted:
            return
        for request in wanted:
            for module in request.kind.modules:
                try:
                    __import__(module)
                except Exception as error:
                    log.debug("%s: %s", module, error)  # making the device raises it again
        new_program = child.has_threads()
        # Objects that exist now stay. Frozen, no garbage collection in a process touches, and so copies, their pages.
        gc.freeze()
        try:
            for request in wanted:
                self._processes[request.id] = DeviceProcess(request, machine)
                self._processes[request.id].start(new_program=new_program)
        finally:
            gc.unfreeze()

    def take(self, id: str) -> VhostUserDevice | None:
        """The device ``id``, once its process has made it; None if it has no process. Raises the error that making it
        raised."""
        process = self._processes.get(id)
        return process.make() if process is not None else None

    def close(self) -> None:
        """Wait for the processes of closed devices, for a bounded time, and kill those that are left."""
        deadline = time.monotonic() + END_TIMEOUT
        for process in self._processes.values():
            process.finish(deadline)
        self._processes.clear()

    def __enter__(self) -> DeviceProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
