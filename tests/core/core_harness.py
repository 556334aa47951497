"""Drives a `Registry` as the shell does, and an oracle beside it; after each step both must say the same."""

from __future__ import annotations

import ipaddress
import math
import random
from collections import Counter
from functools import cache
from typing import Any

from core_oracle import Oracle, Where, decide, places
from typing_extensions import override

from udpguard import DuplicateTransactionError
from udpguard.core.address import Sources, Token, Wire, peer_of, wire_of
from udpguard.core.correlation import Book, Correlator, TransactionId
from udpguard.core.options import Limits
from udpguard.core.registry import Registry
from udpguard.core.source import Accept, Details, Entry, Lasting, LongEntry
from udpguard.core.verdict import Decision, Reason, Reply

DECISIONS = {"accept": Decision.ACCEPT, "refuse": Decision.REFUSE, "provisional": Decision.PROVISIONAL}


class Words(Correlator):
    """A correlator of a user's, with its faults: it raises, and gives what can't be a key."""

    def __init__(self) -> None:
        self.faults = 0
        self.calls = 0

    @override
    def request_key(self, data: bytes) -> object:
        return self.reply_key(data)

    @override
    def reply_key(self, data: bytes) -> object:
        self.calls += 1
        if len(data) >= 3 and data[:1] == b"!":
            self.faults += 1
            raise LookupError("no key")
        if len(data) >= 3 and data[:1] == b"?":
            self.faults += 1
            return []
        return sum(data) % 5 if len(data) >= 3 else None


class Ear(Lasting):
    """What goes on listening."""

    __slots__ = ("number",)

    number: int


def no_interface(name: str) -> int:
    raise OSError(f"no interface {name}")


@cache
def wire(where: Where) -> Wire:
    """The wire of a literal, by a way of its own."""
    host, _, scope = where[0].partition("%")
    return wire_of(ipaddress.ip_address(host).packed, where[1], int(scope or 0))


class Harness:
    """A registry and its oracle, and what became of each expectation."""

    def __init__(self, limits: Limits = Limits(), seed: int = 0) -> None:  # noqa: B008 (frozen)
        self.oracle = Oracle()
        self.words = Words()
        self.registry = Registry(limits, random.Random(seed).getrandbits)
        self.registry.wants_unexpected = True
        self.books: dict[str, Book] = {
            "none": self.registry.book(None),
            "long": self.registry.book(TransactionId(0, 2)),
            "short": self.registry.book(TransactionId(0, 1, assign=True)),
            "words": self.registry.book(self.words),
        }
        self.entries: list[Entry] = []
        self.outcomes: list[tuple[int, str]] = []
        self.asked: list[tuple[int, bytes]] = []
        self.keys: dict[int, list[object]] = {}
        self.tokens: dict[int, tuple[Token, ...]] = {}
        self.peers: dict[int, Where] = {}
        self.disagrees = False
        """Whether a comparison with the oracle failed: nothing after it means anything."""

    # ------------------------------------------------------------------------------------------- what users do

    def begin(
        self, peer: Where, reply_from: object, book: str, key: object, timeout: float, now: float, *,
        accept: str | None = None, asks: bool = False,
    ) -> int | None:  # fmt: skip
        """Expect an answer, or (`asks`) get ready to send a question; None where the key is taken."""
        number = len(self.entries)
        tokens = Sources(reply_from, no_interface).tokens(wire(peer))  # type: ignore[arg-type]
        plain = accept is None and not asks and len(tokens) == 1
        more = None if plain else Details(self._accept(number, accept), asks=asks)
        entry = LongEntry(number, now, timeout, more, plain=False)
        self.entries.append(entry)
        assert self.oracle.begin(timeout, now, accept=accept, asks=asks) == number
        self.oracle.all[number]["asked"] = peer
        self.peers[number] = peer
        self.tokens[number] = tokens
        self.keys[number] = []
        assert self.registry.room.enter()
        entry.roomy = True
        entry.source = self.registry.source(wire(peer))
        self.registry.enter(entry)
        if not self.listen(number, reply_from, book, key):
            self.registry.end(entry, (Reason.LATE, now))
            self.oracle.all[number].update(state="refused", ended=None)
            self.outcomes.append((number, "refused"))
            return None
        return number

    def last(
        self, peer: Where, reply_from: object, book: str, key: object, now: float, *,
        accept: str | None = None, asks: bool = False, fixes: bool = False, limit: float = math.inf, once: bool = False,
    ) -> int | None:  # fmt: skip
        """Go on listening, as a session or a discovery does; None where the key is taken."""
        number = len(self.entries)
        where = places(peer, reply_from)
        tokens = Sources(reply_from, no_interface).tokens(wire(peer))  # type: ignore[arg-type]
        ear = Ear(self._accept(number, accept), asks=asks)
        ear.number, ear.fixes, ear.left = number, fixes, limit
        one_peer = len(where) == 1 and where[0].kind == "peer" and "%" not in str(where[0].host)
        ear.takes_all = (
            one_peer and key is None and accept is None and limit == math.inf and not (asks or fixes or once)
        )
        if once:
            ear.ignore_repeats()
        entry = LongEntry(number, now, math.inf, ear, plain=False)
        self.entries.append(entry)
        assert self.oracle.begin(math.inf, now, accept=accept, asks=asks) == number
        self.oracle.all[number]["asked"] = peer
        self.oracle.last(number, fixes=fixes, limit=limit, once=once)
        self.peers[number], self.tokens[number], self.keys[number] = peer, tokens, [key]
        assert self.registry.room.enter()
        entry.roomy = True
        entry.source = self.registry.source(wire(peer))
        self.registry.enter(entry)
        taken = self.oracle.is_taken(number, where, book, key)
        try:
            self.registry.listen_on(entry, tokens, self.books[book], key)
        except DuplicateTransactionError:
            assert taken
            self.registry.end(entry, None)
            self.oracle.all[number].update(state="refused", ended=None)
            self.outcomes.append((number, "refused"))
            return None
        assert not taken
        self.oracle.listen(number, where, book, key, None)
        return number

    def hang_up(self, number: int, now: float) -> None:
        """Listen no more."""
        if not self.entries[number].ended:
            self.registry.end(self.entries[number], (Reason.LATE, now))
            self.outcomes.append((number, "hung up"))
        self.oracle.hang_up(number, now)

    def wait(self, peer: Where, timeout: float, now: float) -> int:
        """Wait for a turn, without listening yet."""
        number = self.oracle.begin(timeout, now, accept=None, asks=True)
        entry = LongEntry(number, now, timeout, Details(asks=True), plain=False)
        self.entries.append(entry)
        self.peers[number] = peer
        self.keys[number] = []
        self.registry.enter(entry)
        return number

    def listen(self, number: int, reply_from: object, book: str, key: object) -> bool:
        """Let it be answered with this key (too); False where the key is taken."""
        entry = self.entries[number]
        where = places(self.peers[number], reply_from)
        tokens = Sources(reply_from, no_interface).tokens(wire(self.peers[number]))  # type: ignore[arg-type]
        assert len(tokens) == len(where)
        self.tokens[number] = tokens
        asked = self.peers[number]
        taken = self.oracle.is_taken(number, where, book, key) or self._has_rival(number, asked, book, key)
        try:
            self.registry.listen(entry, tokens, self.books[book], key, wire(asked))
        except DuplicateTransactionError as error:
            assert taken, f"{key!r} was free: {error}"  # noqa: PT017
            return False
        assert not taken, f"{key!r} was taken"
        self.oracle.listen(number, where, book, key, None)
        self.keys[number].append(key)
        return True

    def send(self, number: int, which: int, now: float) -> None:
        """Send a question, with one of its keys."""
        entry, key = self.entries[number], self.keys[number][which % len(self.keys[number])]
        slots = [slot for slot in entry.slots() if slot[2] == key]
        peer = self.registry.source(wire(self.peers[number]))
        self.registry.note_sent(entry, slots, peer, now, None)
        self.oracle.send(number, key, now)

    def _has_rival(self, number: int | None, asked: Where, book: str, key: object) -> bool:
        """Whether the same peer was asked with this key, and may answer that from a wider source."""
        return key is not None and any(
            slot["key"] == key and slot["place"].covers(asked)
            for other in self.oracle.pending()
            if other["id"] != number and other["book"] == book
            if self.entries[other["id"]].source is not None and self.peers[other["id"]] == asked
            for slot in other["slots"]
        )

    def request(self, peer: Where, book: str, key: object, timeout: float, now: float, *, assign: bool) -> int | None:
        """Ask in the short way: one peer, one slot, sent at once."""
        registry, number = self.registry, len(self.entries)
        address = wire(peer)
        original = None
        if assign:
            book, key, original = "short", None, b"o"
        source = places(peer, "peer")
        taken = not assign and (self.oracle.is_taken(None, source, book, key) or self._has_rival(None, peer, book, key))
        has_turn = bool(registry.turn(address).free)
        try:
            entry = registry.ask(number, address, self.books[book], original or key, original, timeout, now, True)
        except DuplicateTransactionError:
            assert taken
            return None
        assert not taken
        assert (entry is not None) == (has_turn or assign or key is not None), (
            "a question without a key takes its peer's turn"
        )
        if entry is None:
            return None
        registry.counters.sent += 1
        if assign:
            assert entry.own_slot is not None
            key = entry.own_slot[2]
            assert not self.oracle.is_taken(None, source, book, key), "an id in use was assigned"
        assert self.oracle.begin(timeout, now, accept=None, asks=True) == number
        self.oracle.all[number]["asked"] = peer
        self.entries.append(entry)
        self.peers[number] = peer
        self.keys[number] = [key]
        self.oracle.listen(number, source, book, key, original)
        self.oracle.send(number, key, now)
        return number

    def cancel(self, number: int, now: float) -> None:
        going_on = self.oracle.all[number]["state"] in ("waiting", "pending")
        assert self._withdraw(number, now) == going_on
        self.oracle.cancel(number, now)

    def expire(self, now: float) -> None:
        due = self.registry.expire(now)
        deadlines = [self.oracle.all[int(str(entry.future))]["deadline"] for entry in due]
        assert deadlines == sorted(deadlines), "the earliest first"
        numbers = [int(str(entry.future)) for entry in due]
        self.outcomes += [(number, "timed out") for number in numbers]
        assert sorted(numbers) == self.oracle.expire(now)

    def close(self, now: float) -> None:
        numbers = [int(str(entry.future)) for entry in self.registry.close(now)]
        self.outcomes += [(number, "closed") for number in numbers]
        assert sorted(numbers) == self.oracle.close(now)

    def _withdraw(self, number: int, now: float) -> bool:
        withdrawn = self.registry.withdraw(self.entries[number], now)
        if withdrawn:
            self.outcomes.append((number, "cancelled"))
        return withdrawn

    def _accept(self, number: int, kind: str | None) -> Accept | None:
        if kind is None:
            return None

        def accept(reply: Reply) -> Any:
            self.asked.append((number, reply.data))
            if kind == "raise":
                raise ArithmeticError("no")
            if kind == "odd":
                return 1
            if kind == "cancel itself":
                assert self._withdraw(number, self.now)
            if kind == "cancel another":
                live = [n for n, entry in enumerate(self.entries) if not entry.ended and n != number]
                assert self._withdraw(live[0] if live else number, self.now)
            return DECISIONS[decide(kind, reply.data)]

        return accept

    # --------------------------------------------------------------------------------------------- what comes

    def receive(self, batch: list[tuple[bytes, Where]], now: float) -> list[int]:
        """Take a batch; who was answered."""
        self.now = now
        self.disagrees = True
        settled = self.registry.receive_batch([(data, wire(where)) for data, where in batch], now)
        got = [(int(str(entry.future)), data, rtt, attempts) for entry, data, _, rtt, attempts in settled]
        kept: list[Any] = []
        for lasting, data, _, rtt, attempts in self.registry.delivered:
            assert isinstance(lasting, Ear)
            kept.append((lasting.number, data, rtt, attempts))
        self.registry.delivered.clear()
        wanted = [d for data, where in batch if (d := self.oracle.receive(data, where, now)) is not None]
        assert got == [one for one in wanted if not self.oracle.all[int(str(one[0]))]["lasting"]]
        assert kept == [one for one in wanted if self.oracle.all[int(str(one[0]))]["lasting"]]
        assert self.asked == self.oracle.asked, "accept judges each reply once"
        seen = [(u.data, tuple(u.peer), u.reason.value) for u in self.registry.unexpected]
        assert seen == self.oracle.unexpected
        self.registry.unexpected.clear()
        self.oracle.unexpected.clear()
        self.outcomes += [(number, "answered") for number, *_ in got]
        full = {number for number, *_ in kept if self.oracle.all[number]["state"] == "answered"}
        self.outcomes += [(number, "answered") for number in full]
        self.disagrees = False
        return [number for number, *_ in got]

    # ----------------------------------------------------------------------------------------- what must hold

    def check(self) -> None:
        """What holds after each step."""
        self.disagrees = True
        got, wanted = self.registry.statistics(), self.oracle.counts
        assert got.received == got.matched + got.duplicate + got.late + got.rejected + got.unknown_peer
        for name in ("received", "matched", "duplicate", "late", "rejected", "unknown_peer"):
            assert getattr(got, name) == wanted[name], name
        for name in ("sent", "retransmitted", "timed_out", "cancelled"):
            assert getattr(got, name) == wanted[name], name
        assert got.hook_errors == wanted["accept_errors"] + self.words.faults
        states = Counter(e["state"] for e in self.oracle.all)
        assert (got.pending, got.waiting) == (states["pending"], states["waiting"])
        assert self.registry.timetable.next_due() == self.oracle.next_deadline()
        ended = Counter(number for number, _ in self.outcomes)
        assert all(times == 1 for times in ended.values()), "one outcome each"
        assert set(ended) == {e["id"] for e in self.oracle.all} - set(self.oracle.live())
        self.disagrees = False

    def check_nothing_left(self, now: float) -> None:
        """What holds when all has ended."""
        registry = self.registry
        assert not self.oracle.live()
        self.check()
        assert registry._pending == {}
        assert registry.waiting == set()
        assert registry.soil._occupied == {}
        assert registry.room.free == registry.limits.pending
        assert registry.timetable.next_due() == math.inf
        assert len(registry.timetable) == 0
        assert (registry.timetable._dead, registry.timetable._dead_steps) == (0, 0)
        for source in registry._sources.values():
            assert (source.live, source.keyless) == (0, None)
            for pool in (source.pools or {}).values():
                assert pool.gate.free == 256
        registry.expire(now + 121)
        assert not registry._shapes.any, "the kinds of wide sources are forgotten"

    def where(self, number: int) -> Where:
        return self.peers[number]


def shown(address: Wire) -> Where:
    return tuple(peer_of(address))
