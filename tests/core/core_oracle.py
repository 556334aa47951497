"""What should become of each datagram: a naive model, written from the contract's words and not from the code.

It keeps a list of dicts, looks at all of them for each datagram, forgets nothing, and knows addresses as text only. The
contract is silent where more than one exchange has an equal claim; here the more specific source goes first, then
the book with the longest key, then the oldest of those pending and the latest of those that are over. Who goes on
listening comes after those who wait for one answer: those that expect it from just there, and those that asked its
sender wherever they expect it from.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

SHORT_WHILE = 120.0

Host = str
Where = tuple[Host, int]
Expectation = dict[str, Any]


class Place(NamedTuple):
    """Where an answer may come from: a peer, a host, a network, or anywhere."""

    kind: str
    host: str = ""
    port: int = 0
    network: Any = None

    @cache  # noqa: B019 (places are few)
    def covers(self, where: Where) -> bool:
        if self.kind == "anywhere":
            return True
        address = ipaddress.ip_address(where[0].partition("%")[0])
        if self.kind == "network":
            return bool(address in self.network)
        host, _, scope = self.host.partition("%")
        if ipaddress.ip_address(host) != address or (scope and scope != where[0].partition("%")[2]):
            return False
        return self.kind == "host" or self.port == where[1]

    @cache  # noqa: B019 (places are few)
    def breadth(self) -> tuple[int, int]:
        """The smaller, the more specific."""
        order = ["peer", "host", "network", "anywhere"].index(self.kind)
        if self.kind == "network":
            return (order, -self.network.prefixlen)
        return (order, 0 if "%" in self.host else 1)


def places(asked: Where, reply_from: object) -> list[Place]:
    """What `reply_from` means when this peer is asked."""
    found: list[Place] = []
    for part in reply_from if isinstance(reply_from, list) else [reply_from]:
        if part == "peer":
            place = Place("peer", *asked)
        elif part == "host":
            place = Place("host", asked[0])
        elif part == "anywhere":
            place = Place("anywhere")
        elif isinstance(part, tuple):
            place = Place("peer", *part)
        else:
            network = ipaddress.ip_network(part)
            single = network.prefixlen == network.max_prefixlen
            place = Place("host", str(network.network_address)) if single else Place("network", network=network)
        if place not in found:
            found.append(place)
    return found


class Book(NamedTuple):
    """How one kind of client finds keys; those with longer keys read first."""

    name: str
    rank: int
    key: Callable[[bytes], object]


def _words(data: bytes) -> object:
    # Raises for "!" and gives a list for "?": neither is a key.
    return sum(data) % 5 if len(data) >= 3 and data[:1] not in (b"!", b"?") else None


BOOKS = {
    "none": Book("none", 0, lambda data: None),
    "long": Book("long", 1, lambda data: data[:2] if len(data) >= 2 else None),
    "short": Book("short", 2, lambda data: data[:1] if len(data) >= 1 else None),
    "words": Book("words", 3, _words),
}

LIVE = ("waiting", "pending")


class Oracle:
    """Everything that was ever expected, and what came."""

    REFUSAL_BY_KEY_IS_FINAL = True
    """Whether a datagram that was refused by what its key fits is rejected, and offered to nobody without a key."""

    def __init__(self) -> None:
        self.all: list[Expectation] = []
        self.counts: Counter[str] = Counter()
        self.unexpected: list[tuple[bytes, Where, str]] = []
        self.asked: list[tuple[int, bytes]] = []
        self._order = 0
        self._is_old = False

    # ------------------------------------------------------------------------------------------- what users do

    def begin(self, timeout: float, now: float, *, accept: str | None, asks: bool) -> int:
        expectation: Expectation = {
            "id": len(self.all), "slots": [], "accept": accept, "asks": asks, "state": "waiting", "ended": None,
            "began": now, "deadline": now + timeout, "attempts": 0, "book": "none", "asked": None, "lasting": False,
        }  # fmt: skip
        self.all.append(expectation)
        return int(expectation["id"])

    def last(self, number: int, *, fixes: bool, limit: float, once: bool) -> None:
        """Have it go on listening: to whoever sends first, for so many, to the same thing once."""
        self.all[number].update(lasting=True, fixes=fixes, left=limit, seen=set() if once else None)

    def hang_up(self, number: int, now: float) -> None:
        """It listens no more."""
        if self.all[number]["state"] in LIVE:
            self._end(self.all[number], "hung up", now)

    def is_taken(self, number: int | None, where: Iterable[Place], book: str, key: object) -> bool:
        """Whether another pending one has the same peer and key."""
        return key is not None and any(
            slot["place"] in where and slot["key"] == key
            for other in self.pending()
            if other["id"] != number and other["book"] == book
            for slot in other["slots"]
        )

    def listen(self, number: int, where: Iterable[Place], book: str, key: object, original: bytes | None) -> None:
        expectation = self.all[number]
        expectation["state"] = "pending"
        expectation["book"] = book
        for place in where:
            if not any(slot["place"] == place and slot["key"] == key for slot in expectation["slots"]):
                self._order += 1
                slot = {"place": place, "key": key, "order": self._order, "at": None, "times": 0, "original": original}
                expectation["slots"].append(slot)

    def send(self, number: int, key: object, now: float) -> None:
        expectation = self.all[number]
        self.counts["sent"] += 1
        self.counts["retransmitted"] += expectation["attempts"] > 0
        expectation["attempts"] += 1
        for slot in expectation["slots"]:
            if slot["key"] == key:
                slot["at"] = now
                slot["times"] += 1

    def cancel(self, number: int, now: float) -> None:
        if self.all[number]["state"] in LIVE:
            self.counts["cancelled"] += 1
            self._end(self.all[number], "cancelled", now)

    def expire(self, now: float) -> list[int]:
        due = [e for e in self.all if e["state"] in LIVE and e["deadline"] <= now]
        for expectation in due:
            self.counts["timed_out"] += 1
            self._end(expectation, "timed out", now)
        return [e["id"] for e in due]

    def close(self, now: float) -> list[int]:
        live = [e for e in self.all if e["state"] in LIVE]
        for expectation in live:
            self._end(expectation, "closed", now)
        return [e["id"] for e in live]

    def _end(self, expectation: Expectation, state: str, now: float) -> None:
        self._order += 1
        expectation["state"] = state
        expectation["ended"] = now
        expectation["last"] = self._order

    def pending(self) -> list[Expectation]:
        return [e for e in self.all if e["state"] == "pending"]

    def live(self) -> list[int]:
        return [e["id"] for e in self.all if e["state"] in LIVE]

    def next_deadline(self) -> float:
        return min((e["deadline"] for e in self.all if e["state"] in LIVE), default=math.inf)

    # --------------------------------------------------------------------------------------------- what comes

    def receive(self, data: bytes, where: Where, now: float) -> tuple[object, ...] | None:
        """Give a datagram its verdict; what is delivered, as (id, data, rtt, attempts)."""
        self.counts["received"] += 1
        verdict, delivered = self._judge(data, where, now)
        self.counts[verdict] += 1
        if verdict != "matched":
            self.unexpected.append((data, where, verdict))
        return delivered

    def _judge(self, data: bytes, where: Where, now: float) -> tuple[str, tuple[object, ...] | None]:
        covering = [
            (slot["place"].breadth(), BOOKS[e["book"]].rank, slot["order"], e, slot)
            for e in self.all
            for slot in e["slots"]
            if slot["place"].covers(where)
        ]
        by_key = [c for c in covering if c[4]["key"] is not None and c[4]["key"] == BOOKS[c[3]["book"]].key(data)]
        without = [c for c in covering if c[4]["key"] is None and BOOKS[c[3]["book"]].key(data) is None]
        refused: list[int] = []
        # What is late from a peer chooses nobody to listen to.
        self._is_old = any(
            c[4]["key"] is None and c[4]["place"] == Place("peer", *where)
            and c[3]["ended"] is not None and now - c[3]["ended"] <= SHORT_WHILE
            for c in covering
        )  # fmt: skip

        settled = self._offer(sorted(by_key, key=lambda c: c[:3]), data, where, now, refused)
        if settled is not None:
            return settled
        if not (refused and self.REFUSAL_BY_KEY_IS_FINAL):
            over = _over(by_key, now)
            if over is not None:
                return over, None
            settled = self._offer(_in_turn(without, where), data, where, now, refused)
            if settled is not None:
                return settled
        if any(e["state"] == "pending" for _, _, _, e, _ in covering):
            return "rejected", None
        return _over(without, now) or "unknown_peer", None

    def _offer(  # noqa: C901 (the rules, one after the other)
        self, candidates: list[Any], data: bytes, where: Where, now: float, refused: list[int]
    ) -> tuple[str, tuple[object, ...] | None] | None:
        for _, _, _, expectation, slot in candidates:
            number, lasting = expectation["id"], expectation["lasting"]
            if expectation["state"] != "pending":
                continue
            if expectation["asks"] and not slot["times"]:
                continue  # what comes before the question is no answer
            if lasting and expectation["seen"] is not None and (where, data) in expectation["seen"]:
                return "duplicate", None
            if number in refused or (lasting and expectation["fixes"] and (refused or self._is_old)):
                continue
            original = slot["original"]
            answer = data if original is None else original + data[len(original) :]
            rtt = now - slot["at"] if slot["times"] == 1 else None
            decision = self._decision(expectation, answer, now)
            if expectation["state"] != "pending":
                return "late", None  # accept cancelled its own expectation
            if decision == "refuse":
                refused.append(number)
                continue
            if decision == "provisional":
                return "matched", None
            if lasting:
                self._keep(expectation, data, where, now)
            else:
                self._end(expectation, "answered", now)
            return "matched", (number, answer, rtt, expectation["attempts"])
        return None

    def _keep(self, expectation: Expectation, data: bytes, where: Where, now: float) -> None:
        if expectation["seen"] is not None:
            expectation["seen"].add((where, data))
        if expectation["fixes"]:
            expectation["fixes"] = False
            expectation["slots"].clear()
            self.listen(expectation["id"], [Place("peer", *where)], "none", None, None)
        expectation["left"] -= 1
        if expectation["left"] <= 0:
            self._end(expectation, "answered", now)

    def _decision(self, expectation: Expectation, data: bytes, now: float) -> str:
        kind = expectation["accept"]
        if kind is None:
            return "accept"
        self.asked.append((expectation["id"], data))
        decision = decide(kind, data)
        if kind in ("raise", "odd"):
            self.counts["accept_errors"] += 1
        if kind == "cancel itself":
            self.cancel(expectation["id"], now)
        if kind == "cancel another":
            self.cancel(next((n for n in self.live() if n != expectation["id"]), expectation["id"]), now)
        return decision


def _in_turn(candidates: list[Any], where: Where) -> list[Any]:
    """Those who are offered a datagram without a key, in their order."""
    candidates = sorted(candidates, key=lambda c: (c[0], c[2]))
    waiting = [c for c in candidates if not c[3]["lasting"]]
    found: list[Any] = []
    for breadth in sorted({c[0] for c in candidates}):
        found += [c for c in waiting if c[0] == breadth]
        lasting = [c for c in candidates if c[0] == breadth and c[3]["lasting"] and c[3]["state"] == "pending"]
        if lasting:
            found += [c for c in waiting if c[0] > breadth and c[3]["asked"] == where]
            found += lasting
    return found


def decide(kind: str, data: bytes) -> str:
    """What each kind of `accept` says."""
    if kind == "by data":
        return ("accept", "refuse", "provisional")[sum(data) % 3]
    return {"yes": "accept", "cancel itself": "accept", "provisional": "provisional"}.get(kind, "refuse")


def _over(candidates: list[Any], now: float) -> str | None:
    """What the most specific, then latest of those that are over makes of a datagram."""
    remembered = [
        (c[0], c[1], -c[3]["last"], c[3])
        for c in candidates
        if c[3]["ended"] is not None and now - c[3]["ended"] <= SHORT_WHILE
    ]
    if not remembered:
        return None
    nearest = min(remembered, key=lambda r: r[:3])
    return "duplicate" if nearest[3]["state"] == "answered" else "late"
