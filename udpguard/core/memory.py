"""What is remembered of what is over: ended exchanges for a while, and the latest strangers.

Both are bounded, and neither costs a pending request anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import Final

from udpguard.core.address import ANYWHERE, Token, Wire, covers, host_token, plain_tokens
from udpguard.core.correlation import Slot
from udpguard.core.verdict import Reason

REMEMBERED: Final = 120.0
"""Seconds for which an ended exchange is remembered: RFC 5080 section 2.2.2 has duplicates come two minutes late."""
_HALF: Final = 32_768

Mark = tuple[Reason, float]
"""How an exchange ended (`DUPLICATE`: answered, `LATE`: not), and when."""


class Ended:
    """The slots of exchanges that ended a short while ago: at most 65,536, for 120 s.

    Two dictionaries that rotate: nothing is ever searched for what is too old.
    """

    __slots__ = ("_new", "_old", "_rotated_at")

    def __init__(self) -> None:
        self._new: dict[Slot | Token, Mark] = {}
        self._old: dict[Slot | Token, Mark] = {}
        self._rotated_at = 0.0

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def __contains__(self, slot: object) -> bool:
        return slot in self._new or slot in self._old  # asked for slots with keys alone

    def with_room(self, count: int, now: float) -> dict[Slot | Token, Mark]:
        """Where as many may be added now: a slot and how its exchange ended, a slot of nobody's book by its token."""
        if len(self._new) + count > _HALF or now - self._rotated_at > REMEMBERED:
            self._old, self._new, self._rotated_at = self._new, {}, now
        return self._new

    def add(self, slot: Slot, mark: Mark) -> None:
        """Remember how the exchange in this slot ended."""
        self.with_room(1, mark[1])[_short(slot)] = mark

    def reason(self, slot: Slot, now: float) -> Reason | None:
        """What a datagram in this slot is now: a duplicate, late, or nothing that is remembered."""
        short = _short(slot)
        mark = self._new.get(short) or self._old.get(short)
        return mark[0] if mark is not None and now - mark[1] <= REMEMBERED else None

    def clear(self) -> None:
        """Forget everything."""
        self._new.clear()
        self._old.clear()


def _short(slot: Slot) -> Slot | Token:
    """What a slot is remembered by: where it has no key, in nobody's book, its token will do."""
    return slot if slot[1] or slot[2] is not None else slot[0]


_LATEST: Final = 512
_SAMPLE: Final = 64
_MOST_TOLD: Final = 8

Passed = tuple[float, Wire, bytes]
"""When a datagram came, from where, and its first bytes."""


class Passers:
    """The latest datagrams that were not delivered: a bounded log, read only when a request times out."""

    __slots__ = ("_by_port", "_by_token", "_log", "_times")

    def __init__(self, size: int = _LATEST) -> None:
        self._log: deque[Passed] = deque(maxlen=size)
        self._times: dict[Wire, tuple[list[float], bytes]] | None = None
        self._by_port: dict[bytes, list[Wire]] = {}
        self._by_token: dict[Token, list[Wire]] = {}

    def add(self, data: bytes, wire: Wire, now: float) -> None:
        """Note a datagram."""
        self._log.append((now, wire, data[:_SAMPLE]))
        self._times = None

    def covered(self, tokens: Iterable[Token], since: float) -> dict[Wire, tuple[int, bytes]]:
        """What came since then from these sources: how many from whom, and the latest one's first bytes."""
        index = self._index()
        found: dict[Wire, None] = {}
        for token in tokens:
            wires = self._by_token.get(token)
            if wires is None:
                # A network; everything narrower or wider was indexed.
                wires = [wire for wire in index if covers(token, wire)] if isinstance(token, tuple) else []
                self._by_token[token] = wires[:_MOST_TOLD]
            found.update(dict.fromkeys(wires[:_MOST_TOLD]))
        return self._counted(found, since)

    def resembling(self, wires: Iterable[Wire], since: float) -> dict[Wire, tuple[int, bytes]]:
        """The same of those who share the host or the port of one of these; the latest eight of each."""
        self._index()
        found: dict[Wire, None] = {}
        for wire in wires:
            found.update(dict.fromkeys(self._by_token.get(host_token(wire), ())[:_MOST_TOLD]))
            found.update(dict.fromkeys(self._by_port.get(wire[:2], ())[:_MOST_TOLD]))
        return self._counted(found, since)

    def _counted(self, wires: Iterable[Wire], since: float) -> dict[Wire, tuple[int, bytes]]:
        index = self._index()
        counts: dict[Wire, tuple[int, bytes]] = {}
        for wire in wires:
            times, sample = index[wire]
            count = len(times) - bisect_left(times, since)
            if count:
                counts[wire] = (count, sample)
        return counts

    def _index(self) -> dict[Wire, tuple[list[float], bytes]]:
        """The log by source, made once for all the requests that time out together."""
        if self._times is not None:
            return self._times
        times: dict[Wire, tuple[list[float], bytes]] = {}
        for when, wire, sample in self._log:
            earlier = times.get(wire)
            stamps = [] if earlier is None else earlier[0]
            stamps.append(when)
            times[wire] = (stamps, sample)
        self._by_port, self._by_token = {}, {}
        times = dict(sorted(times.items(), key=lambda item: -item[1][0][-1]))  # the latest first
        for wire in times:
            self._by_port.setdefault(wire[:2], []).append(wire)
            for token in dict.fromkeys((*plain_tokens(wire), ANYWHERE)):
                self._by_token.setdefault(token, []).append(wire)
        self._times = times
        return times
