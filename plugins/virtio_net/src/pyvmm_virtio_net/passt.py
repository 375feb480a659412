"""passt, which connects a guest's network to the host's sockets without privilege: finding, starting and ending it.

The protocol is that of QEMU's stream sockets, with each frame after its length; every version of passt supports it.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

from pyvmm.errors import HostError, UsageError
from pyvmm.host import child, leftovers
from pyvmm.logs import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final

    from pyvmm.host.eventloop import LoopScope

log = logger(__name__)

START_TIMEOUT: Final = 10.0
"""Seconds within which passt has to be ready. It reads the host's interfaces and binds the ports."""

END_TIMEOUT: Final = 3.0
"""Seconds within which passt has to end after its socket is closed."""

_SOCKET_BUFFER: Final = 1 << 20
_NOISE: Final = re.compile(rb"(Failed to send \d+ bytes to syslog|Don't run as root\. Changing to nobody\.+)?")
"""Messages that Debian 12's passt always prints."""

_ONE_OF_TWO: Final = re.compile(_NOISE.pattern + rb"|No external routable interface for IPv[46]")
"""The same, and messages that do not matter once passt is ready."""


class Passt:
    """A passt process and pyvmm's end of the socket to it."""

    def __init__(self, *, mtu: int, tcp: Sequence[str] = (), udp: Sequence[str] = (), loopback: bool = True) -> None:
        """Start passt, and wait until it is ready.

        ``mtu``: the MTU in bytes, which passt tells the guest by DHCP and NDP. ``tcp``, ``udp``: ports of the host to
        forward, in the syntax of passt(1). ``loopback``: whether the gateway's address reaches the host's loopback.
        Raises :class:`~pyvmm.errors.PyvmmError` with passt's message if it fails.
        """
        self.lost = False
        """Whether passt has ended or closed its socket."""
        path = shutil.which("passt")
        if path is None:
            raise HostError("net: passt is not installed, and net:user needs it: sudo apt-get install passt")
        arguments = [path, "--foreground", "--stderr", "--quiet", "--mtu", str(mtu)]
        arguments += [] if loopback else ["--no-map-gw"]
        for option, specs in (("--tcp-ports", tcp), ("--udp-ports", udp)):
            for spec in specs:
                arguments += [option, spec]
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        try:
            with theirs, _own_directory() as directory:
                # passt writes its process id there when it is ready, and may have become another user by then.
                ready = Path(directory, "pid")
                os.mkfifo(ready)
                for entry, mode in ((directory, 0o711), (ready, 0o622)):
                    os.chmod(entry, mode)
                reader = os.open(ready, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    self.child = _start([*arguments, "--pid", str(ready)], theirs.fileno())
                    self._wait(reader)
                finally:
                    os.close(reader)
        except BaseException:
            self.socket.close()
            raise

    def attach(self, name: str, loop: LoopScope, on_end: Callable[[str], None]) -> None:
        """Relay passt's log under ``name``. When passt has ended, ``on_end`` is called with the way in which it
        ended."""
        self.child.log.name = name
        self.child.log.ignored = _ONE_OF_TWO
        self.child.log.watch(loop)

        def ended(_: int) -> None:
            loop.remove(self.child.pidfd)
            self.child.wait(0)
            self.child.log.drain()
            on_end(self.child.outcome)

        if self.child.pidfd >= 0:
            loop.add(self.child.pidfd, ended)

    def close(self) -> None:
        """Close the socket, which makes passt end, and wait for the end."""
        self.child.log.expect_end()
        self.socket.close()
        self.child.wait(END_TIMEOUT)
        self.child.close()

    def _wait(self, ready: int) -> None:
        """Wait until passt is ready. If it ends instead, raise an error with its message."""
        poll = select.poll()
        poll.register(ready, select.POLLIN)
        poll.register(self.child.pidfd, select.POLLIN)
        found = dict(poll.poll(START_TIMEOUT * 1000))
        if found.get(ready, 0) & select.POLLIN and os.read(ready, 16):
            return
        self.child.wait(0 if not found else 1.0)
        said = self._last_words()
        self.child.log.ignored = re.compile(b".*")
        self.child.close()
        if not found:
            raise HostError(f"net: passt is not ready after {START_TIMEOUT:.0f} s{said and f': {said}'}")
        if "nvalid port" in said:
            raise UsageError(f"net: {said}; see PORTS in passt(1) for the syntax of ports")
        raise HostError(f"net: passt {self.child.outcome}{said and f': {said}'}{_hint(said)}")

    def _last_words(self) -> str:
        try:
            said = os.read(self.child.log.fileno(), 1 << 16)
        except OSError:
            return ""
        lines = [line.strip() for line in said.split(b"\n") if not _NOISE.fullmatch(line.strip())]
        return "; ".join(line.decode("ascii", "backslashreplace") for line in lines[-3:])


@contextmanager
def _own_directory() -> Iterator[str]:
    """A temporary directory that is removed at the end, also if a signal ends the process."""
    with leftovers.Making():
        try:
            directory = tempfile.TemporaryDirectory(prefix="pyvmm-passt-")
        except OSError as error:
            raise HostError(
                f"net: passt needs a temporary directory, and none can be made: {error.strerror}; "
                "set TMPDIR to one that can be written"
            ) from error
        leftovers.add(directory.cleanup)
    try:
        yield directory.name
    finally:
        directory.cleanup()
        leftovers.discard(directory.cleanup)


def _start(arguments: list[str], fd: int) -> child.Child:
    def become() -> int:
        os.set_inheritable(child.FIRST_FD, True)
        child.default_signals()
        os.execv(arguments[0], [*arguments, "--fd", str(child.FIRST_FD)])

    return child.fork("passt", become, [fd])


def _hint(said: str) -> str:
    if "Too many open files" in said:
        return "; raise the limit of descriptors: ulimit -n"
    if "bind" in said:
        return "; give ports that are free, and above 1023 unless this user is root"
    if "routable interface" in said or "External interface" in said:
        return "; it gives the guest the host's own address and gateway, so the host needs a default route"
    return ""
