"""100,000 random schedules keep the rules of RFC 6298 and RFC 8085: 60,000 fixed ones, 40,000 by what a peer taught.

The rules are written down here once more, in their own words, and from one seed: a schedule that breaks one shows its
number.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import pytest

from udpguard import AdaptiveRetry, Limits, Retry, TransactionId
from udpguard.core.address import Wire, wire_of
from udpguard.core.registry import Registry
from udpguard.core.retransmission import drawn
from udpguard.core.source import Details, LongEntry

FIXED = 60_000
TAUGHT = 40_000
EXCHANGES = 5
"""With each of the peers that teach."""
BITS = 1e-9
"""What floating point may be off, as a fraction."""


# --------------------------------------------------------------------------------------------- fixed schedules


def some_retry(generator: random.Random) -> Retry:
    """A schedule that a user may think of; one in three with the defaults but for how often and from where."""
    kwargs: dict[str, Any] = {"attempts": generator.randint(1, 12), "initial": 10 ** generator.uniform(-2, 1.5)}
    if generator.random() < 0.67:
        kwargs["multiplier"] = generator.choice([1.0, 1.5, 2.0, 2.0, 3.0])
        kwargs["maximum"] = 10 ** generator.uniform(0, 2.5)
        kwargs["jitter"] = generator.choice([0.0, 0.1, 0.5, generator.uniform(0, 0.99)])
        if generator.random() < 0.3:
            kwargs["final_wait"] = generator.uniform(0, 100)
        if generator.random() < 0.3:
            kwargs["total"] = 10 ** generator.uniform(-1, 2.5)
    return Retry(**kwargs)


def check_retry(policy: Retry, waits: tuple[float, ...]) -> None:
    """What RFC 8085 section 3.1.1 and RFC 6298 (5.5) ask for, as far as the numbers given keep to them."""
    assert 1 <= len(waits) <= policy.attempts
    planned = [min(policy.initial * policy.multiplier**n, policy.maximum) for n in range(policy.attempts)]
    cut = policy.total is not None and (len(waits) < policy.attempts or sum(waits) >= policy.total * (1 - BITS))
    for number, (wait, plain) in enumerate(zip(waits, planned, strict=False)):
        is_last = number == len(waits) - 1
        if is_last and (cut or (policy.final_wait is not None and number == policy.attempts - 1)):
            continue
        # Never below its floor, nor beyond its cap, but for the jitter: that of each wait by itself, not of the sum.
        assert plain * (1 - policy.jitter) * (1 - BITS) <= wait <= plain * (1 + policy.jitter) * (1 + BITS)
    if policy.total is None:
        assert len(waits) == policy.attempts
        if policy.final_wait is not None:
            assert waits[-1] == policy.final_wait
    else:
        assert sum(waits) <= policy.total * (1 + BITS)
        assert len(waits) == policy.attempts or sum(waits) >= policy.total * (1 - BITS), "it gave up too early"


def test_random_fixed_schedules_keep_their_bounds() -> None:
    generator = random.Random("schedules")
    for number in range(FIXED):
        policy = some_retry(generator)
        waits = drawn(policy, None, generator.random)
        try:
            check_retry(policy, waits)
        except AssertionError as error:
            raise AssertionError(f"schedule {number}: {policy!r} gave {waits}") from error


def test_the_defaults_double_from_a_second_up_to_a_minute_or_more() -> None:
    """RFC 8085 section 3.1.1: an initial RTO of 1 s, doubled at each expiry; RFC 6298 (2.5): a cap of 60 s at least."""
    defaults = Retry(attempts=12)
    assert (defaults.initial, defaults.multiplier) == (1.0, 2.0)
    assert defaults.maximum >= 60
    assert AdaptiveRetry().maximum >= 60
    assert AdaptiveRetry().minimum == AdaptiveRetry().initial == 1.0
    plain = drawn(Retry(attempts=12, jitter=0.0), None, random.random)
    assert plain == tuple(min(2.0**n, 60.0) for n in range(12))


def test_jitter_is_spread_evenly_over_its_range() -> None:
    generator = random.Random("jitter")
    draws = [drawn(Retry(attempts=1, jitter=0.3), None, generator.random)[0] for _ in range(20_000)]
    assert 0.7 <= min(draws) < 0.702
    assert 1.298 < max(draws) <= 1.3
    assert sum(draws) / len(draws) == pytest.approx(1.0, abs=3 * 0.6 / math.sqrt(12 * len(draws)))


# ------------------------------------------------------------------------------------------ what a peer teaches


@dataclass
class Rfc6298:
    """A sender's state as the RFC has it; alpha 1/8, beta 1/4, K 4, G 1 ms."""

    srtt: float | None = None
    rttvar: float = 0.0
    backoff: int = 1

    def sample(self, rtt: float) -> None:
        if self.srtt is None:  # (2.2)
            self.srtt, self.rttvar = rtt, rtt / 2
        else:  # (2.3): RTTVAR first, with the SRTT of before
            self.rttvar = (1 - 1 / 4) * self.rttvar + 1 / 4 * abs(self.srtt - rtt)
            self.srtt = (1 - 1 / 8) * self.srtt + 1 / 8 * rtt
        self.backoff = 1  # what was backed off counts until the next sample (5.7)

    def expires(self) -> None:
        self.backoff = min(2 * self.backoff, 64)  # (5.5)

    def waits(self, policy: AdaptiveRetry) -> list[float]:
        rto = policy.initial if self.srtt is None else self.srtt + max(0.001, 4 * self.rttvar)  # (2.1), (2.3)
        rto = max(rto, policy.minimum) * self.backoff  # (2.4)
        return [min(rto * 2**n, policy.maximum) for n in range(policy.attempts)]  # (5.5), (2.5)


def near(a: float | None, b: float | None) -> bool:
    return a is b is None or (a is not None and b is not None and abs(a - b) <= 1e-6 * (1 + b))


class Peers:
    """A registry, and what befalls exchanges with its peers."""

    def __init__(self, generator: random.Random) -> None:
        self.generator = generator
        self.registry = Registry(Limits(), generator.getrandbits)
        self.books = [self.registry.book(None), self.registry.book(TransactionId(0, 2))]
        self.now = 1_000.0

    def exchange(self, wire: Wire, policy: AdaptiveRetry, model: Rfc6298) -> None:
        """One exchange: checks its schedule, then has it answered at some attempt, or not at all."""
        registry, generator = self.registry, self.generator
        source = registry.source(wire)
        waits = drawn(policy, source.statistics() if source.was_asked else None, generator.random)
        assert all(map(near, waits, model.waits(policy)))
        assert min(waits) >= min(policy.minimum, policy.maximum) * (1 - BITS), "below the floor"
        assert max(waits) <= policy.maximum
        keyed = generator.random() < 0.5
        distinct = keyed and generator.random() < 0.5
        more = Details(asks=True)
        more.adapts = True
        entry = LongEntry(None, self.now, sum(waits), more, plain=True)
        assert registry.room.enter()
        entry.roomy, entry.source = True, source
        registry.enter(entry)
        answered = generator.choice([*range(policy.attempts), None])
        for number, wait in enumerate(waits):
            key = number.to_bytes(2, "big") if distinct else b"id" if keyed else None
            slots = registry.listen(entry, [wire], self.books[keyed], key, wire)
            if number:
                model.expires()
            registry.note_sent(entry, slots, source, self.now, None)
            if number == answered:
                rtt = generator.uniform(0.0, wait * 0.99)
                [settled] = registry.receive_batch([(key or b"answer", wire)], self.now + rtt)
                assert settled[4] == number + 1
                if number == 0 or distinct:  # Karn: else nobody knows which send was answered
                    assert near(settled[3], rtt)
                    model.sample(rtt)
                else:
                    assert settled[3] is None
                self.now += rtt
                return
            self.now += wait
        [expired] = registry.expire(self.now + 1e-6)
        assert expired is entry
        model.expires()


def test_random_schedules_by_what_a_peer_has_taught_keep_rfc_6298() -> None:
    generator = random.Random("peers")
    peers = Peers(generator)
    backed_off = sampled = 0
    for number in range(TAUGHT // EXCHANGES):
        wire, model = wire_of(b"\x0a" + number.to_bytes(3, "big"), 53, 0), Rfc6298()
        policy = AdaptiveRetry(
            attempts=generator.randint(1, 5),
            minimum=generator.choice([1.0, 1.0, 0.2, 0.01]),
            maximum=generator.choice([60.0, 60.0, 120.0]),
        )
        for _ in range(EXCHANGES):
            backed_off += model.backoff > 1
            sampled += model.srtt is not None
            peers.exchange(wire, policy, model)
            known = peers.registry.source(wire).statistics()
            assert known.backoff == model.backoff, f"peer {number}"
            assert near(known.srtt, model.srtt)
    assert backed_off > TAUGHT // 10
    assert sampled > TAUGHT // 10
    assert (peers.registry._listening, peers.registry._pending) == (0, {})
