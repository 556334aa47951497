"""When a flood is on and when it is over, and when to try again what failed. All times are in seconds on one clock."""

from __future__ import annotations

import math
from typing import Final

# A stranger's datagram costs 1.3 µs to read and refuse: 20,000 a second are 3 % of a CPU, and less is not worth a
# filter, which is loaded again for new peers at 0.1 to 0.5 ms each time. Lasting for a quarter of a second, it is no
# burst that the receive buffer (some 10,000 datagrams where it was granted) takes in one piece.
_FLOOD: Final = 20_000.0
_SPAN: Final = 0.25
# A quarter of that is quiet, so that a flood that wavers about one border is not filtered on and off.
_QUIET: Final = 5_000.0
# Quiet has to last, the longer the sooner the flood came back the last time.
_SHORTEST_PATIENCE: Final = 5.0
_LONGEST_PATIENCE: Final = 80.0
_SOON: Final = 60.0


class Flood:
    """Whether one socket is flooded."""

    __slots__ = ("_begun_at", "_count", "_dropped", "_ended_at", "_looked_at", "_patience", "_quiet_since", "_stopped")

    def __init__(self) -> None:
        self._begun_at = -math.inf
        self._count = 0
        self._dropped = 0
        self._ended_at = -math.inf
        self._patience = _SHORTEST_PATIENCE
        self._looked_at = self._quiet_since = 0.0
        self._stopped = 0

    def is_on(self, now: float, junk: int, dropped: int) -> bool:
        """Take note of strangers; whether there are so many that it is a flood.

        Args:
            now: The time.
            junk: How many strangers' datagrams were read since this was called last.
            dropped: How many datagrams the kernel had dropped in all.
        """
        if now - self._begun_at > _SPAN:
            self._begun_at, self._count, self._dropped = now, 0, dropped
        self._count += junk
        if self._count + dropped - self._dropped < _FLOOD * _SPAN:
            return False
        self._begun_at = -math.inf
        return True

    def begin(self, now: float, stopped: int) -> None:
        """Watch from now on for its end; the filter is there."""
        came_back = now - self._ended_at < _SOON
        self._patience = min(2 * self._patience, _LONGEST_PATIENCE) if came_back else _SHORTEST_PATIENCE
        self._looked_at = self._quiet_since = now
        self._stopped = stopped

    def is_over(self, now: float, stopped: int) -> bool:
        """Whether it has been quiet for long enough.

        Args:
            now: The time.
            stopped: How many datagrams were dropped by the kernel or refused as strangers' in all.
        """
        if stopped - self._stopped >= _QUIET * (now - self._looked_at):
            self._quiet_since = now
        self._looked_at, self._stopped = now, stopped
        if now - self._quiet_since < self._patience:
            return False
        self._ended_at = now
        return True


# As long as the kernel takes to have room again, or somebody to give the permission.
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0


class Backoff:
    """When to try again what failed."""

    __slots__ = ("_at", "_wait")

    def __init__(self) -> None:
        self._at = -math.inf
        self._wait = _FIRST_WAIT

    def is_ready(self, now: float) -> bool:
        """Whether it may be tried."""
        return now >= self._at

    def failed(self, now: float) -> None:
        """It failed: try again later, each time twice as late."""
        self._at = now + self._wait
        self._wait = min(2 * self._wait, _LONGEST_WAIT)

    def postpone(self, now: float, seconds: float) -> None:
        """It can't be done just now; that is no failure."""
        self._at = now + seconds

    def worked(self) -> None:
        """It can be done."""
        self._at = -math.inf
        self._wait = _FIRST_WAIT
