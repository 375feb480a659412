"""virtio-fs: a directory of the host (virtio 1.2, section 5.11), served by a virtiofsd that this device starts."""

from __future__ import annotations

import errno
import os
import socket
import struct
import tempfile

from pyvmm.errors import HostError, UsageError
from pyvmm.vhost_user.connection import Connection
from pyvmm.vhost_user.front_end import VhostUserDevice
from pyvmm.vhost_user.protocol import DisconnectedError, VhostUserError
from pyvmm.vhost_user.source import BackendSource
from pyvmm.virtio.constants import VIRTIO_ID_FS

from pyvmm_virtio_fs import TAG_SIZE, FsOptions, daemon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Final

    from pyvmm.device_context import DeviceContext
    from pyvmm.exit_reason import ExitReason
    from pyvmm.host.child import Child
    from pyvmm.host.loop_thread import LoopThread

QUEUE_SIZE: Final = 1024
"""The largest queue that QEMU's virtiofsd supports."""

REQUEST_QUEUES: Final = 1

_CONFIG: Final = struct.Struct(f"<{TAG_SIZE}sI")  # tag, num_request_queues (section 5.11.4)
_END_TIMEOUT: Final = 3.0
"""Seconds within which virtiofsd has to end after its connection is closed."""


class Fs(VhostUserDevice):
    """A file system with one queue for requests and one for high-priority requests."""

    def __init__(self, options: FsOptions) -> None:
        """Start virtiofsd; raises :class:`~pyvmm.errors.PyvmmError`."""
        directory_fd = _open(options.directory)
        try:
            with _Place() as place:  # until the daemon has answered; by then it is in its sandbox
                self._daemon = DaemonSource(options, directory_fd, place)
                super().__init__(
                    self._daemon,
                    device_type=VIRTIO_ID_FS,
                    queue_max_sizes=[QUEUE_SIZE] * (1 + REQUEST_QUEUES),
                    config=_CONFIG.pack(options.name.encode(), REQUEST_QUEUES),
                    feature_mask=0,  # VIRTIO_FS_F_NOTIFICATION has a queue of its own, which virtiofsd does not serve
                )
        except VhostUserError as error:
            raise HostError(f"fs: {options.directory}: {error}") from error
        finally:
            os.close(directory_fd)

    def attach(self, context: DeviceContext) -> None:
        self._daemon.child.log.name = context.title
        super().attach(context)


class DaemonSource(BackendSource):
    """A virtiofsd with one connection, which ends with the connection. A lost one is not replaced, since no other
    process could take over the files that a guest has open in it."""

    def __init__(self, options: FsOptions, directory_fd: int, place: _Place) -> None:
        """Start the daemon for the directory that is open as ``directory_fd``. Raises :class:`HostError`."""
        found = daemon.find(options.virtiofsd)
        listening, self._connected = place.make_socket()
        with listening:
            self.child: Child = found.start(options, directory_fd, place.mount_point, listening.fileno())

    @property
    def end_fd(self) -> int:  # type: ignore[override]
        """The daemon's pidfd."""
        return self.child.pidfd

    def connect(self) -> Connection:
        return Connection(self._connected)

    def watch(self, loop: LoopThread, stop: Callable[[ExitReason], None]) -> None:
        self.child.log.watch(loop)

    def end(self, error: VhostUserError) -> str:
        if self.child.wait(1.0 if isinstance(error, DisconnectedError) else 0):
            self.child.log.drain()
            return f"virtiofsd {self.child.outcome}"
        self.child.kill()
        self.child.wait(1.0)
        self.child.log.drain()
        return f"virtiofsd was killed, since {error}"

    def close(self) -> None:
        self.child.log.expect_end()
        self._connected.close()
        self.child.wait(_END_TIMEOUT)
        self.child.close()


class _Place:
    """A temporary directory for the daemon's start: a context manager."""

    def __init__(self) -> None:
        """Make the directory; raises :class:`HostError`."""
        try:
            self._directory = tempfile.mkdtemp(prefix="pyvmm-fs-")
        except OSError as error:
            raise HostError(
                f"fs: a temporary directory cannot be made: {error.strerror}; give one that can be written, as TMPDIR"
            ) from error
        self._socket = os.path.join(self._directory, "socket")
        self.mount_point = os.path.join(self._directory, "root")
        """An empty directory, for a bind mount."""
        os.mkdir(self.mount_point, 0o700)

    def make_socket(self) -> tuple[socket.socket, socket.socket]:
        """A listening socket, and a socket connected to it. No other process can find the listening one."""
        listening, connected = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        try:
            fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
            try:
                # The path goes through the descriptor, since the directory's own path may be too long for a socket.
                path = f"/proc/self/fd/{fd}/socket"
                listening.bind(path)
                listening.listen(1)
                connected.connect(path)
            finally:
                os.close(fd)
            os.unlink(self._socket)
        except BaseException:
            listening.close()
            connected.close()
            raise
        return listening, connected

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        # Only empty directories are removed, never the content of a mount.
        for path in (self.mount_point, self._directory):
            try:
                os.rmdir(path)
            except OSError:
                pass


def _open(directory: Path) -> int:
    """A descriptor of ``directory``, with all links followed. Raises :class:`UsageError` if it is no directory."""
    try:
        return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                wrong = "does not exist"
            case errno.ENOTDIR:
                wrong = "is no directory"
            case errno.ELOOP:
                wrong = "is a link to itself"
            case _:
                wrong = f"cannot be opened: {error.strerror}"
        raise UsageError(f"fs: {directory} {wrong}; give a directory of this host") from error
