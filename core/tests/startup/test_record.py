from __future__ import annotations

import inspect

import pytest
from pyvmm.startup.record import record, replace


@record
class Point:
    x: int
    y: int = 2

    @property
    def sum(self) -> int:
        return self.x + self.y


@record
class Other:
    x: int
    y: int = 2


def test_fields_are_given_by_place_or_name_and_have_defaults() -> None:
    assert (Point(1).x, Point(1).y, Point(1, 3).y, Point(y=4, x=1).sum) == (1, 2, 3, 5)
    assert repr(Point(1)) == "Point(x=1, y=2)"


def test_equal_values_make_equal_records_of_one_class_only() -> None:
    assert Point(1) == Point(1, 2) and hash(Point(1)) == hash(Point(1, 2))
    other: object = Other(1)
    assert Point(1) != Point(2) and Point(1) != other
    assert len({Point(1), Point(1), Point(2)}) == 2


@pytest.mark.parametrize(("values", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})])
def test_what_does_not_fit_is_refused(values: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point"):
        Point(*values, **named)


def test_a_record_cannot_be_changed_but_replaced() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="'x'"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="'x'"):
        del point.x
    assert replace(point, y=5) == Point(1, 5)
    with pytest.raises(TypeError):
        replace(point, z=1)


def test_help_and_documentation_see_the_fields() -> None:
    assert str(inspect.signature(Point)) == "(x: 'int', y: 'int' = 2)"


def test_a_record_may_derive_from_two() -> None:
    @record
    class Named:
        name: str = "a"

    @record
    class Both(Point, Named):
        z: int = 3

    both = Both(x=1)
    assert (both.name, both.x, both.y, both.z) == ("a", 1, 2, 3)


@pytest.mark.parametrize("default", [[], {}, set()])
def test_a_default_that_can_be_changed_is_refused(default: object) -> None:
    with pytest.raises(TypeError, match=r"Shared\.x: a \w+ can be changed"):

        @record
        class Shared:
            x: object = default
