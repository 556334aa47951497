"""What is pending and what is known of whom: the records of the registry, from the call of an exchange to its end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from udpguard._errors import DuplicateTransactionError
from udpguard.core.address import (
    ANYWHERE,
    IPV4_WIRE,
    IPV6_WIRE,
    Token,
    Wire,
    has_scope,
    host_token,
    peer_of,
    without_scope,
)
from udpguard.core.correlation import Book, Correlator, Slot, TransactionId, space_of, unsealed
from udpguard.core.explain import shown
from udpguard.core.gate import Gate
from udpguard.core.icmp import Hints
from udpguard.core.ids import IdPool, RandomBits
from udpguard.core.memory import Ended, Mark, Passers
from udpguard.core.options import Limits
from udpguard.core.ports import Ports, Soil, Spares
from udpguard.core.shapes import Shapes, is_wide
from udpguard.core.source import AssignedQuestion, Details, Entry, Lasting, LongEntry, Sent, Source, source_of
from udpguard.core.statistics import Counters, Statistics
from udpguard.core.suspicion import Suspicion
from udpguard.core.timetable import Timetable
from udpguard.core.verdict import Reason, Unexpected

if TYPE_CHECKING:
    from udpguard.core.swept import Bulk

# As many as there are exchanges to be remembered: a late reply finds the record of its peer.
_IDLE_SOURCES: Final = 65_536
# Gates of which nobody knows whether anybody still waits there.
_MOST_QUARANTINED: Final = 1_024


class Ledger:
    """The records of one endpoint. All times are in seconds on one clock, passed in."""

    def __init__(self, limits: Limits, random_bits: RandomBits, ports: Ports | None = None) -> None:
        self.limits = limits
        self.ports: Ports | None = ports
        """What ports there are to choose from; None where nothing is asked through it."""
        self.suspicion: Suspicion | None = None if limits.near_misses is None else Suspicion(limits.near_misses)
        self.suspected: list[Entry] = []
        """Those that were ended since too many wrong keys came; their callers are to be told."""
        self.rotates: bool = ports is not None and ports.rotate
        self.soil: Soil = Soil()
        self.spares: Spares = Spares(0 if ports is None else ports.spares)
        self.no_spare: Gate[Entry] = Gate(0)
        """Those who wait until a spare port is idle stand at this gate."""
        self._quarantine: dict[bytes, Gate[Entry]] = {}
        """Those who wait for an old reply, or for a quarantine to end, stand at the gate of the host it is from."""
        self.counters: Counters = Counters()
        self.timetable: Timetable[Entry, Details] = Timetable()
        self.wants_unexpected = False
        self.unexpected: list[Unexpected] = []
        """What the hook is to be told, where there is one."""
        self.delivered: list[tuple[Lasting, bytes, Wire, float | None, int]] = []
        """What came for those who go on listening, and is to be handed to them."""
        self.woken: deque[Details] = deque()
        """Those who waited and may go on."""
        self.swept: list[tuple[Bulk, int]] = []
        """The sweeps whose plain questions were answered, and how many."""
        self.strangers_left: int = 0
        """So many strangers more, and somebody asks whether they are a flood."""
        self.interrupt: BaseException | None = None
        """A KeyboardInterrupt or SystemExit out of `accept`, to be raised when the batch is done."""
        self.room: Gate[Entry] = Gate(limits.pending)
        self.waiting: set[Entry] = set()
        """Those that do not listen yet."""
        self.held: set[Entry] = set()
        """Those that listen, but wait for the socket to take their first datagram."""
        self._random_bits = random_bits
        self._pot = b""
        """Random bytes that were not used yet."""
        self._pot_at = 0
        self._pending: dict[Slot, Entry] = {}
        self._sources: dict[Token, Source] = {}
        self._listening = 0
        self._ended = Ended()
        self._strangers = Passers()
        self._rejected = Passers()
        self._shapes = Shapes()
        self._hints = Hints()
        self._elsewhere: dict[Wire, dict[Entry, None]] = {}
        """Those who asked a peer, but expect the answer from elsewhere alone: by that peer, the oldest first."""
        self._books: WeakValueDictionary[object, Book] = WeakValueDictionary()
        self._keyless_book = Book(0, None)
        self._last_book = 0
        self._latest = 0.0
        """The latest time that anything told."""
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
        book.read_by(correlator)
        return book

    def source(self, token: Token) -> Source:
        """The record of a source, made where there is none."""
        source = self._sources.pop(token, None)
        if source is None:
            return self._make_source(token)
        source.used = self._latest
        self._sources[token] = source  # the last one now, of those that were needed at the same time
        return source

    def _make_source(self, token: Token) -> Source:
        if len(self._sources) >= self._sweep_at:
            self._sweep_sources()
        source = self._sources[token] = source_of(token)
        source.used = self._latest
        return source

    def known_source(self, token: Token) -> Source | None:
        """The record of a source, or None."""
        return self._sources.get(token)

    def expected(self) -> list[Token]:
        """Where all that is pending is expected from."""
        return [token for token, source in self._sources.items() if source.live]

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
            self.timetable.add(entry, movable=movable)

    def unsend(self, entry: Entry) -> None:
        """Take back that a question was sent to its peer; `ask` counted it beforehand."""
        assert entry.source is not None
        entry.source.sent -= 1

    def extend(self, entry: Entry, more: Details) -> None:
        """Give extras to an exchange that had none."""
        entry.sent_at = None
        entry.more = more
        if entry.assigned is not None:  # which one from another port may have, or not
            assert isinstance(entry, AssignedQuestion)
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
        if not entry.listens and isinstance(entry, LongEntry):
            entry.listens = True
            self._listening += 1
            self.waiting.discard(entry)
        fresh = [slot for slot in slots if slot not in own]
        for slot in fresh:
            self._add_slot(entry, slot, book)
        if self.suspicion is not None and key is not None:
            known = {slot[0] for slot in own if slot[2] is not None}
            self.suspicion.watch(entry, [slot[0] for slot in fresh if slot[0] not in known])
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
                raise duplicate((token, number, key))
        if asked is not None and (self._shapes.any or asked not in tokens):
            peer = self._sources.get(asked)
            for token in self._covering_tokens(asked):
                other = self._pending.get((token, number, key), entry)
                if other is not entry and other.source is not None and other.source is peer:
                    raise duplicate((asked, number, key))

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
        pools = source.own_pools()
        pool = pools.get(book.number)
        if pool is None:
            pool = pools[book.number] = IdPool(token, book.number, book.correlator, self._random_bits)
        return pool

    def assign(self, pool: IdPool, tokens: Sequence[Token], now: float, asked: Wire | None = None) -> Slot | None:
        """Pick an id that is free in all the slots it will be expected in; None where none is."""
        others = tokens[1:]
        if asked is not None and (self._shapes.any or asked not in tokens):
            others = [*others, *self._covering_tokens(asked)]
        return pool.take(self._pending, self._ended, now, others)

    def withdraw(self, entry: Entry, now: float) -> bool:
        """End an exchange that its caller gave up; whether it was still going on."""
        if entry.ended:
            return False
        self.counters.cancelled += 1
        self.end(entry, (Reason.LATE, now))
        return True

    def end(
        self, entry: Entry, how: tuple[Reason, float] | None, *, expired: bool = False, refused: bool = False
    ) -> None:
        """End an exchange, whatever the reason, and remember it for a while; None: nothing was sent, so forget it.

        One that expired was taken out of the timetable already. What was refused is never answered.
        """
        entry.ended = True
        mark = self._note_end(entry, how, refused=refused)
        if entry.timeout != math.inf and not expired:
            self.timetable.drop()
        if entry.roomy:
            self._leave(self.room)
        slots = entry.slots()
        self._forget_elsewhere(entry)
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
            self._leave(entry.assigned[0].gate)
        elif entry.sent_at is not None and slots[0][2] is None:  # it asked, and so has its peer's turn
            assert entry.source is not None
            self._leave(entry.source)

    def listen_on(self, entry: Entry, tokens: Sequence[Token], book: Book, key: Hashable = None) -> None:
        """Let a `Lasting` listen to these sources until it ends.

        Raises:
            DuplicateTransactionError: The key is another's already; nothing has changed then.
        """
        self.listen(entry, tokens, book, key)
        if key is None:
            for token in tokens:
                self.soil.occupy(token, entry.port)

    def fix(self, entry: Entry, wire: Wire) -> None:
        """Have what listens to several places listen to this peer alone from now on."""
        more = entry.more
        assert isinstance(more, Lasting)
        more.fixes = False
        slots, peer = entry.slots(), self.source(wire)
        entry.own_slot = None
        more.slots.clear()
        for slot in slots:
            self._drop_slot(entry, slot, None)
            self.soil.vacate(slot[0], entry.port)
        self._add_slot(entry, (wire, 0, None), self._keyless_book)
        self.soil.occupy(wire, entry.port)
        more.takes_all = True
        assert entry.source is not None
        if peer is not entry.source:
            more.asked += [entry.source, peer]
        entry.source = peer

    def listeners_at(self, port: int) -> list[Entry]:
        """Those who go on listening at a port without a key."""
        sources = [self._sources.get(token) for token in self.soil.listened_to(port)]
        keyless = [source.expecting_keyless() for source in sources if source is not None]
        found = [entry for some in keyless for entry in some if entry.port == port]
        return [entry for entry in dict.fromkeys(found) if entry.more is not None and entry.more.lasting]

    def note_asked(self, entry: Entry, peer: Source, slots: Iterable[Slot]) -> None:
        """Take note whom an exchange asked, so that what ICMP says of it is known to be its."""
        wire = peer.token
        if isinstance(wire, bytes) and all(slot[0] != wire for slot in slots):
            self._elsewhere.setdefault(wire, {})[entry] = None

    def _forget_elsewhere(self, entry: Entry) -> None:
        if not self._elsewhere:
            return
        for wire in [peer.token for peer in asked(entry) if isinstance(peer.token, bytes)]:
            entries = self._elsewhere.get(wire)
            if entries is not None:
                entries.pop(entry, None)
                if not entries:
                    del self._elsewhere[wire]

    def _end_details(self, entry: Entry, more: Details) -> None:
        if more.woken and self.no_spare.has_queue:  # perhaps for a spare port, which is another's now
            self.wake_first(self.no_spare)
        self.timetable.drop_step(more)
        self.held.discard(entry)
        if more.lasting:
            self._vacate(entry)
        for slot in more.assigned:
            self._release_id(slot)
        self.stop_waiting(entry, more)
        for gate in more.held:
            self._leave(gate)
        more.held.clear()
        self._release_ports(more)

    def _vacate(self, entry: Entry) -> None:
        for slot in entry.slots():
            if slot[2] is None:
                self.soil.vacate(slot[0], entry.port)

    def _release_ports(self, more: Details) -> None:
        for spare in more.ports:
            if self.spares.release(spare, self._latest):
                self.wake_first(self.no_spare)

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

    def give_back(self, gate: Gate[Entry]) -> None:
        """Give back a place that no exchange with extras had."""
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
        if slot[2] is not None:
            self._pending.pop(slot, None)
        source = self._sources.get(slot[0])
        if source is None:  # everything was closed while a foreign key was compared
            return
        source.drop_live(slot[1])
        if slot[2] is None:
            source.remove_keyless(entry)
        if is_wide(slot[0]):
            self._shapes.remove(slot[0], mark[1] if mark is not None else entry.began)
        if mark is None:
            return
        sent = None if entry.more is None else entry.more.sends.get(slot)
        for port in (mark[2],) if sent is None else sent.ports:
            self._ended.add(slot, (mark[0], mark[1], port))

    def turn(self, token: Token) -> Gate[Entry]:
        """The gate at which those who ask without a key wait for their turn with a source."""
        return self.source(token)

    def note_sent(
        self, entry: Entry, slots: Sequence[Slot], peer: Source, now: float, original: bytes | None, port: int = 0
    ) -> None:
        """Take note that a datagram of this exchange left, from a port, which replies in these slots answer."""
        self.held.discard(entry)
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
            self.note_asked(entry, peer, slots)
        for slot in slots:
            earlier = more.sends.get(slot)
            if earlier is None:
                more.sends[slot] = Sent(now, 1, peer, original, (port,))
            else:
                ports = earlier.ports if port in earlier.ports else (*earlier.ports, port)
                more.sends[slot] = Sent(now, earlier.times + 1, peer, original, ports)

    # -------------------------------------------------------------------------------------------- old replies

    def have_no_spares(self) -> None:
        """Do without spare ports, and without changing ports: there is a quarantine instead."""
        self.spares.limit = 0
        self.rotates = self.rotates and self.ports is not None and self.ports.pool > 1

    def may_use(self, port: int, tokens: Sequence[Token], asked: Wire, now: float) -> bool:
        """Whether a request without a key to this peer may leave from one of the endpoint's own ports."""
        if not self.soil.dirty:
            return True
        covering = self._covering_tokens(asked)
        if self.spares.limit:
            return self.soil.is_clean(port, tokens, covering, now)
        return self.soil.blocked_until(port, tokens, covering) <= now

    def is_awaited(self, port: int, asked: Wire) -> bool:
        """Whether somebody waits there for an answer without a key that this peer may give, perhaps too late."""
        narrow = not self._shapes.any and len(asked) != IPV6_WIRE
        for token in (asked,) if narrow else self._covering_tokens(asked):
            source = self._sources.get(token)
            for entry in () if source is None else source.expecting_keyless():
                if _may_hear(entry, port):
                    return True
        return False

    def clean(self, ports: Iterable[int], tokens: Sequence[Token], asked: Wire, now: float) -> Sequence[int]:
        """Those of the ports to which no old reply comes that such a request would take for its own."""
        return self.soil.clean(ports, tokens, self._covering_tokens(asked), now)

    def unsoiled(self, ports: Iterable[int], tokens: Sequence[Token], asked: Wire, now: float) -> Sequence[int]:
        """The same, whoever goes on listening there."""
        return self.soil.unsoiled(ports, tokens, self._covering_tokens(asked), now)

    def blocked_until(self, port: int, tokens: Sequence[Token], asked: Wire) -> float:
        """When such a request may leave from there, where there is no other port."""
        return self.soil.blocked_until(port, tokens, self._covering_tokens(asked))

    def _note_end(self, entry: Entry, how: tuple[Reason, float] | None, *, refused: bool) -> Mark | None:
        if how is None:
            return None
        mark = (*how, entry.port)
        # To a session that neither sent nor heard anything nothing is on its way.
        if entry.more is None or not entry.more.lasting or entry.sent_at is not None or entry.more.heard:
            self._note_soil(entry, mark, refused=refused)
        return mark

    def note_refused(self, more: Details, slots: Iterable[Slot]) -> None:
        """Take note that a datagram which replies in these slots answer was refused: it owes none."""
        more.refusals += 1
        for slot in slots:
            sent = more.sends.pop(slot)
            if sent.times > 1:
                more.sends[slot] = sent._replace(times=sent.times - 1)

    def _note_soil(self, entry: Entry, mark: Mark, *, refused: bool) -> None:
        """Take note of the replies that may still come to an exchange without a key that has ended."""
        slot = entry.slot
        if self.ports is None or slot is None or slot[2] is not None:
            return
        answered = mark[0] is not Reason.LATE
        more, peer = entry.more, entry.source
        if more is None or not more.asks:
            if (not (answered or refused) or self.rotates) and peer is not None:
                sent_at = mark[1] if entry.sent_at is None else entry.sent_at
                self._soil(slot[0], peer.token, entry.port, mark[1], sent_at, int(not answered))
        elif more.lasting or more.attempts - more.refusals > answered or self.rotates:
            for (token, _, key), sent in more.sends.items():
                if key is None:
                    owed = sent.times - (answered and len(more.sends) == 1)
                    for port in sent.ports:
                        self._soil(token, sent.peer.token, port, mark[1], sent.at, owed)

    def _soil(self, token: Token, asked: Token, port: int, now: float, sent_at: float, owed: int) -> None:
        assert self.ports is not None
        self.soil.add(token, asked, port, now, until=sent_at + self.ports.quarantine, owed=owed)

    def note_old_reply(self, slot: Slot, mark: Mark) -> None:
        """Take note of a datagram without a key that belongs to an exchange which has ended like this."""
        if self.ports is None:
            return
        token, port = slot[0], mark[2]
        if self.is_waited_out(slot, mark):
            # Of what was sent more than once, or to several servers, the other replies look like duplicates.
            if self.soil.settle(token, port, self._latest):
                self._end_quarantine(token)
        else:
            self._soil(token, token, port, self._latest, mark[1], 0)

    def is_waited_out(self, slot: Slot, mark: Mark) -> bool:
        """Whether such a datagram may be the late reply to that exchange."""
        return mark[0] is Reason.LATE or self.soil.is_owed(slot[0], mark[2], self._latest)

    def _end_quarantine(self, token: Token) -> None:
        """Let those go on who may have waited for an old reply from a source, under whatever name."""
        host = _host_of(token)
        for name in {host, ANYWHERE} if host else list(self._quarantine):
            gate = self._quarantine.pop(name, None)
            while gate is not None and gate.has_queue:
                self.wake_first(gate)

    def quarantine(self, tokens: Iterable[Token]) -> list[Gate[Entry]]:
        """The gates at which those wait who go on when an old reply from one of these sources has come."""
        if len(self._quarantine) >= _MOST_QUARANTINED:
            self._quarantine = {token: gate for token, gate in self._quarantine.items() if gate.has_queue}
        names = dict.fromkeys(map(_host_of, tokens))
        return [self._quarantine.setdefault(name, Gate(0)) for name in names]

    def wake_first(self, gate: Gate[Entry]) -> None:
        """Let the first go on that waits at a gate which has no places to give."""
        first = gate.first()
        if first is not None and first.more is not None:
            first.more.queued.remove(gate)
            self.wake(first.more)

    def statistics(self, kernel_dropped: int = 0) -> Statistics:
        """The counters and gauges as they are."""
        held = len(self.held)
        return self.counters.snapshot(
            kernel_dropped=kernel_dropped, pending=self._listening - held, waiting=len(self.waiting) + held
        )


def _host_of(token: Token) -> bytes:
    """The host of a source, on whatever link; `ANYWHERE` where it is more than one."""
    if isinstance(token, tuple) or not token:
        return ANYWHERE
    host = host_token(token) if len(token) in (IPV4_WIRE, IPV6_WIRE) else token
    return host[:16]  # what follows is the scope


def _may_hear(entry: Entry, port: int) -> bool:
    """Whether who waits for one answer may hear it at a port."""
    more = entry.more
    if more is None or not more.asks:
        return entry.port == port and not (more is not None and more.lasting)
    # Where it has not left yet, nobody knows which port it will leave from.
    return not more.lasting and (not more.sends or any(port in sent.ports for sent in more.sends.values()))


def asked(entry: Entry) -> list[Source]:
    """The peers that an exchange asked, or was to."""
    if entry.more is not None and entry.more.asked:
        return entry.more.asked
    return [entry.source] if entry.source is not None else []


def duplicate(slot: Slot) -> DuplicateTransactionError:
    """The error for a slot that is another's."""
    token, key = slot[0], unsealed(slot[2])
    peer = peer_of(token) if isinstance(token, bytes) and not is_wide(token) else None
    where = "the same source" if peer is None else str(peer)
    text = key.hex() if isinstance(key, bytes) else shown(key)
    return DuplicateTransactionError(
        f"transaction {text:.80} is already pending for {where}: give each request its own, "
        f"or let udpguard pick them with TransactionId(…, assign=True)",
        peer=peer,
        transaction=key,
    )
