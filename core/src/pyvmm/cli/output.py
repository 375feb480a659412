"""What the command prints: answers on stdout, complaints on stderr."""

from __future__ import annotations

import os
import sys

__all__ = ["complain", "show"]


def show(text: str) -> None:
    """Print ``text``, as much as somebody reads of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is left in the buffer would raise once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(message: str) -> None:
    """Print ``pyvmm: MESSAGE`` on stderr, where that can be written to."""
    # Where stderr is closed or full, the exit status has to say it.
    try:
        print(f"pyvmm: {message}", file=sys.stderr, flush=True)
    except OSError:
        pass
