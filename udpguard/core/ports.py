"""Local ports: which of them may still get somebody's old reply, and which spare one to use instead.

Without a key, the late reply to an earlier request looks like the answer to the next one to that peer. It can't if that
one leaves from another port. So a port is **soiled** for a peer for a while when a reply to an earlier keyless request
may still come to it: one that timed out, was given up, was sent more than once, or whose answer came twice.

Ports are numbers: 0, -1, -2, … are the endpoint's own, a spare has that of the UDP port it is bound to, so that a port
which is closed and comes back later is known again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from udpguard.core.address import IPV4_WIRE, IPV6_WIRE, Token, host_token, is_tuple
from udpguard.core.memory import REMEMBERED
from udpguard.core.record import record

_HALF: Final = 32_768
_FIRST: Final = (0,)
"""The endpoint's first port, where most of those listen who go on listening."""
_INSIDE: Final = b"@"
"""Before a host's token: something at one of its ports."""


@record
class Ports:
    """The local ports that requests leave from.

    Args:
        pool: How many ports the endpoint has; each request leaves from a random one of them, and its reply counts only
            there. More make a reply harder to forge by as much (RFC 5452 section 9.1).
        spares: How many more may be open at once for requests without a transaction key to peers of which an earlier
            reply may still come. They are opened when needed, shared by all peers, and closed when long idle. 0: none.
        rotate: Whether the port changes after every request without a key, against duplicates that the network makes.
        quarantine: Where the port is fixed (`sock=`, `local_addr` with a port) or there are no spares: how many seconds
            after the last send the next request to that peer waits, unless the late reply comes before. 0: it doesn't.
        range: The lowest and the highest port to be chosen from, by a cryptographic source, such as (1024, 65535)
            (RFC 6056 section 3.2); None: the operating system chooses.

    Raises:
        ValueError: A number makes no sense.
    """

    pool: int = 1
    spares: int = 8
    rotate: bool = False
    quarantine: float = 1.0
    range: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check_count("pool", self.pool, lowest=1)
        _check_count("spares", self.spares, lowest=0)
        if isinstance(self.quarantine, bool) or not isinstance(self.quarantine, (int, float)):
            raise TypeError(f"quarantine must be seconds, not {self.quarantine!r}")
        if not 0 <= self.quarantine < math.inf:
            raise ValueError(f"quarantine must be 0 seconds or more, not {self.quarantine!r}")
        if self.rotate and self.pool == 1 and not self.spares:
            raise ValueError("rotate needs ports to change to: set spares, or pool, to more")
        if self.range is not None:
            _check_range(self.range, self.pool + self.spares)


def _check_count(name: str, value: object, *, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if not lowest <= value <= 65_535:
        raise ValueError(f"{name} must be {lowest} to 65535, not {value}")


def _check_range(range_: object, needed: int) -> None:
    if not is_tuple(range_) or len(range_) != 2:
        raise TypeError(f"range must be (lowest port, highest port), not {range_!r}")
    lowest, highest = range_
    if type(lowest) is not int or type(highest) is not int:
        raise TypeError(f"range must be (lowest port, highest port), not {range_!r}")
    if not 1 <= lowest <= highest <= 65_535:
        raise ValueError(f"range must be two ports of 1 to 65535, the lower one first, not {range_!r}")
    if highest - lowest + 1 < needed:
        raise ValueError(f"range {range_!r} has not the {needed} ports that pool and spares need")


class _Mark:
    """One old reply, or several, that may still come from one source to one port."""

    __slots__ = ("also", "at", "owed", "until")

    def __init__(self, at: float, until: float, owed: int) -> None:
        self.at = at
        self.until = until
        self.owed = owed
        self.also: tuple[_Mark, ...] = ()
        """The marks of the same replies under other names."""

    def renew(self, now: float, until: float, owed: int) -> None:
        """Take more replies in; with those of earlier ones that are still waited for."""
        self.until, self.owed = (max(until, self.until), owed + self.owed) if self.until > now else (until, owed)
        self.at = now

    def settle(self) -> bool:
        """One of them came; whether it is the last for which somebody may wait."""
        self.owed -= 1
        if self.owed > 0 or self.until == -math.inf:
            return False
        self.until = -math.inf
        return True


class Soil:
    """Which ports may still get an old reply, from whom. All times are in seconds on one clock, passed in.

    It is bounded: the latest 32,768 are known, of more than 65,536 the oldest are forgotten, as all are after 120 s.
    """

    __slots__ = ("_added", "_any", "_listeners", "_new", "_occupied", "_old", "_rotated_at", "dirty")

    def __init__(self) -> None:
        self.dirty: bool = False
        """Whether there may be any: it is asked for each request."""
        self._new: dict[tuple[Token, int], _Mark] = {}
        self._old: dict[tuple[Token, int], _Mark] = {}
        self._any: dict[int, _Mark] = {}
        """By port alone, whoever it is that may reply."""
        self._occupied: dict[Token, tuple[int, ...]] = {}
        """At which ports somebody goes on listening to a source, or inside a host; one twice where two do."""
        self._listeners: Counter[int] = Counter()
        """How many do at a port."""
        self._added = 0
        """How many there are in the new ones; each is known by up to four names."""
        self._rotated_at = -math.inf

    def add(self, token: Token, asked: Token, port: int, now: float, *, until: float, owed: int) -> None:
        """Take note that replies may still come.

        Args:
            token: From where they may come.
            asked: Who was asked.
            port: The port they would come to.
            now: The time.
            until: When a request that must use this port all the same need not wait any longer.
            owed: How many were sent and not answered; 0 where a duplicate was seen.
        """
        if self._added >= _HALF or now - self._rotated_at > REMEMBERED:
            self._old, self._new, self._added, self._rotated_at = self._new, {}, 0, now
            self._any = {port: mark for port, mark in self._any.items() if now - mark.at <= REMEMBERED}
        self.dirty = True
        self._added += (token, port) not in self._new
        mark = self._renewed(token, port, now, until, owed)
        names = [] if asked == token else [asked]
        wires = [wire for wire in (token, asked) if isinstance(wire, bytes) and len(wire) in (IPV4_WIRE, IPV6_WIRE)]
        names += [_INSIDE + host_token(wire) for wire in wires]
        mark.also = tuple(self._renewed(name, port, now, until, owed) for name in dict.fromkeys(names))
        owed = max(owed, 1)  # whoever's duplicate it may be, no late reply of another's stands for it
        if port in self._any:
            self._any[port].renew(now, until, owed)
        else:
            self._any[port] = _Mark(now, until, owed)

    def occupy(self, token: Token, port: int) -> None:
        """Take note that somebody goes on listening to a source there: to him it may send at any time."""
        for name in _names_of_listener(token):
            ports = self._occupied.get(name)
            self._occupied[name] = _FIRST if not port and ports is None else (*(ports or ()), port)
        self._listeners[port] += 1
        self.dirty = True

    def vacate(self, token: Token, port: int) -> None:
        """Take note that he listens no more."""
        for name in _names_of_listener(token):
            ports = self._occupied.pop(name)
            if len(ports) > 1:
                place = ports.index(port)
                self._occupied[name] = ports[:place] + ports[place + 1 :]
        self._listeners[port] -= 1
        if not self._listeners[port]:
            del self._listeners[port]
            self.dirty = bool(self._listeners) or self.is_marked

    def is_occupied(self, token: Token, port: int) -> bool:
        """Whether somebody goes on listening to just this source there."""
        return port in self._occupied.get(token, ())

    def listened_to(self, port: int) -> list[Token]:
        """The sources to which anybody goes on listening there."""
        return [token for token, ports in self._occupied.items() if port in ports]

    @property
    def is_marked(self) -> bool:
        """Whether any old reply may still come."""
        return bool(self._new or self._old)

    def is_clean(self, port: int, tokens: Sequence[Token], covering: Sequence[Token], now: float) -> bool:
        """Whether no old reply that a request may take for its own comes to this port: see `clean`."""
        return bool(self.clean((port,), tokens, covering, now))

    def clean(
        self, ports: Iterable[int], tokens: Sequence[Token], covering: Sequence[Token], now: float
    ) -> Sequence[int]:
        """Those of the ports to which no old reply comes that a request may take for its own.

        Args:
            ports: The ports.
            tokens: Where the request's reply may come from.
            covering: All the sources that may cover whom it asks.
            now: The time.
        """
        if self.is_marked and now - self._rotated_at > 2 * REMEMBERED:  # nothing was added for so long
            self.clear()
        if not self.dirty:
            return tuple(ports)
        if self._occupied:
            keys = _keys(tokens, covering)
            taken: Collection[int] = self._listeners
            if keys is not None:
                taken = [port for key in keys for port in self._occupied.get(key, ())]
            if taken:
                ports = [port for port in ports if port not in taken]
            if not self.is_marked:
                return tuple(ports)
        return self.unsoiled(ports, tokens, covering, now)

    def unsoiled(
        self, ports: Iterable[int], tokens: Sequence[Token], covering: Sequence[Token], now: float
    ) -> Sequence[int]:
        """The same, whoever goes on listening there."""
        keys, since = _keys(tokens, covering), now - REMEMBERED
        if keys is None:
            return [port for port in ports if port not in self._any or self._any[port].at < since]
        new, old = self._new, self._old
        found: list[int] = []
        for port in ports:  # there may be thousands: each request of a rotation looks at all of them
            for key in keys:
                mark = new.get((key, port)) or old.get((key, port))
                if mark is not None and mark.at >= since:
                    break
            else:
                found.append(port)
        return found

    def blocked_until(self, port: int, tokens: Sequence[Token], covering: Sequence[Token]) -> float:
        """When a request that must use this port may."""
        return max((mark.until for mark in self._marks(port, tokens, covering)), default=-math.inf)

    def is_owed(self, token: Token, port: int, now: float) -> bool:
        """Whether an old reply is waited for."""
        mark = self._get(token, port)
        return mark is not None and mark.owed > 0 and mark.until > now

    def settle(self, token: Token, port: int, now: float) -> bool:
        """Take note that an old reply has come; whether it is the last one that is owed to somebody."""
        mark = self._get(token, port)
        if mark is None:
            return False
        marks = [mark, *mark.also]
        if mark.owed > 0 and mark.until > now and port in self._any:  # else it is none of those that are counted there
            marks.append(self._any[port])
        settled = [one.settle() for one in marks]
        return any(settled)

    def clear(self) -> None:
        """Forget everything."""
        self._new.clear()
        self._old.clear()
        self._any.clear()
        self._added = 0
        self.dirty = bool(self._listeners)

    def _renewed(self, name: Token, port: int, now: float, until: float, owed: int) -> _Mark:
        mark = self._get(name, port)
        if mark is None:
            mark = _Mark(now, until, owed)
        else:
            mark.renew(now, until, owed)
            mark.also = ()  # so that marks never hold each other in long chains
        self._new[name, port] = mark
        return mark

    def _get(self, token: Token, port: int) -> _Mark | None:
        return self._new.get((token, port)) or self._old.get((token, port))

    def _marks(self, port: int, tokens: Sequence[Token], covering: Sequence[Token]) -> Iterable[_Mark]:
        keys = _keys(tokens, covering)
        if keys is None:
            latest = self._any.get(port)
            return [] if latest is None else [latest]
        return [mark for key in keys if (mark := self._get(key, port)) is not None]


def _names_of_listener(token: Token) -> tuple[Token, ...]:
    """What to look for where somebody goes on listening to a source: it, and if it is a peer, something of its host."""
    if isinstance(token, bytes) and len(token) in (IPV4_WIRE, IPV6_WIRE):
        return (token, _INSIDE + host_token(token))
    return (token,)


def _keys(tokens: Sequence[Token], covering: Sequence[Token]) -> list[Token] | None:
    """What to look for; None: whatever it is, since nobody can look up who is in a network, or anywhere."""
    keys: dict[Token, None] = dict.fromkeys((*tokens, *covering))
    for token in tokens:
        if isinstance(token, tuple) or not token:
            return None
        if len(token) not in (IPV4_WIRE, IPV6_WIRE):
            keys[_INSIDE + token] = None
    return list(keys)


class Spare:
    """One spare port, as long as it is open: another one may have its number later."""

    __slots__ = ("idle_since", "ipv4", "is_open", "live")

    def __init__(self, now: float, *, ipv4: bool) -> None:
        self.ipv4: bool = ipv4
        self.is_open: bool = True
        self.live: int = 0
        """How many use it."""
        self.idle_since: float = now


class Spares:
    """The spare ports that are open, and who uses them.

    Args:
        limit: How many may be open at once.
    """

    __slots__ = ("_open", "limit")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self._open: dict[int, Spare] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, port: object) -> bool:
        return port in self._open

    def choose(self, clean: Callable[[Sequence[int]], Sequence[int]], *, ipv4: bool) -> int | None:
        """An open one of this family that is clean; one that is in use already before the others."""
        fit = clean([port for port, spare in self._open.items() if spare.ipv4 is ipv4])
        return max(fit, key=lambda port: self._open[port].live, default=None)

    def replaceable(self) -> int | None:
        """The one that has been idle for longest; None where all are in use."""
        idle = [port for port, spare in self._open.items() if not spare.live]
        return min(idle, key=lambda port: self._open[port].idle_since, default=None)

    def add(self, port: int, now: float, *, ipv4: bool) -> None:
        """Take note of one that was opened."""
        self._open[port] = Spare(now, ipv4=ipv4)

    def remove(self, port: int) -> None:
        """Take note of one that was closed; whoever used it has it no more."""
        spare = self._open.pop(port, None)
        if spare is not None:
            spare.is_open = False

    def hold(self, port: int) -> Spare:
        """Use one that is open."""
        spare = self._open[port]
        spare.live += 1
        return spare

    def release(self, spare: Spare, now: float) -> bool:
        """Use it no more; whether it is idle now, and still open."""
        spare.live -= 1
        spare.idle_since = now
        return spare.is_open and not spare.live

    def long_idle(self, now: float) -> list[int]:
        """Those that have been idle for as long as anything is remembered."""
        return [port for port, spare in self._open.items() if not spare.live and now - spare.idle_since >= REMEMBERED]
