"""A front end to a back end that another program provides."""

from __future__ import annotations

import errno
import socket

from pyvmm.errors import HostError, UsageError
from pyvmm.host.unix_listener import lasting_path
from pyvmm.vhost_user.connection import Connection
from pyvmm.vhost_user.front_end import VhostUserDevice
from pyvmm.vhost_user.protocol import ProtocolFeature, VhostUserError
from pyvmm.vhost_user.source import BackendSource

from pyvmm_vhost_user.types import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final

    from pyvmm.vhost_user.session import Session

    from pyvmm_vhost_user import VhostUserOptions

CONNECT_TIMEOUT: Final = 5.0
"""Seconds within which a back end has to accept the connection."""


class SocketSource(BackendSource):
    """A back end that listens on a Unix socket."""

    def __init__(self, path: Path, *, reconnect: bool) -> None:
        self.path = path
        self._address = lasting_path(path)
        self.restartable = reconnect

    def connect(self) -> Connection:
        """Raises :class:`UsageError` if no program listens there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(CONNECT_TIMEOUT)
        try:
            sock.connect(self._address)
        except OSError as error:
            sock.close()
            raise _refused(self.path, error) from error
        return Connection(sock)

    def end(self, error: VhostUserError) -> str:
        return f"the back end at {self.path}: {error}"


class ForeignDevice(VhostUserDevice):
    """A device of any type, given by its number."""

    def __init__(self, options: VhostUserOptions) -> None:
        """Connect; raises :class:`~pyvmm.errors.PyvmmError`."""
        self._options = options
        self._type = describe(options.type)
        queues = options.queues or self._type.queues
        config_size = self._type.config_size if options.config_size is None else options.config_size
        try:
            super().__init__(
                SocketSource(options.path, reconnect=options.reconnect),
                device_type=options.type,
                queue_max_sizes=[options.queue_size] * queues,
                config_size=config_size,
            )
        except VhostUserError as error:
            raise HostError(f"vhost-user: {error}") from error

    def check(self, session: Session) -> None:
        """Also refuse a back end without a configuration space if the user or the type needs one. If neither does, the
        device has no configuration space, and none of the features that need one."""
        if self._options.config_size is None and not session.has(ProtocolFeature.CONFIG):
            if self._type.config_size and not self._type.config_features:
                raise VhostUserError("it has no configuration space, which a device of this type needs")
            self.config_size = 0
            self.feature_mask &= ~self._type.config_features
        if self._options.queues is None and self._type.queues_feature >= 0:
            # The back end may have more queues than this device uses. The driver must not see the feature for them.
            self.feature_mask &= ~(1 << self._type.queues_feature)
        super().check(session)


def _refused(path: Path, error: OSError) -> UsageError | HostError:
    match error.errno:
        case errno.ENOENT:
            return UsageError(f"vhost-user: {path}: there is no such socket; start the back end first")
        case errno.ECONNREFUSED:
            return UsageError(f"vhost-user: {path}: no program listens there; start the back end first")
        case errno.ENOTSOCK | errno.EPROTOTYPE:
            return UsageError(f"vhost-user: {path} is no socket of a back end")
        case errno.EACCES | errno.EPERM:
            return HostError(f"vhost-user: {path}: this user may not connect to it")
        case errno.EAGAIN:
            return HostError(f"vhost-user: {path}: the back end serves another machine")
    return HostError(f"vhost-user: {path}: {error.strerror or error}")
