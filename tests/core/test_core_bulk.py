"""Many plain questions at once: they are asked as one by one, and what is in the way of one goes the long way."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import udpguard
from udpguard import DuplicateTransactionError, Limits, Ports, TransactionId
from udpguard.core.address import peer_of, wire_of_source
from udpguard.core.bulk import Outlet, ask_many
from udpguard.core.correlation import Correlator, request_key
from udpguard.core.registry import Registry
from udpguard.core.source import Details, LongEntry, SweptQuestion, assigned_id
from udpguard.core.swept import Bulk
from udpguard.core.verdict import Reason

KEYS: dict[str, Correlator | None] = {
    "keyless": None,
    "keyed": TransactionId(1, 2),
    "assigned": TransactionId(0, 2, assign=True),
    "assigned, elsewhere": TransactionId(1, 1, assign=True, reply_offset=0),
}
HOSTS = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "fe80::1"]


def registry(limits: Limits = Limits(), ports: Ports = Ports()) -> Registry:  # noqa: B008 (frozen)
    return Registry(limits, random.Random(1).getrandbits, ports)


def outlet() -> Outlet:
    return Outlet([], [], [])


def asks(
    registry: Registry, key: Correlator | None, items: list[Any], now: float, timeout: float = 5.0, **more: Any
) -> tuple[list[SweptQuestion], list[object], tuple[Outlet, Outlet]]:
    bulk = Bulk(key, registry.book(key), timeout, 1_000)
    outlets = outlet(), outlet()
    asked, rest = ask_many(registry, bulk, items, more.get("keys"), now, more.get("outlets", outlets), more.get("pick"))
    return asked, rest, outlets


def one_by_one(registry: Registry, key: Correlator | None, items: list[Any], now: float) -> list[tuple[bytes, bytes]]:
    """What leaves if the items are asked as requests."""
    left: list[tuple[bytes, bytes]] = []
    book = registry.book(key)
    for (host, port), data in items:
        wire = wire_of_source(host, port)
        found = request_key(key, data)
        assigns = isinstance(key, TransactionId) and key.assign and found is not None
        try:
            original = found if assigns else None
            entry = registry.ask(object(), wire, book, found, original, 5.0, now, True, 0, data)  # type: ignore[arg-type]
        except DuplicateTransactionError:
            continue
        if entry is not None:
            if assigns:
                assert isinstance(key, TransactionId)
                data = key.stamped(data, assigned_id(entry))
            left.append((data, wire))
    return left


def state(registry: Registry) -> dict[str, Any]:
    """What the registry knows, but for who asks."""
    return {
        "pending": {(slot, entry.sent_at, entry.deadline) for slot, entry in registry._pending.items()},
        "room": registry.room.free,
        "listening": registry._listening,
        "sources": {
            token: (source.sent, source.live, source.free, len(source.books), source.keyless is None)
            for token, source in registry._sources.items()
            if source.was_asked
        },
        "deadlines": len(registry.timetable),
        "due": registry.timetable.next_due(),
    }


ITEMS = st.lists(
    st.tuples(st.tuples(st.sampled_from(HOSTS), st.sampled_from([7, 8])), st.binary(max_size=5)), max_size=40
)


@pytest.mark.parametrize("name", KEYS)
@given(st.lists(ITEMS, min_size=1, max_size=4), st.sampled_from([3, 50]), st.data())
def test_as_one_by_one(name: str, chunks: list[Any], pending: int, data: st.DataObject) -> None:
    """The registry is left as it would be by requests, and so is what leaves, also where something is in the way."""
    key, limits = KEYS[name], Limits(pending=pending, near_misses=2)
    bulk, plain = registry(limits), registry(limits)
    for at, items in enumerate(chunks):
        now = 10.0 + at
        asked, rest, outlets = asks(bulk, key, items, now)
        left = [pair for one in outlets for pair in zip(one.datas, one.wires, strict=True)]
        one_left = one_by_one(plain, key, items, now)
        assert len(left) == len(one_left) == len(asked) == len(items) - len(rest)
        assert shape(bulk, name) == shape(plain, name)
        answered = set(data.draw(st.lists(st.sampled_from(sorted({wire for _, wire in left} or {b""})), max_size=9)))
        for one, its_left in ((bulk, left), (plain, one_left)):
            batch = [(reply_to(name, payload), wire) for payload, wire in sorted(its_left) if wire in answered]
            one.receive_batch(batch, now + 0.5)
        assert shape(bulk, name) == shape(plain, name)
        assert bulk.statistics() == plain.statistics()
    assert bulk.room.free == pending - bulk._listening


def shape(registry: Registry, name: str) -> dict[str, Any]:
    """What there is in both; ids that were picked are different ones."""
    told = state(registry)
    return told if name in ("keyless", "keyed") else {**told, "pending": len(told["pending"])}


def reply_to(name: str, payload: bytes) -> bytes:
    """What a server answers."""
    return payload if name != "assigned, elsewhere" else payload[1:2] + payload[:1] + payload[2:]


@pytest.mark.parametrize("name", KEYS)
def test_each_answer_is_its_items_outcome(name: str) -> None:
    key, its = KEYS[name], registry()
    assert isinstance(key, TransactionId) or key is None
    items = [((f"192.0.2.{number}", 7), b"%d what" % number, number) for number in range(100, 160)]
    asked, rest, (outlet4, _) = asks(its, key, items, 1.0)
    assert not rest
    bulk: Any = asked[0].future
    replies = [(reply_to(name, data), wire) for data, wire in zip(outlet4.datas, outlet4.wires, strict=True)]
    assert its.receive_batch(replies, 1.25) == []
    assert its.swept == [(bulk, 60)]
    for (addr, data, tag), outcome in zip(items, bulk.outcomes, strict=True):
        assert type(outcome) is udpguard.Outcome
        assert type(outcome.reply) is udpguard.Reply
        assert outcome[:3] == (addr, data, tag)
        assert outcome.error is None
        assert outcome.reply[1:] == (addr, 0.25, 1)
        assert type(outcome.reply.peer) is udpguard.Peer
        if name != "assigned, elsewhere":
            assert outcome.reply.data == data
        else:
            assert outcome.reply.data == data[1:2] + data[:1] + data[2:]
    assert its.statistics().pending == 0
    assert its.counters.matched == 60


def test_answers_to_several_sweeps_in_one_batch() -> None:
    its = registry()
    many = [asks(its, None, [((f"192.0.2.{which}", port), b"x", port) for port in (1, 2)], 1.0) for which in (1, 2)]
    batch = [(b"x", wire) for pair in zip(*(outlets[0].wires for _, _, outlets in many), strict=True) for wire in pair]
    assert its.receive_batch(batch, 1.5) == []
    first, second = (asked[0].future for asked, _, _ in many)
    assert its.swept == [(first, 1), (second, 1), (first, 1), (second, 1)]


class Item(NamedTuple):
    addr: Any
    data: bytes


PEER = ("192.0.2.1", 7)


@pytest.mark.parametrize(
    "item",
    [None, 5, [PEER, b"x"], (PEER,), (PEER, b"x", 1, 2), ([PEER], b"x"), ({}, b"x"), (("a.example", 7), b"x"),
     (PEER, "x"), (PEER, bytearray(b"x")), (PEER, bytes(65_508)), (("192.0.2.1", 0), b"x"), (("192.0.2.1", True), b"x"),
     (("192.0.2.1", 7.0), b"x"), (("239.0.0.1", 7), b"x"), (PEER, lambda attempt: b"x")],
)  # fmt: skip
def test_what_is_not_plain_goes_the_long_way(item: Any) -> None:
    its = registry()
    assert asks(its, None, [((PEER), b"known", 0)], 1.0)[1] == []
    before = state(its)
    asked, rest, outlets = asks(its, None, [item], 1.0)
    assert (asked, rest) == ([], [item])
    assert outlets == (outlet(), outlet())
    assert state(its) == before


def test_a_named_tuple_is_plain() -> None:
    its = registry()
    asked, rest, _ = asks(its, None, [Item(PEER, b"x")], 1.0)
    assert not rest
    assert (asked[0].addr, asked[0].data, asked[0].tag) == (PEER, b"x", None)


def test_what_is_in_the_way_of_an_item() -> None:
    wire = wire_of_source(*PEER)
    turn = registry()
    turn.turn(wire).enter()
    assert asks(turn, None, [(PEER, b"x")], 1.0)[0] == []
    rotating = registry(ports=Ports(rotate=True))
    assert asks(rotating, None, [(PEER, b"x")], 1.0)[0] == []
    soiled = registry()
    asked, _, _ = asks(soiled, None, [(PEER, b"x")], 1.0, timeout=1.0)
    assert soiled.expire(3.0) == asked
    assert asks(soiled, None, [(PEER, b"x"), (("192.0.2.9", 7), b"x")], 3.0)[1] == [(PEER, b"x")]
    room = registry(Limits(pending=1))
    assert len(asks(room, KEYS["keyed"], [(PEER, b"123"), (PEER, b"345")], 1.0)[1]) == 1
    no_ipv6 = registry()
    assert asks(no_ipv6, None, [(("2001:db8::1", 7), b"x")], 1.0, outlets=(outlet(), None))[0] == []
    assert asks(no_ipv6, None, [(PEER, b"x")], 1.0, pick=lambda wire: None)[0] == []


def test_of_ids_each_is_used_once() -> None:
    its, key = registry(), TransactionId(0, 1, assign=True)
    asked, rest, (outlet4, _) = asks(its, key, [(PEER, b"ab")] * 300, 1.0)
    assert (len(asked), len(rest)) == (256, 44)
    assert len({data[:1] for data in outlet4.datas}) == 256
    assert all(data[1:] == b"b" for data in outlet4.datas)
    its.receive_batch([(data, wire_of_source(*PEER)) for data in outlet4.datas[:10]], 2.0)
    again, rest, (outlet4, _) = asks(its, key, [(PEER, b"ab")] * 30, 3.0)
    assert (len(again), len(rest)) == (10, 20)


def test_where_callers_own_ids_are_in_the_way_none_may_be_left() -> None:
    its = registry()
    own, assigned = TransactionId(0, 1), TransactionId(0, 1, assign=True)
    book = its.book(own)
    for number in range(256):
        its.ask(object(), wire_of_source(*PEER), book, bytes([number]), None, 5.0, 1.0, True)
    assert asks(its, assigned, [(PEER, b"ab")], 1.0)[0] == []


def test_wide_expectations_are_regarded() -> None:
    """Whoever is expected from anywhere may have the key, or the id, of an item."""
    its, key = registry(), KEYS["keyed"]
    entry = LongEntry(object(), 1.0, 5.0, None, plain=False)
    its.enter(entry)
    its.listen(entry, [b""], its.book(key), b"ab")
    assert asks(its, key, [(PEER, b"xab")], 1.0)[0] == []
    assigned, rest, _ = asks(its, KEYS["assigned"], [(PEER, b"xab")] * 10, 1.0)
    assert (len(assigned), rest) == (10, [])


def test_foreign_keys_are_given() -> None:
    its = registry()
    keys: list[Hashable] = ["one", None, "one"]
    key = TransactionId(0, 2)  # whatever it would say itself
    asked, rest, _ = asks(its, key, [(PEER, b"aa", 1), (PEER, b"bb", 2), (PEER, b"cc", 3)], 1.0, keys=keys)
    assert [question.tag for question in asked] == [1, 2]
    assert rest == [(PEER, b"cc", 3)]
    assert asked[0].own_slot is not None
    assert asked[0].own_slot[2] == "one"


def test_a_pool_of_ports() -> None:
    its = registry(ports=Ports(pool=3))
    ports = {-number: outlet() for number in range(3)}
    picks = iter([-1, -2, 0, -1])

    def pick(wire: bytes) -> tuple[int, Outlet]:
        port = next(picks)
        return port, ports[port]

    items = [((f"192.0.2.{number}", 7), b"x", number) for number in range(4)]
    asked, rest, _ = asks(its, None, items, 1.0, pick=pick)
    assert [question.port for question in asked] == [-1, -2, 0, -1]
    assert [len(ports[port].datas) for port in (0, -1, -2)] == [1, 2, 1]
    bulk: Any = asked[0].future
    wires = [wire_of_source(*addr) for addr, _, _ in items]
    its.receive_batch([(b"x", wires[0])], 1.5, port=-2)
    assert not bulk.outcomes
    its.receive_batch([(b"x", wires[0])], 1.5, port=-1)
    assert [outcome.tag for outcome in bulk.outcomes] == [0]
    assert its.counters.rejected == 1
    assert not rest


@pytest.mark.parametrize("timeout", [0.5, math.inf])
def test_deadlines_in_order_or_not(timeout: float) -> None:
    its = registry()
    for number in range(17):  # as many time-outs as there are lanes, and one
        its.timetable.add(LongEntry(object(), 0.0, 100.0 + number, None, plain=False))
    later, _, _ = asks(its, None, [((f"192.0.2.{number}", 7), b"x") for number in range(3)], 5.0, timeout=timeout)
    sooner, _, _ = asks(its, None, [((f"192.0.2.{number}", 8), b"x") for number in range(3)], 4.0, timeout=timeout)
    assert its.expire(50.0) == ([] if timeout == math.inf else [*sooner, *later])
    lanes = registry()
    later, _, _ = asks(lanes, None, [((f"192.0.2.{number}", 7), b"x") for number in range(3)], 5.0, timeout=timeout)
    sooner, _, _ = asks(lanes, None, [((f"192.0.2.{number}", 8), b"x") for number in range(3)], 4.0, timeout=timeout)
    assert lanes.expire(50.0) == ([] if timeout == math.inf else [*sooner, *later])


def test_what_ends_otherwise() -> None:
    """By way of the whole judgement, a time-out, a refusal or a withdrawal: as any question."""
    its = registry()
    asked, _, _ = asks(its, None, [((f"192.0.2.{number}", 7), b"x") for number in range(3)], 1.0)
    more = Details(asks=True)
    its.extend(asked[0], more)
    its.receive_batch([(b"x", wire_of_source("192.0.2.0", 7))], 1.1)
    assert not asked[0].ended  # it was not sent, or so its extras say
    settled, expired = its.receive_overdue([(b"x", wire_of_source("192.0.2.1", 7))], 2.0, [1.5])
    assert [entry for entry, *_ in settled] == [asked[1]]
    assert not expired
    assert its.withdraw(asked[2], 2.0)
    its.receive_batch([(b"x", wire_of_source("192.0.2.2", 7))], 3.0)
    assert its.counters.late == 1
    assert its._ended.reason((wire_of_source("192.0.2.1", 7), 0, None), 3.0) is Reason.DUPLICATE
    assert asked[0].plain is False
    assert peer_of(wire_of_source("192.0.2.2", 7)) == asked[2].addr


def test_a_bulk_says_nothing_by_itself() -> None:
    bulk = Bulk(None, registry().book(None), 1.0, 3)
    assert not bulk.done()
    assert bulk.gate.free == 3


def test_ids_that_were_in_their_order_long_ago_are_put_in_order_anew() -> None:
    key = TransactionId(0, 1, assign=True)
    its = registry()
    _, _, outlets = asks(its, key, [(PEER, b"ab")] * 256, 10.0)
    its.receive_batch([(data, wire_of_source(*PEER)) for data in outlets[0].datas], 10.1)
    pool = its.pool(wire_of_source(*PEER), its.book(key))
    order = pool.queue
    assert order is not None, "draws had begun to fail"
    for now, is_same in ((11.0, True), (131.0, True), (251.5, False)):
        asked, rest, _ = asks(its, key, [(PEER, b"ab")] * 3, now)
        assert (len(asked), rest, pool.queue is order) == (3, [], is_same)
        for question in asked:
            its.end(question, None)
