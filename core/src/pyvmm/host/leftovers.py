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

_removers: dict[Callable[[], object], int] = {}
"""Removers, and the process that added each. Threads add and discard them at the same time, and a signal handler may
interrupt them: so each change is a single call of the dict, which is atomic, and there is no lock."""

_making = 0
_late: list[Callable[[], object]] = []


def add(remover: Callable[[], object]) -> None:
    """Call ``remover`` at the end of this process, unless it is discarded before. Forks do not call it."""
    _removers[remover] = os.getpid()


def discard(remover: Callable[[], object]) -> None:
    """Forget ``remover``; one that was not added is ignored."""
    _removers.pop(remover, None)


def remove_all() -> None:
    """Call the remaining removers, the last one first. If one raises, the others are still called."""
    while _removers:
        try:
            remover, process = _removers.popitem()
        except KeyError:
            break  # another thread has discarded the last one
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
