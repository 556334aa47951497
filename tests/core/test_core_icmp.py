"""What is made of ICMP messages: whom they refuse, and what is noted of the others."""

from __future__ import annotations

import errno
import itertools
import random
import sys
from typing import Any

import pytest
from core_harness import no_interface, wire
from core_oracle import Where
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from udpguard import IcmpMessage, PeerRefusedError, Ports, Reason
from udpguard.core.address import Sources
from udpguard.core.correlation import Correlator, TransactionId
from udpguard.core.icmp import ICMP, ICMP6, LOCAL, Hints, NetworkError
from udpguard.core.options import Limits
from udpguard.core.registry import Registry
from udpguard.core.source import AssignedQuestion, Details, Entry, LongEntry, assigned_id

SERVER: Where = ("192.0.2.1", 7)
OTHER: Where = ("192.0.2.9", 7)
SIX: Where = ("2001:db8::1", 7)
LINK: Where = ("fe80::1%2", 7)
ROUTER = wire(("192.0.2.254", 0))
IDS = TransactionId(0, 2)
QUESTION = b"\0\1question"


def registry() -> Registry:
    return Registry(Limits(), random.Random(1).getrandbits)


def refusal(where: Where = SERVER, quote: bytes = QUESTION, **changes: Any) -> NetworkError:
    six = ":" in where[0]
    error = NetworkError(wire(where), quote, errno.ECONNREFUSED, *((ICMP6, 1, 4) if six else (ICMP, 3, 3)), wire(where))
    return error._replace(**changes)


def ask(
    records: Registry, correlator: Correlator | None = None, data: bytes = QUESTION, where: Where = SERVER,
    *, assign: bool = False,
) -> Entry:  # fmt: skip
    key = None if correlator is None else correlator.request_key(data)
    original = data[:2] if assign else None
    entry = records.ask(object(), wire(where), records.book(correlator), key, original, 5.0, 1.0, True, 0, data)
    assert entry is not None
    return entry


class Asking(Details):
    """An exchange as the shell's: it knows what it sent to whom."""

    def __init__(self, *sent: tuple[Where, bytes]) -> None:
        super().__init__(asks=True)
        self.sent = [(wire(where), data) for where, data in sent]

    @override
    def has_sent(self, wire: bytes, quote: bytes, port: int) -> bool:
        return any(wire == peer and data.startswith(quote) for peer, data in self.sent)


def exchange(records: Registry, where: Where, *sent: tuple[Where, bytes], reply_from: Any = "peer") -> Entry:
    more = Asking(*sent)
    entry = LongEntry(object(), 1.0, 5.0, more, plain=False)
    records.enter(entry)
    tokens = Sources(reply_from, no_interface).tokens(wire(where))
    slots = records.listen(entry, tokens, records.book(None), None)
    for peer, _ in sent:
        records.note_sent(entry, slots, records.source(wire(peer)), 1.0, None)
    return entry


def expect(records: Registry, where: Where = SERVER, *, reply_from: Any = "peer") -> Entry:
    entry = LongEntry(object(), 1.0, 5.0, None, plain=False)
    records.enter(entry)
    entry.source = records.source(wire(where))
    records.listen(entry, Sources(reply_from, no_interface).tokens(wire(where)), records.book(None), None)
    return entry


def refused(records: Registry, error: NetworkError, **kwargs: Any) -> Entry | None:
    found = records.refused_by(error, 2.0, **kwargs)
    return None if found is None else found[0]


# ------------------------------------------------------------------------------------------- whom it refuses


@pytest.mark.parametrize("where", [SERVER, SIX, LINK])
@pytest.mark.parametrize("correlator", [None, IDS, TransactionId(0, 2, reply_offset=4)])
def test_a_question_is_refused_by_its_own_beginning(correlator: Correlator | None, where: Where) -> None:
    records = registry()
    entry = ask(records, correlator, where=where)
    for length in range(2, len(QUESTION) + 1):
        assert refused(records, refusal(where, QUESTION[:length])) is entry
    assert records.hints(entry) == []


@pytest.mark.parametrize(
    "error",
    [
        refusal(quote=b""),
        refusal(quote=b"\0\2question"),
        refusal(quote=QUESTION + b"s"),
        refusal(type=3, code=1, errno=errno.EHOSTUNREACH),
        refusal(type=3, code=3, errno=errno.EHOSTUNREACH),
        refusal(type=3, code=2),
        refusal(origin=ICMP6),
    ],
)
@pytest.mark.parametrize("correlator", [None, IDS])
def test_anything_else_about_a_pending_peer_is_a_hint(correlator: Correlator | None, error: NetworkError) -> None:
    records = registry()
    entry = ask(records, correlator)
    assert refused(records, error) is None
    assert not entry.ended
    assert [hint.peer for hint in records.hints(entry)] == [SERVER]


def test_a_quote_too_short_for_the_key_refuses_nobody_with_one() -> None:
    records = registry()
    ask(records, IDS)
    assert refused(records, refusal(quote=QUESTION[:1])) is None


@pytest.mark.parametrize("error", [refusal(OTHER), refusal(origin=LOCAL), refusal(("192.0.2.1", 8))])
def test_what_is_about_nobodys_peer_is_not_even_that(error: NetworkError) -> None:
    records = registry()
    entry = ask(records)
    assert refused(records, error) is None
    assert len(records._hints) == 0
    records.end(entry, None)
    assert refused(records, refusal()) is None
    assert len(records._hints) == 0


def test_each_of_many_in_flight_to_one_peer_is_told_by_its_key() -> None:
    records = registry()
    datas = [number.to_bytes(2, "big") + b"?" for number in range(500)]
    entries = [ask(records, IDS, data) for data in datas]
    for data, entry in reversed(list(zip(datas, entries, strict=True))):
        assert refused(records, refusal(quote=data)) is entry


def test_an_assigned_id_is_what_left() -> None:
    records = registry()
    ids = TransactionId(0, 2, assign=True)
    entry = ask(records, ids, assign=True)
    assert isinstance(entry, AssignedQuestion)
    sent = ids.stamped(QUESTION, assigned_id(entry))
    assert refused(records, refusal(quote=QUESTION)) is None or sent == QUESTION
    assert refused(records, refusal(quote=sent[:2] + b"Question")) is None
    assert refused(records, refusal(quote=sent)) is entry


def test_clients_that_share_a_book_may_have_their_keys_at_different_places() -> None:
    records = registry()
    ask(records, TransactionId(0, 2), b"\0\1aaaa")
    there = TransactionId(4, 2, reply_offset=0)
    assert records.book(there) is records.book(IDS)
    assert records.book(TransactionId(4, 2, reply_offset=0, assign=True)).readers == (IDS, there)
    other = ask(records, there, b"bbbb\0\2")
    assert refused(records, refusal(quote=b"bbbb\0\2")) is other


def test_the_readers_of_a_book_are_few() -> None:
    records = registry()
    for offset in range(100):
        book = records.book(TransactionId(offset, 2, reply_offset=0))
    assert len(book.readers) == 16


def test_what_has_not_left_is_not_refused() -> None:
    records = registry()
    entry = ask(records)
    assert refused(records, refusal(), unsent=[entry]) is None
    assert refused(records, refusal()) is entry
    records.extend(entry, Details(asks=True))  # it waits for the socket
    assert refused(records, refusal()) is None


def test_an_earlier_requests_message_is_not_the_newer_ones() -> None:
    records = registry()
    first = ask(records, IDS, b"\0\1x")
    records.withdraw(first, 1.5)
    second = ask(records, IDS, b"\0\2x")
    keyless = ask(records, None, b"other")
    assert refused(records, refusal(quote=b"\0\1x")) is None
    assert not second.ended
    assert not keyless.ended


def test_an_expectation_is_refused_by_what_was_sent_for_it() -> None:
    records = registry()
    first, entry = expect(records), expect(records)
    assert refused(records, refusal()) is None
    entry.data = QUESTION
    assert refused(records, refusal()) is entry
    first.data = QUESTION
    assert refused(records, refusal()) is first, "the oldest"
    records.end(first, None)
    records.end(entry, None)
    assert refused(records, refusal()) is None


def test_what_is_expected_from_there_but_was_sent_elsewhere_is_not_refused() -> None:
    records = registry()
    entry = expect(records, OTHER, reply_from=SERVER)
    entry.data = QUESTION
    records.note_asked(entry, records.source(wire(OTHER)), entry.slots())
    exchange(records, SERVER, (OTHER, QUESTION))
    assert refused(records, refusal(SERVER)) is None
    assert refused(records, refusal(OTHER)) is entry


@pytest.mark.parametrize("reply_from", ["host", "anywhere", OTHER, "192.0.2.0/24", ["host", SERVER]])
def test_wherever_the_answer_may_come_from(reply_from: Any) -> None:
    records = registry()
    entry = exchange(records, SERVER, (SERVER, QUESTION), reply_from=reply_from)
    assert refused(records, refusal(quote=b"something else")) is None
    assert [hint.peer for hint in records.hints(entry)] == [SERVER]
    assert refused(records, refusal()) is entry
    records.end(entry, None)
    assert refused(records, refusal()) is None
    assert records._elsewhere == {}


def test_several_of_them_leave_one_by_one() -> None:
    records = registry()
    entries = [exchange(records, SERVER, (SERVER, b"%d" % n), reply_from=("192.0.2.3", 1 + n)) for n in range(300)]
    plain = exchange(records, OTHER, (OTHER, QUESTION))
    assert refused(records, refusal(quote=b"7")) is entries[7]
    for number, entry in enumerate(entries):
        assert refused(records, refusal(quote=b"%d" % number)) in entries
        records.end(entry, None)
    assert records._elsewhere == {}
    assert refused(records, refusal(OTHER)) is plain


def test_closing_forgets_them() -> None:
    records = registry()
    exchange(records, SERVER, (SERVER, QUESTION), reply_from="host")
    assert len(records.close(2.0)) == 1
    assert refused(records, refusal()) is None


def test_a_link_that_was_not_given_is_any() -> None:
    records = registry()
    unscoped: Where = ("fe80::1", 7)
    entry = ask(records, where=unscoped)
    assert refused(records, refusal(LINK, b"other")) is None
    assert [hint.peer for hint in records.hints(entry)] == [unscoped]
    assert records.refused_by(refusal(LINK), 2.0) == (entry, wire(unscoped))


class Foreign(Correlator):
    """Raises what it is told to."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.key: object = "key"

    @override
    def request_key(self, data: bytes) -> Any:
        if self.error is not None:
            raise self.error
        return self.key

    @override
    def reply_key(self, data: bytes) -> Any:
        return self.key


class Rough:
    """A key that does not bear comparison."""

    def __hash__(self) -> int:
        return hash("key")

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


def test_a_correlator_that_does_not_bear_hostile_bytes() -> None:
    records, foreign = registry(), Foreign()
    entry = ask(records, foreign)
    assert records.book(foreign).readers == (foreign,)
    for error in (ValueError(), AssertionError(), IndexError()):
        foreign.error = error
        assert refused(records, refusal()) is None
        assert records.interrupt is None
    foreign.error = KeyboardInterrupt()
    assert refused(records, refusal()) is None
    assert records.interrupt is foreign.error
    foreign.error = None
    for key in ([], Rough()):
        foreign.key = key
        assert refused(records, refusal()) is None
    foreign.key = "key"
    assert refused(records, refusal()) is entry


def test_a_correlator_that_ends_what_it_is_asked_about() -> None:
    records = registry()

    class Ending(Foreign):
        @override
        def request_key(self, data: bytes) -> Any:
            if not entry.ended:
                records.withdraw(entry, 2.0)
                records._pending[(wire(SERVER), records.book(self).number, "key")] = entry
            return "key"

    ending = Ending()
    entry = LongEntry(object(), 1.0, 5.0, None, plain=False)
    records.enter(entry)
    entry.source, entry.data = records.source(wire(SERVER)), QUESTION
    records.listen(entry, (wire(SERVER),), records.book(ending), "key")
    assert refused(records, refusal()) is None
    assert entry.ended


# ------------------------------------------------------------------------------------------- hints


def unreachable(where: Where = SERVER, **changes: Any) -> NetworkError:
    return NetworkError(wire(where), b"x" * 100, errno.EHOSTUNREACH, ICMP, 3, 1, ROUTER)._replace(**changes)


def test_what_is_told_of_them() -> None:
    hints = Hints()
    hints.add(unreachable(), 1.0)
    hints.add(unreachable(), 2.0)
    hints.add(unreachable(offender=None, code=13, errno=errno.EHOSTUNREACH), 3.0)
    first, second = hints.of([wire(SERVER), wire(SERVER), wire(OTHER)], 0.0)
    assert first == IcmpMessage(SERVER, None, "a firewall forbids it", 3, 13, 0, 1)  # type: ignore[arg-type]
    assert second == IcmpMessage(SERVER, "192.0.2.254", "the host is unreachable", 3, 1, 0, 2)  # type: ignore[arg-type]
    assert hints.of([wire(SERVER)], 2.5) == [first]
    assert hints.of([wire(SERVER)], 3.5) == []
    assert all(noted.error.quote == b"" for noted in hints._by_wire[wire(SERVER)].values()), "no payloads are kept"
    hints.clear()
    assert len(hints) == 0


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (unreachable(code=4, errno=errno.EMSGSIZE, mtu=1_400), "the path carries no more than 1,400 bytes"),
        (unreachable(code=4, errno=errno.EMSGSIZE), "does not carry datagrams of that size"),
        (unreachable(SIX, origin=ICMP6, type=2, code=0, errno=errno.EMSGSIZE, mtu=1_280), "1,280 bytes"),
        (unreachable(type=11, code=0), "the path is too long"),
        (unreachable(type=12, code=1), "ICMP type 12, code 1"),
        (unreachable(SIX, origin=ICMP6, type=1, code=0), "no route"),
        (refusal(quote=b""), "nothing listens"),
    ],
)
def test_its_meaning_in_words(error: NetworkError, meaning: str) -> None:
    hints = Hints()
    hints.add(error, 1.0)
    [told] = hints.of([error.wire], 0.0)
    assert meaning in told.meaning
    assert (told.type, told.code, told.mtu) == (error.type, error.code, error.mtu)


def test_the_latest_size_counts() -> None:
    hints = Hints()
    for mtu in (1_500, 1_400, 0):
        hints.add(unreachable(code=4, errno=errno.EMSGSIZE, mtu=mtu), 1.0)
    [told] = hints.of([wire(SERVER)], 0.0)
    assert (told.mtu, told.count) == (1_400, 3)


def test_a_flood_of_forged_ones_fills_nothing() -> None:
    hints = Hints()
    for code, offender in itertools.product(range(16), range(50)):
        hints.add(unreachable(code=code, offender=wire((f"192.0.2.{offender}", 0))), 1.0)
    assert len(hints) == 4
    for number in range(20_000):
        hints.add(unreachable((f"10.0.{number // 250}.{number % 250}", 7)), 2.0)
    assert len(hints) == 4_096
    assert hints.of([wire(SERVER)], 0.0) == [], "the oldest are forgotten"
    assert hints.of([wire(("10.0.79.249", 7))], 0.0)


@given(
    st.lists(
        st.builds(
            NetworkError,
            st.sampled_from([wire(SERVER), wire(OTHER), wire(SIX), wire(LINK)]),
            st.sampled_from([QUESTION, QUESTION[:3], b"", b"\0", b"\0\1question and more", b"\xff" * 40]),
            st.sampled_from([errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EMSGSIZE, 0]),
            st.integers(0, 4),
            st.integers(0, 255),
            st.sampled_from([0, 3, 4, 255]),
            st.sampled_from([None, ROUTER, wire(("::", 0))]),
            st.integers(0, 2**32 - 1),
        ),
        max_size=20,
    )
)
def test_only_true_quotes_end_anything_whatever_comes(errors: list[NetworkError]) -> None:
    records = registry()
    entries = {wire(where): ask(records, IDS, where=where) for where in (SERVER, SIX)}
    for error in errors:
        entry = refused(records, error)
        if entry is not None:
            assert entry is entries[error.wire]
            assert len(error.quote) >= 2
            assert QUESTION.startswith(error.quote)
            assert (error.errno, error.origin) in ((errno.ECONNREFUSED, ICMP), (errno.ECONNREFUSED, ICMP6))
    for entry in entries.values():
        for hint in records.hints(entry):
            assert hint.meaning
            assert hint.sender is None or hint.sender in ("192.0.2.254", "::")
    assert sys.getsizeof(records._hints._by_wire) < 10_000


# ------------------------------------------------------------------------------------------- ports


def with_ports(**kwargs: Any) -> Registry:
    return Registry(Limits(), random.Random(1).getrandbits, Ports(**kwargs))


def test_a_message_counts_at_the_port_that_the_question_left_from_alone() -> None:
    records = with_ports()
    book = records.book(IDS)
    entry = records.ask(object(), wire(SERVER), book, b"\0\1", None, 5.0, 1.0, True, 3, QUESTION)
    assert entry is not None
    assert refused(records, refusal()) is None
    assert refused(records, refusal(), port=2) is None
    assert refused(records, refusal(), port=3) is entry


def test_what_was_refused_owes_no_reply_so_the_port_stays_clean() -> None:
    records = with_ports()
    entry = ask(records)
    assert refused(records, refusal()) is entry
    records.end(entry, (Reason.LATE, 2.0), refused=True)
    assert not records.soil.dirty
    records.receive_batch([(b"answer", wire(SERVER))], 3.0)
    assert records.counters.late == 1, "should one come, it is known to be late"
    entry = ask(records)
    records.end(entry, (Reason.LATE, 2.0))
    assert records.soil.dirty


@pytest.mark.parametrize(("sent", "dirty"), [(1, False), (2, True)])
def test_of_an_exchange_those_owe_one_that_were_not_refused(sent: int, dirty: bool) -> None:
    records = with_ports()
    entry = exchange(records, SERVER, *[(SERVER, QUESTION)] * sent)
    assert entry.more is not None
    records.note_refused(entry.more, entry.slots())
    assert [one.times for one in entry.more.sends.values()] == [1] * (sent - 1)
    records.end(entry, (Reason.LATE, 2.0), refused=True)
    assert records.soil.dirty is dirty


def test_one_without_more_to_ask_goes_on_without_nobody() -> None:
    more = Details(asks=True)
    assert not more.goes_on_without(wire(SERVER), QUESTION, PeerRefusedError("no"))
    assert more.refusals == 1
    assert not more.has_sent(wire(SERVER), QUESTION, 0)
