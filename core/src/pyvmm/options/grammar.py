"""The grammar of ``--device KIND:ARG,key=value`` and the typed records that it fills.

A kind's options are a record that :func:`options` makes; :func:`option` says more of its fields than their types::

    @options
    class RngOptions:
        source: Path = option(Path("/dev/urandom"), primary=True, help="file from which entropy is read")
        rate: Size | None = option(None, help="bytes a second, at most")

A field's name is its key, with ``-`` for ``_``. Its type is one of ``str``, ``int``, ``bool``, :class:`Path`,
:class:`Size`, a ``Literal`` of strings, an :class:`~enum.Enum`, any of these ``| None``, or a ``tuple`` of one of
them, such as ``tuple[str, ...]``, for a key that may be repeated. Any other type needs ``parse``.

The record itself checks what concerns more than one option. If its ``__post_init__`` raises :class:`ValueError`, the
user reads one line: the kind, the error's text, and how to get help::

        def __post_init__(self) -> None:
            if self.rate is not None and not self.rate:
                raise ValueError("rate=0 leaves nothing to read")
"""

from __future__ import annotations

from pyvmm.errors import UsageError, nearest
from pyvmm.options import records
from pyvmm.options.records import fields, option, options
from pyvmm.options.value_types import (
    Size,
    format_size,
    format_value,
    int_between,
    item_type,
    parse_path,
    parse_size,
    parser,
)
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final, TypeVar

    O = TypeVar("O")  # noqa: E741 - the options' type, as in plugin.py

__all__ = [
    "DeviceSpec",
    "OptionInfo",
    "Size",
    "describe",
    "format_options",
    "format_size",
    "format_value",
    "int_between",
    "option",
    "options",
    "parse_device",
    "parse_options",
    "parse_path",
    "parse_records",
    "parse_size",
]

_described: Final[dict[type[Any], tuple[OptionInfo, ...]]] = {}


@record
class DeviceSpec:
    """One ``--device`` as it was typed, split at the kind."""

    kind: str

    text: str = ""
    """The text after the kind: ``ARG,key=value…``. It is empty or starts with a comma if there is no ARG."""

    @property
    def asks_for_help(self) -> bool:
        """Whether a bare ``help`` is among the options: ``block,help``."""
        return "help" in _split(self.text)[1:]

    def __str__(self) -> str:
        if not self.text or (self.text.startswith(",") and not self.text.startswith(",,")):
            return self.kind + self.text
        return f"{self.kind}:{self.text}"


@record
class OptionInfo:
    """All that is known of one option, as help, documentation and errors need it."""

    name: str
    """The key on the command line."""

    field: str
    """The name of the record's field."""

    metavar: str
    """The value's shape, such as ``PATH``, ``SIZE``, ``on|off`` or ``raw|qcow2``."""

    default: Any
    """The field's default, or :data:`REQUIRED`."""

    help: str
    """One line, or empty."""

    primary: bool
    """Whether it takes the ARG of ``KIND:ARG``."""

    repeated: bool
    """Whether the key may be given more than once; the field is then a tuple."""

    flag: bool
    """Whether the key without a value means true."""

    choices: tuple[str, ...]
    """All values, if they can be listed; else empty."""

    parse: Callable[[str], Any]
    """Makes one value of the command line's text. Raises ValueError with a phrase such as ``is not a number``."""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is records.REQUIRED


def parse_device(text: str) -> DeviceSpec:
    """Split ``KIND[:ARG][,key=value…]`` at its first ``:``, or at the first comma where one comes before it.

    Raises :class:`UsageError` if there is no kind. :func:`parse_options` reads the options later, when the kind's
    record is known.
    """
    kind = text.partition(",")[0].partition(":")[0]
    rest = text[len(kind) :]
    if not kind:
        raise UsageError(f"--device: no kind in {text!r}; give KIND[:ARG][,key=value…], --device help lists the kinds")
    if rest.startswith(",,"):
        raise UsageError(f"--device: {text!r} has two commas after {kind!r}; one begins an option")
    return DeviceSpec(kind, rest.removeprefix(":"))


def parse_options(options_type: type[O], kind: str, text: str) -> O:
    """A record of ``options_type``, as by :func:`parse_records`."""
    [parsed] = parse_records([options_type], kind, text)
    made: O = parsed
    return made


def parse_records(types: Sequence[type[Any]], kind: str, text: str) -> list[Any]:
    """Read ``ARG,key=value…``, which is the ``text`` of a :class:`DeviceSpec`, into a record of each of ``types``.

    The options of different types must have different names. A doubled comma stands for a comma within a value.
    Raises :class:`UsageError`, which names ``kind`` and the option, if a key is unknown, empty, given twice or missing,
    or if a value does not fit.
    """
    options = {info.name: info for type_ in types for info in describe(type_)}
    values: dict[str, Any] = {}
    for info, value in _items(options, kind, text):
        if info.repeated:
            values.setdefault(info.name, []).append(value)
        elif info.name in values:
            raise UsageError(f"{kind}: option {info.name!r} is given twice; give it once")
        else:
            values[info.name] = value
    for info in options.values():
        if info.required and info.name not in values:
            how = f"{kind}:{info.metavar}" if info.primary else f"{kind},{info.name}={info.metavar}"
            raise UsageError(f"{kind}: option {info.name!r} is missing; give it as --device {how}")
        if info.repeated and info.name in values:
            values[info.name] = tuple(values[info.name])
    try:
        return [
            type_(**{info.field: values[info.name] for info in describe(type_) if info.name in values})
            for type_ in types
        ]
    except ValueError as error:  # a record's __post_init__ checks what concerns more than one option
        raise UsageError(f"{kind}: {_one_line(error)}; see --device {kind},help") from error


def format_options(record: object) -> str:
    """The text from which :func:`parse_options` makes ``record``. Options that have their default are left out."""
    first, rest = "", []
    for info in describe(type(record)):
        value = getattr(record, info.field)
        if value == info.default or value is None:
            continue
        for item in value if info.repeated else [value]:
            text = format_value(item).replace(",", ",,")
            if info.primary and not info.repeated and not _looks_like_key(text) and text:
                first = text
            else:
                rest.append(f"{info.name}={text}")
    return ",".join([first, *rest]) if rest else first


def describe(options_type: type[Any]) -> Sequence[OptionInfo]:
    """The options of a record, in the order of its fields.

    Raises TypeError if ``options_type`` is no record that :func:`options` made, if a field's type needs ``parse``, or
    if two fields are primary.
    """
    known = _described.get(options_type)
    if known is not None:
        return known
    where = getattr(options_type, "__qualname__", repr(options_type))
    infos = tuple(_info(where, name, made, hint) for name, made, hint in fields(options_type))
    if sum(info.primary for info in infos) > 1:
        raise TypeError(f"{where}: more than one primary option")
    _described[options_type] = infos
    return infos


def _split(text: str) -> list[str]:
    """The items between commas; a doubled comma is part of an item. The first item is the ARG, or empty."""
    return [item.replace("\0", ",") for item in text.replace(",,", "\0").split(",")]


def _items(options: dict[str, OptionInfo], kind: str, text: str) -> Iterable[tuple[OptionInfo, Any]]:
    """Each option that ``text`` gives, with its value."""
    if "\0" in text:
        raise UsageError(f"{kind}: a NUL character in {text!r}")
    primary = next((info for info in options.values() if info.primary), None)
    argument, *rest = _split(text)
    if argument and primary and not _looks_like_key(argument):
        yield primary, _value(primary, kind, argument)
    elif argument:
        yield _item(options, kind, argument, primary)
    for item in rest:
        yield _item(options, kind, item, primary)


def _item(options: dict[str, OptionInfo], kind: str, item: str, primary: OptionInfo | None) -> tuple[OptionInfo, Any]:
    """One ``key=value`` or one bare flag."""
    key, equals, text = item.partition("=")
    if not item:
        raise UsageError(f"{kind}: an empty option; a comma that belongs to a value is written ,,")
    if not key:
        raise UsageError(f"{kind}: no key before {item!r}; give key=value")
    info = options.get(key.replace("_", "-"))
    if info is None:
        valid = f"its options are {', '.join(options)}" if options else "it has no options"
        hint = nearest(key, options)
        if not hint and primary:
            hint = f" ({primary.name} is given as {kind}:{primary.metavar} or {primary.name}={primary.metavar})"
        raise UsageError(f"{kind}: unknown option {key!r}{hint}; {valid}")
    if not equals:
        if not info.flag:
            raise UsageError(f"{kind}: option {info.name!r} needs a value: {info.name}={info.metavar}")
        return info, True
    return info, _value(info, kind, text)


def _value(info: OptionInfo, kind: str, text: str) -> Any:
    try:
        return info.parse(text)
    except ValueError as error:
        raise UsageError(f"{kind}: option {info.name!r}: {text!r} {_one_line(error)}") from error


def _looks_like_key(item: str) -> bool:
    """Whether ``item`` is ``key=…``, and not a value that contains ``=``, such as a path."""
    key, equals, _ = item.partition("=")
    letters = key.replace("_", "").replace("-", "")
    return bool(equals) and (not key or (key.isascii() and key[0].isalpha() and letters.isalnum()))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _info(where: str, name: str, made: records.Option, hint: Any) -> OptionInfo:
    item, repeated = item_type(hint)
    metavar, parse, choices = parser(item) or ("", None, ())
    if made.parse is not None:
        parse, choices = made.parse, ()
    if parse is None:
        raise TypeError(
            f"{where}.{name}: an option of type {hint!r} needs parse=; a key that may be repeated has tuple[TYPE, ...]"
        )
    return OptionInfo(
        name=name.strip("_").replace("_", "-"),
        field=name,
        metavar=made.metavar or metavar or name.upper(),
        default=made.default,
        help=made.help,
        primary=made.primary,
        repeated=repeated,
        flag=item is bool,
        choices=choices,
        parse=parse,
    )
