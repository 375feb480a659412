"""Functions that are called when something ends: as much of contextlib's ``ExitStack`` as a machine needs.

The imports of contextlib take a tenth of a start.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol, Self, TypeVar

    class Closable(Protocol):
        """An object that holds something until it is closed."""

        def close(self) -> object: ...

    C = TypeVar("C", bound=Closable)

__all__ = ["Closers", "call_all"]


class Closers:
    """Functions that are called when this is closed, in reverse order. Each is called, whatever the others raise."""

    def __init__(self) -> None:
        self._functions: list[Callable[[], object]] = []

    def add(self, function: Callable[[], object]) -> None:
        """Have ``function`` called."""
        self._functions.append(function)

    def closing(self, thing: C) -> C:
        """Have ``thing`` closed; returns it."""
        self.add(thing.close)
        return thing

    def take_all(self) -> Closers:
        """Move all functions to another object; this one has none left."""
        taken = Closers()
        taken._functions, self._functions = self._functions, []
        return taken

    def close(self) -> None:
        """Call the functions, each once, by :func:`call_all`."""
        call_all(self._last_first())

    def _last_first(self) -> Iterator[Callable[[], object]]:
        while self._functions:
            yield self._functions.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def call_all(functions: Iterable[Callable[[], object]]) -> None:
    """Call each of ``functions``, whatever the others raise, and then raise the last error.

    The last error has the error before it as its context, and so on. The first one has the error that is being handled
    here, if there is one.
    """
    outer = sys.exc_info()[1]
    failure: BaseException | None = None
    for function in functions:
        try:
            function()
        except BaseException as error:
            if failure is not None:
                _origin(error, outer).__context__ = failure
            failure = error
    if failure is not None:
        context = failure.__context__
        try:
            raise failure
        finally:
            failure.__context__ = context  # raise has put the error there that is being handled


def _origin(error: BaseException, outer: BaseException | None) -> BaseException:
    """The error that led to ``error``, directly or by others, after ``outer``."""
    seen = {id(error)}
    while (before := error.__context__) is not None and before is not outer and id(before) not in seen:
        seen.add(id(before))
        error = before
    return error
