"""The pending expectations: who waits for what from where, and what becomes of each datagram that comes.

Theory of operation
-------------------
A datagram is looked up by its **slot**: the token of its source (see `address`), the number of the book of keys, and
the key. One dictionary holds what is pending with a key; what is pending without one hangs on the record of its source.
`receive_batch` gives each datagram of what one drain read exactly one verdict:

1. it fits something pending by key: matched;
2. it fits something that ended a short while ago by key: late or duplicate;
3. it fits something pending without a key, the most specific source first, then the oldest: matched;
4. something pending covers its source: rejected;
5. it fits something that ended a short while ago without a key: late or duplicate;
6. otherwise it comes from an unknown peer.

A stranger costs one failed look-up and a place in a bounded log: no address is built for it.

What most datagrams need is here. The records are in `ledger`; the verdicts on all the others, and what falls due, in
`judge`; what is made of ICMP messages, in `reports`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, cast

from udpguard.core.address import IPV4_WIRE, Peer, Wire, has_scope, peer_of
from udpguard.core.correlation import Book, Slot
from udpguard.core.judge import Settled
from udpguard.core.ledger import duplicate
from udpguard.core.outcome import Outcome
from udpguard.core.reports import Reports
from udpguard.core.source import (
    AssignedQuestion,
    Entry,
    Lasting,
    LongEntry,
    PortedQuestion,
    Question,
    Source,
    SweptQuestion,
)
from udpguard.core.verdict import Reason, Reply

if TYPE_CHECKING:
    from udpguard.core.swept import Bulk

Batch = Sequence[tuple[bytes, Wire]]
"""Datagrams as one drain of a socket read them: payload and source."""

# Looking a member of an enumeration up costs as much as a dictionary.
_DUPLICATE: Final = Reason.DUPLICATE
_UNKNOWN_PEER: Final = Reason.UNKNOWN_PEER
_NEVER: Final = math.inf
_new = object.__new__
_new_tuple: Callable[[type[Any], tuple[object, ...]], Any] = tuple[object, ...].__new__
_POT: Final = 1_024
# What becomes of a peer's datagram.
_JUDGED: Final = 0
_STRANGER: Final = 1
_KEYLESS: Final = 2
_KEYED: Final = 3


class Registry(Reports):
    """The pending expectations of one endpoint. All times are in seconds on one clock, passed in.

    This is the hot path's room. What most exchanges need, a question to one peer and its answer, is done in one
    function each, with what the calls would be written out: `enter`, `listen` and `note_sent` in `ask`, the verdict and
    `end` in `receive_batch`. By way of those an exchange costs 12 µs instead of 9 (CPython 3.11, 64 in flight).
    """

    def ask(
        self,
        future: object,
        wire: Wire,
        book: Book,
        key: Hashable,
        original: bytes | None,
        timeout: float,
        now: float,
        plain: bool,  # noqa: FBT001 (by place, it costs less)
        port: int = 0,
        data: bytes | None = None,
    ) -> Question | None:
        """Begin an exchange that asks one peer and is sent now, if nothing is in its way.

        Args:
            future: The caller's.
            wire: Its peer.
            book: The book of its key.
            key: The key; None for none.
            original: The caller's own bytes, where an id is to be assigned instead of the key.
            timeout: Seconds; infinite for no deadline.
            now: When it begins.
            plain: Whether the caller wants the reply's bytes alone.
            port: The number of the port it leaves from.
            data: The question, as the caller gave it.

        Returns:
            The exchange, or None where something is in its way: nothing has changed then.

        Raises:
            DuplicateTransactionError: The key is pending for this peer already; nothing has changed then.
        """
        source = self._sources.get(wire) or self._make_source(wire)
        source.used = self._latest = now
        room = self.room
        if room.free <= 0:
            return None
        if not port:
            question = _new(Question if original is None else AssignedQuestion)
        else:
            question = _new(PortedQuestion)
            question.port = port
            question.assigned = None
        question.own_slot = None
        number = book.number
        if key is None:
            if not source.free or self.rotates or (self.soil.dirty and not self.may_use(port, (wire,), wire, now)):
                return None
            source.free = 0
            if number:
                question.own_slot = (wire, number, None)
            if source.keyless is None:
                source.keyless = question
            else:
                source.add_keyless(question)
        elif original is None:
            slot: Slot = (wire, number, key)
            if self._shapes.any:
                self._check_rivals(question, slot[:1], number, key, wire)
            if self._pending.setdefault(slot, question) is not question:
                raise duplicate(slot)
            question.own_slot = slot
        else:
            pools = source.pools
            pool = (None if pools is None else pools.get(number)) or self.pool(wire, book)
            if pool.gate.free <= 0:
                return None
            assigned: Slot | None = (wire, number, self._random(pool.length))
            if pool.queue is not None or self._shapes.any or assigned in self._pending or assigned in self._ended:
                assigned = self.assign(pool, (wire,), now, wire)
                if assigned is None:
                    return None
            assert assigned is not None
            pool.gate.free -= 1
            self._pending[assigned] = question
            question.own_slot = assigned
            assert isinstance(question, AssignedQuestion)
            question.assigned = (pool, original)
        question.future = future
        question.data = data
        question.began = now
        question.timeout = timeout
        question.more = None
        question.plain = plain
        question.ended = False
        question.source = source
        question.sent_at = now
        room.free -= 1
        self._listening += 1
        source.sent += 1
        # Those of each book are counted where there is more than one.
        if not number or (len(source.books) == 1 and source.books[0] is book):
            source.live += 1
        else:
            source.add_live(book)
        if self.suspicion is not None and key is not None:
            self.suspicion.watch(question, (wire,))
        if timeout != _NEVER:
            timetable = self.timetable
            lane = timetable.lanes.get(timeout)
            if lane and lane[-1].began <= now:
                lane.append(question)
            else:
                timetable.add(question)
        return question

    def draw(self, count: int) -> int:
        """An unpredictable number of 0 to `count` - 1."""
        return int.from_bytes(self._random(8), "big") % count  # the bias is below 2**-32

    def _random(self, length: int) -> bytes:
        """So many unpredictable bytes; drawn ahead, since a draw costs as much for a thousand as for two."""
        begin, end = self._pot_at, self._pot_at + length
        if end > len(self._pot):
            size = max(_POT, length)
            self._pot = self._random_bits(size * 8).to_bytes(size, "big")
            begin, end = 0, length
        self._pot_at = end
        return self._pot[begin:end]

    def receive_batch(
        self, batch: Batch, now: float, arrivals: Iterable[float] | None = None, port: int = 0
    ) -> list[Settled]:
        """Give each datagram its verdict.

        Args:
            batch: Payloads and sources, in the order in which they came.
            now: The time.
            arrivals: When each of them arrived; now, unless given.
            port: The number of the port they came to.

        Returns:
            The exchanges that were answered, each once; but plain questions of sweeps have their outcomes where these
            belong, and `swept` tells how many. What was not delivered is in `unexpected`, if anybody wants it.
        """
        settled: list[Settled] = []
        sources, pending, shapes, soil = self._sources, self._pending, self._shapes, self.soil
        self.counters.received += len(batch)
        mark = (_DUPLICATE, now, port)
        self._latest = now
        ended = self._ended.with_room(len(batch), now)
        answered = timed = swept = 0
        bulk: Bulk | None = None
        latest: Wire | None = None
        begin = end = number = 0
        way, is_first = _JUDGED, False
        source: Source | None = None
        entry = cast("Entry | OrderedDict[Entry, None] | None", None)
        peer = cast("Peer | None", None)
        for (data, wire), arrived in zip(batch, arrivals or repeat(now), strict=False):
            if wire != latest:  # else all that is known of the peer is at hand
                latest = wire
                is_first = True
                way = _JUDGED
                source = sources.get(wire)
                if source is None:
                    if not shapes.any and (len(wire) == IPV4_WIRE or not has_scope(wire)):
                        way = _STRANGER
                elif not (shapes.any or source.scoped):
                    # Only this peer's own record can cover it; mostly it answers a question without extras.
                    books = source.books
                    if not books:
                        way = _KEYLESS
                    elif len(books) == 1 and (end := books[0].reply_end):
                        way, begin, number = _KEYED, books[0].reply_begin, books[0].number
            if way == _KEYED:
                entry = pending.get((wire, number, data[begin:end])) if len(data) >= end else None
            elif way == _KEYLESS:
                assert source is not None
                entry = source.keyless
            elif way == _STRANGER:
                self._count(_UNKNOWN_PEER, data, wire, arrived)
                continue
            else:
                entry = None
            if (
                isinstance(entry, Question)
                and entry.more is None
                and (sent_at := entry.sent_at) is not None
                and entry.port == port
            ):
                assert source is not None
                answered += 1
                timed += entry.timeout != _NEVER
                entry.ended = True
                source.live -= 1  # all that is counted where there is one book at the most
                if way == _KEYLESS:
                    source.keyless = None
                    if source.queue:
                        self._leave(source)
                    else:
                        source.free = 1
                    ended[(wire, port) if port else wire] = mark
                else:
                    slot = entry.own_slot
                    assert slot is not None
                    del pending[slot]
                    ended[slot] = mark
                    if entry.assigned is not None:
                        pool, original = entry.assigned
                        # `TransactionId.restored`: the id stands where this book has it.
                        data = data[:begin] + original + data[end:] if begin else original + data[end:]
                        if pool.gate.queue:
                            self._leave(pool.gate)
                        else:
                            pool.gate.free += 1
                source.matched += 1
                rtt = arrived - sent_at
                srtt = source.srtt
                if rtt < 0.0:  # it came before the question left, or so it seems: nothing is learnt from that
                    rtt = 0.0
                elif entry.is_swept and not is_first:
                    pass  # one sample a round trip is enough (RFC 6298 section 3), and these came together
                elif srtt is None:
                    source.sample(rtt)
                else:  # `Source.sample`, RFC 6298 section 2.3
                    source.rttvar += (abs(srtt - rtt) - source.rttvar) * 0.25
                    source.srtt = srtt + (rtt - srtt) * 0.125
                    source.backoff = 1
                if not entry.is_swept:
                    settled.append((entry, data, wire, rtt, 1))
                    continue
                # Made here, and without their constructors, a sweep's outcome costs a tenth of an exchange less.
                assert isinstance(entry, SweptQuestion)
                if bulk is None or entry.future is not bulk:
                    if bulk is not None:
                        self.swept.append((bulk, swept))
                    bulk, swept = cast("Bulk", entry.future), 0
                swept += 1
                if is_first:
                    peer, is_first = peer_of(wire), False
                reply = _new_tuple(Reply, (data, peer, rtt, 1))
                bulk.outcomes.append(_new_tuple(Outcome, (entry.addr, entry.data, entry.tag, reply, None)))
                continue
            # Or it goes on listening, and takes it as it comes.
            if (
                isinstance(entry, LongEntry)
                and isinstance(more := entry.more, Lasting)
                and more.takes_all
                and entry.port == port
                and not soil.is_marked
            ):
                assert source is not None
                more.heard = True
                source.matched += 1
                self.counters.matched += 1
                self.delivered.append((more, data, wire, None, more.attempts))
                continue
            if answered:
                self._note_answered(answered, timed)
                answered = timed = 0
            self.judge(data, wire, arrived, port, settled)
            latest = None  # foreign code may have changed anything
            ended = self._ended.with_room(len(batch), now)
        if answered:
            self._note_answered(answered, timed)
        if bulk is not None:
            self.swept.append((bulk, swept))
        return settled

    def _note_answered(self, answered: int, timed: int) -> None:
        """Take note of so many exchanges that were answered; foreign code must not find the counts behind."""
        self.counters.matched += answered
        self._listening -= answered
        if timed:
            self.timetable.drop(timed)
        room = self.room
        if room.queue:
            for _ in range(answered):
                self._leave(room)
        else:
            room.free += answered
