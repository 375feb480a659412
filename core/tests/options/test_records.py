"""A record of options is a frozen dataclass to whoever looks, made without dataclasses."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pyvmm.options import describe, format_options, option, options, parse_options


@options
class Lamp:
    path: Path = option(primary=True, help="file that the light comes from")
    colour: Literal["red", "green"] = option("red")
    watts: int = 40
    names: list[str] = option([])

    def __post_init__(self) -> None:
        if self.watts > 100:
            raise ValueError("it would burn")


@options
class DimmedLamp(Lamp):
    dimmed: bool = option(True)
    watts: int = 10


@dataclasses.dataclass(frozen=True)
class OwnLamp(Lamp):
    owner: str = option("me")


def test_the_command_line_makes_one() -> None:
    lamp = parse_options(Lamp, "lamp", "a,colour=green,names=x,names=y")
    assert lamp == Lamp(Path("a"), "green", names=["x", "y"])
    assert format_options(lamp) == "a,colour=green,names=x,names=y"
    assert [info.metavar for info in describe(Lamp)] == ["PATH", "red|green", "N", "TEXT"]


def test_dataclasses_knows_it() -> None:
    assert dataclasses.is_dataclass(Lamp)
    assert [field.name for field in dataclasses.fields(DimmedLamp)] == ["path", "colour", "watts", "names", "dimmed"]
    lamp = Lamp(Path("a"))
    assert dataclasses.replace(lamp, watts=60) == Lamp(Path("a"), watts=60)
    assert dataclasses.asdict(lamp) == {"path": Path("a"), "colour": "red", "watts": 40, "names": []}
    with pytest.raises(AttributeError):
        lamp.watts = 1  # type: ignore[misc]


@pytest.mark.parametrize(("kind", "extra"), [(DimmedLamp, "dimmed=off"), (OwnLamp, "owner=you")])
def test_one_can_derive_from_another_either_way(kind: type[Any], extra: str) -> None:
    lamp = parse_options(kind, "lamp", f"a,{extra}")
    assert isinstance(lamp, Lamp) and lamp.path == Path("a")
    assert lamp.watts == (10 if kind is DimmedLamp else 40)
    assert format_options(lamp) == f"a,{extra}"
    with pytest.raises(ValueError, match="burn"):
        kind(Path("a"), watts=101)


def test_a_default_that_is_a_list_is_copied() -> None:
    first, second = Lamp(Path("a")), Lamp(Path("a"))
    first.names.append("x")
    assert second.names == []


@pytest.mark.parametrize("values", [(), ("a", "red", 1, [], 2)])
def test_what_does_not_fit_is_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="Lamp"):
        Lamp(*values)


LAMP = """
from __future__ import annotations
import sys
from pyvmm.options import describe, option, options, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

@options
class Lamp:
    path: Path | None = option(None, primary=True)
    colour: Literal["red", "green"] = option("red")
    on: bool = option(False)
    names: tuple[str, ...] = option(())
"""


def in_new_python(statement: str) -> str:
    """What a new Python prints, which has imported little else."""
    done = subprocess.run([sys.executable, "-c", f"{LAMP}\n{statement}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_types_may_be_there_for_a_checker_only() -> None:
    assert in_new_python("print(describe(Lamp)[1].choices, parse_options(Lamp, 'lamp', 'a,on').path)") == (
        "('red', 'green') a"
    )


def test_nothing_heavy_is_imported_for_one() -> None:
    heavy = ("dataclasses", "typing", "inspect", "re", "enum", "pathlib")
    statement = (
        f"parse_options(Lamp, 'lamp', ',colour=green,on,names=x'); print([m for m in {heavy} if m in sys.modules])"
    )
    assert in_new_python(statement) == "[]"


def test_a_dataclass_is_made_of_it_when_somebody_asks() -> None:
    statement = (
        "import dataclasses; print([f.name for f in dataclasses.fields(Lamp)], dataclasses.replace(Lamp(), on=True).on)"
    )
    assert in_new_python(statement) == "['path', 'colour', 'on', 'names'] True"


class Undecorated(DimmedLamp):
    pass


@dataclasses.dataclass(frozen=True)
class Plain:
    KIND: ClassVar[str] = "plain"
    files: list[str] = option([])
    count: int = option(3)


class UndecoratedPlain(Plain):
    pass


@options
class OfPlain(Plain):
    LIMIT: ClassVar[int] = 4
    more: int = option(1)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Undecorated, ["path", "colour", "watts", "names", "dimmed"]),
        (UndecoratedPlain, ["files", "count"]),
        (OfPlain, ["files", "count", "more"]),
        (OwnLamp, ["path", "colour", "watts", "names", "owner"]),
    ],
)
def test_fields_are_those_of_dataclasses(kind: type[Any], names: list[str]) -> None:
    assert [info.name for info in describe(kind)] == [field.name for field in dataclasses.fields(kind)] == names
    assert isinstance(parse_options(kind, "k", "a,names=x" if "path" in names else ",count=4"), kind)
    inspect.signature(kind)


def test_defaults_are_those_that_are_described() -> None:
    assert OfPlain(count=1) == OfPlain([], 1, 1)
    assert OfPlain().files is not OfPlain().files

    @options
    class Base:
        count: int = option(3)

    @options
    class Stricter(Base):
        count: int = option()

    assert [info.required for info in describe(Stricter)] == [True]
    with pytest.raises(TypeError, match="count"):
        Stricter()


class Checked:
    def __post_init__(self) -> None:
        raise ValueError("checked")


def test_a_mixin_checks_as_well() -> None:
    @options
    class Base:
        a: int = option(1)

    @options
    class Both(Base, Checked):
        b: int = option(2)

    with pytest.raises(ValueError, match="checked"):
        Both()


@options
class Nested:
    class Mode(enum.Enum):
        SLOW = "slow"
        FAST = "fast"

    mode: Mode = option(Mode.SLOW)


def test_a_type_may_be_one_of_the_records_own() -> None:
    assert parse_options(Nested, "k", ",mode=fast").mode is Nested.Mode.FAST


def test_a_dataclass_derives_from_one_whose_types_are_there_for_a_checker_only() -> None:
    statement = (
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Own(Lamp):\n    speed: int = option(1)\n"
        "class Other(Lamp): pass\n"
        "print(parse_options(Own, 'k', 'a,speed=3'), describe(Other)[1].choices)"
    )
    assert in_new_python(statement).endswith("speed=3) ('red', 'green')")


def test_an_undecorated_one_needs_no_dataclasses() -> None:
    statement = "class Other(Lamp): pass\nprint(parse_options(Other, 'k', ',on').on, 'dataclasses' in sys.modules)"
    assert in_new_python(statement) == "True False"
