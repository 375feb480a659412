"""What is closed at the end: in order, once, and whatever the others raise."""

from __future__ import annotations

import pytest
from pyvmm.startup.closing import Closers, call_all


class Thing:
    """Something to close, which must not be taken for a context manager that hears of errors."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def close(self) -> None:
        self.said.append("closed")


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


def test_what_has_a_close_is_closed_also_after_an_error() -> None:
    said: list[str] = []
    with pytest.raises(OSError, match="no"), Closers() as closers:
        thing = Thing(said)
        assert closers.closing(thing) is thing
        assert not said
        raise OSError("no")
    assert said == ["closed"]


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


def test_all_are_called_in_order_and_the_last_error_is_raised() -> None:
    said: list[str] = []

    def fail(error: BaseException) -> None:
        said.append(str(error))
        raise error

    with pytest.raises(OSError, match="two") as raised:
        call_all([lambda: fail(ValueError("one")), lambda: fail(OSError("two")), lambda: said.append("three")])
    assert said == ["one", "two", "three"]
    assert isinstance(raised.value.__context__, ValueError)
