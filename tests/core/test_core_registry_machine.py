"""The registry as a state machine, against the oracle: anything may happen, in any order."""

from __future__ import annotations

import ipaddress

from core_harness import Harness
from core_oracle import BOOKS, Where
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

PEERS: list[Where] = [
    ("192.0.2.1", 7),
    ("192.0.2.1", 8),
    ("192.0.2.9", 7),
    ("198.51.100.1", 7),
    ("2001:db8::1", 7),
    ("fe80::1%2", 7),
    ("fe80::1%3", 7),
    ("fe80::1%2", 9),
]
ASKED: list[Where] = [*PEERS, ("fe80::1", 7)]
REPLY_FROM: list[object] = [
    "peer",
    "host",
    "anywhere",
    ("192.0.2.9", 7),
    ("fe80::1", 7),
    "192.0.2.0/24",
    "192.0.2.1",
    ipaddress.ip_network("192.0.0.0/16"),
    "0.0.0.0/0",
    "2001:db8::/32",
    "fe80::/10",
    "fe80::1",
    ["peer", "host"],
    ["peer", ("192.0.2.9", 7), "192.0.2.9/32"],
    ["host", "anywhere"],
    ["192.0.2.0/24", "192.0.2.0/28", "peer"],
    ["peer", "fe80::/64", "anywhere"],
]
ACCEPTS = [None, "yes", "refuse", "provisional", "by data", "raise", "odd", "cancel itself", "cancel another"]
TIMEOUTS = [0.5, 1.0, 2.0, 100.0, float("inf")]

payloads = st.text(alphabet="ab!?", max_size=4).map(str.encode)
# One peer of them all is the busiest, so that much happens at one place.
asked = st.one_of(st.just(PEERS[0]), st.sampled_from(ASKED))
peers = st.one_of(st.just(PEERS[0]), st.sampled_from(PEERS))
reply_from = st.one_of(st.just("peer"), st.sampled_from(REPLY_FROM))
books = st.sampled_from(sorted(BOOKS))
accepts = st.one_of(st.none(), st.sampled_from(ACCEPTS))
timeouts = st.sampled_from(TIMEOUTS)
picks = st.integers(0, 63)


class RegistryMachine(RuleBasedStateMachine):
    """Registrations, datagrams, cancellations and time."""

    def __init__(self) -> None:
        super().__init__()
        self.harness = Harness()
        self.now = 1000.0

    def _pick(self, pick: int, *, asks: bool = False, live: bool = True) -> int | None:
        """One of those that go on, or of all."""
        numbers = [
            e["id"]
            for e in self.harness.oracle.all
            if e["slots"] and (not live or e["state"] == "pending")
            if not asks or (self.harness.entries[e["id"]].more and (e["asks"] or not e["lasting"]))
        ]
        return numbers[-1 - pick % len(numbers)] if numbers else None

    @rule(
        peer=asked, source=reply_from, book=books, like=payloads, accept=accepts, timeout=timeouts, asks=st.booleans()
    )
    def begin(
        self, peer: Where, source: object, book: str, like: bytes, accept: str | None, timeout: float, asks: bool
    ) -> None:
        key = BOOKS[book].key(like)
        self.harness.begin(peer, source, book, key, timeout, self.now, accept=accept, asks=asks)

    @rule(peer=asked, book=books, like=payloads, timeout=timeouts, assign=st.booleans())
    def request(self, peer: Where, book: str, like: bytes, timeout: float, assign: bool) -> None:
        self.harness.request(peer, book, BOOKS[book].key(like), timeout, self.now, assign=assign)

    @rule(peer=peers, timeout=timeouts)
    def wait(self, peer: Where, timeout: float) -> None:
        self.harness.wait(peer, timeout, self.now)

    @rule(peer=asked, host=st.booleans())
    def open_a_session(self, peer: Where, host: bool) -> None:
        self.harness.last(peer, "host" if host else "peer", "none", None, self.now, fixes=host)

    @rule(
        peer=asked, source=reply_from, book=books, like=payloads, accept=accepts, once=st.booleans(),
        limit=st.sampled_from([1, 2, float("inf")]), sent=st.integers(0, 2),
    )  # fmt: skip
    def discover(
        self,
        peer: Where,
        source: object,
        book: str,
        like: bytes,
        accept: str | None,
        once: bool,
        limit: float,
        sent: int,
    ) -> None:
        key, harness = BOOKS[book].key(like), self.harness
        number = harness.last(
            peer, source, book, key, self.now, accept=accept, asks=True, limit=limit, once=once
        )  # fmt: skip
        for _ in range(sent if number is not None else 0):
            harness.send(number, 0, self.now)  # type: ignore[arg-type]

    @rule(pick=picks)
    def hang_up(self, pick: int) -> None:
        numbers = [e["id"] for e in self.harness.oracle.all if e["lasting"] and e["state"] == "pending"]
        if numbers:
            self.harness.hang_up(numbers[pick % len(numbers)], self.now)

    @rule(pick=picks, source=reply_from, like=payloads)
    def listen_for_another_key(self, pick: int, source: object, like: bytes) -> None:
        number = self._pick(pick, asks=True)
        if number is not None and not self.harness.oracle.all[number]["lasting"]:
            book = self.harness.oracle.all[number]["book"]
            self.harness.listen(number, source, book, BOOKS[book].key(like))

    @rule(pick=picks, which=picks)
    def send(self, pick: int, which: int) -> None:
        number = self._pick(pick, asks=True)
        if number is not None:
            self.harness.send(number, which, self.now)

    @rule(batch=st.lists(st.tuples(payloads, peers), max_size=4))
    def receive_anything(self, batch: list[tuple[bytes, Where]]) -> None:
        self.harness.receive(batch, self.now)

    @rule(pick=picks, like=payloads, times=st.integers(1, 3), live=st.booleans(), where=st.one_of(st.none(), peers))
    def receive_an_answer(self, pick: int, like: bytes, times: int, live: bool, where: Where | None) -> None:
        """A reply, duplicated perhaps, late perhaps, from a wrong place perhaps."""
        number = self._pick(pick, live=live)
        if number is None:
            return
        expectation = self.harness.oracle.all[number]
        key = expectation["slots"][pick % len(expectation["slots"])]["key"]
        data = key + like if isinstance(key, bytes) else like
        if where is None:
            where = self.harness.where(number)
            where = ("fe80::1%2", 7) if where[0] == "fe80::1" else where
        self.harness.receive([(data, where)] * times, self.now)

    @rule(pick=picks, live=st.booleans())
    def cancel(self, pick: int, live: bool) -> None:
        number = self._pick(pick, live=live)
        if number is not None:
            self.harness.cancel(number, self.now)

    @rule()
    def cancel_who_waits(self) -> None:
        for expectation in self.harness.oracle.all:
            if expectation["state"] == "waiting":
                self.harness.cancel(expectation["id"], self.now)
                break

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 60.0, 119.5, 120.0, 120.5, 250.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        self.harness.expire(self.now)

    @invariant()
    def agree(self) -> None:
        self.harness.check()

    def teardown(self) -> None:
        if self.harness.disagrees:
            return  # it failed already
        if len(self.harness.entries) % 2:
            self.harness.close(self.now)
            assert not self.harness.registry._sources
            assert not len(self.harness.registry._ended)
        else:
            self.harness.expire(self.now + 200)
            for number in self.harness.oracle.live():
                self.harness.cancel(number, self.now + 200)
        self.harness.check_nothing_left(self.now + 200)
        super().teardown()


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(stateful_step_count=60, report_multiple_bugs=False)
