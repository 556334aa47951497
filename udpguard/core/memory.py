"""What is remembered of what is over: ended exchanges for a while, and the latest strangers.

Both are bounded, and neither costs a pending request anything.
"""

from __future__ import annotations

import math
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

Mark = tuple[Reason, float, int]
"""How an exchange ended (`DUPLICATE`: answered, `LATE`: not), when, and the local port it was sent from."""
Remembered = Slot | Token | tuple[Slot | Token, int]


class Ended:
    """The slots of exchanges that ended a short while ago: at most 65,536, for 120 s.

    Two dictionaries that rotate: nothing is ever searched for what is too old.
    """

    __slots__ = ("_new", "_old", "_rotated_at")

    def __init__(self) -> None:
        self._new: dict[Remembered, Mark] = {}
        self._old: dict[Remembered, Mark] = {}
        self._rotated_at = 0.0

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def __contains__(self, slot: object) -> bool:
        return slot in self._new or slot in self._old  # asked for slots with keys alone

    def with_room(self, count: int, now: float) -> dict[Remembered, Mark]:
        """Where as many may be added now: what a slot is remembered by, and how its exchange ended."""
        if len(self._new) + count > _HALF or now - self._rotated_at > REMEMBERED:
            self._old, self._new, self._rotated_at = self._new, {}, now
        return self._new

    def add(self, slot: Slot, mark: Mark) -> None:
        """Remember how the exchange in this slot ended."""
        self.with_room(1, mark[1])[_short(slot, mark[2])] = mark

    def mark(self, slot: Slot, now: float, port: int) -> Mark | None:
        """How the exchange ended that a datagram in this slot, at this port, belongs to; None: none is remembered."""
        short = _short(slot, port)
        mark = self._new.get(short) or self._old.get(short)
        return mark if mark is not None and mark[2] == port and now - mark[1] <= REMEMBERED else None

    def reason(self, slot: Slot, now: float, port: int = 0) -> Reason | None:
        """What a datagram in this slot, at this port, is now: a duplicate, late, or nothing that is remembered."""
        mark = self.mark(slot, now, port)
        return None if mark is None else mark[0]

    def clear(self) -> None:
        """Forget everything."""
        self._new.clear()
        self._old.clear()


def _short(slot: Slot, port: int) -> Remembered:
    """What a slot is remembered by: where it has no key, in nobody's book, its token will do.

    Keys are the endpoint's, whatever the port; what has none is told apart by its port.
    """
    if slot[2] is not None:
        return slot
    short: Slot | Token = slot if slot[1] else slot[0]
    return (short, port) if port else short


_LATEST: Final = 512
_SAMPLE: Final = 64
_MOST_TOLD: Final = 8
_FEW: Final = 64
_FEW_TIMES: Final = 8
# In seconds: how old an index may be under a flood, and how far out of order what came by two sockets may be.
_FLOOD_AGE: Final = 0.05
_DISORDER: Final = 1.0

Passed = tuple[float, Wire, bytes]
"""When a datagram came, from where, and its first bytes."""


class Passers:
    """The latest datagrams that were not delivered: a bounded log, read only when a request times out."""

    __slots__ = ("_asked", "_built_at", "_index", "_is_current", "_log")

    def __init__(self, size: int = _LATEST) -> None:
        self._log: deque[Passed] = deque(maxlen=size)
        self._index = _Index(())
        self._is_current = True
        self._built_at = -math.inf
        self._asked = 0
        """How often it was asked since the latest datagram."""

    def add(self, data: bytes, wire: Wire, now: float) -> None:
        """Note a datagram."""
        self._log.append((now, wire, data[:_SAMPLE]))
        self._is_current = False
        self._asked = 0

    @property
    def latest(self) -> float:
        """When the latest datagram came."""
        return self._log[-1][0] if self._log else -math.inf

    def is_quiet(self, since: float) -> bool:
        """Whether nothing at all came since then."""
        return not self._log or self._log[-1][0] < since - _DISORDER

    def covered(self, tokens: Iterable[Token], since: float) -> dict[Wire, tuple[int, bytes]]:
        """What came since then from these sources: how many from whom, and the latest one's first bytes."""
        return self._since(since).covered(tokens, since)

    def resembling(self, wires: Iterable[Wire], since: float) -> dict[Wire, tuple[int, bytes]]:
        """The same of those who share the host or the port of one of these; the latest eight of each."""
        return self._since(since).resembling(wires, since)

    def _since(self, since: float) -> _Index:
        """An index of what came since then, at least.

        That of the whole log takes half a millisecond. Many requests that time out together share it; for a few it is
        made of what came while they waited, if that is little; and in a flood it may be 50 ms old.
        """
        if self._is_current:
            return self._index
        recent: list[Passed] = []
        for one in reversed(self._log):
            if one[0] < since - _DISORDER or len(recent) > _FEW:
                break
            recent.append(one)
        if not recent:
            return _NOTHING
        self._asked += 1
        if len(recent) <= _FEW:
            if self._asked <= _FEW_TIMES:
                return _Index(reversed(recent))
        elif recent[0][0] - self._built_at < _FLOOD_AGE:
            return self._index
        self._index = _Index(self._log)
        self._is_current = True
        self._built_at = recent[0][0]
        return self._index


class _Index:
    """Datagrams by where they came from, the latest first."""

    __slots__ = ("_by_port", "_by_token", "_networks", "_times")

    def __init__(self, log: Iterable[Passed]) -> None:
        times: dict[Wire, tuple[list[float], bytes]] = {}
        for when, wire, sample in log:
            earlier = times.get(wire)
            stamps = [] if earlier is None else earlier[0]
            stamps.append(when)
            times[wire] = (stamps, sample)
        self._times = dict(sorted(times.items(), key=lambda item: -item[1][0][-1]))
        self._by_port: dict[bytes, list[Wire]] = {}
        self._by_token: dict[Token, list[Wire]] = {}
        self._networks: dict[Token, list[Wire]] = {}
        for wire in self._times:
            self._by_port.setdefault(wire[:2], []).append(wire)
            for token in dict.fromkeys((*plain_tokens(wire), ANYWHERE)):
                self._by_token.setdefault(token, []).append(wire)

    def covered(self, tokens: Iterable[Token], since: float) -> dict[Wire, tuple[int, bytes]]:
        """See `Passers.covered`."""
        found: dict[Wire, None] = {}
        for token in tokens:
            wires = self._in_network(token) if isinstance(token, tuple) else self._by_token.get(token, [])
            found.update(dict.fromkeys(wires[:_MOST_TOLD]))
        return self._counted(found, since)

    def _in_network(self, network: tuple[int, bytes]) -> list[Wire]:
        wires = self._networks.get(network)
        if wires is None:
            if len(self._networks) >= _FEW:
                self._networks.clear()
            wires = self._networks[network] = [wire for wire in self._times if covers(network, wire)][:_MOST_TOLD]
        return wires

    def resembling(self, wires: Iterable[Wire], since: float) -> dict[Wire, tuple[int, bytes]]:
        """See `Passers.resembling`."""
        found: dict[Wire, None] = {}
        for wire in wires:
            found.update(dict.fromkeys(self._by_token.get(host_token(wire), ())[:_MOST_TOLD]))
            found.update(dict.fromkeys(self._by_port.get(wire[:2], ())[:_MOST_TOLD]))
        return self._counted(found, since)

    def _counted(self, wires: Iterable[Wire], since: float) -> dict[Wire, tuple[int, bytes]]:
        counts: dict[Wire, tuple[int, bytes]] = {}
        for wire in wires:
            times, sample = self._times[wire]
            count = len(times) - bisect_left(times, since)
            if count:
                counts[wire] = (count, sample)
        return counts


_NOTHING: Final = _Index(())
