"""Frozen dataclasses with slots, made without generating code.

For each method of each class `dataclasses` writes a program and compiles it. With that, `import asyncio, udpguard`
takes 1.37 times as long as `import asyncio`, and 1.23 times without (CPython 3.11; 1.3 is the limit). Here the
methods are closures over the fields' names. For whoever uses them, and for `dataclasses` itself (`fields`, `replace`,
`asdict`, `is_dataclass`, a dataclass that derives from one), they are the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from operator import attrgetter
from typing import Any, Final, NoReturn, TypeVar, cast, dataclass_transform

_T = TypeVar("_T")

_FOR_DATACLASSES: Final = ("__dataclass_fields__", "__dataclass_params__")
"""What `dataclasses` looks for in a class."""


@dataclass_transform(frozen_default=True)
def record(cls: type[_T]) -> type[_T]:
    """Make of a class with two fields or more what `dataclass(frozen=True, slots=True)` makes of it."""
    fields = inspect.get_annotations(cls)
    body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    defaults = {name: body.pop(name) for name in fields if name in body}
    # Slots belong to a class from its making, and no name can be that of a slot and of a default.
    metaclass = cast("Any", type(cls))
    made: Any = metaclass(cls.__name__, cls.__bases__, {**body, "__slots__": tuple(fields)})
    made.__qualname__ = cls.__qualname__
    methods = (_init(made, fields, defaults), *_comparison(tuple(fields)), *_freeze(made, frozenset(fields)))
    for method in (*methods, *_state(made, tuple(fields))):
        method.__qualname__ = f"{made.__qualname__}.{method.__name__}"
        setattr(made, method.__name__, method)
    setattr(made, "__match_args__", tuple(fields))  # noqa: B010 (type checkers take it for a constant)
    for name in _FOR_DATACLASSES:
        setattr(made, name, _Described(name, made, fields, defaults))
    result: type[_T] = made
    return result


def _init(made: Any, fields: Mapping[str, object], defaults: Mapping[str, object]) -> Callable[..., None]:
    names, setters = tuple(fields), _setters(made, fields)
    has_more = hasattr(made, "__post_init__")
    kind, nothing = Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty
    parameters = [
        Parameter(name, kind, default=defaults.get(name, nothing), annotation=annotation)
        for name, annotation in fields.items()
    ]
    signature = Signature([Parameter("self", kind), *parameters], return_annotation=None)

    def fits(count: int, given: Mapping[str, object]) -> bool:
        return count <= len(names) and given.keys().isdisjoint(names[:count])

    def __init__(self: Any, *args: object, **given: object) -> None:  # noqa: N807 (it becomes one)
        values = {**defaults, **dict(zip(names, args, strict=False)), **given}
        if values.keys() != fields.keys() or (args and not fits(len(args), given)):
            _refuse(made, signature, (self, *args), given)
        for name, set_ in setters:
            set_(self, values[name])
        if has_more:
            self.__post_init__()

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__annotations__ = {**fields, "return": None}
    return __init__


def _refuse(made: Any, signature: Signature, args: Sequence[object], given: Mapping[str, object]) -> NoReturn:
    try:
        signature.bind(*args, **given)
    except TypeError as error:
        raise TypeError(f"{made.__qualname__}.__init__() {error}") from None
    raise AssertionError("it was refused for nothing")


def _setters(made: Any, fields: Mapping[str, object]) -> list[tuple[str, Callable[[object, object], None]]]:
    body = cast("dict[str, Any]", vars(made))
    return [(name, body[name].__set__) for name in fields]


def _comparison(names: tuple[str, ...]) -> Sequence[Callable[..., object]]:
    values = attrgetter(*names)

    def __eq__(self: object, other: object) -> bool:  # noqa: N807
        return bool(values(self) == values(other)) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: object) -> int:  # noqa: N807
        return hash(values(self))

    def __repr__(self: object) -> str:  # noqa: N807
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(names, values(self), strict=True))
        return f"{self.__class__.__qualname__}({shown})"

    return __eq__, __hash__, __repr__


def _freeze(made: Any, fields: frozenset[str]) -> Sequence[Callable[..., object]]:
    def check(self: object, name: str, verb: str) -> None:
        if type(self) is made or name in fields:
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot {verb} field {name!r}")

    def __setattr__(self: object, name: str, value: object) -> None:  # noqa: N807
        check(self, name, "assign to")
        super(made, self).__setattr__(name, value)

    def __delattr__(self: object, name: str) -> None:  # noqa: N807
        check(self, name, "delete")
        super(made, self).__delattr__(name)

    return __setattr__, __delattr__


def _state(made: Any, names: tuple[str, ...]) -> Sequence[Callable[..., object]]:
    """What `pickle` and `copy` need, since nothing can be assigned."""
    values, setters = attrgetter(*names), _setters(made, dict.fromkeys(names))

    def __getstate__(self: object) -> list[object]:  # noqa: N807
        return list(values(self))

    def __setstate__(self: object, state: Sequence[object]) -> None:  # noqa: N807
        for (_, set_), value in zip(setters, state, strict=True):
            set_(self, value)

    def __replace__(self: Any, /, **changes: object) -> object:  # noqa: N807
        from dataclasses import replace

        return replace(self, **changes)

    return __getstate__, __setstate__, __replace__


class _Described:
    """What `dataclasses` asks a class for, made when it asks: of a twin that is a real dataclass."""

    def __init__(self, name: str, made: Any, fields: Mapping[str, object], defaults: Mapping[str, object]) -> None:
        self._name = name
        self._made = made
        self._fields = fields
        self._defaults = defaults

    def __get__(self, instance: object, owner: type) -> object:
        from dataclasses import dataclass  # slow to load, and only who asks needs it

        body = {**self._defaults, "__annotations__": dict(self._fields), "__module__": self._made.__module__}
        twin: type = dataclass(frozen=True)(type(self._made.__name__, (), body))
        for name in _FOR_DATACLASSES:
            setattr(self._made, name, getattr(twin, name))
        return getattr(twin, self._name)
