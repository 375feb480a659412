"""What is closed at the end: in order, once, and whatever the others raise."""

from __future__ import annotations

import pytest
from pyvmm.startup.closing import Closers


class Thing:
    """A context manager that tells what becomes of it."""

    def __init__(self, said: list[str], error: Exception | None = None) -> None:
        self.said = said
        self.error = error

    def __enter__(self) -> str:
        self.said.append("entered")
        if self.error is not None:
            raise self.error
        return "what it gives"

    def __exit__(self, *details: object) -> None:
        self.said.append(f"left with {details}")


def test_the_last_one_is_first_and_each_is_called_once() -> None:
    said: list[str] = []
    with Closers() as closers:
        for word in "abc":
            closers.add(lambda word=word: said.append(word))  # type: ignore[misc]
        closers.add(lambda: closers.add(lambda: said.append("added meanwhile")))
        assert not said
    assert said == ["added meanwhile", "c", "b", "a"]
    closers.close()
    assert len(said) == 4


def test_a_manager_is_left_unless_it_could_not_be_entered() -> None:
    said: list[str] = []
    with pytest.raises(OSError, match="no"), Closers() as closers:
        assert closers.enter(Thing(said)) == "what it gives"
        closers.enter(Thing(said, OSError("no")))
    assert said == ["entered", "entered", "left with (None, None, None)"]


def test_what_one_raises_keeps_no_other_from_being_called() -> None:
    said: list[str] = []

    def fail(error: BaseException) -> None:
        said.append(str(error))
        raise error

    closers = Closers()
    closers.add(lambda: said.append("first"))
    closers.add(lambda: fail(KeyboardInterrupt("second")))
    closers.add(lambda: fail(OSError("third")))
    with pytest.raises(KeyboardInterrupt) as raised:
        closers.close()
    assert said == ["third", "second", "first"]
    assert isinstance(raised.value.__context__, OSError)


def test_an_error_that_is_on_its_way_is_behind_those_of_closing() -> None:
    def fail(error: BaseException) -> None:
        raise error

    first, second, third = ValueError("first"), OSError("second"), KeyError("third")
    with pytest.raises(KeyError) as raised, Closers() as closers:
        closers.add(lambda: fail(third))
        closers.add(lambda: fail(second))
        raise first
    assert raised.value is third
    assert third.__context__ is second
    assert second.__context__ is first


def test_very_many_of_them_may_fail() -> None:
    closers = Closers()
    for _ in range(5000):
        closers.add(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        closers.close()


def test_what_is_taken_over_is_not_called_here() -> None:
    said: list[str] = []
    with Closers() as closers:
        closers.add(lambda: said.append("a"))
        taken = closers.take_all()
    assert not said
    taken.close()
    assert said == ["a"]
