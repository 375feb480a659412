"""The options for the host's end of a line."""

from __future__ import annotations

from pyvmm.options.records import option, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from pyvmm.chardev.backend import Backend

__all__ = ["ChardevOptions", "open_backend"]


@options
class ChardevOptions:
    """The host's end of a line: at most one of these, stdio by default. A kind's own record may be this one, or derive
    from it."""

    backend: Literal["stdio", "pty", "stream"] | None = option(
        None, primary=True, help="stdio, which is the default, a new pty, or a Python program's machine.console"
    )
    file: Path | None = option(None, help="file that takes the guest's output")
    unix: Path | None = option(None, help="UNIX domain socket to listen on, one client at a time")

    def __post_init__(self) -> None:
        given = [value for value in (self.backend, self.file, self.unix) if value is not None]
        if len(given) > 1:
            raise ValueError("a line has one end: give one of stdio, pty, stream, file= and unix=")


def open_backend(kind: str, options: ChardevOptions) -> Backend:
    """Open the host's end that ``options`` choose, for a device of ``kind``. An error's message begins with ``kind``.

    Raises :class:`~pyvmm.errors.PyvmmError` if it cannot be opened.
    """
    # Each is imported only when it is used, since sockets and terminals cost start-up time.
    if options.file is not None:
        from pyvmm.chardev.file import File

        return File(kind, options.file)
    if options.unix is not None:
        from pyvmm.chardev.unix_socket import UnixSocket

        return UnixSocket(kind, options.unix)
    if options.backend == "pty":
        from pyvmm.chardev.pty import Pty

        return Pty(kind)
    if options.backend == "stream":
        from pyvmm.chardev.stream import Stream

        return Stream()
    from pyvmm.chardev.stdio import Stdio

    return Stdio(kind)
