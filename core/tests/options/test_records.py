"""Records of options: frozen, known to dataclasses when it asks, and made without importing it."""

from __future__ import annotations

import copy
import dataclasses
import enum
import inspect
import subprocess
import sys
from pathlib import Path
from pprint import pformat
from typing import Any, ClassVar, Literal

import pytest
from pyvmm.options import describe, format_options, option, options, parse_options
from pyvmm.testing.saved_state import is_plain


@options
class Lamp:
    path: Path = option(primary=True, help="file that the light comes from")
    colour: Literal["red", "green"] = option("red", help="of the light")
    watts: int = 40
    names: tuple[str, ...] = option(())

    def __post_init__(self) -> None:
        if self.watts > 100:
            raise ValueError("it would burn")


@options
class DimmedLamp(Lamp):
    dimmed: bool = option(True)
    watts: int = 10


def test_the_command_line_makes_one() -> None:
    lamp = parse_options(Lamp, "lamp", "a,colour=green,names=x,names=y")
    assert lamp == Lamp(Path("a"), "green", names=("x", "y"))
    assert format_options(lamp) == "a,colour=green,names=x,names=y"
    assert [info.metavar for info in describe(Lamp)] == ["PATH", "red|green", "N", "TEXT"]


def test_dataclasses_knows_it() -> None:
    assert dataclasses.is_dataclass(Lamp)
    assert [field.name for field in dataclasses.fields(DimmedLamp)] == ["path", "colour", "watts", "names", "dimmed"]
    lamp = Lamp(Path("a"))
    assert dataclasses.replace(lamp, watts=60) == Lamp(Path("a"), watts=60)
    assert dataclasses.asdict(lamp) == {"path": Path("a"), "colour": "red", "watts": 40, "names": ()}
    assert is_plain(lamp) and "colour='red'" in pformat(lamp)
    with pytest.raises(AttributeError):
        lamp.watts = 1  # type: ignore[misc]


def test_it_is_a_key_and_can_be_copied() -> None:
    lamp = Lamp(Path("a"), names=("x",))
    assert {lamp: 1}[copy.deepcopy(lamp)] == 1
    assert hash(lamp) != hash(Lamp(Path("b")))
    assert repr(lamp).endswith("colour='red', watts=40, names=('x',))")
    if sys.version_info >= (3, 13):
        assert copy.replace(lamp, watts=60).watts == 60


def test_one_can_derive_from_another() -> None:
    lamp = parse_options(DimmedLamp, "lamp", "a,dimmed=off")
    assert isinstance(lamp, Lamp) and lamp.path == Path("a")
    assert lamp.watts == 10
    assert format_options(lamp) == "a,dimmed=off"
    with pytest.raises(ValueError, match="burn"):
        DimmedLamp(Path("a"), watts=101)


def test_what_option_says_of_a_field_is_inherited_unless_the_field_is_annotated_anew() -> None:
    @options
    class Other(Lamp):
        colour: Literal["red", "blue"] = option("blue")

    assert [info.help for info in describe(DimmedLamp)][:2] == ["file that the light comes from", "of the light"]
    assert (describe(Other)[1].choices, describe(Other)[1].help, Other(Path("a")).colour) == (
        ("red", "blue"),
        "",
        "blue",
    )


@pytest.mark.parametrize("default", [[], {}, set(), bytearray()])
def test_a_default_that_can_be_changed_is_refused(default: Any) -> None:
    with pytest.raises(TypeError, match=r"Own\.names: a \w+ can be changed, .*give a tuple, a frozenset or None"):

        @options
        class Own:
            names: Any = option(default)


@pytest.mark.parametrize("values", [(), ("a", "red", 1, (), 2)])
def test_what_does_not_fit_is_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="Lamp"):
        Lamp(*values)


def test_the_same_option_is_made_whatever_is_imported() -> None:
    """``dataclasses`` is imported here, and was not when the core's own options were made."""
    assert "dataclasses" in sys.modules
    assert type(option(1)).__module__ == "pyvmm.options.records"


def test_a_dataclass_with_options_is_refused_with_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"Own has options: decorate it with @options of pyvmm\.plugin, not"):

        @dataclasses.dataclass(frozen=True)
        class Own:
            name: str = option("a")


def test_a_dataclass_that_derives_from_a_record_is_refused_with_the_way_out() -> None:
    @dataclasses.dataclass(frozen=True)
    class Own(Lamp):
        owner: str = "me"

    with pytest.raises(TypeError, match=r"Own is not a record of options: decorate it with @options of pyvmm\.plugin"):
        describe(Own)


def test_a_class_that_nobody_decorated_has_no_option_in_place_of_a_value() -> None:
    class Own:
        name: str = option("a")

    with pytest.raises(TypeError, match="decorate it with @options"):
        _ = Own().name


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


def in_new_python(statement: str, lamp: str = LAMP) -> str:
    """What a new Python prints, which has imported little else."""
    done = subprocess.run([sys.executable, "-c", f"{lamp}\n{statement}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_types_may_be_there_for_a_checker_only() -> None:
    assert in_new_python("print(describe(Lamp)[1].choices, parse_options(Lamp, 'lamp', 'a,on').path)") == (
        "('red', 'green') a"
    )


def test_nothing_heavy_is_imported_for_one() -> None:
    heavy = ("dataclasses", "typing", "inspect", "re", "enum", "pathlib", "annotationlib")
    statement = (
        f"parse_options(Lamp, 'lamp', ',colour=green,on,names=x'); print([m for m in {heavy} if m in sys.modules])"
    )
    assert in_new_python(statement) == "[]"


FIELDS = (
    "import dataclasses; print([f.name for f in dataclasses.fields(Lamp)], dataclasses.replace(Lamp(), on=True).on)"
)


def test_dataclasses_knows_it_when_somebody_asks() -> None:
    assert in_new_python(FIELDS) == "['path', 'colour', 'on', 'names'] True"


EVALUATED_LATE = LAMP.replace("from __future__ import annotations\n", "")
"""Of which Python 3.14 and later evaluate annotations when somebody asks for them (PEP 649)."""


@pytest.mark.parametrize(
    "checker_only",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated")),
    ],
)
def test_a_module_without_the_future_import_has_the_same_options(checker_only: bool) -> None:
    lamp = EVALUATED_LATE if checker_only else EVALUATED_LATE.replace("TYPE_CHECKING = False", "TYPE_CHECKING = True")
    statement = (
        "print(*[(info.name, info.metavar, info.repeated) for info in describe(Lamp)], "
        "parse_options(Lamp, 'lamp', 'a,on,names=x,names=y'))"
    )
    assert in_new_python(statement, lamp) == (
        "('path', 'PATH', False) ('colour', 'red|green', False) ('on', 'on|off', False) ('names', 'TEXT', True) "
        "Lamp(path=PosixPath('a'), colour='red', on=True, names=('x', 'y'))"
    )
    assert in_new_python(FIELDS, lamp) == "['path', 'colour', 'on', 'names'] True"
    assert in_new_python("import inspect; print(*inspect.signature(Lamp).parameters)", lamp) == "path colour on names"


class Undecorated(DimmedLamp):
    pass


@options
class Limited(Lamp):
    LIMIT: ClassVar[int] = 4
    more: int = option(1)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Undecorated, ["path", "colour", "watts", "names", "dimmed"]),
        (Limited, ["path", "colour", "watts", "names", "more"]),
    ],
)
def test_fields_are_those_of_dataclasses(kind: type[Any], names: list[str]) -> None:
    assert [info.name for info in describe(kind)] == [field.name for field in dataclasses.fields(kind)] == names
    assert isinstance(parse_options(kind, "k", "a,names=x"), kind)
    assert list(inspect.signature(kind).parameters) == names


def test_defaults_are_those_that_are_described() -> None:
    @options
    class Base:
        count: int = option(3)

    @options
    class Stricter(Base):
        count: int = option()

    @options
    class Annotated(Base):
        count: int

    assert [info.required for info in describe(Stricter)] == [True]
    with pytest.raises(TypeError, match="count"):
        Stricter()
    assert describe(Annotated)[0].default == Annotated().count == 3


def test_one_may_derive_from_two() -> None:
    @options
    class Named:
        name: str = option("a")

    @options
    class Both(Limited, Named):
        pass

    assert parse_options(Both, "k", "p,name=b,more=2") == Both(path=Path("p"), name="b", more=2)


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


def test_an_undecorated_one_needs_no_dataclasses() -> None:
    statement = "class Other(Lamp): pass\nprint(parse_options(Other, 'k', ',on').on, 'dataclasses' in sys.modules)"
    assert in_new_python(statement) == "True False"
