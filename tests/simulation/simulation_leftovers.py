"""What an endpoint still holds once nothing goes on any more; it should be nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from udpguard import Endpoint
from udpguard.core.registry import Registry
from udpguard.testing import Host


def leftovers(endpoint: Endpoint) -> list[str]:
    """What is left over in an endpoint, open or closed, that has nothing to do."""
    return [text for text, left in _all(endpoint) if left]


def left_sockets(host: Host, allowed: int = 0) -> list[str]:
    """The sockets a host still has, beyond so many."""
    sockets = [repr(sock) for sock in host._sockets.values()]
    ports = [key for key, count in host._ports.items() if count < 0]
    return ([f"sockets: {sockets}"] if len(sockets) > allowed else []) + [f"port {key} counted wrong" for key in ports]


def _all(endpoint: Endpoint) -> Iterator[tuple[str, object]]:
    guard, registry = endpoint._guard, endpoint._guard.registry
    statistics = endpoint.statistics()
    yield f"pending: {statistics.pending}", statistics.pending
    yield f"waiting: {statistics.waiting}", statistics.waiting
    yield f"in the table of what is pending: {registry._pending}", registry._pending
    yield f"waiting entries: {registry.waiting}", registry.waiting
    yield f"held entries: {registry.held}", registry.held
    yield f"woken: {registry.woken}", registry.woken
    yield f"not told: {registry.unexpected}", registry.unexpected
    yield f"suspected: {registry.suspected}", registry.suspected
    yield f"asked elsewhere: {registry._elsewhere}", registry._elsewhere
    yield f"room: {registry.room.free} free", registry.room.free != registry.limits.pending or registry.room.queue
    yield f"no_spare: {registry.no_spare.queue}", registry.no_spare.queue
    yield f"writable: {guard.writable.queue}", guard.writable.queue
    yield f"behind: {guard._behind}", guard._behind and not guard.closed
    yield (
        f"posted: {[len(channel.posted.datas) for channel in guard.channels]}",
        any(channel.posted.datas for channel in guard.channels),
    )
    for token, gate in registry._quarantine.items():
        yield f"quarantine of {token!r}: {gate.queue}", gate.queue
    yield from _sources(registry)
    yield from _ports(registry)
    if endpoint._quota is not None:
        for wire, gate in endpoint._quota._gates.items():
            yield f"quota of {wire!r}: {gate.free}", gate.free != endpoint._quota._limit or gate.queue
    due = registry.timetable.next_due()  # which sweeps out the dead at the front
    yield f"something is due at {due}", due != math.inf
    yield f"{len(registry.timetable)} places in the timetable", len(registry.timetable)
    yield f"the timetable counts {registry.timetable._dead} dead", registry.timetable._dead
    yield f"the timetable counts {registry.timetable._dead_steps} dead steps", registry.timetable._dead_steps


def _sources(registry: Registry) -> Iterator[tuple[str, object]]:
    for token, source in registry._sources.items():
        yield f"{token!r} is live {source.live} times", source.live
        yield f"turn at {token!r} is taken: {source.free}", source.free != 1 or source.queue
        yield f"expected from {token!r}: {source.keyless}", source.keyless
        yield f"by book at {token!r}: {source.live_by_book}", any((source.live_by_book or {}).values())
        for pool in (source.pools or {}).values():
            yield f"ids of {token!r}: {pool.gate.free}", not pool.is_idle or pool.gate.queue
    for shape, live in registry._shapes._live.items():
        yield f"{live} of shape {shape}", live


def _ports(registry: Registry) -> Iterator[tuple[str, object]]:
    for port, spare in registry.spares._open.items():
        yield f"spare port {port} is used {spare.live} times", spare.live
