"""When a flood begins, when it is over, and when to try again."""

from __future__ import annotations

import pytest

from udpguard.core.flood import Backoff, Flood


def rain(flood: Flood, begin: float, seconds: float, rate: float, *, sample: int = 256) -> float | None:
    """When a flood is noticed, if strangers come at this rate."""
    count = 0
    while (count := count + 1) * sample <= rate * seconds:
        now = begin + count * sample / rate
        if flood.is_on(now, sample, 0):
            return now - begin
    return None


@pytest.mark.parametrize("rate", [250_000, 100_000, 25_000])
def test_a_flood_is_noticed_within_a_quarter_of_a_second_or_two(rate: int) -> None:
    noticed = rain(Flood(), 100.0, 2.0, rate)
    assert noticed is not None
    assert noticed <= 0.5
    if rate == 250_000:
        assert noticed <= 0.025


@pytest.mark.parametrize("rate", [100, 5_000, 15_000, 19_000])
def test_less_is_no_flood(rate: int) -> None:
    assert rain(Flood(), 100.0, 30.0, rate) is None


def test_a_burst_is_no_flood() -> None:
    flood = Flood()
    for second in range(20):
        assert not flood.is_on(100.0 + second, 4_000, 0)


def test_what_the_kernel_dropped_meanwhile_counts() -> None:
    flood = Flood()
    assert not flood.is_on(100.0, 256, 1_000_000)  # before the first look: perhaps long ago
    assert flood.is_on(100.1, 256, 1_005_000)
    assert not flood.is_on(101.0, 256, 9_000_000)


def test_it_begins_anew_after_it_was_noticed() -> None:
    flood = Flood()
    assert rain(flood, 100.0, 1.0, 100_000) is not None
    assert not flood.is_on(100.3, 256, 0)


def stops(flood: Flood, begin: float, rates: list[int], stopped: int = 0) -> int | None:
    """After how many looks, one a second, it is over; so many datagrams came in each."""
    for look, rate in enumerate(rates, 1):
        stopped += rate
        if flood.is_over(begin + look, stopped):
            return look
    return None


def test_it_is_over_when_it_was_quiet_for_five_seconds() -> None:
    flood = Flood()
    flood.begin(100.0, 0)
    assert stops(flood, 100.0, [250_000] * 10 + [100] * 10) == 15


def test_what_wavers_is_not_over() -> None:
    flood = Flood()
    flood.begin(100.0, 500)
    assert stops(flood, 100.0, [6_000, 100, 100, 100, 6_000] * 20, 500) is None


def test_one_that_comes_back_is_watched_for_longer_each_time() -> None:
    flood, now, waits = Flood(), 100.0, list[int]()
    for _ in range(6):
        flood.begin(now, 0)
        wait = stops(flood, now, [0] * 200)
        assert wait is not None
        waits.append(wait)
        now += wait + 1.0
    assert waits == [5, 10, 20, 40, 80, 80]
    flood.begin(now + 3_600, 0)
    assert stops(flood, now + 3_600, [0] * 200) == 5


def test_what_failed_is_tried_later_and_later() -> None:
    backoff, now = Backoff(), 100.0
    assert backoff.is_ready(now)
    waits = []
    for _ in range(8):
        backoff.failed(now)
        wait = 0.5
        while not backoff.is_ready(now + wait):
            wait += 0.5
        waits.append(wait)
        now += wait
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    backoff.worked()
    assert backoff.is_ready(now)
    backoff.postpone(now, 0.25)
    assert not backoff.is_ready(now + 0.2)
    assert backoff.is_ready(now + 0.25)
    backoff.failed(now)
    assert backoff.is_ready(now + 1.0)
