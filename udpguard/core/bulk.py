"""Very many plain questions at once: the registry's part of a sweep.

This is a room of the hot path. `ask_many` does what `Registry.ask` and `_asking.Asker.ask` do, for as many items as
leave together, in one loop with all the calls written out. What is not plain, or is in the way of an item, is left to
the long way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from udpguard.core.address import IPV4_WIRE, Wire, is_tuple, known_wire, known_wires
from udpguard.core.correlation import Slot, TransactionId
from udpguard.core.ids import LATELY, IdPool
from udpguard.core.registry import Registry
from udpguard.core.source import Entry, Source, SweptQuestion

if TYPE_CHECKING:
    from udpguard.core.swept import Bulk

_FITS_EVERYWHERE: Final = 65_507
_NEVER: Final = math.inf
_NOTHING: Any = None
_NOTHING_YET: Final = object()
_new = object.__new__


class Outlet(NamedTuple):
    """Where questions are put that leave through one socket at the end of the turn (`_transport.Posted`)."""

    datas: list[bytes]
    wires: list[Wire]
    entries: list[Entry]


def ask_many(
    registry: Registry,
    bulk: Bulk,
    items: Sequence[Any],
    keys: Sequence[Hashable] | None,
    now: float,
    outlets: tuple[Outlet | None, Outlet | None],
    pick: Callable[[Wire], tuple[int, Outlet] | None] | None = None,
) -> tuple[list[SweptQuestion], list[object]]:
    """Begin to ask what is plain, and put it where it leaves from; the caller sees to the rest of it.

    Args:
        registry: Where it is pending.
        bulk: Whose items they are; there are places for all.
        items: What the caller of the sweep gave.
        keys: The key of each, where its correlator is foreign code.
        now: When it begins.
        outlets: Where questions to IPv4 and to IPv6 peers leave from; None: no socket reaches those.
        pick: What picks a port for a peer, and says where that is, where there is a pool of them.

    Returns:
        The questions that are pending now, and the items that must go the long way: nothing has happened to those.
    """
    sources, pending, timetable = registry._sources, registry._pending, registry.timetable
    fresh_ended, old_ended = registry._ended._new, registry._ended._old
    shapes, soil, suspicion, rotates = registry._shapes, registry.soil, registry.suspicion, registry.rotates
    book, correlator, timeout = bulk.book, bulk.correlator, bulk.seconds
    number = book.number
    wires_known = known_wires
    assigns = False
    begin = end = length = 0
    if type(correlator) is TransactionId and keys is None:
        begin, end, length, assigns = correlator.offset, correlator.end, correlator.length, correlator.assign
    lane = timetable.lanes.get(timeout)
    if lane and lane[-1].began > now:
        lane = None
    outlet4, outlet6 = outlets
    asked: list[SweptQuestion] = []
    rest: list[object] = []
    room = registry.room.free
    registry._latest = now
    given = None if keys is None else iter(keys)
    latest: object = _NOTHING_YET
    """Whom the question before this one was for."""
    # What is known of that peer.
    wire: Wire = b""
    source: Source = _NOTHING
    outlet: Outlet = _NOTHING
    pool: IdPool | None = None
    drawn: Any = b""
    port, is_alone = 0, False
    kinds: Iterable[object] = map(type, items)
    for item, kind in zip(items, kinds, strict=False):
        key: Hashable = None if given is None else next(given)
        parts: Any = item
        if kind is not tuple:
            parts = _unnamed(item)
            if parts is None:
                rest.append(item)
                continue
        tag = None
        if len(parts) == 2:
            addr, data = parts
        elif len(parts) == 3:
            addr, data, tag = parts
        else:
            rest.append(item)
            continue
        if addr is not latest:  # else all that is known of the peer is at hand
            latest = _NOTHING_YET
            try:
                found = wires_known.get(addr)
                if found is None or type(addr[1]) is not int:  # True, and 53.0, equal integers
                    found = known_wire(addr)
            except Exception:  # something that can't be hashed, or foreign code's
                found = None
            if found is None:
                rest.append(item)
                continue
            wire, port = found, 0
            way_out = outlet4 if len(wire) == IPV4_WIRE else outlet6
            if pick is not None:
                port, way_out = pick(wire) or (0, None)
            if way_out is None:
                rest.append(item)
                continue
            outlet = way_out
            source = sources.get(wire) or registry._make_source(wire)
            source.used = now
            pool = None
            is_alone = len(source.books) == 1 and source.books[0] is book
            if pick is None:
                latest = addr
        if type(data) is not bytes or len(data) > _FITS_EVERYWHERE or room <= 0:
            rest.append(item)
            continue
        question = _new(SweptQuestion)
        question.assigned = None
        question.own_slot = None
        if end and len(data) >= end:
            key = data[begin:end]
        leaves = data
        if key is None:
            if not source.free or rotates or (soil.dirty and not registry.may_use(port, (wire,), wire, now)):
                rest.append(item)
                continue
            source.free = 0
            if number:
                question.own_slot = (wire, number, None)
            if source.keyless is None:
                source.keyless = question
            else:
                source.add_keyless(question)
        elif assigns:
            if pool is None:
                pools = source.pools
                pool = (None if pools is None else pools.get(number)) or registry.pool(wire, book)
            if pool.gate.free <= 0:
                rest.append(item)
                continue
            slot: Slot | None = None
            queue = pool.queue
            if shapes.any:
                pass
            elif queue is None:
                drawn = registry._pot[registry._pot_at : registry._pot_at + length]
                if len(drawn) == length:
                    registry._pot_at += length
                else:
                    drawn = registry._random(length)
                slot = (wire, number, drawn)
                if slot in fresh_ended or slot in old_ended:
                    slot = None
            elif now - pool.taken_at <= LATELY:
                slot = queue[0]
                queue.rotate(-1)
                drawn = slot[2]
                pool.taken_at = now
            if slot is None or pending.setdefault(slot, question) is not question:
                slot = registry.assign(pool, (wire,), now, wire)
                if slot is None:
                    rest.append(item)
                    continue
                drawn = slot[2]
                pending[slot] = question
            pool.gate.free -= 1
            question.own_slot = slot
            question.assigned = (pool, data[begin:end])
            leaves = data[:begin] + drawn + data[end:] if begin else drawn + data[end:]
        else:
            own = (wire, number, key)
            if shapes.any or pending.setdefault(own, question) is not question:
                rest.append(item)
                continue
            question.own_slot = own
        question.future = bulk
        question.addr = addr
        question.data = data
        question.tag = tag
        question.began = now
        question.timeout = timeout
        question.more = None
        question.ended = False
        question.source = source
        question.sent_at = now
        question.port = port
        room -= 1
        source.sent += 1
        # Those of each book are counted where there is more than one.
        if is_alone or not number:
            source.live += 1
        else:
            source.add_live(book)
            is_alone = len(source.books) == 1
        if suspicion is not None and key is not None:
            suspicion.watch(question, (wire,))
        if lane is not None:
            lane.append(question)
        elif timeout != _NEVER:
            timetable.add(question)
            lane = timetable.lanes.get(timeout)
            if lane and lane[-1] is not question:
                lane = None
        asked.append(question)
        datas, wires, entries = outlet
        datas.append(leaves)
        wires.append(wire)
        entries.append(question)
    registry.room.free -= len(asked)
    registry._listening += len(asked)
    return asked, rest


def _unnamed(item: object) -> Any:
    """The plain tuple of a named one; None for what is no tuple."""
    return tuple(item) if is_tuple(item) else None
