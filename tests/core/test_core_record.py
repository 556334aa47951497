"""Records against the dataclasses that they stand for."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest

import udpguard
from udpguard.core.record import record

PUBLIC = [
    value for value in vars(udpguard).values() if isinstance(value, type) and "__dataclass_fields__" in vars(value)
]


class Base:
    """What one derives from, with a place for whatever else is assigned."""

    extra: int


def declared(decorate: Callable[[Any], Any]) -> Any:
    @decorate
    class Thing(Base):
        """One of each kind of field."""

        first: int
        second: str = "2"
        third: float | None = None

        def __post_init__(self) -> None:
            if self.first < 0:
                raise ValueError(f"first must be zero or more, not {self.first}")

        @classmethod
        def usual(cls) -> Any:
            return cls(7, third=1.0)

    return Thing


Record = declared(record)
Real = declared(dataclasses.dataclass(frozen=True, slots=True))
Record.__qualname__, Record.__name__ = "Record", "Record"
BOTH = pytest.mark.parametrize("kind", [Record, Real], ids=["record", "dataclass"])


def test_these_are_records() -> None:
    assert {kind.__name__ for kind in PUBLIC} >= {"Limits", "Ports", "Retry", "AdaptiveRetry", "Statistics", "NearMiss"}


@BOTH
def test_it_takes_its_fields_by_place_and_by_name(kind: Any) -> None:
    for thing in (kind(1, "a", 0.5), kind(1, third=0.5, second="a"), kind(first=1, second="a", third=0.5)):
        assert (thing.first, thing.second, thing.third) == (1, "a", 0.5)
    assert (kind(3).second, kind(3).third) == ("2", None)
    assert kind.usual() == kind(7, "2", 1.0)


@BOTH
@pytest.mark.parametrize(
    ("args", "given"),
    [((), {}), ((1, "a", 0.5, 4), {}), ((1,), {"first": 1}), ((1,), {"fourth": 4}), ((), {"second": "a", "other": 1})],
)
def test_it_refuses_arguments_that_do_not_fit(kind: Any, args: tuple[object, ...], given: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"__init__\(\) \w+"):
        kind(*args, **given)


def test_the_refusal_names_the_argument() -> None:
    with pytest.raises(TypeError, match=r"^Limits.__init__\(\) got an unexpected keyword argument 'pendign'$"):
        udpguard.Limits(pendign=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^NearMiss.__init__\(\) missing a required argument: 'peer'$"):
        udpguard.NearMiss()  # type: ignore[call-arg]


@BOTH
def test_what_it_checks_after_that_is_checked(kind: Any) -> None:
    with pytest.raises(ValueError, match="first must be zero or more, not -1"):
        kind(-1)
    with pytest.raises(ValueError, match="first must be"):
        dataclasses.replace(kind(1), first=-1)


@BOTH
def test_nothing_of_it_changes(kind: Any) -> None:
    thing = kind(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'first'"):
        thing.first = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'first'"):
        del thing.first
    assert thing.first == 1


def test_nothing_is_added_to_it_unless_a_class_derives_from_it() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'extra'"):
        Record(1).extra = 2

    class Derived(Record):
        pass

    derived = Derived(1)
    derived.extra = 2
    assert derived.extra == 2
    del derived.extra
    with pytest.raises(dataclasses.FrozenInstanceError, match="'second'"):
        derived.second = "b"


@BOTH
def test_it_compares_by_its_values(kind: Any) -> None:
    class Derived(kind):
        pass

    assert kind(1, "a") == kind(1, "a") != kind(1, "b")
    assert hash(kind(1, "a")) == hash(kind(1, "a"))
    assert kind(1) != (1, "2", None)
    assert Derived(1) != kind(1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(kind(1, []))


def test_it_shows_and_describes_itself_as_a_dataclass_does() -> None:
    name = Real.__qualname__
    assert repr(Record(1, "a")) == repr(Real(1, "a")).replace(name, "Record")
    assert inspect.signature(Record) == inspect.signature(Real)
    assert inspect.signature(Record.__init__) == inspect.signature(Real.__init__)
    assert Record.__init__.__annotations__.keys() == Real.__init__.__annotations__.keys()
    assert Record.__doc__ == Real.__doc__
    assert Record.__match_args__ == Real.__match_args__
    assert set(Record.__slots__) == set(Real.__slots__)


def test_dataclasses_takes_it_for_one() -> None:
    kind = declared(record)
    assert dataclasses.is_dataclass(kind)
    ours, theirs = dataclasses.fields(kind), dataclasses.fields(Real)
    assert [(field.name, field.type, field.default) for field in ours] == [
        (field.name, field.type, field.default) for field in theirs
    ]
    assert dataclasses.asdict(kind(1)) == {"first": 1, "second": "2", "third": None}
    assert dataclasses.astuple(kind(1)) == (1, "2", None)
    assert dataclasses.replace(kind(1), second="b") == kind(1, "b")
    assert kind.__dataclass_params__.frozen


def test_a_dataclass_may_derive_from_it() -> None:
    @dataclasses.dataclass(frozen=True)
    class Longer(udpguard.Retry):
        note: str = "none"

    longer = Longer(attempts=2, note="some")
    assert [field.name for field in dataclasses.fields(Longer)][-2:] == ["total", "note"]
    assert (longer.attempts, longer.note, longer.initial) == (2, "some", 1.0)
    with pytest.raises(ValueError, match="attempts must be 1 to"):
        Longer(attempts=0)


@BOTH
def test_it_matches_patterns(kind: Any) -> None:
    match kind(1, "a"):
        case kind(first, second, third=None):
            assert (first, second) == (1, "a")
        case _:
            pytest.fail("it didn't match")


def test_copy_replaces() -> None:
    limits: Any = udpguard.Limits()
    assert limits.__replace__(pending=2) == udpguard.Limits(pending=2)  # what copy.replace calls, on Python 3.13
    if sys.version_info >= (3, 13):
        assert copy.replace(limits, pending=2) == udpguard.Limits(pending=2)


@pytest.mark.parametrize("kind", PUBLIC)
def test_each_is_a_slotted_dataclass_that_can_be_copied_and_pickled(kind: Any) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    assert list(inspect.signature(kind).parameters) == names == list(kind.__slots__) == list(kind.__match_args__)
    made = kind.__new__(kind)
    made.__setstate__(list(range(1, len(names) + 1)))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(made, protocol)) == made
    assert copy.copy(made) == made == copy.deepcopy(made)
    assert dataclasses.astuple(made) == tuple(range(1, len(names) + 1))
