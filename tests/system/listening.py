"""Whether a process listens at the path of a Unix socket, without a connection to it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_LISTENS: Final = "00010000"
"""Among a socket's flags in /proc/net/unix (__SO_ACCEPTCON, include/linux/net.h)."""


def is_listening(path: Path) -> bool:
    """Whether there is one: the file of a socket is there a moment before."""
    with open("/proc/net/unix") as file:
        sockets = [line.split(maxsplit=7) for line in file]
    return any(fields[3] == _LISTENS and fields[-1].rstrip("\n") == str(path) for fields in sockets)
