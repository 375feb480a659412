"""What is to be undone at the end, last first: contextlib's ``ExitStack``, as much of it as a machine needs, without
what contextlib imports, which is a tenth of a start."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Self, TypeVar

    T = TypeVar("T")

__all__ = ["Closers"]


class Closers:
    """Functions that are called when this is closed, the last one first, each of them whatever the others raise."""

    def __init__(self) -> None:
        self._functions: list[Callable[[], object]] = []

    def add(self, function: Callable[[], object]) -> None:
        """Have ``function`` called."""
        self._functions.append(function)

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """Enter ``manager``, to be left without an error."""
        entered = manager.__enter__()
        self.add(lambda: manager.__exit__(None, None, None))
        return entered

    def take_all(self) -> Closers:
        """All of them in another object: this one has none left."""
        taken = Closers()
        taken._functions, self._functions = self._functions, []
        return taken

    def close(self) -> None:
        """Call them, once. When all have been called the last error is raised, with the one before as its context, and
        so on up to the one that is being handled here, if one is."""
        outer = sys.exc_info()[1]
        failure: BaseException | None = None
        while self._functions:
            function = self._functions.pop()
            try:
                function()
            except BaseException as error:
                if failure is not None:
                    _first_of(error, outer).__context__ = failure
                failure = error
        if failure is not None:
            context = failure.__context__
            try:
                raise failure
            finally:
                failure.__context__ = context  # raise has put the one that is being handled there

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _first_of(error: BaseException, outer: BaseException | None) -> BaseException:
    """The error that led to ``error``, at first, after ``outer``."""
    seen = {id(error)}
    while (before := error.__context__) is not None and before is not outer and id(before) not in seen:
        seen.add(id(before))
        error = before
    return error
