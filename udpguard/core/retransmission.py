"""When to send again, and how long a reply takes: schedules, and RFC 6298's estimate of the round-trip time."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable
from typing import Final

from udpguard._typing import override
from udpguard.core.explain import shown
from udpguard.core.record import record
from udpguard.core.statistics import PeerStatistics

Random = Callable[[], float]
"""Gives a number in [0, 1), such as `random.random`."""

_MOST_ATTEMPTS: Final = 1_000


class RetryPolicy(abc.ABC):
    """Says when a request is sent again, and when to give up. Derive from it for a schedule of your own."""

    @abc.abstractmethod
    def waits(self, peer: PeerStatistics | None, random: Random) -> Iterable[float]:
        """The seconds to wait after each send; as many as there are sends, at most 1,000.

        It is called once for each request (again when a name is resolved, for the peer that is asked). All but the last
        end with a retransmission, the last with the request's end (unless the caller set a time-out, which then counts
        instead).

        Args:
            peer: What is known of the peer; None where it was never asked, or its name is not resolved yet.
            random: Gives numbers in [0, 1) for jitter.
        """


def drawn(policy: RetryPolicy, peer: PeerStatistics | None, random: Random) -> tuple[float, ...]:
    """A policy's waits, checked.

    Raises:
        ValueError: They are none, too many, negative or not numbers.
    """
    waits: list[float] = []
    for wait in policy.waits(peer, random):
        if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not wait >= 0:
            raise ValueError(f"{shown(policy)} gave {shown(wait)} as a wait: seconds of zero or more are needed")
        if len(waits) == _MOST_ATTEMPTS:
            raise ValueError(f"{shown(policy)} gave more than {_MOST_ATTEMPTS} waits: an endless schedule never ends")
        waits.append(wait)
    if not waits:
        raise ValueError(f"{shown(policy)} gave no waits: a request is sent once at least")
    return tuple(waits)


def _check(name: str, value: float, *, positive: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if math.isnan(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} must be {'more than zero' if positive else 'zero or more'}, not {value!r}")


def _check_attempts(attempts: int) -> None:
    if not isinstance(attempts, int) or isinstance(attempts, bool):
        raise TypeError(f"attempts must be an int, not {attempts!r}")
    if not 1 <= attempts <= _MOST_ATTEMPTS:
        raise ValueError(f"attempts must be 1 to {_MOST_ATTEMPTS}, not {attempts}")


@record
class Retry(RetryPolicy):
    """A fixed schedule: waits that grow by a factor up to a maximum.

    Args:
        attempts: How often it is sent at the most.
        initial: Seconds from the first send to the second.
        multiplier: By which each wait is longer than the one before.
        maximum: The longest wait in seconds, before jitter.
        jitter: A fraction by which each wait is longer or shorter at random: 0.1 gives ± 10 %.
        final_wait: Seconds to listen after the last send; None: the wait that another send would have had.
        total: Seconds after which it ends, whatever the rest says.

    The defaults keep to RFC 8085 section 3.1.1: one second at first, doubled each time, up to a minute.

    Raises:
        ValueError: A number makes no schedule.
    """

    attempts: int = 4
    initial: float = 1.0
    multiplier: float = 2.0
    maximum: float = 60.0
    jitter: float = 0.1
    final_wait: float | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        _check_attempts(self.attempts)
        _check("initial", self.initial, positive=True)
        _check("multiplier", self.multiplier, positive=True)
        _check("maximum", self.maximum, positive=True)
        _check("jitter", self.jitter)
        if self.jitter >= 1:
            raise ValueError(f"jitter must be a fraction less than 1, not {self.jitter!r}")
        if self.final_wait is not None:
            _check("final_wait", self.final_wait)
        if self.total is not None:
            _check("total", self.total, positive=True)

    @override
    def waits(self, peer: PeerStatistics | None, random: Random) -> tuple[float, ...]:
        return _cut([self._varied(wait, random) for wait in self._backoff()], self.final_wait, self.total)

    def _backoff(self) -> list[float]:
        waits: list[float] = []
        wait = self.initial
        for _ in range(self.attempts):
            waits.append(min(wait, self.maximum))
            wait = waits[-1] * self.multiplier
        return waits

    def _varied(self, wait: float, random: Random) -> float:
        return wait * (1 + self.jitter * (2 * random() - 1)) if self.jitter else wait

    @classmethod
    def stun(cls) -> Retry:
        """RFC 8489 section 6.2.1: sent at 0, 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s; ends at 39.5 s."""
        return cls(attempts=7, initial=0.5, multiplier=2.0, jitter=0.0, final_wait=8.0)

    @classmethod
    def coap(cls) -> Retry:
        """RFC 7252 section 4.8: waits of 2, 4, 8 and 16 s, all longer by one factor of 1 to 1.5; ends at 93 s.

        The end is MAX_TRANSMIT_WAIT, when the slowest of senders gives up.
        """
        return _OneFactor(attempts=5, initial=2.0, multiplier=2.0, jitter=0.0, total=93.0)

    @classmethod
    def radius(cls) -> Retry:
        """RFC 5080 section 2.2.1: waits of 2, 4, 8 and 16 s ± 10 %, sent at most five times; ends at 30 s."""
        return cls(attempts=5, initial=2.0, multiplier=2.0, maximum=16.0, jitter=0.1, final_wait=30.0, total=30.0)


class _OneFactor(Retry):
    """CoAP's: the factor is drawn once for the exchange, and the last wait lasts to the end."""

    __slots__ = ()

    @override
    def waits(self, peer: PeerStatistics | None, random: Random) -> tuple[float, ...]:
        factor = 1 + random() / 2
        return _cut([wait * factor for wait in self._backoff()], self.total, self.total)


def _cut(waits: list[float], final_wait: float | None, total: float | None) -> tuple[float, ...]:
    """The waits with the last one replaced, as far as the total allows."""
    if final_wait is not None:
        waits[-1] = final_wait
    if total is None:
        return tuple(waits)
    kept: list[float] = []
    left = total
    for wait in waits:
        kept.append(min(wait, left))
        left -= wait
        if left <= 0:
            break
    return tuple(kept)


@record
class AdaptiveRetry(RetryPolicy):
    """A schedule by each peer's own retransmission time-out (RFC 6298): SRTT + 4 × RTTVAR, doubled at each expiry.

    Args:
        attempts: How often it is sent at the most.
        minimum: The shortest RTO in seconds. RFC 6298 (2.4) says 1; shorten it for a network that you know.
        maximum: The longest wait in seconds; RFC 6298 (2.5) wants 60 or more.
        initial: The RTO in seconds of a peer of which no round trip was measured yet (2.1).

    Raises:
        ValueError: A number makes no schedule.
    """

    attempts: int = 4
    minimum: float = 1.0
    maximum: float = 60.0
    initial: float = 1.0

    def __post_init__(self) -> None:
        _check_attempts(self.attempts)
        _check("minimum", self.minimum)
        _check("maximum", self.maximum, positive=True)
        _check("initial", self.initial, positive=True)
        if self.minimum > self.maximum:
            raise ValueError(f"minimum ({self.minimum!r}) must not be more than maximum ({self.maximum!r})")

    @override
    def waits(self, peer: PeerStatistics | None, random: Random) -> tuple[float, ...]:
        backoff = 1 if peer is None else peer.backoff
        if peer is None or peer.srtt is None or peer.rttvar is None:
            rto = self.initial
        else:
            rto = retransmission_timeout(peer.srtt, peer.rttvar)
        rto = max(self.minimum, rto) * backoff
        return tuple(min(rto * 2**n, self.maximum) for n in range(self.attempts))


# RFC 6298 (2.3), in whose terms: alpha 1/8, beta 1/4, K 4; G is the clock's step.
_GRANULARITY: Final = 0.001
_MOST_BACKOFF: Final = 64


def smoothed(srtt: float | None, rttvar: float, sample: float) -> tuple[float, float]:
    """SRTT and RTTVAR after one more round trip (RFC 6298, 2.2 and 2.3). All in seconds."""
    if srtt is None:
        return sample, sample / 2
    return 0.875 * srtt + 0.125 * sample, 0.75 * rttvar + 0.25 * abs(srtt - sample)


def retransmission_timeout(srtt: float, rttvar: float) -> float:
    """The RTO in seconds without its floor (RFC 6298, 2.3)."""
    return srtt + max(_GRANULARITY, 4 * rttvar)


def backed_off(backoff: int) -> int:
    """The factor on the RTO after one more expiry (RFC 6298, 5.5); kept until the next sample (5.7)."""
    return min(backoff * 2, _MOST_BACKOFF)
