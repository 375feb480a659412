"""The types of options: how the command line's text becomes a value, and a value becomes text."""

from __future__ import annotations

import os
import sys
import types

from pyvmm.errors import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any, Final

_TRUE: Final = ("on", "true", "yes")
_FALSE: Final = ("off", "false", "no")
_SUFFIXES: Final = "KMGT"
_SIZE_END: Final = 1 << 63


class _Path:
    """Stands for Path, if a module imports that for type checkers only."""


class _Choice:
    """Stands for ``Literal["a", "b"]``, if a module imports Literal for type checkers only."""

    values: tuple[str, ...]


class _Literal:
    def __getitem__(self, values: str | tuple[str, ...]) -> type[_Choice]:
        return type("Literal", (_Choice,), {"values": values if isinstance(values, tuple) else (values,)})


class Size(int):
    """A number of bytes, 0 to 2⁶³−1. The command line takes K, M, G or T behind it, for powers of 1024."""


STAND_INS: Final[Mapping[str, Any]] = {"Path": _Path, "Literal": _Literal(), "Size": Size}
"""Types of options by name, for annotations of modules that do not have these names at run time."""


def parse_size(text: str) -> Size:
    """The bytes of a size such as ``256M``, ``5G``, ``4096`` or ``16KiB``. K, M, G and T, or k, m, g and t, are powers
    of 1024.

    Raises ValueError with a phrase if ``text`` is no whole number from 0 to 2⁶³−1.
    """
    upper = text.upper() if text.isascii() else ""
    digits = upper.removesuffix("IB")
    suffix = digits[-1:] if digits[-1:] in _SUFFIXES else ""
    digits = digits.removesuffix(suffix)
    if not digits.isdecimal() or (upper.endswith("IB") and not suffix):
        raise ValueError("is not a size: a whole number of bytes, or one with K, M, G or T, such as 256M")
    if len(digits) > 20:
        raise ValueError("is too large for a size")
    size = int(digits) << (10 * (_SUFFIXES.index(suffix) + 1) if suffix else 0)
    if size >= _SIZE_END:
        raise ValueError("is too large for a size")
    return Size(size)


def format_size(size: int) -> str:
    """The text that :func:`parse_size` reads as ``size`` bytes, with the largest suffix that is exact: ``256M``."""
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


def format_value(value: Any) -> str:
    """One value as the command line takes it: ``on``, ``256M``, ``raw``. Commas in it are not doubled yet."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Size):
        return format_size(value)
    return _enum_key(value) if _is_enum(type(value)) else str(value)


def item_type(hint: Any) -> tuple[Any, bool]:
    """The type of one value, without ``| None``, and whether there may be several."""
    origin: Any = getattr(hint, "__origin__", None)
    arguments: tuple[Any, ...] = getattr(hint, "__args__", ())
    if isinstance(hint, types.UnionType) or origin is _known("typing", "Union"):
        others = [argument for argument in arguments if argument is not type(None)]
        return item_type(others[0]) if len(others) == 1 else (hint, False)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0], True
    return hint, False


def parser(item: Any) -> tuple[str, Callable[[str], Any], tuple[str, ...]] | None:
    """The metavar, the ``parse`` and the choices of a type; None for a type that is not known."""
    if item is bool:
        return "on|off", _parse_bool, ("on", "off")
    if item is int:
        return "N", _parse_int, ()
    if item is str:
        return "TEXT", str, ()
    if item is Size:
        return "SIZE", parse_size, ()
    if item in (_Path, _known("pathlib", "Path")):
        return "PATH", _parse_path, ()
    values: dict[str, Any]
    if isinstance(item, type) and issubclass(item, _Choice):
        values = {str(value): value for value in item.values}
    elif getattr(item, "__origin__", None) is _known("typing", "Literal"):
        values = {str(value): value for value in item.__args__}
    elif _is_enum(item):
        values = {_enum_key(member): member for member in item}
    else:
        return None

    def parse(text: str) -> Any:
        if text not in values:
            raise ValueError(f"is not one of {', '.join(values)}{nearest(text, values)}")
        return values[text]

    return "|".join(values), parse, tuple(values)


def _known(module: str, name: str) -> Any:
    """An attribute of a module that takes long to import; if nobody has imported it, a class that no value has."""
    return getattr(sys.modules.get(module), name, _Unknown)


class _Unknown:
    """A class that is no option's type."""


def _is_enum(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, _known("enum", "Enum"))


def _enum_key(member: enum.Enum) -> str:
    return member.value if isinstance(member.value, str) else member.name.lower().replace("_", "-")


def _parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"is not one of {', '.join((*_TRUE, *_FALSE))}")


def _parse_int(text: str) -> int:
    digits = text[1:] if text.startswith(("+", "-")) else text
    is_hex = digits[:2] in ("0x", "0X")
    if not text.isascii() or len(digits) > (18 if is_hex else 20) or not digits.isalnum():
        raise ValueError("is not a whole number")
    try:
        return int(text, 16 if is_hex else 10)
    except ValueError:
        raise ValueError("is not a whole number") from None


def parse_path(text: str) -> str:
    """A path as a device's process finds it, too: a descriptor of this process is named as this process's.

    Raises ValueError with a phrase for what is empty, or begins with a ``~`` that no shell has replaced.
    """
    if not text:
        raise ValueError("is not a path")
    first = text.partition("/")[0]
    if first[:1] == "~" and not os.path.lexists(first):
        raise ValueError(
            "begins with ~, which a shell replaces only at the start of a word; give $HOME or a whole path"
        )
    for prefix in ("/dev/fd/", "/proc/self/fd/"):
        if text.startswith(prefix):
            return f"/proc/{os.getpid()}/fd/{text.removeprefix(prefix)}"
    return text


def _parse_path(text: str) -> Path:
    path = parse_path(text)
    from pathlib import Path

    return Path(path)
