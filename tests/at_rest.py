"""What must be left of an endpoint on which nothing goes on any more: nothing.

Whoever ends an exchange (its reply, its deadline, its caller, the end of the endpoint) gives back all that it held.
`leftovers` looks into every place where something could stay behind and names what it finds. It knows the private
parts of the package on purpose: a leak that the public face doesn't show is one all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from udpguard._client import Client
from udpguard._exchange import Quota
from udpguard._guard import Guard
from udpguard._resolve import Resolver
from udpguard.core.gate import Gate
from udpguard.core.source import Entry


def leftovers(guard: Guard, resolver: Resolver | None = None, quotas: Iterable[Quota | None] = ()) -> list[str]:
    """What is left of exchanges, where all of them have ended and their deadlines have passed."""
    found = [*_ledger(guard), *_parts(guard), *_gates(guard), *_shell(guard), *_statistics(guard)]
    for quota in quotas:
        if quota is not None:
            found += [
                f"quota of {wire!r}: {said}"
                for wire, gate in quota._gates.items()
                for said in _gate(gate, quota._limit)
            ]
    if resolver is not None:
        found += _there("names being looked up", resolver._asked) + _there("look-up tasks", resolver._tasks)
    return found


def leftovers_of(client: Client, *others: Client) -> list[str]:
    """The same of an endpoint, and clients made from it."""
    return leftovers(
        client._guard,
        client._context.resolver,
        {id(one._context.quota): one._context.quota for one in (client, *others)}.values(),
    )


def zombies(guard: Guard) -> list[str]:
    """What is still in the registry though its caller has gone; there may be any number of others."""
    return [f"{where}: {entry!r}" for where, entry in entries(guard) if entry.ended or entry.future.done()]  # type: ignore[attr-defined]


def entries(guard: Guard) -> Iterator[tuple[str, Entry]]:
    """Everything in the registry, and where it stands."""
    registry = guard.registry
    places: dict[str, Iterable[Entry]] = {
        "pending by key": registry._pending.values(),
        "waiting": registry.waiting,
        "held back": registry.held,
        "queue for room": registry.room.queue or (),
        "queue for the socket": guard.writable.queue or (),
        "queue for a spare port": registry.no_spare.queue or (),
        "queue for a filter": guard.screens._held.queue or (),
    }
    for name, there in places.items():
        yield from ((name, entry) for entry in there)
    for source in registry._sources.values():
        keyless = (source.keyless,) if isinstance(source.keyless, Entry) else source.keyless or ()
        yield from ((f"pending at {source.token!r}", entry) for entry in keyless)
        yield from ((f"queue for the turn at {source.token!r}", entry) for entry in source.queue or ())
        for pool in (source.pools or {}).values():
            yield from ((f"queue for an id at {source.token!r}", entry) for entry in pool.gate.queue or ())
    for token, gate in registry._quarantine.items():
        yield from ((f"quarantine of {token!r}", entry) for entry in gate.queue or ())


def _there(what: str, found: Any, most: object = 0) -> list[str]:
    count = found if isinstance(found, (int, float)) else len(found)
    return [] if count == most else [f"{what}: {found!r}"]


def _gate(gate: Gate[Entry], places: int) -> list[str]:
    return _there(f"places free of {places}", gate.free, places) + _there("queue", gate.queue or ())


def _ledger(guard: Guard) -> Iterator[str]:
    registry = guard.registry
    for name in ("_pending", "waiting", "held", "woken", "suspected", "unexpected", "_listening", "_elsewhere"):
        yield from _there(name, getattr(registry, name))
    yield from _there("delivered", registry.delivered) + _there("listened to", registry.soil._occupied)
    timetable = registry.timetable
    timetable.next_due()
    yield from _there("timetable", len(timetable))
    yield from _there("dead in the timetable", timetable._dead) + _there("dead steps", timetable._dead_steps)
    if registry.interrupt is not None or registry._overdue is not None:
        yield f"interrupt {registry.interrupt!r}, overdue {registry._overdue!r}"
    for source in registry._sources.values():
        if source.live or source.keyless is not None or any((source.live_by_book or {}).values()):
            yield f"source {source.token!r}: live {source.live} {source.live_by_book}, keyless {source.keyless!r}"


def _parts(guard: Guard) -> Iterator[str]:
    registry = guard.registry
    for shape, live in registry._shapes._live.items():
        yield from _there(f"wide sources of shape {shape}", live)
    for token, watch in registry.suspicion._watches.items() if registry.suspicion is not None else ():
        living = [entry for _, entry in watch.waiting if not entry.ended]
        yield from _there(f"watched at {token!r}", living)
    for port, spare in registry.spares._open.items():
        yield from _there(f"users of spare port {port}", spare.live)


def _gates(guard: Guard) -> Iterator[str]:
    registry = guard.registry
    gates: dict[str, tuple[Gate[Entry], int]] = {
        "room": (registry.room, registry.limits.pending),
        "socket": (guard.writable, 0),
        "spare port": (registry.no_spare, 0),
        "filter": (guard.screens._held, 0),
    }
    for source in registry._sources.values():
        gates[f"turn at {source.token!r}"] = (source, 1)
        for number, pool in (source.pools or {}).items():
            gates[f"ids at {source.token!r} of book {number}"] = (pool.gate, 1 << pool.length * 8)
    for token, gate in registry._quarantine.items():
        gates[f"quarantine of {token!r}"] = (gate, 0)
    for name, (gate, places) in gates.items():
        yield from (f"{name}: {said}" for said in _gate(gate, places))


def _shell(guard: Guard) -> Iterator[str]:
    yield from _there("sweeps", guard.sweeps)
    yield from _there("answers that no sweep was told of", guard.registry.swept)
    yield from _there("sockets to catch up with", guard._behind)
    yield from _there("channels with posted questions", guard.outbox._filled)
    for channel in guard.channels:
        yield from _there("posted", channel.posted.entries)
    if not guard.closed:  # a closed one may have had datagrams held back
        yield from _there("paused by", guard.paused)
    if guard._timer is not None or (guard.timer_at != math.inf and not guard.closed):
        yield f"timer at {guard.timer_at}: {guard._timer!r}"
    if guard._pumping or guard._foremost is not None:
        yield f"pumping {guard._pumping}, foremost {guard._foremost!r}"


def _statistics(guard: Guard) -> Iterator[str]:
    statistics = guard.statistics()
    yield from _there("gauge pending", statistics.pending) + _there("gauge waiting", statistics.waiting)
    yield from unbalanced(guard)


def unbalanced(guard: Guard) -> list[str]:
    """Whether datagrams came that got no verdict, or more than one."""
    it = guard.statistics()
    verdicts = it.matched + it.duplicate + it.late + it.rejected + it.unknown_peer
    return [] if it.received == verdicts else [f"received {it.received}, verdicts {verdicts}: {it}"]


def callbacks_left(loop: Any, allowed: Callable[[str], bool]) -> list[str]:
    """What a loop that is not running would still call."""
    handles = [handle for handle in (*loop._ready, *loop._scheduled) if not handle.cancelled()]
    return [text for text in map(repr, handles) if not allowed(text)]
