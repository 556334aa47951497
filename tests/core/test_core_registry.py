"""The registry where the state machine does not look: records, gates, near misses, hostile accept functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from core_harness import Harness, Words, no_interface, wire
from core_oracle import Where
from typing_extensions import override

from udpguard import DuplicateTransactionError
from udpguard.core import ledger as ledger_module
from udpguard.core import memory
from udpguard.core.address import Sources, Wire, covers, peer_of
from udpguard.core.correlation import Correlator, TransactionId
from udpguard.core.gate import Gate
from udpguard.core.options import Limits
from udpguard.core.registry import Registry
from udpguard.core.source import Accept, Details, Entry, LongEntry
from udpguard.core.verdict import Decision, NearMiss, Reason, Reply

SERVER: Where = ("192.0.2.1", 7)
OTHER: Where = ("192.0.2.9", 7)
IDS = TransactionId(0, 2)


def registry(**limits: Any) -> Registry:
    def no_random_bits(bits: int) -> int:
        raise AssertionError

    made = Registry(Limits(**limits), no_random_bits)
    made.wants_unexpected = True
    return made


def expect(
    records: Registry, where: Where = SERVER, *, accept: Accept | None = None, ids: Correlator | None = None,
    key: object = None, reply_from: Any = "peer", now: float = 0.0, timeout: float = 5.0,
) -> Entry:  # fmt: skip
    entry = LongEntry(None, now, timeout, Details(accept), plain=False)
    records.enter(entry)
    tokens = Sources(reply_from, no_interface).tokens(wire(where))
    records.listen(entry, tokens, records.book(ids), key)
    return entry


def verdicts(records: Registry, *batch: tuple[bytes, Where], now: float = 1.0) -> list[str]:
    records.unexpected.clear()
    settled = len(records.receive_batch([(data, wire(where)) for data, where in batch], now))
    return ["settled"] * settled + [datagram.reason.value for datagram in records.unexpected]


# ------------------------------------------------------------------------------------------------- overdue


@pytest.mark.parametrize("more", [None, Details()], ids=["plain", "with extras"])
@pytest.mark.parametrize(("ids", "key"), [(None, None), (IDS, b"ab")], ids=["keyless", "keyed"])
def test_what_came_after_its_deadline_ends_what_it_would_have_answered_and_nothing_else(
    ids: Correlator | None, key: object, more: Details | None
) -> None:
    records = registry()
    first, second, other = (
        expect(records, where, ids=ids, key=key, timeout=timeout)
        for where, timeout in ((SERVER, 1.0), (OTHER, 2.0), (("192.0.2.2", 7), 1.0))
    )
    first.more = more
    batch = [(b"ab", wire(where)) for where in (SERVER, OTHER, ("192.0.2.3", 7))]
    settled, expired = records.receive_overdue(batch, 3.0, [1.5, 1.5, 1.5])
    assert [one[0] for one in settled] == [second]
    assert expired == [first]
    assert [datagram.reason for datagram in records.unexpected] == [Reason.LATE, Reason.UNKNOWN_PEER]
    assert not other.ended, "its answer may lie elsewhere"
    assert records.expire(3.0) == [other]
    assert records.statistics().timed_out == 2
    assert (records.statistics().pending, len(records.timetable)) == (0, 0)
    # Where nobody knows when a datagram came, it is in time.
    late = expect(records, ids=ids, key=key, timeout=1.0)
    assert [one[0] for one in records.receive_batch([(b"ab", wire(SERVER))], 3.0)] == [late]


def test_of_those_without_a_key_the_first_that_was_still_waited_for_takes_what_came() -> None:
    records = registry()
    first, second = expect(records, timeout=1.0), expect(records, timeout=2.0)
    settled, expired = records.receive_overdue([(b"x", wire(SERVER))], 3.0, [1.5])
    assert ([one[0] for one in settled], expired) == ([second], [first])


# ---------------------------------------------------------------------------------------------------- hooks


def test_accept_judges_each_datagram_once() -> None:
    # Its slots overlap: a datagram from the peer falls in both.
    for ids, key in ((IDS, b"ab"), (None, None)):
        records = registry()
        asked: list[Reply] = []

        def accept(reply: Reply) -> bool:
            asked.append(reply)  # noqa: B023 (called within the turn)
            return False

        expect(records, accept=accept, ids=ids, key=key, reply_from=["peer", "host", "anywhere"])
        assert verdicts(records, (b"abc", SERVER)) == ["rejected"]
        assert len(asked) == 1


def test_a_reply_key_that_raises_is_one_hook_error_each_datagram() -> None:
    records = registry()
    words = Words()
    expect(records, ids=words, key=3)
    assert verdicts(records, (b"!xx", SERVER), (b"?xx", SERVER)) == ["rejected", "rejected"]
    assert records.counters.hook_errors == 2
    assert words.calls == 2, "asked once each"


def test_a_correlator_is_asked_once_each_datagram() -> None:
    records = registry()
    words = Words()
    expect(records, ids=words, key=3)
    expect(records, ids=IDS, key=b"xx")
    expect(records, ids=words, key=2, reply_from=["host", "anywhere"])
    verdicts(records, (b"abc", SERVER))
    assert words.calls == 1


def test_a_peer_of_several_books_reads_each_once() -> None:
    records = registry()
    words = Words()
    expect(records, ids=words, key=0)
    expect(records, ids=IDS, key=b"ab")
    assert verdicts(records, (b"abc", SERVER), (b"xyz", SERVER)) == ["settled", "rejected"]
    assert words.calls == 2


def test_nothing_is_kept_for_a_hook_that_is_not_there() -> None:
    records = registry()
    records.wants_unexpected = False
    assert verdicts(records, (b"a", SERVER)) == []
    assert records.counters.unknown_peer == 1


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_kept_until_the_batch_is_done(interrupt: type[BaseException]) -> None:
    def accept(reply: Reply) -> bool:
        raise interrupt

    records = registry()
    expect(records, accept=accept)
    expect(records, OTHER)
    assert verdicts(records, (b"a", SERVER), (b"b", OTHER)) == ["settled", "rejected"]
    assert isinstance(records.interrupt, interrupt)
    assert records.counters.hook_errors == 0


class Touchy:
    """A key that raises when it is compared with another."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    @override
    def __hash__(self) -> int:
        return 1

    @override
    def __eq__(self, other: object) -> bool:
        raise self.error


class TouchyKeys(Correlator):
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    @override
    def request_key(self, data: bytes) -> int:
        return 1

    @override
    def reply_key(self, data: bytes) -> object:  # type: ignore[override]
        return Touchy(self.error) if data == b"bad" else 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_key_that_can_not_be_compared_spoils_only_its_datagram(error: type[BaseException]) -> None:
    records = registry()
    expect(records, ids=TouchyKeys(error), key=1)
    assert verdicts(records, (b"bad", SERVER), (b"good", SERVER)) == ["settled", "rejected"]
    assert records.counters.hook_errors == 1
    assert isinstance(records.interrupt, KeyboardInterrupt) == (error is KeyboardInterrupt)


class Interrupted(Correlator):
    """Somebody presses Ctrl-C while a key is read."""

    @override
    def request_key(self, data: bytes) -> None:
        return None

    @override
    def reply_key(self, data: bytes) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_while_a_key_is_read() -> None:
    records = registry()
    expect(records, ids=Interrupted())
    assert verdicts(records, (b"a", SERVER)) == ["settled"]
    assert isinstance(records.interrupt, KeyboardInterrupt)


@pytest.mark.parametrize("answer", [None, 1, 0, "yes", b"", [], object()])
def test_accept_must_say_a_clear_yes(answer: Any) -> None:
    records = registry()
    entry = expect(records, accept=lambda reply: answer)
    assert verdicts(records, (b"a", SERVER)) == ["rejected"]
    assert entry.more is not None
    assert "instead of True, False or a Decision" in str(entry.more.objection)
    assert records.counters.hook_errors == 1


class Unspeakable:
    """What can't be shown."""

    def __repr__(self) -> str:
        raise RuntimeError


def test_an_answer_that_can_not_be_shown_is_a_refusal_too() -> None:
    records = registry()
    answer: Any = Unspeakable()
    expect(records, accept=lambda reply: answer)
    expect(records, OTHER)
    assert verdicts(records, (b"a", SERVER), (b"b", OTHER)) == ["settled", "rejected"]


def test_an_exception_in_accept_keeps_no_frames() -> None:
    def accept(reply: Reply) -> bool:
        raise LookupError("no")

    records = registry()
    entry = expect(records, accept=accept)
    verdicts(records, (b"a", SERVER))
    assert entry.more is not None
    assert isinstance(entry.more.objection, LookupError)
    assert entry.more.objection.__traceback__ is None


def test_accept_may_close_everything() -> None:
    records = registry()

    def accept(reply: Reply) -> bool:
        assert len(records.close(1.0)) == 3
        return True

    expect(records, accept=accept)
    expect(records, OTHER)
    expect(records, OTHER, ids=IDS, key=b"ab")
    assert verdicts(records, (b"a", SERVER), (b"b", OTHER)) == ["rejected", "unknown_peer"]
    assert records.statistics().pending == 0
    assert records.timetable.next_due() == math.inf


def test_who_was_cancelled_by_the_accept_before_is_not_answered() -> None:
    records = registry()

    def accept(reply: Reply) -> bool:
        assert records.withdraw(second, 1.0)
        return False

    expect(records, accept=accept)
    second = expect(records)
    third = expect(records)
    settled = records.receive_batch([(b"a", wire(SERVER))], 1.0)
    assert [one[0] for one in settled] == [third]


def test_accept_may_expect_more() -> None:
    records = registry()

    def accept(reply: Reply) -> Decision:
        expect(records, now=1.0)
        return Decision.REFUSE

    expect(records, accept=accept)
    assert verdicts(records, (b"a", SERVER), (b"b", SERVER)) == ["settled", "rejected"]


def test_a_provisional_reply_ends_retransmission() -> None:
    records = registry()
    entry = expect(records, accept=lambda reply: Decision.PROVISIONAL)
    assert entry.more is not None
    records.note_sent(entry, entry.slots(), records.source(wire(SERVER)), 0.0, None)
    records.timetable.add_step(entry.more, 2.0)
    verdicts(records, (b"a", SERVER), (b"a", SERVER))
    assert entry.more.heard
    assert entry.more.step_at == math.inf
    assert records.counters.matched == 2
    assert records.source(wire(SERVER)).statistics().matched == 2
    assert records.source(wire(SERVER)).srtt == 1.0, "one sample, of the first"


# ----------------------------------------------------------------------------------------------- round trips


def test_a_retransmitted_exchange_gives_no_sample() -> None:
    records = registry()
    entry = expect(records, timeout=50.0)
    source = records.source(wire(SERVER))
    records.note_sent(entry, entry.slots(), source, 0.0, None)
    records.note_sent(entry, entry.slots(), source, 2.0, None)
    [settled] = records.receive_batch([(b"a", wire(SERVER))], 2.5)
    assert settled[3:] == (None, 2)
    assert source.srtt is None
    assert (records.counters.sent, records.counters.retransmitted) == (2, 1)


def test_distinct_keys_make_the_round_trip_known_again() -> None:
    records = registry()
    entry = expect(records, ids=IDS, key=b"aa", timeout=50.0)
    source = records.source(wire(SERVER))
    first = entry.slots()
    records.note_sent(entry, first, source, 0.0, None)
    second = records.listen(entry, [wire(SERVER)], records.book(IDS), b"bb")
    records.note_sent(entry, second, source, 2.0, None)
    [settled] = records.receive_batch([(b"aa", wire(SERVER))], 2.5)
    assert settled[3:] == (2.5, 2)
    assert source.srtt == 2.5
    assert verdicts(records, (b"bb", SERVER)) == ["duplicate"]


def test_each_of_several_servers_is_credited_with_its_own() -> None:
    records = registry()
    entry = expect(records, timeout=5.0)
    records.note_sent(entry, entry.slots(), records.source(wire(SERVER)), 0.0, None)
    second = records.listen(entry, [wire(OTHER)], records.book(None), None)
    records.note_sent(entry, second, records.source(wire(OTHER)), 1.0, None)
    [settled] = records.receive_batch([(b"a", wire(OTHER))], 1.25)
    assert settled[3] == 0.25
    assert records.source(wire(OTHER)).statistics().matched == 1
    assert records.source(wire(SERVER)).statistics().matched == 0


def test_time_outs_are_credited_to_all_who_were_asked() -> None:
    records = registry()
    entry = expect(records)
    for where in (SERVER, OTHER, SERVER):
        records.note_sent(entry, entry.slots(), records.source(wire(where)), 0.0, None)
    plain = LongEntry(None, 0.0, 5.0, None, plain=False)
    plain.source = records.source(wire(OTHER))
    records.enter(plain)
    nobody = LongEntry(None, 0.0, 5.0, None, plain=False)
    records.enter(nobody)
    assert set(records.expire(5.0)) == {entry, plain, nobody}
    assert records.source(wire(SERVER)).statistics().timed_out == 1
    assert records.source(wire(OTHER)).statistics().timed_out == 2
    assert records.counters.timed_out == 3


def test_a_deadline_that_is_moved_to_where_it_is_ends_once() -> None:
    # As for a name that resolves, with a schedule whose total is known before.
    records = registry()
    entry = LongEntry(None, 0.0, 5.0, Details(), plain=False)
    records.enter(entry, movable=True)
    records.listen(entry, [wire(SERVER)], records.book(IDS), b"ab")
    records.timetable.move(entry, 5.0)
    assert records.expire(5.0) == [entry]
    assert records.statistics().timed_out == 1
    assert records.statistics().pending == 0


# --------------------------------------------------------------------------------------------------- keys


def test_a_transaction_is_pending_once() -> None:
    records = registry()
    first = expect(records, ids=IDS, key=b"ab")
    with pytest.raises(DuplicateTransactionError, match=r"6162 is already pending for 192\.0\.2\.1:7") as caught:
        expect(records, ids=TransactionId(0, 2), key=b"ab")
    assert caught.value.peer == SERVER
    assert caught.value.transaction == b"ab"
    expect(records, OTHER, ids=IDS, key=b"ab")
    expect(records, ids=TransactionId(2, 2), key=b"ab")
    records.withdraw(first, 1.0)
    expect(records, ids=IDS, key=b"ab")


def test_a_transaction_of_a_wide_source_names_no_peer() -> None:
    records = registry()
    words = Words()
    expect(records, ids=words, key=("x" * 200,), reply_from="192.0.2.0/24")
    with pytest.raises(DuplicateTransactionError, match="for the same source") as caught:
        expect(records, ids=words, key=("x" * 200,), reply_from="192.0.2.0/24")
    assert caught.value.peer is None
    assert len(str(caught.value)) < 300


def test_a_key_that_can_not_be_shown_is_pending_once_too() -> None:
    records = registry()
    words, key = Words(), Unspeakable()
    expect(records, ids=words, key=key)
    with pytest.raises(DuplicateTransactionError, match="already pending") as caught:
        expect(records, ids=words, key=key)
    assert caught.value.transaction is key


def test_nothing_has_changed_when_a_transaction_is_refused() -> None:
    records = registry()
    expect(records, OTHER, ids=IDS, key=b"ab")
    entry = LongEntry(None, 0.0, 5.0, Details(), plain=False)
    records.enter(entry)
    with pytest.raises(DuplicateTransactionError):
        records.listen(entry, [wire(SERVER), wire(OTHER)], records.book(IDS), b"ab")
    assert (records.statistics().pending, records.statistics().waiting) == (1, 1)
    assert verdicts(records, (b"ab", SERVER)) == ["unknown_peer"]
    with pytest.raises(DuplicateTransactionError):
        records.ask(None, wire(OTHER), records.book(IDS), b"ab", None, 5.0, 0.0, True)
    assert records.statistics().pending == 1


def test_books_are_shared_by_equality_and_forgotten() -> None:
    records = registry()
    assert records.book(None).number == 0
    book = records.book(IDS)
    assert records.book(TransactionId(0, 2)) is book
    assert records.book(TransactionId(0, 3)) is not book
    number = book.number
    del book
    assert records.book(IDS).number != number, "nobody used it any more"


def test_a_peer_remembers_few_books() -> None:
    records = registry()
    for length in range(1, 60):
        records.withdraw(expect(records, ids=TransactionId(0, length), key=bytes(length)), 0.5)
    source = records.known_source(wire(SERVER))
    assert source is not None
    assert len(source.books) <= 17
    live = [expect(records, ids=TransactionId(1, length), key=bytes(length)) for length in range(1, 60)]
    assert len(source.books) >= 59, "all that are in use"
    ranks = [book.rank for book in source.books]
    assert ranks == sorted(ranks), "the longest key first"
    for entry in live[:-1]:
        records.withdraw(entry, 1.0)
    expect(records, ids=TransactionId(2, 1), key=b"a")
    assert {book.correlator for book in source.books} == {TransactionId(1, 59), TransactionId(2, 1)}
    assert source.live == 2
    assert len(records.close(1.0)) == 2


def test_a_datagram_is_read_by_the_books_that_are_left() -> None:
    # Whoever is pending is still answered when the others' books are forgotten.
    records = registry()
    kept = expect(records, ids=TransactionId(0, 1), key=b"a", timeout=50.0)
    keyless = expect(records, timeout=50.0)
    for length in range(2, 60):
        records.withdraw(expect(records, ids=TransactionId(0, length), key=bytes(length)), 0.5)
    settled = records.receive_batch([(b"a", wire(SERVER)), (b"", wire(SERVER))], 1.0)
    assert [one[0] for one in settled] == [kept, keyless]
    source = records.known_source(wire(SERVER))
    assert source is not None
    assert source.is_idle


# ---------------------------------------------------------------------------------------------------- gates


def waiting(records: Registry, gate: Gate[Entry]) -> Entry:
    entry = LongEntry(None, 0.0, 50.0, Details(asks=True), plain=False)
    records.enter(entry)
    assert entry.more is not None
    if gate.enter():
        entry.more.held.append(gate)
    else:
        gate.wait(entry)
        entry.more.queued.append(gate)
    return entry


def test_a_turn_goes_to_the_next_who_waits() -> None:
    records = registry()
    turn = records.turn(wire(SERVER))
    assert records.turn(wire(SERVER)) is turn
    first, second, third, fourth = (waiting(records, turn) for _ in range(4))
    records.withdraw(second, 1.0)
    records.withdraw(first, 1.0)
    assert list(records.woken) == [third.more]
    assert third.more is not None
    assert third.more.held == [turn]
    # It is cancelled before it could use its turn.
    records.withdraw(third, 1.0)
    assert records.woken[-1] is fourth.more
    assert fourth.more is not None
    records.leave(fourth.more, turn)
    assert turn.free == 1
    assert not records.source(wire(SERVER)).live
    assert not records.withdraw(first, 2.0)
    assert records.counters.cancelled == 3


def test_who_waits_for_several_things_is_woken_once() -> None:
    records = registry()
    one, two = records.turn(wire(SERVER)), records.turn(wire(OTHER))
    holders = [waiting(records, one), waiting(records, two)]
    entry = waiting(records, one)
    assert entry.more is not None
    two.wait(entry)
    entry.more.queued.append(two)
    for holder in holders:
        records.withdraw(holder, 1.0)
    assert list(records.woken) == [entry.more]
    assert entry.more.held == [one, two]
    records.withdraw(entry, 1.0)
    assert (one.free, two.free) == (1, 1)


def test_a_turn_held_without_extras_is_given_back() -> None:
    records = registry()
    turn = records.turn(wire(SERVER))
    assert records.ask(None, wire(SERVER), records.book(None), None, None, 5.0, 0.0, True)
    assert not turn.free
    successor = waiting(records, turn)
    assert verdicts(records, (b"a", SERVER)) == ["settled"]
    assert list(records.woken) == [successor.more]


def test_steps_do_nothing_by_themselves() -> None:
    Details().step()


# -------------------------------------------------------------------------------------------------- records


def address(number: int) -> Wire:
    return number.to_bytes(6, "big")


def test_idle_sources_are_forgotten_before_they_pile_up() -> None:
    records = registry(pending=10)
    kept = expect(records, timeout=math.inf)
    held = records.turn(wire(OTHER))
    assert held.enter()
    for number in range(300_000):
        records.source(address(number))
        assert len(records._sources) <= 2 * (65_536 + 2)
    assert records.known_source(wire(SERVER)) is not None, "something is pending there"
    assert records.turn(wire(OTHER)) is held, "somebody has its turn"
    records.withdraw(kept, 1.0)


def test_many_that_are_pending_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_IDLE_SOURCES", 100)
    records = registry()
    looked = 0
    real = records._sweep_sources

    def counted() -> None:
        nonlocal looked
        looked += len(records._sources)
        real()

    monkeypatch.setattr(records, "_sweep_sources", counted)
    for number in range(20_000):
        expect(records, peer_of(number.to_bytes(4, "big")[-2:] + b"\x0a" + number.to_bytes(3, "big")))
    assert records.statistics().pending == 20_000
    assert len(records._sources) == 20_000
    assert 0 < looked < 40_000, "and they are not looked at again and again"
    assert len(records.close(1.0)) == 20_000


def test_the_latest_used_sources_outlive_a_sweep() -> None:
    # The least lately used of more than 65,536 peers are forgotten.
    records = registry()
    for number in range(131_072):
        records.source(address(number)).sample(0.5)
    records.source(address(7))
    assert len(records._sources) == 131_072
    records.source(address(131_072))
    assert len(records._sources) == 65_537
    for number in (7, 65_537, 65_538, 131_071):
        known = records.known_source(address(number))
        assert known is not None, number
        assert known.srtt == 0.5
    for number in (0, 6, 8, 65_536):
        assert records.known_source(address(number)) is None, number


def test_a_sweep_forgets_none_of_few_that_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_IDLE_SOURCES", 100)
    records = registry()
    for number in range(60):
        records.source(address(number)).sample(0.5)
    for number in range(60, 201):
        expect(records, peer_of(b"\0\7\x0a\0\0" + bytes([number])))
    assert len(records._sources) == 201, "it swept at 200"
    assert all(records.known_source(address(number)) is not None for number in range(60))


def test_an_ended_exchange_is_remembered_when_its_peer_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    # A sweep over many peers: of the last 65,536 that ended the record is there, so what comes late is told.
    monkeypatch.setattr(ledger_module, "_IDLE_SOURCES", 1_000)
    records = registry()
    hosts = [wire(SERVER)[:2] + (0x0A000000 + number).to_bytes(4, "big") for number in range(2_001)]
    for host in hosts:
        entry = LongEntry(None, 0.0, 5.0, None, plain=False)
        records.enter(entry)
        records.listen(entry, [host], records.book(None), None)
        records.receive_batch([(b"a", host)], 0.0)
    assert len(records._sources) == 1_001, "it swept at 2,000"
    assert [verdict for host in hosts[-1_001:] for verdict in verdicts(records, (b"a", peer_of(host)))] == (
        ["duplicate"] * 1_001
    )
    assert verdicts(records, (b"a", peer_of(hosts[0]))) == ["unknown_peer"]


# ----------------------------------------------------------------------------------------------- near misses


def misses(records: Registry, entry: Entry, where: Where = SERVER) -> list[NearMiss]:
    return records.near_misses(entry, [wire(where)])


def test_near_misses_are_the_refused_then_the_strangers() -> None:
    records = registry()
    entry = expect(records, ids=IDS, key=b"ab", now=10.0)
    verdicts(records, (b"xx", SERVER), (b"yy" + b"z" * 100, SERVER), (b"", SERVER), now=11.0)
    verdicts(records, (b"a", OTHER), (b"b", ("192.0.2.1", 9)), (b"c", ("198.51.100.1", 99)), now=11.0)
    assert misses(records, entry) == [
        NearMiss(peer_of(wire(SERVER)), Reason.REJECTED, 3, b""),
        NearMiss(peer_of(wire(("192.0.2.1", 9))), Reason.UNKNOWN_PEER, 1, b"b"),
        NearMiss(peer_of(wire(OTHER)), Reason.UNKNOWN_PEER, 1, b"a"),
    ]


def test_what_came_before_is_no_near_miss() -> None:
    records = registry()
    verdicts(records, (b"a", OTHER), now=9.0)
    entry = expect(records, now=10.0)
    assert misses(records, entry) == []


def test_what_accept_refused_is_a_near_miss() -> None:
    records = registry()
    entry = expect(records, accept=lambda reply: False, reply_from=["peer", "host"])
    verdicts(records, (b"a", SERVER), (b"a", SERVER))
    assert misses(records, entry) == [NearMiss(peer_of(wire(SERVER)), Reason.REJECTED, 2, b"a")]
    records.expire(5.0)
    assert misses(records, entry) == [NearMiss(peer_of(wire(SERVER)), Reason.REJECTED, 2, b"a")]


def test_many_that_time_out_together_do_not_search_the_log() -> None:
    # One datagram from each of 1,024 peers, and as many requests that time out: no request looks at all of them.
    records = registry()
    wheres: list[Where] = [(f"10.0.{number // 256}.{number % 256}", 7) for number in range(512)]
    entries = [expect(records, where, ids=IDS, key=b"ab") for where in wheres]
    verdicts(records, *((b"xx", where) for where in wheres))
    looked = 0

    def counted(network: tuple[int, bytes], address: Wire) -> bool:
        nonlocal looked
        looked += 1
        return covers(network, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "covers", counted)
        for entry, where in zip(entries, wheres, strict=True):
            assert misses(records, entry, where) == [NearMiss(peer_of(wire(where)), Reason.REJECTED, 1, b"xx")]
    assert looked == 0, "plain sources are looked up"


def test_near_misses_are_bounded() -> None:
    records = registry()
    entry = expect(records, ids=IDS, key=b"ab", reply_from=["peer", "host", "192.0.2.0/24"])
    for port in range(1, 100):
        verdicts(records, (b"xx", ("192.0.2.9", port)), (b"xx", ("192.0.2.1", port)), (b"", ("198.51.100.1", 7)))
    assert 8 <= len(misses(records, entry)) <= 16


def test_an_exchange_that_never_listened_has_only_strangers() -> None:
    records = registry()
    entry = LongEntry(None, 0.0, 5.0, None, plain=False)
    records.enter(entry)
    verdicts(records, (b"a", OTHER))
    assert [miss.peer for miss in misses(records, entry)] == [OTHER]


# ------------------------------------------------------------------------------------------------ precedence


def test_nothing_answers_what_was_not_asked_yet() -> None:
    # It has its slot, but waits for the socket: what comes before the question is no answer.
    for ids, key in ((IDS, b"ab"), (None, None)):
        records = registry()
        entry = LongEntry(None, 0.0, 5.0, Details(asks=True), plain=False)
        records.enter(entry)
        slots = records.listen(entry, [wire(SERVER)], records.book(ids), key)
        assert verdicts(records, (b"ab", SERVER)) == ["rejected"]
        records.note_sent(entry, slots, records.source(wire(SERVER)), 1.0, None)
        assert verdicts(records, (b"ab", SERVER)) == ["settled"]


def test_what_its_key_fits_but_refuses_it_is_offered_to_nobody_else() -> None:
    harness = Harness()
    harness.begin(SERVER, "peer", "short", b"a", 5.0, 0.0, accept="refuse")
    harness.begin(SERVER, "peer", "none", None, 5.0, 0.0)
    harness.receive([(b"a", SERVER), (b"b", SERVER)], 1.0)
    harness.check()
    assert harness.outcomes == [(1, "answered")]


def test_late_by_key_goes_before_matched_without() -> None:
    harness = Harness()
    number = harness.begin(SERVER, "peer", "short", b"a", 5.0, 0.0)
    harness.begin(SERVER, "peer", "none", None, 50.0, 0.0)
    assert number is not None
    harness.expire(5.0)
    assert harness.receive([(b"ax", SERVER)], 6.0) == []
    assert harness.oracle.counts["late"] == 1
    assert harness.receive([(b"bx", SERVER)], 6.0) == [1]


def test_rejected_goes_before_late_without_a_key() -> None:
    harness = Harness()
    harness.begin(SERVER, "peer", "none", None, 5.0, 0.0)
    harness.expire(5.0)
    harness.begin(SERVER, "peer", "short", b"a", 50.0, 5.0)
    harness.receive([(b"x", SERVER)], 6.0)
    assert harness.oracle.counts["rejected"] == 1
    harness.receive([(b"a", SERVER), (b"x", SERVER)], 6.0)
    assert (harness.oracle.counts["matched"], harness.oracle.counts["late"]) == (1, 1)


@pytest.mark.parametrize("correlator", [None, TransactionId(0, 2), Words()])
def test_what_seems_to_have_come_before_its_question_teaches_nothing(correlator: Correlator | None) -> None:
    records = registry()
    book = records.book(correlator)
    key = None if correlator is None else correlator.request_key(b"ab")
    assert records.ask("future", wire(SERVER), book, key, None, 5.0, 1.0, True)
    [(_, _, _, rtt, attempts)] = records.receive_batch([(b"ab", wire(SERVER))], 1.5, [0.75])
    assert (rtt, attempts) == (0.0, 1)
    assert records.source(wire(SERVER)).statistics().srtt is None


def test_a_question_is_counted_out_of_its_book_where_others_were_forgotten() -> None:
    records = registry()
    for length in range(1, 18):
        book = records.book(TransactionId(0, length))
        question = records.ask("future", wire(SERVER), book, bytes(length), None, 5.0, 0.0, True)
        assert question is not None
        if length < 17:
            records.withdraw(question, 0.0)
    source = records.source(wire(SERVER))
    assert len(source.books) == 1
    assert len(records.receive_batch([(bytes(17), wire(SERVER))], 0.5)) == 1
    assert (source.live, source.live_by_book) == (0, None)
