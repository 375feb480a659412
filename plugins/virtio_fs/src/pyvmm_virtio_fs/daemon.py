"""virtiofsd: finding it, making its command line, starting it. There are two programs of that name; Debian has had
both."""

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
"""The paths of virtiofsd in Debian 13's package virtiofsd, in Debian 12's qemu-system-common and elsewhere."""

_VERSION_TIMEOUT: Final = 10.0


@dataclass(frozen=True)
class Daemon:
    """One virtiofsd on this host."""

    path: Path
    in_rust: bool
    """Whether it is the Rust program, as in Debian 13; otherwise it is QEMU's in C, whose last version was in QEMU
    7.2."""

    @property
    def can_be_read_only(self) -> bool:
        """Whether it has an option for a read-only directory."""
        return self.in_rust

    def arguments(self, options: FsOptions, source: str, listening_fd: int) -> list[str]:
        """The daemon's command line for the directory at the absolute path ``source``."""
        if self.in_rust:
            arguments = [f"--shared-dir={source}", f"--cache={options.cache}"]
            arguments += [f"--sandbox={options.sandbox}", "--log-level=warn"]
            arguments += ["--readonly"] * options.ro + ["--xattr"] * options.xattr
        else:
            cache = "none" if options.cache == "never" else options.cache
            # A comma ends an option of QEMU's virtiofsd, unless a backslash precedes it.
            escaped = re.sub(r"([\\,])", r"\\\1", source)
            words = [f"source={escaped}", f"cache={cache}", f"sandbox={options.sandbox}", "log_level=warn"]
            words += ["xattr"] * options.xattr
            arguments = ["-f", *(argument for word in words for argument in ("-o", word))]
        return [str(self.path), *arguments, f"--fd={listening_fd}"]

    def start(self, options: FsOptions, directory_fd: int, mount_point: str, listening_fd: int) -> child.Child:
        """Start the daemon. It serves the directory that is open as ``directory_fd`` to the front end that connects to
        ``listening_fd``.

        ``mount_point``: an empty directory on which only the daemon sees the directory that it serves.
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
        """In the process that becomes the daemon: a path to the directory that is still right after a rename.

        The daemon itself would resolve a path from / or follow no link, and it may resolve it twice.
        """
        directory_fd = child.FIRST_FD + 1  # exec closes it: it would be a way out of the daemon's sandbox
        # Without a sandbox, the daemon resolves the path once more when the guest mounts the directory.
        if os.geteuid() == 0 and options.sandbox != "none":
            try:
                bind_mount.make(directory_fd, mount_point, read_only=options.ro)
                return mount_point
            except PermissionError:
                if options.ro and not self.can_be_read_only:
                    raise
        return os.readlink(f"/proc/self/fd/{directory_fd}")


def find(path: Path | None) -> Daemon:
    """The daemon at ``path``, or by default the host's. Raises :class:`HostError`."""
    if path is None:
        found = next((place for place in PATHS if os.access(place, os.X_OK)), None) or shutil.which("virtiofsd")
        if found is None:
            raise HostError(
                "fs: virtiofsd is not installed; Debian has it in the package virtiofsd, Debian 12 in "
                "qemu-system-common; give another one with virtiofsd=FILE"
            )
        path = Path(found)
    path = Path(os.path.abspath(path))  # exec would search $PATH for a name without a slash
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
