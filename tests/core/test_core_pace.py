"""The rate: kept by whoever comes a little late, never exceeded by whoever comes at all."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from udpguard.core.pace import Pace

RATES = st.floats(1.0, 200_000.0)
BEGIN = 1_000.0


def sent(pace: Pace, times: list[float]) -> list[float]:
    """When datagrams leave if as many do at each of these times as may."""
    left: list[float] = []
    for now in times:
        count = pace.allowance(now)
        assert 0 <= count <= pace.burst
        if count:
            pace.take(count, now)
            left += [now] * count
    return left


@given(RATES, st.lists(st.floats(0.0, 0.05), max_size=200))
def test_no_span_has_more_than_the_rate_and_a_burst(rate: float, pauses: list[float]) -> None:
    now, times = BEGIN, []
    for pause in pauses:
        now += pause
        times.append(now)
    pace = Pace(rate)
    left = sent(pace, times)
    assert pace.burst <= max(1, rate * 0.001 + 1e-6)
    for first in range(0, len(left), max(1, len(left) // 50)):
        for last in range(first, len(left), max(1, len(left) // 50)):
            assert last - first + 1 <= (left[last] - left[first]) * rate + 2 * max(1.0, rate * 0.001) + 1e-3


@given(RATES, st.floats(0.0, 0.9))
@example(1_446.0, 0.75)  # at 1,000 to 2,000 a second, of which one at a time leaves, that is less than a millisecond
def test_whoever_comes_late_by_less_than_the_tolerance_makes_up_for_it(rate: float, late: float) -> None:
    pace = Pace(rate)
    count, now, n = 0, BEGIN, 0
    while n < 300:
        allowed = pace.allowance(now)
        pace.take(allowed, now)
        count += allowed
        n += 1
        # A timer that was set for when the next one may leave, and fires late.
        now = max(pace.next_at, now) + late * pace._tolerance * (n % 3) / 2
    assert count >= (now - BEGIN) * rate * 0.98 - pace.burst - 1, "but for what may leave now"


def test_after_a_pause_there_is_no_more_than_a_burst() -> None:
    pace = Pace(10_000.0)
    assert pace.allowance(BEGIN) == 10
    pace.take(10, BEGIN)
    assert pace.allowance(BEGIN) == 0
    assert pace.allowance(BEGIN + 100.0) == 10
    assert pace.next_at < BEGIN + 0.000_11


def test_a_slow_rate_sends_one_at_a_time() -> None:
    pace = Pace(2.0)
    assert (pace.burst, pace.allowance(BEGIN)) == (1, 1)
    pace.take(1, BEGIN)
    assert pace.allowance(BEGIN + 0.49) == 0
    assert pace.allowance(BEGIN + 0.4995) == 1  # a timer that comes late by a millisecond is made up for


def test_without_a_rate_there_is_no_limit() -> None:
    pace = Pace(None)
    assert not pace.is_limited
    assert pace.allowance(BEGIN) == pace.burst > 1_000_000
    pace.take(1_000_000, BEGIN)
    assert pace.allowance(BEGIN) == pace.burst
