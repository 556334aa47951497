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

Nothing here waits, sends or settles. The futures are opaque; who is to be settled is returned. The only foreign code
that runs inside is `accept` and `reply_key`, which may call back (to cancel, to close, to expect); so after either
nothing that was looked up before is taken for granted.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from udpguard._errors import DuplicateTransactionError
from udpguard.core.address import (
    IPV6_WIRE,
    Token,
    Wire,
    has_scope,
    peer_of,
    without_scope,
)
from udpguard.core.correlation import Book, Correlator, Slot, TransactionId, space_of
from udpguard.core.explain import NoDecisionError, shown
from udpguard.core.gate import Gate
from udpguard.core.ids import IdPool, RandomBits
from udpguard.core.memory import Ended, Mark, Passers
from udpguard.core.options import Limits
from udpguard.core.shapes import Shapes, is_wide
from udpguard.core.source import Assigned, Details, Entry, Sent, Source
from udpguard.core.statistics import Counters, Statistics
from udpguard.core.timetable import Timetable
from udpguard.core.verdict import Decision, NearMiss, Reason, Reply, Unexpected

Batch = Sequence[tuple[bytes, Wire]]
"""Datagrams as one drain of a socket read them: payload and source."""

# As many as there are exchanges to be remembered: a late reply finds the record of its peer.
_IDLE_SOURCES: Final = 65_536
_MOST_NEAR_MISSES: Final = 16


Settled: TypeAlias = tuple[Entry, bytes, Wire, float | None, int]
"""An exchange that was answered: the reply's payload and source, the round-trip time, how many had been sent."""

# Looking a member of an enumeration up costs as much as a dictionary.
_DUPLICATE: Final = Reason.DUPLICATE
_UNKNOWN_PEER: Final = Reason.UNKNOWN_PEER


class Registry:
    """The pending expectations of one endpoint. All times are in seconds on one clock, passed in."""

    def __init__(self, limits: Limits, random_bits: RandomBits) -> None:
        self.limits = limits
        self.counters: Counters = Counters()
        self.timetable: Timetable[Entry, Details] = Timetable()
        self.wants_unexpected = False
        self.unexpected: list[Unexpected] = []
        """What the hook is to be told, where there is one."""
        self.woken: deque[Details] = deque()
        """Those who waited and may go on."""
        self.interrupt: BaseException | None = None
        """A KeyboardInterrupt or SystemExit out of `accept`, to be raised when the batch is done."""
        self.room: Gate[Entry] = Gate(limits.pending)
        self.waiting: set[Entry] = set()
        self._random_bits = random_bits
        self._pending: dict[Slot, Entry] = {}
        self._sources: dict[Token, Source] = {}
        self._listening = 0
        self._ended = Ended()
        self._strangers = Passers()
        self._rejected = Passers()
        self._shapes = Shapes()
        self._books: WeakValueDictionary[object, Book] = WeakValueDictionary()
        self._keyless_book = Book(0, None)
        self._last_book = 0
        self._made = 0
        self._sweep_at = 2 * _IDLE_SOURCES

    # ------------------------------------------------------------------------------------------ records

    def book(self, correlator: Correlator | None) -> Book:
        """The book of keys of a correlator; that of nobody's for None."""
        if correlator is None:
            return self._keyless_book
        space = space_of(correlator)
        book = self._books.get(space)
        if book is None:
            self._last_book += 1
            book = self._books[space] = Book(self._last_book, correlator)
        return book

    def source(self, token: Token) -> Source:
        """The record of a source, made where there is none."""
        source = self._sources.get(token) or self._make_source(token)
        source.used = self._made
        return source

    def _make_source(self, token: Token) -> Source:
        if len(self._sources) >= self._sweep_at:
            self._sweep_sources()
        self._made += 1
        source = self._sources[token] = Source(token)
        return source

    def known_source(self, token: Token) -> Source | None:
        """The record of a source, or None."""
        return self._sources.get(token)

    def _sweep_sources(self) -> None:
        """Forget the least lately used of those that are idle."""
        idle = sorted((source for source in self._sources.values() if source.is_idle), key=lambda source: source.used)
        for source in idle[:-_IDLE_SOURCES]:
            del self._sources[source.token]
        self._sweep_at = 2 * max(_IDLE_SOURCES, len(self._sources))

    # ---------------------------------------------------------------------------------- from call to end

    def enter(self, entry: Entry, *, movable: bool = False) -> None:
        """Begin an exchange: it waits, until it listens. Its deadline may be movable."""
        self.waiting.add(entry)
        if entry.timeout != math.inf:
            entry.timed = True
            self.timetable.add(entry, movable=movable)

    def ask(
        self,
        entry: Entry,
        wire: Wire,
        book: Book,
        key: Hashable,
        original: bytes | None,
    ) -> bool:
        """Begin an exchange with a peer that is sent now: `enter`, the gates, `listen` and `note_sent` at once.

        Args:
            entry: The exchange; its time is now.
            wire: Its peer.
            book: The book of its key.
            key: The key; None for none.
            original: The caller's own bytes, where an id is to be assigned instead of the key.

        Returns:
            Whether nothing was in its way. Nothing has changed otherwise.

        Raises:
            DuplicateTransactionError: The key is pending for this peer already; nothing has changed then.
        """
        source = self._sources.get(wire) or self._make_source(wire)
        source.used = self._made
        room = self.room
        if room.free <= 0:
            return False
        if key is None:
            if not source.free:
                return False
            source.free = 0
            if book.number:
                entry.own_slot = (wire, book.number, None)
            if source.keyless is None:
                source.keyless = entry
            else:
                source.add_keyless(entry)
        elif original is None:
            slot: Slot = (wire, book.number, key)
            if self._shapes.any:
                self._check_rivals(entry, slot[:1], slot[1], slot[2], wire)
            if self._pending.setdefault(slot, entry) is not entry:
                raise _duplicate(slot)
            entry.own_slot = slot
        else:
            pool = self.pool(wire, book)
            if pool.gate.free <= 0:
                return False
            assigned = self.assign(pool, (wire,), entry.began, wire)
            if assigned is None:
                return False
            pool.gate.free -= 1
            self._pending[assigned] = entry
            entry.own_slot = assigned
            entry.assigned = Assigned(pool, original)
        room.free -= 1
        entry.roomy = True
        entry.source = source
        entry.sent_at = entry.began
        entry.listens = True
        self._listening += 1
        if source.live_by_book is None and (not book.number or (source.books and source.books[0] is book)):
            source.live += 1
        else:
            source.add_live(book)
        source.sent += 1
        self.counters.sent += 1
        if entry.timeout != math.inf:
            entry.timed = True
            self.timetable.add(entry)
        return True

    def unsend(self, entry: Entry) -> None:
        """Take back that the question of an exchange without extras left."""
        self.counters.sent -= 1
        assert entry.source is not None
        entry.source.sent -= 1

    def extend(self, entry: Entry, more: Details) -> None:
        """Give extras to an exchange that had none."""
        entry.sent_at = None
        entry.more = more
        if entry.assigned is not None:
            assert entry.own_slot is not None
            more.assigned.append(entry.own_slot)
            entry.assigned = None
        elif entry.source is not None and entry.slots()[0][2] is None:
            more.held.append(entry.source)

    def listen(
        self, entry: Entry, tokens: Sequence[Token], book: Book, key: Hashable, asked: Wire | None = None
    ) -> tuple[Slot, ...]:
        """Let an exchange be answered in these slots (too).

        Args:
            entry: The exchange.
            tokens: Where its reply may come from.
            book: The book of its key.
            key: The key; None for none.
            asked: Whom it asks, where that is known.

        Raises:
            DuplicateTransactionError: A slot with a key is another's already; nothing has changed then.
        """
        slots: tuple[Slot, ...] = tuple((token, book.number, key) for token in tokens)
        own = entry.slots()
        if key is not None:
            self._check_rivals(entry, tokens, book.number, key, asked)
        if not entry.listens:
            entry.listens = True
            self._listening += 1
            self.waiting.discard(entry)
        for slot in slots:
            if slot not in own:
                self._add_slot(entry, slot, book)
        return slots

    def _check_rivals(
        self, entry: Entry, tokens: Sequence[Token], number: int, key: Hashable, asked: Wire | None
    ) -> None:
        """Refuse a key that is pending in one of these slots, or elsewhere for the same peer.

        Raises:
            DuplicateTransactionError: It is.
        """
        for token in tokens:
            if self._pending.get((token, number, key), entry) is not entry:
                raise _duplicate((token, number, key))
        if asked is not None and (self._shapes.any or asked not in tokens):
            peer = self._sources.get(asked)
            for token in self._covering_tokens(asked):
                other = self._pending.get((token, number, key), entry)
                if other is not entry and other.source is not None and other.source is peer:
                    raise _duplicate((asked, number, key))

    def _covering_tokens(self, asked: Wire) -> list[Token]:
        """The tokens of all that may be expected from a peer."""
        scoped = len(asked) == IPV6_WIRE and has_scope(asked)
        return [asked, *([without_scope(asked)] if scoped else []), *self._shapes.tokens(asked, scoped=scoped)]

    def _add_slot(self, entry: Entry, slot: Slot, book: Book) -> None:
        token = slot[0]
        source = self.source(token)
        source.add_live(book)
        if entry.own_slot is None:
            entry.own_slot = slot
        else:
            assert entry.more is not None
            entry.more.slots.append(slot)
        if slot[2] is None:
            source.add_keyless(entry)
        else:
            self._pending[slot] = entry
        if is_wide(token):
            self._shapes.add(token)

    def pool(self, token: Token, book: Book) -> IdPool:
        """The ids that are assigned for a peer."""
        assert isinstance(book.correlator, TransactionId)
        source = self.source(token)
        if source.pools is None:
            source.pools = {}
        pool = source.pools.get(book.number)
        if pool is None:
            pool = source.pools[book.number] = IdPool(token, book.number, book.correlator, self._random_bits)
        return pool

    def assign(self, pool: IdPool, tokens: Sequence[Token], now: float, asked: Wire | None = None) -> Slot | None:
        """Pick an id that is free in all the slots it will be expected in; None where none is."""
        others = list(tokens[1:])
        if asked is not None and (self._shapes.any or asked not in tokens):
            others += self._covering_tokens(asked)
        return pool.take(self._pending, self._ended, now, others)

    def withdraw(self, entry: Entry, now: float) -> bool:
        """End an exchange that its caller gave up; whether it was still going on."""
        if entry.ended:
            return False
        self.counters.cancelled += 1
        self.end(entry, (Reason.LATE, now))
        return True

    def end(self, entry: Entry, mark: Mark | None) -> None:
        """End an exchange, whatever the reason, and remember it for a while; None: nothing was sent, so forget it."""
        entry.ended = True
        if entry.timed:
            self.timetable.drop()
        if entry.roomy:
            entry.roomy = False
            self._leave(self.room)
        slots = entry.slots()
        if entry.listens:
            self._listening -= 1
            for slot in slots:
                self._drop_slot(entry, slot, mark)
        else:
            self.waiting.discard(entry)
        if entry.more is not None:
            self._end_details(entry, entry.more)
            return
        if entry.assigned is not None:
            self._leave(entry.assigned.pool.gate)
        elif entry.sent_at is not None and slots[0][2] is None:  # it asked, and so has its peer's turn
            assert entry.source is not None
            self._leave(entry.source)

    def _end_details(self, entry: Entry, more: Details) -> None:
        self.timetable.drop_step(more)
        for slot in more.assigned:
            self._release_id(slot)
        self.stop_waiting(entry, more)
        for gate in more.held:
            self._leave(gate)
        more.held.clear()

    def _release_id(self, slot: Slot) -> None:
        pools = self._sources[slot[0]].pools
        assert pools is not None
        self._leave(pools[slot[1]].gate)

    def stop_waiting(self, entry: Entry, more: Details) -> None:
        """Take an exchange out of every queue."""
        for gate in more.queued:
            gate.give_up(entry)
        more.queued.clear()

    def leave(self, more: Details, gate: Gate[Entry]) -> None:
        """Give back a place before the end."""
        more.held.remove(gate)
        self._leave(gate)

    def _leave(self, gate: Gate[Entry]) -> None:
        successor = gate.leave()
        if successor is not None and successor.more is not None:
            successor.more.held.append(gate)
            self.wake(successor.more)

    def wake(self, more: Details) -> None:
        """Let an exchange go on; once, however many things it waited for are free."""
        if not more.woken:
            more.woken = True
            self.woken.append(more)

    def _drop_slot(self, entry: Entry, slot: Slot, mark: Mark | None) -> None:
        source = self._sources[slot[0]]
        source.drop_live(slot[1])
        if slot[2] is None:
            source.remove_keyless(entry)
        else:
            self._pending.pop(slot, None)
        if is_wide(slot[0]):
            self._shapes.remove(slot[0], mark[1] if mark is not None else entry.began)
        if mark is not None:
            self._ended.add(slot, mark)

    def turn(self, token: Token) -> Gate[Entry]:
        """The gate at which those who ask without a key wait for their turn with a source."""
        return self.source(token)

    def note_sent(self, entry: Entry, slots: Iterable[Slot], peer: Source, now: float, original: bytes | None) -> None:
        """Take note that a datagram of this exchange left, which replies in these slots answer."""
        self.counters.sent += 1
        peer.sent += 1
        entry.sent_at = now
        before, entry.source = entry.source, peer
        more = entry.more
        assert more is not None
        if more.attempts:
            self.counters.retransmitted += 1
            if more.adapts and before is not None:
                before.back_off()
        more.attempts += 1
        if peer not in more.asked:
            more.asked.append(peer)
        for slot in slots:
            earlier = more.sends.get(slot)
            more.sends[slot] = Sent(now, 1 if earlier is None else earlier.times + 1, peer, original)

    # ---------------------------------------------------------------------------------------- what comes

    def receive_batch(self, batch: Batch, now: float) -> list[Settled]:
        """Give each datagram its verdict.

        Args:
            batch: Payloads and sources, in the order in which they came.
            now: When they were received.

        Returns:
            The exchanges that were answered, each once. What was not delivered is in `unexpected`, if anybody wants it.
        """
        settled: list[Settled] = []
        counters, sources, pending, shapes = self.counters, self._sources, self._pending, self._shapes
        counters.received += len(batch)
        mark = (_DUPLICATE, now)
        for data, wire in batch:
            try:
                source = sources.get(wire)
                if shapes.any or (len(wire) == IPV6_WIRE and has_scope(wire)):
                    reason = self._judge(data, wire, self._covering(wire), None, now, settled)
                elif source is None:
                    reason = _UNKNOWN_PEER
                else:
                    # Only this peer's own record can cover it; mostly it answers a question without extras.
                    books = source.books
                    keys: list[tuple[int, object]] | None = None
                    entry: Entry | OrderedDict[Entry, None] | None = None
                    if not books:
                        keys = []
                        entry = source.keyless
                    elif len(books) == 1:
                        book = books[0]
                        end = book.reply_end
                        if end:
                            key: object = data[book.reply_begin : end] if len(data) >= end else None
                        else:
                            key = self._key(book, data)
                        if key is None:
                            keys = [(book.number, None)]
                        else:
                            entry = pending.get((wire, book.number, key))
                            if entry is None:
                                keys = [(book.number, key)]
                    if isinstance(entry, Entry) and entry.more is None:
                        self._answer(entry, data, wire, mark, settled)
                        counters.matched += 1
                        continue
                    reason = self._judge(data, wire, [source], keys, now, settled)
            except BaseException as error:  # foreign keys compare, and foreign answers show themselves, as they like
                counters.hook_errors += 1
                reason = Reason.REJECTED
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    self.interrupt = error
            if reason is None:
                counters.matched += 1
            else:
                self._count(reason, data, wire, now)
        return settled

    def _answer(self, entry: Entry, data: bytes, wire: Wire, mark: Mark, settled: list[Settled]) -> None:
        """Settle an exchange without extras: what `end` does with one that was asked the short way, in one go.

        Apart, the calls for it cost 1.2 µs more of some 10 for a whole exchange.
        """
        source, sent_at = entry.source, entry.sent_at
        if sent_at is None or source is None:
            if source is not None:
                source.matched += 1
            self.end(entry, mark)
            settled.append((entry, data, wire, None, 0))
            return
        entry.ended = True
        if entry.timed:
            self.timetable.drop()
        room = self.room
        entry.roomy = False
        if room.queue:
            self._leave(room)
        else:
            room.free += 1
        self._listening -= 1
        slot = entry.own_slot
        if source.live_by_book is None:
            source.live -= 1
        else:
            source.drop_live(0 if slot is None else slot[1])
        if slot is None or slot[2] is None:
            if source.keyless is entry:
                source.keyless = None
            else:
                source.remove_keyless(entry)
            if source.queue:
                self._leave(source)
            else:
                source.free = 1
            self._ended.add(slot or (wire, 0, None), mark)
        else:
            del self._pending[slot]
            self._ended.add(slot, mark)
            if entry.assigned is not None:
                pool, original = entry.assigned
                data = pool.correlator.restored(data, original)
                self._leave(pool.gate)
        source.matched += 1
        rtt = mark[1] - sent_at
        source.sample(rtt)
        settled.append((entry, data, wire, rtt, 1))

    def _count(self, reason: Reason, data: bytes, wire: Wire, now: float) -> None:
        counters = self.counters
        if reason is Reason.UNKNOWN_PEER:
            counters.unknown_peer += 1
            self._strangers.add(data, wire, now)
        elif reason is Reason.REJECTED:
            counters.rejected += 1
            self._rejected.add(data, wire, now)
        elif reason is Reason.LATE:
            counters.late += 1
        else:
            counters.duplicate += 1
        if self.wants_unexpected:
            self.unexpected.append(Unexpected(data, peer_of(wire), reason))

    def _judge(
        self,
        data: bytes,
        wire: Wire,
        sources: list[Source],
        keys: list[tuple[int, object]] | None,
        now: float,
        settled: list[Settled],
    ) -> Reason | None:
        """The verdict on a datagram that these sources, the most specific first, may cover; None: matched."""
        if keys is None:
            keys = self._keys(sources, data)
        offer = _Offer(data, wire, now, settled)
        # 1: by key, what is pending
        for source in sources:
            for number, key in keys:
                entry = self._pending.get((source.token, number, key)) if key is not None else None
                if entry is not None and self._offer(offer, entry, (source.token, number, key)):
                    return offer.reason
        if offer.refused:
            return Reason.REJECTED
        # 2: by key, what is over
        for source in sources:
            for number, key in keys:
                if key is not None:
                    reason = self._ended.reason((source.token, number, key), now)
                    if reason is not None:
                        return reason
        return self._judge_keyless(offer, sources, [0] + [number for number, key in keys if key is None])

    def _judge_keyless(self, offer: _Offer, sources: list[Source], numbers: list[int]) -> Reason | None:
        # 3: without a key, what is pending; an exchange of a client with a correlator takes keyless datagrams alone
        for source in sources:
            for entry in _keyless(source):
                if entry.ended or entry.slot is None or entry.slot[1] not in numbers:
                    continue
                if self._offer(offer, entry, (source.token, entry.slot[1], None)):
                    return offer.reason
        if offer.refused:
            return Reason.REJECTED
        # 4: something pending covers it
        for source in sources:
            if source.live:
                return Reason.REJECTED
        # 5: without a key, what is over
        for source in sources:
            for number in numbers:
                reason = self._ended.reason((source.token, number, None), offer.now)
                if reason is not None:
                    return reason
        return Reason.UNKNOWN_PEER

    def _covering(self, wire: Wire) -> list[Source]:
        """The records of all the sources that a datagram may belong to, the most specific first."""
        tokens: list[Token] = [wire]
        scoped = len(wire) == IPV6_WIRE and has_scope(wire)
        if scoped:
            tokens.append(without_scope(wire))
        if self._shapes.any:
            tokens += self._shapes.tokens(wire, scoped=scoped)
        return [source for token in tokens if (source := self._sources.get(token)) is not None]

    def _keys(self, sources: list[Source], data: bytes) -> list[tuple[int, object]]:
        """The datagram's key in each book that any of these sources knows."""
        if len(sources) == 1:
            return [(book.number, self._key(book, data)) for book in sources[0].books]
        books = {book: None for source in sources for book in source.books}
        return [(book.number, self._key(book, data)) for book in sorted(books, key=lambda book: book.rank)]

    def _key(self, book: Book, data: bytes) -> object:
        assert book.correlator is not None
        try:
            key = book.correlator.reply_key(data)
            hash(key)
        except (KeyboardInterrupt, SystemExit) as error:
            self.interrupt = error
        except BaseException:
            self.counters.hook_errors += 1
        else:
            return key
        return None

    def _offer(self, offer: _Offer, entry: Entry, slot: Slot) -> bool:
        """Offer a datagram to an exchange in whose slot it falls; whether that settles what becomes of it."""
        more, now = entry.more, offer.now
        if more is None:
            self._answer(entry, offer.data, offer.wire, (_DUPLICATE, now), offer.settled)
            return True
        sent = more.sends.get(slot)
        if sent is None and more.asks:
            return False  # it waits for the socket: what comes before the question is no answer
        if entry in offer.refused:
            return False
        data, rtt, peer = offer.data, None, entry.source
        if sent is not None:
            peer = sent.peer
            rtt = now - sent.at if sent.times == 1 else None
            if sent.original is not None:
                data = self._restored(data, slot, sent.original)
        decision = Decision.ACCEPT
        if more.accept is not None:
            decision = self._ask(more, Reply(data, peer_of(offer.wire), rtt, more.attempts))
            if entry.ended:  # accept itself cancelled it, or closed the endpoint
                offer.reason = self._ended.reason(slot, now) or Reason.REJECTED
                return True
            if decision is Decision.REFUSE:
                offer.refused.add(entry)
                return False
        if peer is not None:
            peer.matched += 1
            if rtt is not None and not more.heard:
                peer.sample(rtt)
        if decision is Decision.PROVISIONAL:
            more.heard = True
            self.timetable.drop_step(more)
            self.stop_waiting(entry, more)
            return True
        self.end(entry, (Reason.DUPLICATE, now))
        offer.settled.append((entry, data, offer.wire, rtt, more.attempts))
        return True

    def _restored(self, data: bytes, slot: Slot, original: bytes) -> bytes:
        correlator = next(book.correlator for book in self._sources[slot[0]].books if book.number == slot[1])
        assert isinstance(correlator, TransactionId)
        return correlator.restored(data, original)

    def _ask(self, more: Details, reply: Reply) -> Decision:
        """What the caller's `accept` says; anything but a clear yes is a no."""
        assert more.accept is not None
        accept: Callable[[Reply], object] = more.accept  # what it really returns is the caller's affair
        try:
            answer = accept(reply)
        except (KeyboardInterrupt, SystemExit) as error:
            self.interrupt = error
            return Decision.REFUSE
        except BaseException as error:
            # The traceback would keep the frames of the caller's code alive as long as the request waits.
            more.objection = error.with_traceback(None)
        else:
            if isinstance(answer, bool):
                return Decision.ACCEPT if answer else Decision.REFUSE
            if isinstance(answer, Decision):
                return answer
            more.objection = NoDecisionError(f"accept returned {shown(answer)} instead of True, False or a Decision")
        self.counters.hook_errors += 1
        return Decision.REFUSE

    # -------------------------------------------------------------------------------------- time and end

    def expire(self, now: float) -> list[Entry]:
        """End what has reached its deadline; the earliest first."""
        due = self.timetable.expired(now)
        for entry in due:
            entry.timed = False  # its place in the timetable is gone already
            self.counters.timed_out += 1
            for peer in _asked(entry):
                peer.timed_out += 1
            if entry.more is not None and entry.more.adapts and entry.source is not None:
                entry.source.back_off()
            self.end(entry, (Reason.LATE, now))
        self._shapes.prune(now)
        return due

    def near_misses(self, entry: Entry, wires: Iterable[Wire]) -> list[NearMiss]:
        """What came while it waited and was not its answer: what was refused, then strangers that resemble these."""
        tokens = dict.fromkeys(slot[0] for slot in entry.slots())
        refused = self._rejected.covered(tokens, entry.began)
        strangers = self._strangers.resembling(wires, entry.began)
        found = [NearMiss(peer_of(wire), Reason.REJECTED, *told) for wire, told in refused.items()]
        found += [NearMiss(peer_of(wire), Reason.UNKNOWN_PEER, *told) for wire, told in strangers.items()]
        return found[:_MOST_NEAR_MISSES]

    def close(self, now: float) -> list[Entry]:
        """End everything; what was going on is returned."""
        entries: dict[Entry, None] = dict.fromkeys(self._pending.values())
        for source in self._sources.values():
            entries.update(dict.fromkeys(_keyless(source)))
        entries.update(dict.fromkeys(self.waiting))
        for entry in entries:
            self.end(entry, (Reason.LATE, now))
        self._sources.clear()
        self._ended.clear()
        self.timetable.clear()
        self.woken.clear()
        return list(entries)

    def statistics(self) -> Statistics:
        """The counters and gauges as they are."""
        return self.counters.snapshot(pending=self._listening, waiting=len(self.waiting))


class _Offer:
    """A datagram on its way through the registry."""

    __slots__ = ("data", "now", "reason", "refused", "settled", "wire")

    def __init__(self, data: bytes, wire: Wire, now: float, settled: list[Settled]) -> None:
        self.data = data
        self.wire = wire
        self.now = now
        self.settled = settled
        self.refused: set[Entry] = set()
        """Those whose `accept` refused it; each is asked once, in however many of its slots the datagram falls."""
        self.reason: Reason | None = None


def _keyless(source: Source) -> Iterator[Entry]:
    """What is pending without a key, the oldest first; it may change meanwhile."""
    keyless = source.keyless
    if isinstance(keyless, Entry):
        yield keyless
    elif keyless is not None:
        first = next(iter(keyless))
        yield first  # mostly it takes the datagram, and the others need not be looked at
        yield from [entry for entry in keyless if entry is not first]


def _asked(entry: Entry) -> list[Source]:
    if entry.more is not None and entry.more.asked:
        return entry.more.asked
    return [entry.source] if entry.source is not None else []


def _duplicate(slot: Slot) -> DuplicateTransactionError:
    token, _, key = slot
    peer = peer_of(token) if isinstance(token, bytes) and not is_wide(token) else None
    where = "the same source" if peer is None else str(peer)
    text = key.hex() if isinstance(key, bytes) else shown(key)
    return DuplicateTransactionError(
        f"transaction {text:.80} is already pending for {where}: give each request its own, "
        f"or let udpguard pick them with TransactionId(…, assign=True)",
        peer=peer,
        transaction=key,
    )
