"""The command's output: results on stdout, error messages on stderr."""

from __future__ import annotations

import errno
import os
import sys

from pyvmm.errors import HostError, printable
from pyvmm.host.standard_streams import null, write_line

__all__ = ["complain", "show"]


def show(text: str) -> None:
    """Print ``text`` on stdout. Raises :class:`HostError` if it cannot be written. A reader that closes the pipe is no
    error."""
    if error := write_line(sys.stdout, text):
        # Otherwise the rest in the buffer would raise again at the end of the process.
        os.dup2(null(), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            raise HostError(f"standard output cannot be written: {error.strerror}")


def complain(message: str, *, lines: bool = False) -> None:
    """Print ``pyvmm: MESSAGE`` on stderr: one line, or with ``lines`` as many as it has.

    If stderr cannot be written, only the exit status tells of the error.
    """
    keep = "\n" if lines else ""
    write_line(sys.stderr, f"pyvmm: {printable(message, keep)}")
