"""How fast datagrams may leave: so many a second, in bursts of a millisecond's worth at the most.

It is the generic cell rate algorithm (ITU-T I.371, annex A). One that may leave at the earliest at the time that the
rate foresees for it, less a tolerance, leaves; each moves that time by one interval. The tolerance makes up for timers
that come late, asyncio's by a millisecond, and is how large a burst can get.
"""

from __future__ import annotations

import math
from typing import Final

_BURST: Final = 0.001
_ALMOST: Final = 0.999


class Pace:
    """Lets so many a second leave.

    Args:
        rate: As many; None for any number.
    """

    __slots__ = ("_foreseen", "_interval", "_tolerance", "burst")

    def __init__(self, rate: float | None) -> None:
        self._interval: float = 0.0 if rate is None else 1.0 / rate
        # A burst that begins after a pause is of tolerance / interval + 1.
        self._tolerance: float = max(_BURST - self._interval, _ALMOST * min(self._interval, _BURST))
        self._foreseen = -math.inf
        self.burst: int = int(self._tolerance / self._interval) + 1 if self._interval else 1 << 30
        """As many may leave together."""

    def allowance(self, now: float) -> int:
        """How many may leave now."""
        if not self._interval:
            return self.burst
        early = min(now - self._foreseen, 0.0) + self._tolerance
        return int(early / self._interval) + 1 if early >= 0 else 0

    def take(self, count: int, now: float) -> None:
        """Take note that so many leave now."""
        self._foreseen = max(self._foreseen, now) + count * self._interval

    @property
    def is_limited(self) -> bool:
        """Whether there is a rate."""
        return self._interval > 0.0

    @property
    def next_at(self) -> float:
        """When the next one may leave."""
        return self._foreseen - self._tolerance

    @property
    def half_at(self) -> float:
        """When half a burst may leave."""
        return self.next_at + (self.burst - 1) // 2 * self._interval
