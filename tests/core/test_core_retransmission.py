"""Schedules by their RFCs' times, and RFC 6298's estimate of the round trip."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from udpguard import AdaptiveRetry, PeerStatistics, Retry, RetryPolicy
from udpguard.core.retransmission import backed_off, drawn, retransmission_timeout, smoothed
from udpguard.core.source import Source

Random = Callable[[], float]


def middle() -> float:
    return 0.5


def lowest() -> float:
    return 0.0


def highest() -> float:
    return math.nextafter(1.0, 0.0)


def times(
    policy: RetryPolicy, chance: Random = middle, peer: PeerStatistics | None = None
) -> tuple[list[float], float]:
    """When it is sent, and when it ends, in milliseconds."""
    waits = drawn(policy, peer, chance)
    at = [0.0, *itertools.accumulate(waits)]
    return [round(second * 1000, 3) for second in at[:-1]], round(at[-1] * 1000, 3)


def known(**facts: Any) -> PeerStatistics:
    defaults: dict[str, Any] = {
        "srtt": None, "rttvar": None, "rto": 1.0, "backoff": 1, "sent": 0, "matched": 0, "timed_out": 0,
    }  # fmt: skip
    return PeerStatistics(**{**defaults, **facts})


# ------------------------------------------------------------------------------------------------------ presets


def test_stun() -> None:
    # RFC 8489 section 6.2.1: "0 ms, 500 ms, 1500 ms, 3500 ms, 7500 ms, 15500 ms, and 31500 ms"; failed at 39500 ms.
    for chance in (lowest, middle, highest):
        assert times(Retry.stun(), chance) == ([0, 500, 1500, 3500, 7500, 15_500, 31_500], 39_500)


@pytest.mark.parametrize(("chance", "factor"), [(lowest, 1.0), (middle, 1.25), (highest, 1.5)])
def test_coap(chance: Random, factor: float) -> None:
    # RFC 7252 section 4.8: ACK_TIMEOUT 2 s, ACK_RANDOM_FACTOR 1.5, MAX_RETRANSMIT 4; MAX_TRANSMIT_WAIT 93 s (4.8.2).
    wanted = [factor * second * 1000 for second in (0, 2, 6, 14, 30)]
    assert times(Retry.coap(), chance) == (wanted, 93_000)


def test_radius() -> None:
    # RFC 5080 section 2.2.1: IRT 2 s, MRC 5, MRT 16 s, MRD 30 s, RAND between -0.1 and +0.1.
    assert times(Retry.radius(), lowest) == ([0, 1800, 5400, 12_600, 27_000], 30_000)
    sends, ends = times(Retry.radius(), middle)
    assert sends[:4] == [0, 2000, 6000, 14_000]
    assert ends == 30_000
    assert times(Retry.radius(), highest) == ([0, 2200, 6600, 15_400], 30_000)


def test_the_defaults_keep_to_rfc_8085() -> None:
    assert times(Retry()) == ([0, 1000, 3000, 7000], 15_000)
    assert times(Retry(attempts=9, jitter=0), middle)[0][-3:] == [63_000, 123_000, 183_000]


def test_presets_are_plain_values() -> None:
    for preset in (Retry.stun, Retry.coap, Retry.radius):
        assert preset() == preset()
        assert hash(preset()) == hash(preset())
        again = pickle.loads(pickle.dumps(preset()))
        assert again == preset()
        assert times(again) == times(preset())
        assert isinstance(preset(), Retry)


# ---------------------------------------------------------------------------------------------------- schedules


def test_jitter_is_drawn_for_each_wait_and_bounded() -> None:
    policy = Retry(attempts=3, initial=1.0, jitter=0.5)
    assert drawn(policy, None, lowest) == (0.5, 1.0, 2.0)
    draws = iter([0.0, 0.5, 1.0])
    assert drawn(policy, None, lambda: next(draws)) == (0.5, 2.0, 6.0)


def test_without_jitter_nothing_is_drawn() -> None:
    def never() -> float:
        raise AssertionError

    assert drawn(Retry(attempts=2, jitter=0), None, never) == (1.0, 2.0)


def test_final_wait_and_total() -> None:
    plain = {"initial": 1.0, "jitter": 0.0}
    assert drawn(Retry(attempts=3, final_wait=7.0, **plain), None, middle) == (1.0, 2.0, 7.0)  # type: ignore[arg-type]
    assert drawn(Retry(attempts=3, final_wait=0, **plain), None, middle) == (1.0, 2.0, 0.0)  # type: ignore[arg-type]
    assert drawn(Retry(attempts=3, total=2.5, **plain), None, middle) == (1.0, 1.5)  # type: ignore[arg-type]
    assert drawn(Retry(attempts=3, total=3.0, **plain), None, middle) == (1.0, 2.0)  # type: ignore[arg-type]
    assert drawn(Retry(attempts=3, total=99, **plain), None, middle) == (1.0, 2.0, 4.0)  # type: ignore[arg-type]
    assert drawn(Retry(attempts=3, total=0.5, **plain), None, middle) == (0.5,)  # type: ignore[arg-type]
    assert drawn(Retry(attempts=1, final_wait=math.inf), None, middle) == (math.inf,)


@given(
    attempts=st.integers(1, 40),
    initial=st.floats(0.001, 100),
    multiplier=st.floats(0.1, 10),
    maximum=st.floats(0.001, 100),
    jitter=st.floats(0, 0.99),
    final_wait=st.none() | st.floats(0, 100),
    total=st.none() | st.floats(0.001, 1000),
    seed=st.integers(),
)
def test_every_schedule_is_within_its_bounds(seed: int, **arguments: Any) -> None:
    policy = Retry(**arguments)
    waits = drawn(policy, None, random.Random(seed).random)
    assert 1 <= len(waits) <= policy.attempts
    assert all(wait >= 0 for wait in waits)
    plain = policy.initial
    for number, wait in enumerate(waits):
        plain = min(plain, policy.maximum)
        cut = policy.total is not None and number == len(waits) - 1
        if not (number == policy.attempts - 1 and policy.final_wait is not None):
            assert wait <= plain * (1 + policy.jitter) * 1.000001
            assert cut or wait >= plain * (1 - policy.jitter) * 0.999999
        else:
            assert wait == policy.final_wait or (cut and wait < policy.final_wait)
        plain *= policy.multiplier
    if policy.total is None:
        assert len(waits) == policy.attempts
    else:
        assert sum(waits) <= policy.total * 1.000001
        assert len(waits) == policy.attempts or sum(waits) >= policy.total * 0.999999
    assert drawn(policy, None, random.Random(seed).random) == waits


@pytest.mark.parametrize(
    ("policy", "arguments", "error"),
    [
        (Retry, {"attempts": 0}, ValueError),
        (Retry, {"attempts": -1}, ValueError),
        (Retry, {"attempts": 1001}, ValueError),
        (Retry, {"attempts": 2.0}, TypeError),
        (Retry, {"attempts": True}, TypeError),
        (Retry, {"attempts": None}, TypeError),
        (Retry, {"initial": 0}, ValueError),
        (Retry, {"initial": -1}, ValueError),
        (Retry, {"initial": math.nan}, ValueError),
        (Retry, {"initial": "1"}, TypeError),
        (Retry, {"initial": True}, TypeError),
        (Retry, {"multiplier": 0}, ValueError),
        (Retry, {"multiplier": None}, TypeError),
        (Retry, {"maximum": 0}, ValueError),
        (Retry, {"maximum": math.nan}, ValueError),
        (Retry, {"jitter": -0.1}, ValueError),
        (Retry, {"jitter": 1}, ValueError),
        (Retry, {"jitter": math.nan}, ValueError),
        (Retry, {"final_wait": -1}, ValueError),
        (Retry, {"final_wait": "1"}, TypeError),
        (Retry, {"total": 0}, ValueError),
        (Retry, {"total": math.nan}, ValueError),
        (AdaptiveRetry, {"attempts": 0}, ValueError),
        (AdaptiveRetry, {"attempts": "4"}, TypeError),
        (AdaptiveRetry, {"minimum": -1}, ValueError),
        (AdaptiveRetry, {"maximum": 0}, ValueError),
        (AdaptiveRetry, {"initial": 0}, ValueError),
        (AdaptiveRetry, {"initial": None}, TypeError),
    ],
)
def test_what_makes_no_schedule_is_refused(policy: Any, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        policy(**arguments)


def test_policies_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Retry().attempts = 5  # type: ignore[misc]
    with pytest.raises(AttributeError):
        AdaptiveRetry().attempts = 5  # type: ignore[misc]
    assert copy.copy(Retry()) == Retry()


class Given(RetryPolicy):
    """A user's own."""

    def __init__(self, waits: Iterable[float]) -> None:
        self.given = waits

    @override
    def waits(self, peer: PeerStatistics | None, random: Random) -> Iterable[float]:
        return self.given


def test_a_policy_of_ones_own() -> None:
    assert drawn(Given([1, 2.5]), None, middle) == (1, 2.5)
    assert drawn(Given(iter([0.0])), None, middle) == (0.0,)
    assert len(drawn(Given(itertools.repeat(1.0, 1000)), None, middle)) == 1000
    with pytest.raises(TypeError):
        RetryPolicy()  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("waits", "says"),
    [
        ([], "gave no waits"),
        ([-1.0], "gave -1.0 as a wait"),
        ([1.0, math.nan], "gave nan as a wait"),
        (itertools.repeat(1.0), "an endless schedule never ends"),
        (["1"], "as a wait"),
        ([None], "gave None as a wait"),
        ([True], "gave True as a wait"),
        ([1j], "gave 1j as a wait"),
        ([1.0, [2.0]], r"gave \[2.0\] as a wait"),
    ],
)
def test_a_policy_that_gives_no_schedule_is_told(waits: Iterable[Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        drawn(Given(waits), None, middle)


# ----------------------------------------------------------------------------------------------------- adaptive


def test_an_unknown_peer_begins_with_a_second() -> None:
    # RFC 6298 (2.1): "the sender SHOULD set RTO <- 1 second"; (5.5): it is doubled at each expiry.
    assert drawn(AdaptiveRetry(), None, middle) == (1.0, 2.0, 4.0, 8.0)
    assert drawn(AdaptiveRetry(attempts=2, initial=3.0), known(), middle) == (3.0, 6.0)


def test_a_known_peer_has_its_own() -> None:
    # (2.3): RTO = SRTT + max(G, K * RTTVAR); (2.4): at least one second; (2.5): a maximum.
    peer = known(srtt=2.0, rttvar=0.5)
    assert drawn(AdaptiveRetry(attempts=3), peer, middle) == (4.0, 8.0, 16.0)
    assert drawn(AdaptiveRetry(attempts=6), peer, middle)[-2:] == (60.0, 60.0)
    quick = known(srtt=0.02, rttvar=0.005)
    assert drawn(AdaptiveRetry(attempts=2), quick, middle) == (1.0, 2.0)
    assert drawn(AdaptiveRetry(attempts=2, minimum=0.01), quick, middle) == pytest.approx((0.04, 0.08))
    assert drawn(AdaptiveRetry(attempts=2, minimum=0), known(srtt=0.5, rttvar=0.0), middle) == pytest.approx(
        (0.501, 1.002)
    )


def test_the_backoff_is_kept_for_the_next_request() -> None:
    assert drawn(AdaptiveRetry(attempts=2), known(backoff=4), middle) == (4.0, 8.0)
    assert drawn(AdaptiveRetry(attempts=2), known(srtt=2.0, rttvar=0.5, backoff=2), middle) == (8.0, 16.0)


def test_many_attempts_do_not_overflow() -> None:
    assert drawn(AdaptiveRetry(attempts=1000, maximum=1e9), None, middle)[-1] == 1e9


def test_the_estimate_of_rfc_6298() -> None:
    # (2.2): the first sample R gives SRTT = R, RTTVAR = R/2.
    srtt, rttvar = smoothed(None, 0.0, 0.1)
    assert (srtt, rttvar) == (0.1, 0.05)
    assert retransmission_timeout(srtt, rttvar) == pytest.approx(0.3)
    # (2.3): RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R'| with the old SRTT; then SRTT = 7/8 SRTT + 1/8 R'.
    srtt, rttvar = smoothed(srtt, rttvar, 0.2)
    assert rttvar == pytest.approx(0.75 * 0.05 + 0.25 * 0.1)
    assert srtt == pytest.approx(0.875 * 0.1 + 0.125 * 0.2)
    assert retransmission_timeout(0.1, 0.0) == pytest.approx(0.101), "the clock's step"


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=200))
def test_the_estimate_stays_among_its_samples(samples: list[float]) -> None:
    srtt, rttvar = None, 0.0
    for sample in samples:
        srtt, rttvar = smoothed(srtt, rttvar, sample)
    assert srtt is not None
    assert min(samples) - 1e-9 <= srtt <= max(samples) + 1e-9
    assert 0 <= rttvar <= 10.0


def test_the_backoff_doubles_up_to_a_bound() -> None:
    backoffs = list(itertools.accumulate(range(9), lambda backoff, _: backed_off(backoff), initial=1))
    assert backoffs == [1, 2, 4, 8, 16, 32, 64, 64, 64, 64]


# ------------------------------------------------------------------------------------------ what a peer teaches


def test_what_is_known_of_a_peer() -> None:
    source = Source(b"")
    assert source.statistics() == known()
    source.back_off()
    source.back_off()
    assert source.statistics() == known(rto=4.0, backoff=4)
    source.sample(2.0)
    assert source.statistics() == known(srtt=2.0, rttvar=1.0, rto=6.0)
    source.back_off()
    assert source.statistics().rto == 12.0
    for _ in range(9):
        source.back_off()
    assert source.statistics().rto == 60.0
    assert source.statistics().backoff == 64


@given(st.lists(st.floats(0.0, 200.0) | st.none(), max_size=30))
def test_the_rto_told_is_the_one_adaptive_retry_begins_with(samples: list[float | None]) -> None:
    source = Source(b"")
    for sample in samples:
        if sample is None:
            source.back_off()
        else:
            source.sample(sample)
    told = source.statistics()
    assert drawn(AdaptiveRetry(), told, middle)[0] == told.rto
    assert told.rto >= 1.0


def test_an_rto_has_its_floor_below_its_ceiling() -> None:
    with pytest.raises(ValueError, match="must not be more than maximum"):
        AdaptiveRetry(minimum=10.0, maximum=1.0)
