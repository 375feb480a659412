"""A process's standard streams. One that is closed or full, or that lacks a character, must not end a machine."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["complete", "flush", "null", "write_line"]


def complete() -> None:
    """Open descriptors 0, 1 and 2 if they are closed, so that no other file gets their numbers."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            opened = null()
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)


def null() -> int:
    """A new descriptor of an empty file: /dev/null, or an anonymous file if there is no /dev."""
    try:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return os.memfd_create("null", os.MFD_CLOEXEC)


def write_line(stream: TextIO | None, text: str, end: str = "\n") -> OSError | None:
    """Write ``text`` and ``end`` to ``stream``. Returns the error if that failed, else None.

    A character that the stream's encoding lacks is replaced. A stream that is closed or None is no error: the text is
    dropped.
    """
    if stream is None or stream.closed:
        return None
    try:
        try:
            stream.write(text + end)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write((text + end).encode(encoding, "replace").decode(encoding))
    except OSError as error:
        return error
    return flush(stream)


def flush(stream: TextIO | None) -> OSError | None:
    """Flush ``stream``. Returns the error if that failed, else None."""
    try:
        if stream is not None and not stream.closed:
            stream.flush()
    except OSError as error:
        return error
    return None
