"""The verdict on a datagram, whatever may cover its source; and what falls due.

Nothing here waits, sends or settles. The futures are opaque; who is to be settled is returned. The only foreign code
that runs inside is `accept` and `reply_key`, which may call back (to cancel, to close, to expect); so after either
nothing that was looked up before is taken for granted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from udpguard.core.address import IPV6_WIRE, Token, Wire, has_scope, peer_of, without_scope
from udpguard.core.correlation import Book, Slot, TransactionId, sealed
from udpguard.core.explain import NoDecisionError, shown
from udpguard.core.ledger import Ledger, asked
from udpguard.core.source import Details, Entry, Lasting, Source
from udpguard.core.verdict import Decision, NearMiss, Reason, Reply, Unexpected

_MOST_NEAR_MISSES: Final = 16

Settled: TypeAlias = tuple[Entry, bytes, Wire, float | None, int]
"""An exchange that was answered: the reply's payload and source, the round-trip time, how many had been sent."""


class Judge(Ledger):
    """The verdicts, and the deadlines. All times are in seconds on one clock, passed in."""

    interrupt: BaseException | None
    strangers_left: int
    _overdue: list[Entry] | None = None
    """What a datagram that came after its deadline has ended, while deadlines count; else nothing has one."""

    # ------------------------------------------------------------------------------------------ verdicts

    def receive_overdue(
        self, batch: Sequence[tuple[bytes, Wire]], now: float, arrivals: Sequence[float], port: int = 0
    ) -> tuple[list[Settled], list[Entry]]:
        """Give each datagram its verdict, where some arrived after deadlines that nobody looked at yet.

        What such a datagram would have answered has expired. What else is due may have its answer in another socket
        that was not read yet, and is left alone.

        Args:
            batch: Payloads and sources, in the order in which they came.
            now: The time.
            arrivals: When each of them arrived.
            port: The number of the port they came to.

        Returns:
            The exchanges that were answered, each once; and those that expired.
        """
        settled: list[Settled] = []
        self._overdue = expired = list[Entry]()
        self.counters.received += len(batch)
        self._latest = now
        for (data, wire), arrived in zip(batch, arrivals, strict=True):
            self.judge(data, wire, arrived, port, settled)
        self._overdue = None
        return settled, expired

    def judge(self, data: bytes, wire: Wire, now: float, port: int, settled: list[Settled]) -> None:
        """Give a datagram that arrived at that time, at that port, its verdict, whatever it may be."""
        offer = _Offer(data, wire, now, port, settled)
        try:
            if self._shapes.any or (len(wire) == IPV6_WIRE and has_scope(wire)):
                covering = self._covering(wire)
                reason = self._judge(offer, covering, None) if covering else Reason.UNKNOWN_PEER
            else:
                source = self._sources.get(wire)
                reason = Reason.UNKNOWN_PEER if source is None else self._judge_plain(offer, source)
        except BaseException as error:  # foreign keys compare, and foreign answers show themselves, as they like
            self.counters.hook_errors += 1
            reason = Reason.REJECTED
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                self.interrupt = error
        if reason is None:
            self.counters.matched += 1
        else:
            self._count(reason, data, wire, now)

    def _judge_plain(self, offer: _Offer, source: Source) -> Reason | None:
        """The verdict where only this peer's own record can cover it; none that `_judge` would not give as well."""
        books = source.books
        keys: list[tuple[int, object]] | None = None
        if len(books) == 1:
            number, key = books[0].number, self._key(books[0], offer.data)
            keys = [(number, key)]
            entry = self._pending.get((offer.wire, number, key)) if key is not None else None
            if entry is not None and entry.more is None and entry.port == offer.port and self._overdue is None:
                self._answer(entry, offer)
                return None
        return self._judge(offer, [source], keys)

    def _answer(self, entry: Entry, offer: _Offer) -> None:
        """Settle an exchange without extras."""
        data, now = offer.data, offer.now
        rtt: float | None = None
        if entry.source is not None:
            entry.source.matched += 1
            if entry.sent_at is not None:
                rtt = max(now - entry.sent_at, 0.0)
                if now >= entry.sent_at:  # else it came before the question left, or so it seems
                    entry.source.sample(rtt)
        if entry.assigned is not None:
            pool, original = entry.assigned
            data = pool.correlator.restored(data, original)
        self.end(entry, (Reason.DUPLICATE, now))
        offer.settled.append((entry, data, offer.wire, rtt, 0 if rtt is None else 1))

    def _count(self, reason: Reason, data: bytes, wire: Wire, now: float) -> None:
        counters = self.counters
        if reason is Reason.UNKNOWN_PEER:
            counters.unknown_peer += 1
            self.strangers_left -= 1
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

    def _judge(self, offer: _Offer, sources: list[Source], keys: list[tuple[int, object]] | None) -> Reason | None:
        """The verdict on a datagram that these sources, the most specific first, may cover; None: matched."""
        if keys is None:
            keys = self._keys(sources, offer.data)
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
                    reason = self._ended.reason((source.token, number, key), offer.now, offer.port)
                    if reason is not None:
                        return reason
        return self._judge_keyless(offer, sources, [0] + [number for number, key in keys if key is None])

    def _judge_keyless(self, offer: _Offer, sources: list[Source], numbers: list[int]) -> Reason | None:
        # 3: without a key, what is pending; an exchange of a client with a correlator takes keyless datagrams alone
        lasting: list[tuple[Entry, Slot]] = []
        for place, source in enumerate(sources):
            for entry in _keyless(source):
                if entry.ended or entry.slot is None or entry.slot[1] not in numbers:
                    continue
                slot = (source.token, entry.slot[1], None)
                if entry.more is not None and entry.more.lasting:
                    lasting.append((entry, slot))
                elif self._offer(offer, entry, slot):
                    return offer.reason
            if lasting:
                if self._offer_lasting(offer, lasting, sources[place + 1 :], numbers):
                    return offer.reason
                lasting.clear()
        if offer.refused:
            return Reason.REJECTED
        # 4: something pending covers it
        if any(source.live for source in sources):
            if self.suspicion is not None:
                self._suspect(self.suspicion.note([source.token for source in sources if source.live]), offer.now)
            return Reason.REJECTED
        # 5: without a key, what is over
        for source in sources:
            for number in numbers:
                slot = (source.token, number, None)
                mark = self._ended.mark(slot, offer.now, offer.port)
                if mark is not None:
                    self.note_old_reply(slot, mark)
                    return mark[0]
        return Reason.UNKNOWN_PEER

    def _offer_lasting(
        self, offer: _Offer, lasting: list[tuple[Entry, Slot]], wider: list[Source], numbers: list[int]
    ) -> bool:
        """Offer a datagram to those who go on listening to a source; first to who asked its sender and waits."""
        for source in wider:
            for entry in _keyless(source):
                if entry.ended or entry.slot is None or entry.slot[1] not in numbers:
                    continue
                if (entry.more is not None and entry.more.lasting) or not _asked(entry, offer.wire):
                    continue
                if self._offer(offer, entry, (source.token, entry.slot[1], None)):
                    return True
        for entry, slot in lasting:
            if self._offer(offer, entry, slot):
                self._end_waiting(offer, slot[0], numbers)
                return True
        return False

    def _end_waiting(self, offer: _Offer, token: Token, numbers: list[int]) -> None:
        """Take note of what may be the late reply that somebody waits out, whoever has got it."""
        for number in numbers if self.soil.is_marked else ():
            slot = (token, number, None)
            mark = self._ended.mark(slot, offer.now, offer.port)
            if mark is not None:
                # What nobody waits out is part of the conversation, and no sign that anything was answered twice.
                if self.is_waited_out(slot, mark):
                    self.note_old_reply(slot, mark)
                return

    def _suspect(self, entries: Iterable[Entry], now: float) -> None:
        """End those for whom too many wrong keys have come."""
        for entry in entries:
            self.counters.suspected += 1
            self.end(entry, (Reason.LATE, now))
            self.suspected.append(entry)

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
            key = sealed(book.correlator.reply_key(data), self._count_fault)
        except (KeyboardInterrupt, SystemExit) as error:
            self.interrupt = error
        except BaseException as error:
            self.counters.hook_errors += 1
            if book.fault is None:
                book.fault = f"{type(error).__name__}: {shown(error, str)}"
        else:
            return key
        return None

    def _count_fault(self) -> None:
        self.counters.hook_errors += 1

    def _offer(self, offer: _Offer, entry: Entry, slot: Slot) -> bool:
        """Offer a datagram to an exchange in whose slot it falls; whether that settles what becomes of it."""
        more, now = entry.more, offer.now
        sent = None if more is None else more.sends.get(slot)
        if offer.port not in ((entry.port,) if sent is None else sent.ports):
            return False
        if self._overdue is not None and entry.deadline <= now:
            self._expire(entry, now)
            self._overdue.append(entry)
            return False
        if more is None:
            self._answer(entry, offer)
            return True
        if sent is None and more.asks:
            return False  # it waits for the socket: what comes before the question is no answer
        if isinstance(more, Lasting) and more.has_seen(offer.wire, offer.data):
            offer.reason = Reason.DUPLICATE
            return True
        if entry in offer.refused or (isinstance(more, Lasting) and more.fixes and not self._may_choose(offer)):
            return False
        data, rtt, peer = offer.data, None, entry.source
        if sent is not None:
            peer = sent.peer
            rtt = max(now - sent.at, 0.0) if sent.times == 1 else None
            if sent.original is not None:
                data = self._restored(data, slot, sent.original)
        decision = Decision.ACCEPT
        if more.accept is not None:
            decision = self._ask(more, Reply(data, peer_of(offer.wire), rtt, more.attempts))
            if entry.ended:  # accept itself cancelled it, or closed the endpoint
                offer.reason = self._ended.reason(slot, now, offer.port) or Reason.REJECTED
                return True
            if decision is Decision.REFUSE:
                offer.refused.add(entry)
                return False
        if isinstance(more, Lasting):
            if decision is Decision.ACCEPT:
                self._deliver(offer, entry, more, data, rtt)
            return True
        if peer is not None:
            peer.matched += 1
            if sent is not None and rtt is not None and now >= sent.at and not more.heard:
                peer.sample(rtt)
        if decision is Decision.PROVISIONAL:
            more.heard = True
            self.timetable.drop_step(more)
            self.stop_waiting(entry, more)
            return True
        self.end(entry, (Reason.DUPLICATE, now))
        offer.settled.append((entry, data, offer.wire, rtt, more.attempts))
        return True

    def _may_choose(self, offer: _Offer) -> bool:
        """Whether a datagram may say whom somebody listens to from now on.

        Not what a request of his would not have, nor what is known to be somebody else's, too late.
        """
        if offer.refused:
            return False
        source = self._sources.get(offer.wire)
        numbers = [0] if source is None else [0, *(book.number for book in source.books)]
        return all(self._ended.mark((offer.wire, number, None), offer.now, offer.port) is None for number in numbers)

    def _deliver(self, offer: _Offer, entry: Entry, more: Lasting, data: bytes, rtt: float | None) -> None:
        """Give a datagram to somebody who goes on listening, unless it is the last that he wants."""
        sender = self._sources.get(offer.wire)
        if sender is not None:
            sender.matched += 1
        more.heard = True
        more.note_seen(offer.wire, offer.data)
        if more.fixes:
            self.fix(entry, offer.wire)
        self.delivered.append((more, data, offer.wire, rtt, more.attempts))
        more.left -= 1
        if more.left <= 0:
            self.end(entry, (Reason.DUPLICATE, offer.now))

    def _restored(self, data: bytes, slot: Slot, original: bytes) -> bytes:
        correlator = next(book.correlator for book in self._sources[slot[0]].books if book.number == slot[1])
        assert isinstance(correlator, TransactionId)
        return correlator.restored(data, original)

    def _ask(self, more: Details, reply: Reply) -> Decision:
        """What the caller's `accept` says; anything but a clear yes is a no."""
        assert more.accept is not None
        accept: Callable[[Reply], object] = more.accept  # what it really returns is the caller's affair
        more.judged = True
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
            self._expire(entry, now, taken_out=True)
        self._shapes.prune(now)
        return due

    def _expire(self, entry: Entry, now: float, *, taken_out: bool = False) -> None:
        """End what has reached its deadline, taken out of the timetable or not."""
        self.counters.timed_out += 1
        for peer in asked(entry):
            peer.timed_out += 1
        if entry.more is not None and entry.more.adapts and entry.source is not None:
            entry.source.back_off()
        self.end(entry, (Reason.LATE, now), expired=taken_out)

    def near_misses(self, entry: Entry, wires: Iterable[Wire], since: float | None = None) -> list[NearMiss]:
        """What came while it waited, or since then, and was not its answer.

        First what was refused, then strangers that resemble these.
        """
        tokens = dict.fromkeys(slot[0] for slot in entry.slots())
        since = entry.began if since is None else since
        refused = self._rejected.covered(tokens, since)
        strangers = self._strangers.resembling(wires, since)
        found = [NearMiss(peer_of(wire), Reason.REJECTED, *told) for wire, told in refused.items()]
        found += [NearMiss(peer_of(wire), Reason.UNKNOWN_PEER, *told) for wire, told in strangers.items()]
        return found[:_MOST_NEAR_MISSES]

    def heard_elsewhere(self, since: float) -> bool:
        """Whether strangers sent anything since then."""
        return self._strangers.latest >= since

    def finder(self, entry: Entry) -> str | None:
        """How a transaction key is found in replies to it; see `Book.finder`."""
        numbers = {slot[1] for slot in entry.slots()}
        return next((book.finder for book in self._books.values() if book.number in numbers), None)

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
        self.soil.clear()
        self._elsewhere.clear()
        self._hints.clear()
        self.timetable.clear()
        self.woken.clear()
        return list(entries)


def _asked(entry: Entry, wire: Wire) -> bool:
    return any(peer.token == wire for peer in asked(entry))


class _Offer:
    """A datagram on its way through the registry."""

    __slots__ = ("data", "now", "port", "reason", "refused", "settled", "wire")

    def __init__(self, data: bytes, wire: Wire, now: float, port: int, settled: list[Settled]) -> None:
        self.data = data
        self.wire = wire
        self.now = now
        self.port = port
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
