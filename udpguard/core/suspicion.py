"""How many datagrams with the wrong key came from the right place while a request waited: somebody may be guessing.

It is kept only where `Limits(near_misses=…)` is set. Strangers never count, else anybody could end every request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from udpguard.core.address import Token
from udpguard.core.source import Entry

_FEW: Final = 64


class _Watch:
    """One source: how many came from it, and who waits for it with a key, by how many there were then."""

    __slots__ = ("came", "dead_at", "waiting")

    def __init__(self) -> None:
        self.came = 0
        self.waiting: deque[tuple[int, Entry]] = deque()
        self.dead_at = _FEW


class Suspicion:
    """Counts wrong keys.

    Args:
        limit: As many may come from one source while a request waits; one more is too many.
    """

    __slots__ = ("_sweep_at", "_watches", "limit")

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self._watches: dict[Token, _Watch] = {}
        self._sweep_at = 1_024

    def watch(self, entry: Entry, tokens: Iterable[Token]) -> None:
        """Count from now on for an exchange with a key whose reply comes from these sources."""
        for token in tokens:
            watch = self._watches.get(token)
            if watch is None:
                if len(self._watches) >= self._sweep_at:
                    self._sweep()
                watch = self._watches[token] = _Watch()
            watch.waiting.append((watch.came, entry))
            if len(watch.waiting) >= watch.dead_at:
                watch.waiting = deque(one for one in watch.waiting if not one[1].ended)
                watch.dead_at = max(_FEW, 2 * len(watch.waiting))

    def note(self, tokens: Iterable[Token]) -> list[Entry]:
        """Count a datagram with a wrong key from all of these; the exchanges for which that is too much."""
        beyond: dict[Entry, None] = {}
        for token in tokens:
            watch = self._watches.get(token)
            if watch is None:
                continue
            watch.came += 1
            waiting = watch.waiting
            while waiting and (waiting[0][1].ended or watch.came - waiting[0][0] > self.limit):
                entry = waiting.popleft()[1]
                if not entry.ended:
                    beyond[entry] = None
        return list(beyond)

    def _sweep(self) -> None:
        self._watches = {
            token: watch for token, watch in self._watches.items() if any(not one[1].ended for one in watch.waiting)
        }
        self._sweep_at = max(1_024, 2 * len(self._watches))
