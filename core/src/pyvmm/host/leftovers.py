"""Removal of things on the host that a sudden end of this process would leave: socket files, directories, a raw
terminal.

The owner of such a thing normally removes it and calls :func:`discard`. The interpreter's exit, and a signal that ends
the command immediately, remove the rest.
"""

from __future__ import annotations

import atexit
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["Making", "add", "discard"]

_removers: list[tuple[int, Callable[[], object]]] = []
_making = 0
_late: list[Callable[[], object]] = []


def add(remover: Callable[[], object]) -> None:
    """Call ``remover`` at the end of this process, unless it is discarded before. Forks do not call it."""
    _removers.append((os.getpid(), remover))


def discard(remover: Callable[[], object]) -> None:
    """Forget ``remover``; one that was not added is ignored."""
    for at in range(len(_removers) - 1, -1, -1):
        if _removers[at][1] == remover:
            del _removers[at]


def remove_all() -> None:
    """Call the remaining removers, the last one first. If one raises, the others are still called."""
    while _removers:
        process, remover = _removers.pop()
        if process == os.getpid():
            try:
                remover()
            except Exception:
                pass  # the process ends: there is nowhere to report it


def begin_fork() -> None:
    """In a fork: forget the parent's removers, and what the parent was making."""
    global _making
    _making = 0
    _removers.clear()
    _late.clear()


class Making:
    """A context manager around making a thing and adding its remover: a signal that ends the process waits for both."""

    def __enter__(self) -> Self:
        global _making
        _making += 1
        return self

    def __exit__(self, *_: object) -> None:
        global _making
        _making -= 1
        while _late and not _making:
            _late.pop()()


def at_a_safe_point(end: Callable[[], object]) -> None:
    """Call ``end``, which ends this process after a signal, immediately or after the last :class:`Making`."""
    if _making:
        _late.append(end)
    else:
        end()


atexit.register(remove_all)
