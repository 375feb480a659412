"""Records of options: how a kind says what it takes, and what is known of such a record."""

from __future__ import annotations

import sys

from pyvmm.options.value_types import STAND_INS
from pyvmm.startup.record import own_fields, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Final, TypeVar, dataclass_transform, overload

    T = TypeVar("T")
else:
    from pyvmm.startup.record import dataclass_transform

__all__ = ["REQUIRED", "Option", "fields", "option", "options"]

_METADATA: Final = "pyvmm"


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final[Any] = _Required()
"""The default of an option that has none."""


class Option:
    """What :func:`option` was told."""

    def __init__(self, default: Any, extra: Mapping[str, Any]) -> None:
        self.default = default
        self.extra = extra

    @classmethod
    def of(cls, value: Any) -> Option:
        """That of an attribute of a class: an option, in either form, or just a default."""
        if isinstance(value, cls):
            return value
        dataclasses = sys.modules.get("dataclasses")
        if dataclasses is None or not isinstance(value, dataclasses.Field):
            return cls(value, {})
        if value.default_factory is not dataclasses.MISSING:
            default = value.default_factory()
        else:
            default = value.default if value.default is not dataclasses.MISSING else REQUIRED
        return cls(default, value.metadata.get(_METADATA, {}))

    def field(self) -> Any:
        """The same for dataclasses."""
        import dataclasses

        metadata = {_METADATA: self.extra}
        if isinstance(self.default, list):
            return dataclasses.field(default_factory=self.default.copy, metadata=metadata)
        default = dataclasses.MISSING if self.default is REQUIRED else self.default
        return dataclasses.field(default=default, metadata=metadata)


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
    """A field of an options record.

    ``default``: the value when the option is not given; without one it must be given. As in any dataclass, fields
    without a default come first. A list is copied for each record.
    ``primary``: it takes the ARG of ``KIND:ARG``; one field of a record, at most.
    ``help``: one line, without a full stop.
    ``parse``: makes a value of the text (each value, where the key may be repeated) and raises :class:`ValueError`
    with a phrase that goes on after the text, such as ``is not a MAC address``.
    ``metavar``: the value's shape in help, when the type's own is not good enough: ``XX:XX:XX:XX:XX:XX``.
    """
    made = Option(default, {"primary": primary, "help": help, "parse": parse, "metavar": metavar})
    # Whoever makes a dataclass has imported dataclasses before; whoever does not shall not have to.
    return made.field() if "dataclasses" in sys.modules else made


@dataclass_transform(frozen_default=True)
def options(cls: type[T]) -> type[T]:
    """Make ``cls`` a record of options: ``@dataclass(frozen=True)`` for all who look at it or derive from it, but
    without its cost at a start. dataclasses, with what it imports and the code that it generates, is a tenth of one.

    Types in annotations may have been imported for a checker only: ``Path`` and ``Literal`` are known all the same.
    """
    own = vars(cls)
    made: dict[str, Option] = {}
    for base in reversed(cls.__mro__[1:]):
        made |= _declared(base)
    for name in own_fields(cls):
        made[name] = Option.of(own.get(name, REQUIRED))
        if made[name].default is not REQUIRED:
            setattr(cls, name, made[name].default)
        elif name in own:
            delattr(cls, name)
    setattr(cls, "_options", made)  # noqa: B010 - mypy knows no such attribute
    for name in ("__dataclass_fields__", "__dataclass_params__"):
        setattr(cls, name, _OfDataclass(cls, name))
    defaults = {name: option.default for name, option in made.items() if option.default is not REQUIRED}
    setattr(cls, "_defaults", defaults)  # noqa: B010
    return record(cls)


class _OfDataclass:
    """An attribute by which dataclasses knows its own, made when somebody asks for it."""

    def __init__(self, cls: type[Any], name: str) -> None:
        self._cls = cls
        self._name = name

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        import dataclasses

        types = {name: hint for base in reversed(self._cls.__mro__) for name, hint in _annotations(base).items()}
        fields = [(name, types[name], made.field()) for name, made in vars(self._cls)["_options"].items()]
        return getattr(dataclasses.make_dataclass(self._cls.__name__, fields, frozen=True), self._name)


def fields(cls: type[Any]) -> Iterator[tuple[str, Option, Any]]:
    """Each field of a record of options or a frozen dataclass: its name, what is known of it, and its type.

    Raises TypeError where ``cls`` is neither, or its types are not known at run time.
    """
    where = getattr(cls, "__qualname__", repr(cls))
    bases: tuple[Any, ...] = cls.__mro__ if isinstance(cls, type) else ()
    nearest = next((base for base in bases if "__dataclass_fields__" in vars(base)), None)
    if nearest is None:
        raise TypeError(f"{where} is not a dataclass")
    if "_options" not in vars(nearest) and not nearest.__dataclass_params__.frozen:
        raise TypeError(f"{where} is not frozen: it needs @dataclass(frozen=True)")
    try:
        hints = _evaluated(cls) if any("_options" in vars(base) for base in bases) else _hints(cls)
    except NameError as error:
        raise TypeError(f"{where}: {error}; the types of options are needed at run time") from error
    for name, known in _declared(nearest).items():
        yield name, known, hints[name]


def _declared(cls: type[Any]) -> Mapping[str, Option]:
    """The fields of a record or dataclass, those that it inherits too; none of any other class."""
    own = vars(cls)
    if "_options" in own:
        made: dict[str, Option] = own["_options"]
        return made
    if "__dataclass_fields__" not in own:
        return {}
    import dataclasses

    return {field.name: Option.of(field) for field in dataclasses.fields(cls)}


def _hints(cls: type[Any]) -> Mapping[str, Any]:
    from typing import get_type_hints

    hints: dict[str, Any] = get_type_hints(cls)
    return hints


def _evaluated(cls: type[Any]) -> Mapping[str, Any]:
    """What typing.get_type_hints finds, as far as types of options go; to import typing takes longer than this."""
    hints = {}
    for base in reversed(cls.__mro__):
        module = sys.modules.get(base.__module__)
        names = {**STAND_INS, **(vars(module) if module is not None else {})}
        for name in own_fields(base):
            hint = _annotations(base)[name]
            hints[name] = eval(hint, names, dict(vars(base))) if isinstance(hint, str) else hint
    return hints


def _annotations(cls: type[Any]) -> Mapping[str, Any]:
    annotations: dict[str, Any] = vars(cls).get("__annotations__", {})
    return annotations
