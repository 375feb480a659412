"""virtiofsd: found, told what to do, started. There are two of that name, and Debian has had both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import HostError
from pyvmm.host import child

from pyvmm_virtio_fs import bind_mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm_virtio_fs import FsOptions

PATHS: Final = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
"""Where Debian 13's package virtiofsd, Debian 12's qemu-system-common and others put it."""

_VERSION_TIMEOUT: Final = 10.0


@dataclass(frozen=True)
class Daemon:
    """One virtiofsd on this host."""

    path: Path
    in_rust: bool
    """Whether it is the project's of that name, of Debian 13; otherwise QEMU's, which ended with QEMU 7.2."""

    @property
    def can_be_read_only(self) -> bool:
        """Whether it has an option for that."""
        return self.in_rust

    def arguments(self, options: FsOptions, source: str, listening_fd: int) -> list[str]:
        """Its command line for the directory at the absolute path ``source``."""
        if self.in_rust:
            arguments = [f"--shared-dir={source}", f"--cache={options.cache}"]
            arguments += [f"--sandbox={options.sandbox}", "--log-level=warn"]
            arguments += ["--readonly"] * options.ro + ["--xattr"] * options.xattr
        else:
            cache = "none" if options.cache == "never" else options.cache
            # A comma ends one of its options; a backslash takes that from it.
            escaped = re.sub(r"([\\,])", r"\\\1", source)
            words = [f"source={escaped}", f"cache={cache}", f"sandbox={options.sandbox}", "log_level=warn"]
            words += ["xattr"] * options.xattr
            arguments = ["-f", *(argument for word in words for argument in ("-o", word))]
        return [str(self.path), *arguments, f"--fd={listening_fd}"]

    def start(self, options: FsOptions, directory_fd: int, mount_point: str, listening_fd: int) -> child.Child:
        """Start it: it will serve the directory that is open as ``directory_fd`` to who connects to ``listening_fd``.

        ``mount_point``: an empty directory, where the daemon alone sees the one that it serves.
        """

        def become() -> int:
            try:
                source = self._source(options, mount_point)
                os.set_inheritable(child.FIRST_FD, True)
                child.default_signals()
                arguments = self.arguments(options, source, child.FIRST_FD)
                os.execv(arguments[0], arguments)
            except OSError as error:
                print(error.strerror or error)
                return 1

        return child.fork("fs", become, [listening_fd, directory_fd])

    def _source(self, options: FsOptions, mount_point: str) -> str:
        """In a process that is to be the daemon: the path at which it finds the directory, whatever is renamed.

        The daemon itself would look for a path in / or follow no link, and it may look twice.
        """
        directory_fd = child.FIRST_FD + 1  # closed by exec: it would lead out of the daemon's sandbox
        # Without a sandbox it looks for the directory once more when the guest mounts it.
        if os.geteuid() == 0 and options.sandbox != "none":
            try:
                bind_mount.make(directory_fd, mount_point, read_only=options.ro)
                return mount_point
            except PermissionError:
                if options.ro and not self.can_be_read_only:
                    raise
        return os.readlink(f"/proc/self/fd/{directory_fd}")


def find(path: Path | None) -> Daemon:
    """The daemon at ``path``, or the host's; raises :class:`HostError`."""
    if path is None:
        found = next((place for place in PATHS if os.access(place, os.X_OK)), None) or shutil.which("virtiofsd")
        if found is None:
            raise HostError(
                "fs: virtiofsd is not installed; Debian has it in the package virtiofsd, Debian 12 in "
                "qemu-system-common; give another one with virtiofsd=FILE"
            )
        path = Path(found)
    path = Path(os.path.abspath(path))  # what has no slash in it would be looked for elsewhere
    try:
        said = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_VERSION_TIMEOUT
        ).stdout
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise HostError(f"fs: {path} cannot be started: {reason}") from error
    if not said.startswith("virtiofsd"):
        raise HostError(f"fs: {path} is no virtiofsd: its --version says {said.partition(chr(10))[0][:60]!r}")
    return Daemon(path, in_rust=not said.startswith("virtiofsd version"))
