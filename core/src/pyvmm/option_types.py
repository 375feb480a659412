"""The types of options: how a value of each is read from the command line and written to it."""

from __future__ import annotations

import enum
import re
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

_TRUE: Final = ("on", "true", "yes")
_FALSE: Final = ("off", "false", "no")
_SUFFIXES: Final = "KMGT"
_SIZE_END: Final = 1 << 63

Container: TypeAlias = type[list[Any]] | type[tuple[Any, ...]]
"""What holds the values of a key that may be given more than once."""


class Size(int):
    """A number of bytes, 0 to 2⁶³−1; on the command line with K, M, G or T for powers of 1024."""


def parse_size(text: str) -> Size:
    """Bytes from ``256M``, ``5G``, ``4096`` or ``16KiB``: K, M, G and T are powers of 1024, in either case.

    Raises ValueError with a phrase for what is not a whole number, negative, or 2⁶³ and more.
    """
    match = re.fullmatch(r"([0-9]+)(?:([KMGT])(?:iB)?)?", text, re.ASCII | re.IGNORECASE)
    if not match:
        raise ValueError("is not a size: a whole number of bytes, or one with K, M, G or T, such as 256M")
    digits, suffix = match.groups()
    if len(digits) > 20:
        raise ValueError("is too large for a size")
    size = int(digits) << (10 * (_SUFFIXES.index(suffix.upper()) + 1) if suffix else 0)
    if size >= _SIZE_END:
        raise ValueError("is too large for a size")
    return Size(size)


def format_size(size: int) -> str:
    """``size`` bytes as :func:`parse_size` reads them, with the largest suffix that leaves it whole: ``256M``."""
    suffix = ""
    for larger in _SUFFIXES:
        if size == 0 or size % 1024:
            break
        size, suffix = size // 1024, larger
    return f"{size}{suffix}"


def int_between(minimum: int, maximum: int) -> Callable[[str], int]:
    """A ``parse`` for whole numbers from ``minimum`` to ``maximum``, both included."""

    def parse(text: str) -> int:
        number = _parse_int(text)
        if not minimum <= number <= maximum:
            raise ValueError(f"is not between {minimum} and {maximum}")
        return number

    return parse


def format_value(value: object) -> str:
    """One option's value as the command line takes it, but for the commas: ``on``, ``256M``, ``raw``."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Size):
        return format_size(value)
    if isinstance(value, enum.Enum):
        return _enum_key(value)
    return str(value)


def nearest(word: str, words: Iterable[str]) -> str:
    """`` (did you mean 'X'?)`` for the one of ``words`` that is most like ``word``; empty where none is."""
    import difflib

    matches = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def item_type(hint: Any) -> tuple[Any, Container | None]:
    """The type of one value, without ``| None``, and what holds several."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        others = [argument for argument in arguments if argument is not type(None)]
        return item_type(others[0]) if len(others) == 1 else (hint, None)
    if origin is list or (origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis):
        return arguments[0], origin
    return hint, None


def parser(item: Any) -> tuple[str, Callable[[str], Any], tuple[str, ...]] | None:
    """For a type that is known: its shape, how it is read, and its choices."""
    if item is bool:
        return "on|off", _parse_bool, ("on", "off")
    if item is int:
        return "N", _parse_int, ()
    if item is str:
        return "TEXT", str, ()
    if item is Size:
        return "SIZE", parse_size, ()
    if item is Path:
        return "PATH", _parse_path, ()
    values: dict[str, Any]
    if typing.get_origin(item) is Literal:
        values = {str(value): value for value in typing.get_args(item)}
    elif isinstance(item, type) and issubclass(item, enum.Enum):
        values = {_enum_key(member): member for member in item}
    else:
        return None

    def parse(text: str) -> Any:
        if text not in values:
            raise ValueError(f"is not one of {', '.join(values)}{nearest(text, values)}")
        return values[text]

    return "|".join(values), parse, tuple(values)


def _enum_key(member: enum.Enum) -> str:
    return member.value if isinstance(member.value, str) else member.name.lower().replace("_", "-")


def _parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"is not one of {', '.join((*_TRUE, *_FALSE))}")


def _parse_int(text: str) -> int:
    if not re.fullmatch("[+-]?([0-9]{1,20}|0[xX][0-9a-fA-F]{1,16})", text):
        raise ValueError("is not a whole number")
    return int(text, 16 if "x" in text.lower() else 10)


def _parse_path(text: str) -> Path:
    if not text:
        raise ValueError("is not a path")
    return Path(text)
