"""What this process has on its host that a sudden end would leave behind: socket files, directories, a raw terminal.

The owner of such a thing removes it in the ordinary way, and calls :func:`discard` then. The interpreter's exit, and a
signal that ends the command at once, remove the rest.
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
    """Have ``remover`` called at the end of this process, where nobody discards it before. Forks do not call it."""
    _removers.append((os.getpid(), remover))


def discard(remover: Callable[[], object]) -> None:
    """Forget ``remover``; one that is not there is ignored."""
    for at in range(len(_removers) - 1, -1, -1):
        if _removers[at][1] == remover:
            del _removers[at]


def remove_all() -> None:
    """Call what is left, the last one first. One that raises does not keep the others from being called."""
    while _removers:
        process, remover = _removers.pop()
        if process == os.getpid():
            try:
                remover()
            except Exception:
                pass  # the process ends, and there is nobody to tell


def begin_fork() -> None:
    """In a fork: what its parent has made, and is making, is its parent's."""
    global _making
    _making = 0
    _removers.clear()
    _late.clear()


class Making:
    """Within it, something is made and its remover is added: a signal that ends the process waits for both."""

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
    """Call ``end``, a signal's way to end this process, at once or when nothing is being made any more."""
    if _making:
        _late.append(end)
    else:
        end()


atexit.register(remove_all)
