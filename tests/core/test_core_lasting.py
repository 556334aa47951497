"""Those who go on listening, where neither the state machine nor real sockets look; and what only they need."""

from __future__ import annotations

import errno
import math
from typing import Any

import pytest
from core_harness import Ear, wire
from core_oracle import Where
from typing_extensions import override

from udpguard import Ports
from udpguard.core import ledger as ledger_module
from udpguard.core.address import Token, host_token
from udpguard.core.correlation import Correlator, sealed
from udpguard.core.gate import Gate
from udpguard.core.icmp import NetworkError
from udpguard.core.options import Limits
from udpguard.core.ports import Soil
from udpguard.core.registry import Registry
from udpguard.core.source import Accept, Details, Entry, Lasting, LongEntry, Sent
from udpguard.core.verdict import Reason

ALICE: Where = ("192.0.2.1", 7)
ALICE_TOO: Where = ("192.0.2.1", 8)
BOB: Where = ("192.0.2.9", 7)
NETWORK = (24, bytes([192, 0, 2, 0]))


@pytest.fixture
def records() -> Registry:
    return Registry(Limits(), lambda bits: 0, Ports())


def listens(records: Registry, *tokens: Token, asked: Where = ALICE, port: int = 0, **more: Any) -> LongEntry:
    """Somebody goes on listening to these."""
    ear = Ear(**more)
    entry = LongEntry(None, 0.0, math.inf, ear, plain=False)
    entry.port, entry.source = port, records.source(wire(asked))
    records.enter(entry)
    records.listen_on(entry, tokens or (wire(asked),), records.book(None))
    return entry


def waits(
    records: Registry, *tokens: Token, asked: Where = ALICE, port: int = 0, accept: Accept | None = None
) -> Entry:
    """Somebody waits for one answer."""
    entry = LongEntry(None, 0.0, 5.0, Details(accept), plain=False)
    entry.port, entry.source = port, records.source(wire(asked))
    records.enter(entry)
    records.listen(entry, tokens or (wire(asked),), records.book(None), None)
    return entry


# ------------------------------------------------------------------------------------------ what it consists of


def test_what_was_not_asked_for_yet_is_as_in_any_other() -> None:
    ear, other = Lasting(), Details()
    for name in Details.__slots__:
        if name != "accept":
            assert getattr(ear, name) == getattr(other, name), name
    assert ear.left == math.inf
    ear.held.append(Gate(1))
    assert len(ear.held) == 1
    assert Lasting().held == []
    with pytest.raises(AttributeError, match="'Lasting' object has no attribute 'nonsense'"):
        _ = ear.nonsense  # type: ignore[attr-defined]
    with pytest.raises(NotImplementedError):
        ear.take(b"", b"", None, 0)


def test_repeats_are_known_only_where_they_are_not_wanted() -> None:
    ear, peer = Lasting(), wire(ALICE)
    ear.note_seen(peer, b"x")
    ear.forget_seen(peer, b"x")
    assert not ear.has_seen(peer, b"x")
    ear.ignore_repeats()
    ear.note_seen(peer, b"x")
    assert ear.has_seen(peer, b"x")
    assert not ear.has_seen(wire(BOB), b"x")
    ear.forget_seen(peer, b"x")
    assert not ear.has_seen(peer, b"x")


def test_of_very_many_the_first_are_forgotten() -> None:
    ear, peer = Lasting(), wire(ALICE)
    ear.ignore_repeats()
    for number in range(100_000):
        ear.note_seen(peer, b"%d" % number)
    assert ear.has_seen(peer, b"99999")
    assert ear.has_seen(peer, b"70000")
    assert not ear.has_seen(peer, b"0")
    assert ear._seen is not None
    assert len(ear._seen) + len(ear._old_seen) <= 65_536


# ----------------------------------------------------------------------------------------------- verdicts


def test_what_a_question_to_its_peer_refuses_is_the_sessions(records: Registry) -> None:
    listens(records)
    waits(records, NETWORK, accept=lambda reply: False)
    assert records.receive_batch([(b"x", wire(ALICE))], 1.0) == []
    assert [data for _, data, *_ in records.delivered] == [b"x"]
    assert records.statistics().matched == 1


def test_another_port_than_its_own_is_not_its(records: Registry) -> None:
    listens(records).more.takes_all = True  # type: ignore[union-attr]
    records.receive_batch([(b"x", wire(ALICE))], 1.0, port=5)
    assert records.delivered == []
    assert records.statistics().rejected == 1


def test_a_late_reply_that_comes_to_it_ends_a_quarantine(records: Registry) -> None:
    """Somebody waits until it has come; that a session on the same port has got it is no matter."""
    question = waits(records)
    records.withdraw(question, 1.0)
    (gate,) = records.quarantine([wire(ALICE)])
    waiting = LongEntry(None, 1.0, 5.0, Details(), plain=False)
    assert waiting.more is not None
    gate.wait(waiting)
    waiting.more.queued.append(gate)
    listens(records).more.takes_all = True  # type: ignore[union-attr]
    records.receive_batch([(b"late", wire(ALICE))], 1.5)
    assert [data for _, data, *_ in records.delivered] == [b"late"]
    assert list(records.woken) == [waiting.more]


# -------------------------------------------------------------------------------------------------- ports


def test_where_somebody_listens_others_that_may_hear_the_same_do_not() -> None:
    soil, alice, bob = Soil(), wire(ALICE), wire(BOB)
    soil.occupy(alice, 0)
    soil.occupy(alice, 0)
    soil.occupy(bob, 5)
    assert list(soil.clean((0, 5), (alice,), (alice,), 1.0)) == [5]
    assert list(soil.clean((0, 5), (wire(ALICE_TOO),), (wire(ALICE_TOO),), 1.0)) == [0, 5]
    assert list(soil.clean((0, 5), (host_token(alice),), (wire(ALICE_TOO),), 1.0)) == [5]
    assert list(soil.clean((0, 5, 6), (NETWORK,), (), 1.0)) == [6]
    soil.add(alice, alice, 6, 1.0, until=2.0, owed=1)
    assert list(soil.clean((0, 6, 7), (alice,), (alice,), 1.0)) == [7]
    assert list(soil.clean((0, 6), (wire(ALICE_TOO),), (wire(ALICE_TOO),), 1.0)) == [0, 6]
    assert set(soil.listened_to(0)) >= {alice}
    soil.vacate(alice, 0)
    assert soil.is_occupied(alice, 0)
    soil.vacate(alice, 0)
    assert not soil.is_occupied(alice, 0)
    soil.vacate(bob, 5)
    assert soil.dirty, "an old reply may still come"
    soil.clear()
    assert not soil.dirty


def test_the_ports_where_an_answer_is_awaited(records: Registry) -> None:
    alice = wire(ALICE)
    assert records.may_use(0, (alice,), alice, 0.0), "nothing is known of any port"
    listens(records, port=3)
    assert not records.is_awaited(3, alice)
    question = waits(records, port=4)
    assert records.is_awaited(4, alice)
    assert not records.is_awaited(5, alice)
    assert not records.is_awaited(4, wire(BOB))
    wide = waits(records, host_token(alice), asked=ALICE_TOO, port=6)
    assert records.is_awaited(6, alice)
    records.withdraw(question, 1.0)
    records.withdraw(wide, 1.0)
    asking = LongEntry(None, 0.0, 5.0, Details(asks=True), plain=False)
    asking.source = records.source(alice)
    records.enter(asking)
    slots = records.listen(asking, (alice,), records.book(None), None)
    assert records.is_awaited(9, alice), "it has not left yet"
    records.note_sent(asking, slots, asking.source, 1.0, None, 7)
    assert [port for port in (0, 7, 9) if records.is_awaited(port, alice)] == [7]


def test_who_listens_at_a_port_is_found_once(records: Registry) -> None:
    both = listens(records, wire(ALICE), wire(BOB), port=3)
    listens(records, port=4)
    waits(records, port=3)
    assert records.listeners_at(3) == [both]
    assert records.listeners_at(9) == []


def test_of_an_exchange_with_several_keys_those_without_soil_their_port(records: Registry) -> None:
    alice = wire(ALICE)
    entry = LongEntry(None, 0.0, 5.0, Details(asks=True), plain=False)
    assert entry.more is not None
    entry.source = records.source(alice)
    records.enter(entry)
    slots = records.listen(entry, (alice,), records.book(None), None)
    records.note_sent(entry, slots, entry.source, 1.0, None, 7)
    entry.more.sends[alice, 1, b"key"] = Sent(1.5, 1, entry.source, None, (8,))
    records.end(entry, (Reason.LATE, 2.0))
    assert list(records.clean((7, 8), (alice,), alice, 3.0)) == [8]


def test_a_place_is_anothers_when_who_was_to_use_it_ends(records: Registry) -> None:
    """Woken for a spare port, it ends before it goes on."""
    ends, waiting = (LongEntry(None, 0.0, 5.0, Details(), plain=False) for _ in range(2))
    assert ends.more is not None
    assert waiting.more is not None
    records.enter(ends)
    records.wake(ends.more)
    records.no_spare.wait(waiting)
    waiting.more.queued.append(records.no_spare)
    records.end(ends, None)
    assert waiting.more in records.woken
    gate = Gate[Entry](0)
    gate.wait(waiting)
    records.woken.clear()
    waiting.more.woken = False
    records.give_back(gate)
    assert list(records.woken) == [waiting.more]
    assert waiting.more.held == [gate]


def test_gates_at_which_nobody_waits_are_forgotten(records: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_MOST_QUARANTINED", 10)
    waiting = LongEntry(None, 0.0, 5.0, Details(), plain=False)
    (kept,) = records.quarantine([wire(ALICE)])
    kept.wait(waiting)
    for number in range(100):
        records.quarantine([wire((f"198.51.100.{number + 1}", 7))])
    assert len(records._quarantine) <= 10
    assert records.quarantine([wire(ALICE)]) == [kept]


# ---------------------------------------------------------------------------------------------------- ICMP


class _Ends:
    """A key that ends programs when it is compared."""

    @override
    def __hash__(self) -> int:
        return 1

    @override
    def __eq__(self, other: object) -> bool:
        raise KeyboardInterrupt


class _Keys(Correlator):
    @override
    def request_key(self, data: bytes) -> object:
        return _Ends()

    reply_key = request_key


def test_a_foreign_key_that_ends_programs_where_an_icmp_message_is_read(records: Registry) -> None:
    entry = LongEntry(None, 0.0, 5.0, None, plain=False)
    entry.source = records.source(wire(ALICE))
    records.enter(entry)
    book = records.book(_Keys())
    records.listen(entry, (wire(ALICE),), book, sealed(_Ends()))
    message = NetworkError(wire(ALICE), b"quote", errno.ECONNREFUSED, 2, 3, 3, None, 0)
    assert records.refused_by(message, 1.0) is None
    assert isinstance(records.interrupt, KeyboardInterrupt)
