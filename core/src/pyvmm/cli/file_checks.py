"""Checks whether a file that the user named can be read."""

from __future__ import annotations

import os
import stat

from pyvmm.errors import UsageError

__all__ = ["check_file", "file_fault"]


def check_file(path: str | os.PathLike[str], what: str) -> None:
    """Raise :class:`UsageError` if ``path``, given as ``what``, is not a file that can be read."""
    fault = file_fault(path)
    if fault:
        raise UsageError(f"{what}: {os.fspath(path)!r}: {fault}")


def file_fault(path: str | os.PathLike[str]) -> str:
    """The reason why ``path`` cannot be read as a file; empty if it can be read."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.fspath(path)[:1] in ("~", b"~"):
            return "no such file; a shell replaces ~ only at the start of a word: give $HOME or a whole path"
        return "no such file"
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:
        return "not a path: it has a NUL character"
    if stat.S_ISDIR(mode):
        return "a directory, not a file"
    if not os.access(path, os.R_OK):
        return f"not readable for this user (mode {stat.S_IMODE(mode):04o})"
    return ""
