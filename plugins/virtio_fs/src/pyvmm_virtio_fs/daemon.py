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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm_virtio_fs import FsOptions

PATHS: Final = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
"""Where Debian 13's package virtiofsd, Debian 12's qemu-system-common and others put it."""

_VERSION_TIMEOUT: Final = 10.0

# <linux/sched.h>, <linux/mount.h>: Python has names for the first from 3.12 on, for the others none.
_CLONE_NEWNS: Final = 0x00020000
_MS_RDONLY: Final = 1
_MS_REMOUNT: Final = 32
_MS_BIND: Final = 4096
_MS_REC: Final = 16384
_MS_PRIVATE: Final = 1 << 18


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

    def arguments(self, options: FsOptions, listening_fd: int) -> list[str]:
        """Its command line."""
        if self.in_rust:
            arguments = [f"--shared-dir={options.directory}", f"--cache={options.cache}"]
            arguments += [f"--sandbox={options.sandbox}", "--log-level=warn"]
            arguments += ["--readonly"] * options.ro + ["--xattr"] * options.xattr
        else:
            cache = "none" if options.cache == "never" else options.cache
            # A comma ends one of its options; a backslash takes that from it.
            source = re.sub(r"([\\,])", r"\\\1", str(options.directory))
            words = [f"source={source}", f"cache={cache}", f"sandbox={options.sandbox}", "log_level=warn"]
            words += ["xattr"] * options.xattr
            arguments = ["-f", *(argument for word in words for argument in ("-o", word))]
        return [str(self.path), *arguments, f"--fd={listening_fd}"]

    def start(self, options: FsOptions, listening_fd: int) -> child.Child:
        """Start it: it will serve who connects to the socket ``listening_fd``."""
        arguments = self.arguments(options, child.FIRST_FD)
        read_only = options.directory if options.ro and not self.can_be_read_only else None

        def become() -> int:
            if read_only is not None:
                _bind_read_only(read_only)
            os.set_inheritable(child.FIRST_FD, True)
            child.default_signals()
            os.execv(arguments[0], arguments)

        return child.fork("fs", become, [listening_fd])


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


def _bind_read_only(directory: Path) -> None:
    """In a process that is to be the daemon: have a mount namespace in which the directory cannot be written."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(what: str, result: int) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")

    path = os.fsencode(directory.resolve())
    call("a mount namespace", libc.unshare(_CLONE_NEWNS))
    for source, flags in (
        (b"none", _MS_REC | _MS_PRIVATE),
        (path, _MS_BIND | _MS_REC),
        (b"none", _MS_REMOUNT | _MS_BIND | _MS_RDONLY),
    ):
        target = b"/" if flags & _MS_PRIVATE else path
        call("a read-only mount", libc.mount(source, target, None, ctypes.c_ulong(flags), None))
