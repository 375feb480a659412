"""Frozen records for modules that every start imports: ``dataclass(frozen=True)`` without the code that it generates.

A dataclass takes about a millisecond a class, since its methods are generated and compiled. All records share their
methods.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final[Any] = _Required()
"""The value in the class of a field that has no default, although a base class may have one."""


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make ``cls`` a record: its annotated names are its fields, and their values in the class are the defaults.

    A record cannot be changed. Two records are equal, and have the same hash, if they have the same class and the same
    values. A record may derive from other records. ``__post_init__`` is called as in a dataclass.

    Raises TypeError for a default that can be changed, such as a list, since all records would share it.
    """
    own = vars(cls)
    inherited = [name for base in reversed(cls.__mro__[1:]) for name in vars(base).get("__match_args__", ())]
    fields = tuple(dict.fromkeys([*inherited, *own_fields(cls)]))
    defaults = {name: value for name in fields if (value := getattr(cls, name, REQUIRED)) is not REQUIRED}
    for name, value in defaults.items():
        if type(value).__hash__ is None:
            raise TypeError(
                f"{cls.__qualname__}.{name}: a {type(value).__name__} can be changed, so it cannot be a default; "
                "give a tuple, a frozenset or None"
            )
    members: dict[str, Any] = {
        "__match_args__": fields,
        "_defaults": defaults,
        "__init__": _init,
        "__setattr__": _set,
        "__delattr__": _delete,
        "__eq__": _equal,
        "__hash__": _hash,
        "__repr__": _repr,
        "__replace__": replace,
        "__signature__": _Signature(),
    }
    for name, member in members.items():
        # As with a dataclass, a method that the class defines itself stays.
        if name not in own or (name == "__hash__" and own[name] is None):
            setattr(cls, name, member)
    return cls


def own_annotations(cls: type[Any]) -> Mapping[str, Any]:
    """The annotations of a class, without those of its bases: types, or their source text.

    From Python 3.14 on, annotations are evaluated when they are asked for (PEP 649), unless the module has ``from
    __future__ import annotations``. If a type is imported for type checkers only, all of them are given as text.
    """
    found: Mapping[str, Any]
    if sys.version_info >= (3, 14):
        try:
            found = getattr(cls, "__annotations__", {})
        except NameError:
            import annotationlib  # it takes milliseconds to import

            found = annotationlib.get_annotations(cls, format=annotationlib.Format.STRING)
    else:
        found = vars(cls).get("__annotations__", {})
    return found


def own_fields(cls: type[Any]) -> list[str]:
    """The annotated names of a class, without those of its bases and those that are marked ``ClassVar``."""
    return [name for name, hint in own_annotations(cls).items() if "ClassVar" not in str(hint).partition("[")[0]]


def field_types(cls: type[Any]) -> dict[str, Any]:
    """The type of each field of a record as it is annotated: a type, or its source text."""
    types = {name: type_ for base in reversed(cls.__mro__) for name, type_ in own_annotations(base).items()}
    return {name: types[name] for name in cls.__match_args__}


def replace(original: T, /, **changes: Any) -> T:
    """A copy of the record ``original`` with other values for the fields in ``changes``."""
    return type(original)(**(vars(original) | changes))


class _Signature:
    """The ``__signature__`` of a record, which inspect.signature() and help() look for; made when it is read."""

    def __get__(self, instance: object, cls: type[Any]) -> Any:
        if cls.__init__ is not _init:
            return None  # a class that derives from a record and has an __init__ of its own
        import inspect

        def parameter(name: str, type_: Any) -> inspect.Parameter:
            default = cls._defaults.get(name, inspect.Parameter.empty)
            return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=type_)

        return inspect.Signature([parameter(name, type_) for name, type_ in field_types(cls).items()])


def _init(self: Any, /, *values: Any, **named: Any) -> None:
    fields = type(self).__match_args__
    state = vars(self)
    state.update(self._defaults)
    state.update(zip(fields, values, strict=False))
    state.update(named)
    if len(values) > len(fields) or state.keys() != {*fields} or not named.keys().isdisjoint(fields[: len(values)]):
        raise TypeError(f"{type(self).__qualname__}() {_problem(fields, self._defaults, values, named)}")
    post_init = getattr(self, "__post_init__", None)
    if post_init is not None:
        post_init()


def _problem(
    fields: Sequence[str], defaults: Mapping[str, Any], values: Sequence[Any], named: Mapping[str, Any]
) -> str:
    """The message for wrong arguments of a record."""
    unknown = [name for name in named if name not in fields]
    if unknown:
        from pyvmm.errors import nearest

        return f"has no field {unknown[0]!r}{nearest(unknown[0], fields)}"
    twice = [name for name in fields[: len(values)] if name in named]
    if twice:
        return f"got {twice[0]!r} twice"
    if len(values) > len(fields):
        return f"has {len(fields)} fields and got {len(values)} values"
    return f"lacks {[name for name in fields[len(values) :] if name not in named and name not in defaults]}"


def _set(self: Any, name: str, value: object) -> None:
    raise AttributeError(f"cannot assign to field {name!r}")


def _delete(self: Any, name: str) -> None:
    raise AttributeError(f"cannot delete field {name!r}")


def _equal(self: Any, other: object) -> Any:
    return vars(self) == vars(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    state = vars(self)
    return hash(tuple(state[name] for name in type(self).__match_args__))


def _repr(self: Any) -> str:
    fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in type(self).__match_args__)
    return f"{type(self).__qualname__}({fields})"
