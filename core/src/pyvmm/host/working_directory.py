"""Paths that stay right when the process changes its working directory."""

from __future__ import annotations

import os

__all__ = ["from_root", "working_directory"]


def working_directory() -> str:
    """The process's working directory; empty where it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def from_root(path: str | os.PathLike[str]) -> str:
    """``path`` with the working directory of now before it, unless it begins at the root. Links and ``..`` stay."""
    return os.path.join(working_directory(), os.fspath(path))
