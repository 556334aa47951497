"""What callers may set, and what is refused."""

from __future__ import annotations

import copy
import datetime as dt
import math
import pickle
from typing import Any

import pytest

from udpguard import DEFAULT, Limits
from udpguard.core.options import check_hook, check_limit, checked_rate, checked_timeout, checked_window


def test_time_outs() -> None:
    assert checked_timeout(None) == math.inf
    assert checked_timeout(2) == 2.0
    assert type(checked_timeout(2)) is float
    assert checked_timeout(0.001) == 0.001
    assert checked_timeout(math.inf) == math.inf


@pytest.mark.parametrize("timeout", [0, 0.0, -0.0, -1, -math.inf, math.nan])
def test_a_time_out_is_more_than_nothing(timeout: float) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        checked_timeout(timeout)


def test_a_time_out_that_no_clock_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="None means no deadline"):
        checked_timeout(10**400)


@pytest.mark.parametrize("timeout", ["5", True, b"5", [5], DEFAULT])
def test_a_time_out_is_a_number(timeout: object) -> None:
    with pytest.raises(TypeError, match="timeout must be seconds or None"):
        checked_timeout(timeout)


def test_a_time_out_is_no_timedelta_but_has_its_seconds() -> None:
    with pytest.raises(TypeError, match=r"pass its total_seconds\(\)"):
        checked_timeout(dt.timedelta(seconds=2))


def test_rates() -> None:
    assert checked_rate(None) is None
    assert checked_rate(5) == 5.0
    assert type(checked_rate(5)) is float


@pytest.mark.parametrize("rate", [0, -1.0, math.inf, math.nan])
def test_a_rate_is_more_than_nothing_and_finite(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be more than 0 datagrams a second"):
        checked_rate(rate)


@pytest.mark.parametrize("rate", ["5", True, [5], DEFAULT])
def test_a_rate_is_a_number(rate: object) -> None:
    with pytest.raises(TypeError, match="rate must be datagrams a second or None"):
        checked_rate(rate)


def test_windows() -> None:
    assert checked_window(2) == 2.0
    assert type(checked_window(2)) is float


@pytest.mark.parametrize("window", ["5", True, [5], DEFAULT])
def test_a_window_is_a_number(window: object) -> None:
    with pytest.raises(TypeError, match="window must be seconds"):
        checked_window(window)


@pytest.mark.parametrize("window", [None, math.inf, 10**400])
def test_a_window_ends(window: float | None) -> None:
    with pytest.raises(ValueError, match="answers may come for ever"):
        checked_window(window)


@pytest.mark.parametrize("window", [0, -1.0, math.nan])
def test_a_window_is_more_than_nothing(window: float) -> None:
    with pytest.raises(ValueError, match="window must be more than 0 seconds"):
        checked_window(window)


def test_hooks() -> None:
    async def coroutine() -> None: ...

    check_hook("accept", None)
    check_hook("accept", print)
    with pytest.raises(TypeError, match="accept must be a function, not 5"):
        check_hook("accept", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="accept must be a plain function, not a coroutine function"):
        check_hook("accept", coroutine)


def test_limits() -> None:
    assert Limits() == Limits(pending=65_536, in_flight_per_peer=None)
    assert Limits(pending=1, in_flight_per_peer=1).in_flight_per_peer == 1
    check_limit("in_flight_per_peer", None, optional=True)
    with pytest.raises(AttributeError):
        Limits().pending = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"pending": 0}, ValueError),
        ({"pending": -1}, ValueError),
        ({"pending": None}, TypeError),
        ({"pending": 1.5}, TypeError),
        ({"pending": True}, TypeError),
        ({"in_flight_per_peer": 0}, ValueError),
        ({"in_flight_per_peer": "1"}, TypeError),
    ],
)
def test_limits_that_are_none(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        Limits(**arguments)


def test_the_default_is_one() -> None:
    assert repr(DEFAULT) == "DEFAULT"
    assert copy.deepcopy(DEFAULT) is DEFAULT
    assert pickle.loads(pickle.dumps(DEFAULT)) is DEFAULT
