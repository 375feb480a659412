"""Records of options: how a kind declares its options, and what is known of them."""

from __future__ import annotations

import sys

from pyvmm.options.value_types import STAND_INS
from pyvmm.startup.record import REQUIRED, field_types, own_annotations, own_fields, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, NoReturn, TypeVar, dataclass_transform, overload

    T = TypeVar("T")
else:
    from pyvmm.startup.record import dataclass_transform

__all__ = ["REQUIRED", "Option", "fields", "option", "options"]


class Option:
    """The arguments of :func:`option`, which are in the class until :func:`options` takes them."""

    def __init__(
        self,
        default: Any,
        primary: bool = False,
        help: str = "",
        parse: Callable[[str], Any] | None = None,
        metavar: str = "",
    ) -> None:
        self.default = default
        self.primary = primary
        self.help = help
        self.parse = parse
        self.metavar = metavar

    def __get__(self, instance: object, cls: type[Any]) -> NoReturn:
        # Other decorators look at the attributes of a class, too.
        raise TypeError(f"{cls.__qualname__} has options: decorate it with @options of pyvmm.plugin, not @dataclass")


if TYPE_CHECKING:

    @overload
    def option(
        *, primary: bool = False, help: str = "", parse: Callable[[str], Any] | None = None, metavar: str = ""
    ) -> Any: ...
    @overload
    def option(
        default: T,
        *,
        primary: bool = False,
        help: str = "",
        parse: Callable[[str], Any] | None = None,
        metavar: str = "",
    ) -> T: ...


def option(
    default: Any = REQUIRED,
    *,
    primary: bool = False,
    help: str = "",
    parse: Callable[[str], Any] | None = None,
    metavar: str = "",
) -> Any:
    """A field of a record that :func:`options` makes.

    ``default``: the value when the option is not given. An option without a default must be given, and comes before
    those that have one. A default that can be changed, such as a list, is refused: give a tuple.
    ``primary``: it takes the ARG of ``KIND:ARG``; at most one field of a record does.
    ``help``: one line, without a full stop.
    ``parse``: makes a value of the text (of each text, if the key may be repeated), and raises :class:`ValueError`
    with a phrase that continues the text, such as ``is not a MAC address``.
    ``metavar``: the value's shape in help, if that of the type is not good enough: ``XX:XX:XX:XX:XX:XX``.
    """
    return Option(default, primary, help, parse, metavar)


@dataclass_transform(frozen_default=True)
def options(cls: type[T]) -> type[T]:
    """Make ``cls`` a record of options: its annotated names are its options, and :func:`option` says more of each.

    A record cannot be changed and can be hashed, and ``__post_init__`` is called, as in a frozen dataclass. A record
    may derive from another one; both need this decorator. The functions of dataclasses (``fields``, ``replace``,
    ``asdict``) take records, but the decorator does not import dataclasses, which would make each start slower.

    Annotations may name ``Path`` and ``Literal`` although the module imports them for type checkers only.

    Raises TypeError for a default that can be changed.
    """
    made: dict[str, Option] = {}
    for base in reversed(cls.__mro__[1:]):
        made |= vars(base).get("_options", {})
    for name in own_fields(cls):
        value = vars(cls)[name] if name in vars(cls) else getattr(cls, name, REQUIRED)
        made[name] = value if isinstance(value, Option) else Option(value)
        setattr(cls, name, made[name].default)
    setattr(cls, "_options", made)  # noqa: B010 - mypy knows no such attribute
    for name in ("__dataclass_fields__", "__dataclass_params__"):
        setattr(cls, name, _ForDataclasses(name))
    return record(cls)


class _ForDataclasses:
    """An attribute that dataclasses looks for in a class; made when it is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, cls: type[Any]) -> Any:
        import dataclasses

        fields = [
            (name, type_, dataclasses.field(default=cls._defaults.get(name, dataclasses.MISSING)))
            for name, type_ in field_types(cls).items()
        ]
        return getattr(dataclasses.make_dataclass(cls.__name__, fields, frozen=True), self._name)


def fields(cls: type[Any]) -> Iterator[tuple[str, Option, Any]]:
    """Each field of a record of options: its name, its :class:`Option` with its default, and its type.

    Raises TypeError if ``cls`` is no such record, or if a type in its annotations is not known at run time.
    """
    where = getattr(cls, "__qualname__", repr(cls))
    bases: tuple[Any, ...] = cls.__mro__ if isinstance(cls, type) else ()
    decorated = next((base for base in bases if "__dataclass_fields__" in vars(base)), None)
    if decorated is None or "_options" not in vars(decorated):
        raise TypeError(f"{where} is not a record of options: decorate it with @options of pyvmm.plugin")
    try:
        types = _evaluated(cls)
    except NameError as error:
        raise TypeError(f"{where}: {error}; the types of options are needed at run time") from error
    for name, made in decorated._options.items():
        yield name, made, types[name]


def _evaluated(cls: type[Any]) -> Mapping[str, Any]:
    """The result of typing.get_type_hints() for types of options. Importing typing takes longer than this function."""
    types = {}
    for base in reversed(cls.__mro__):
        module = sys.modules.get(base.__module__)
        names = {**STAND_INS, **(vars(module) if module is not None else {})}
        for name, type_ in own_annotations(base).items():
            if name in cls.__match_args__:
                types[name] = eval(type_, names, dict(vars(base))) if isinstance(type_, str) else type_
    return types
