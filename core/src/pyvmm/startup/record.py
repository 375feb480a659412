"""Frozen records for what is imported at every start: ``dataclass(frozen=True)`` without the code that it generates.

To generate and compile a dataclass's methods takes about a millisecond a class; here all records share theirs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make ``cls`` a record: its annotated names are its fields, their values in the class the defaults.

    Records cannot be changed. Those of one class with the same values are equal and have one hash. A default that is
    a list is copied for each. One record may derive from another. ``__post_init__`` is called as in a dataclass.
    """
    own = vars(cls)
    fields = tuple(dict.fromkeys((*getattr(cls, "__match_args__", ()), *own_fields(cls))))
    defaults = own.get("_defaults") or {name: getattr(cls, name) for name in fields if hasattr(cls, name)}
    members: dict[str, Any] = {
        "__match_args__": fields,
        "_defaults": defaults,
        "_lists": [name for name, value in defaults.items() if isinstance(value, list)],
        "__init__": _init,
        "__setattr__": _set,
        "__delattr__": _delete,
        "__eq__": _equal,
        "__hash__": _hash,
        "__repr__": _repr,
        "__signature__": _Signature(),
    }
    for name, member in members.items():
        # As with a dataclass, a method that the class defines itself stays.
        if name not in own or (name == "__hash__" and own[name] is None):
            setattr(cls, name, member)
    return cls


def own_fields(cls: type[Any]) -> list[str]:
    """The annotated names of a class, not of its bases, but for those that are marked ``ClassVar``."""
    annotations = vars(cls).get("__annotations__", {})
    return [name for name, hint in annotations.items() if "ClassVar" not in str(hint).partition("[")[0]]


def replace(original: T, **changes: Any) -> T:
    """A record like ``original``, but for the fields that are given."""
    return type(original)(**(vars(original) | changes))


class _Signature:
    """What inspect.signature, and so help and documentation, has on a record; made when somebody asks."""

    def __get__(self, instance: object, cls: type[Any]) -> Any:
        if cls.__init__ is not _init:
            return None  # one that derives from a record and is another sort of class: by its __init__
        import inspect

        def parameter(name: str, type_: Any) -> inspect.Parameter:
            default = cls._defaults.get(name, inspect.Parameter.empty)
            return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=type_)

        types = {name: type_ for base in reversed(cls.__mro__) for name, type_ in inspect.get_annotations(base).items()}
        return inspect.Signature([parameter(name, types[name]) for name in cls.__match_args__])


def _init(self: Any, /, *values: Any, **named: Any) -> None:
    fields = type(self).__match_args__
    state = vars(self)
    state.update(self._defaults)
    for name in self._lists:
        state[name] = state[name].copy()
    state.update(zip(fields, values, strict=False))
    state.update(named)
    if len(values) > len(fields) or len(state) != len(fields) or not named.keys().isdisjoint(fields[: len(values)]):
        name = type(self).__qualname__
        missing = [field for field in fields if field not in state]
        raise TypeError(f"{name}() {f'lacks {missing}' if missing else 'is given what it does not take, or twice'}")
    post_init = getattr(self, "__post_init__", None)
    if post_init is not None:
        post_init()


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
