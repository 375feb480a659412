"""What is to be undone at the end, last first: contextlib's ``ExitStack``, as much of it as a machine needs, without
what contextlib imports, which is a tenth of a start."""

from __future__ import annotations

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
        """Call them, once. When all have been called the last error is raised, with the one before as its context."""
        failure: BaseException | None = None
        while self._functions:
            function = self._functions.pop()
            try:
                function()
            except BaseException as error:
                error.__context__ = error.__context__ or failure
                failure = error
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
