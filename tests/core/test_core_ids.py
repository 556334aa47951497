"""The ids that udpguard picks. That they are unpredictable is the random source's affair; the rest is checked here."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpguard.core.address import wire_of_source
from udpguard.core.correlation import Slot, TransactionId
from udpguard.core.ids import IdPool
from udpguard.core.options import Limits
from udpguard.core.registry import Registry
from udpguard.core.source import Details, Entry, LongEntry, assigned_id

TOKEN = wire_of_source("192.0.2.1", 53)
OTHER = wire_of_source("192.0.2.9", 53)


class Script:
    """Random bits as told, then real ones."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.asked: list[int] = []
        self.random = random.Random(1)

    def __call__(self, bits: int) -> int:
        self.asked.append(bits)
        return self.numbers.pop(0) if self.numbers else self.random.getrandbits(bits)


def pool(random_bits: Callable[[int], int], length: int = 1) -> IdPool:
    return IdPool(TOKEN, 1, TransactionId(0, length, assign=True), random_bits)


def slot(number: int, length: int = 1) -> Slot:
    return (TOKEN, 1, number.to_bytes(length, "big"))


def take(ids: IdPool, pending: set[Slot], lately: set[Slot], now: float = 0.0) -> int | None:
    taken = ids.take(pending, lately, now)
    if taken is None:
        return None
    assert taken not in pending, "in use"
    assert isinstance(taken[2], bytes)
    return int.from_bytes(taken[2], "big")


def test_a_random_number_is_the_id() -> None:
    script = Script(0x1234)
    assert take(pool(script, 2), set(), set()) == 0x1234
    assert script.asked == [16]


def test_what_is_in_use_or_was_lately_is_drawn_again() -> None:
    script = Script(1, 2, 1, 3)
    assert take(pool(script), {slot(1)}, {slot(2)}) == 3


def test_long_ids_are_drawn_until_one_is_free() -> None:
    # Of ids this long most are free: failures in a row are chance, and a queue of all would not fit.
    script = Script(*[7] * 50, 8)
    assert take(pool(script, 4), {slot(7, 4)}, set()) == 8


@pytest.mark.parametrize("length", [3, 4])
def test_of_long_ids_a_thousand_draws_are_enough(length: int) -> None:
    script = Script(*[7] * 2_000)
    ids = pool(script, length)
    assert take(ids, {slot(7, length)}, set()) is None
    assert script.asked == [8 * length] * 1_000
    script.numbers = [8]
    assert take(ids, {slot(7, length)}, set()) == 8, "the next draw may be luckier"


def test_after_eight_failures_all_are_queued_those_used_lately_last() -> None:
    script = Script(*[0] * 8)
    ids = pool(script)
    pending = {slot(0)}
    lately = {slot(number) for number in range(1, 100)}
    first = [take(ids, pending, lately) for _ in range(156)]
    assert sorted(number for number in first if number is not None) == list(range(100, 256)), "not lately used"
    assert first != sorted(first, key=str), "in random order"
    then = [take(ids, pending, lately) for _ in range(99)]
    assert sorted(number for number in then if number is not None) == list(range(1, 100)), "then those used lately"
    assert then != sorted(then, key=str), "in random order"
    assert [take(ids, pending, lately) for _ in range(255)] == first + then, "then the least lately taken"
    assert script.asked[:8] == [8] * 8
    assert len(script.asked) == 10, "one draw for each of two shuffles, and no more"


def test_an_id_that_is_taken_goes_to_the_end() -> None:
    ids = pool(Script(*[0] * 8))
    callers = {slot(number) for number in range(253)}
    pending = set(callers)
    order = []
    for _ in range(3):
        taken = take(ids, pending, set())
        assert taken is not None
        order.append(taken)
        pending.add(slot(taken))
    assert set(order) == {253, 254, 255}
    assert take(ids, pending, set()) is None
    # However they come free, the one that was taken first is the next.
    assert [take(ids, callers, set()) for _ in range(4)] == [*order, order[0]]


def test_an_id_that_a_caller_uses_is_passed_over_and_kept() -> None:
    ids = pool(Script(*[0] * 8))
    pending = {slot(number) for number in range(253)}
    assert {take(ids, pending, set()) for _ in range(5)} == {253, 254, 255}
    assert {take(ids, set(), set()) for _ in range(256)} == set(range(256))


def test_a_queue_that_was_long_idle_is_forgotten() -> None:
    script = Script(*[0] * 8)
    ids = pool(script)
    pending = {slot(0)}
    take(ids, pending, set(), now=1000.0)
    asked = len(script.asked)
    take(ids, pending, set(), now=1120.0)
    assert len(script.asked) == asked
    script.numbers = [77]
    assert take(ids, pending, set(), now=1240.5) == 77, "drawn again"


def test_a_queue_that_fails_counts_as_idle() -> None:
    script = Script(*[0] * 8)
    ids = pool(script)
    take(ids, {slot(0)}, set(), now=1000.0)
    assert take(ids, {slot(number) for number in range(256)}, set(), now=1110.0) is None
    asked = len(script.asked)
    take(ids, set(), set(), now=1120.0)
    assert len(script.asked) == asked, "within 120 s of the one taken at first"
    assert take(ids, {slot(number) for number in range(256)}, set(), now=1230.0) is None
    assert len(script.asked) == asked
    script.numbers = [77]
    assert take(ids, set(), set(), now=1240.5) == 77, "drawn again: 120 s after the latest that was taken"


def test_the_gate_has_a_place_for_each_id() -> None:
    assert pool(Script(), 1).gate.free == 256
    assert pool(Script(), 2).gate.free == 65_536


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["take", "end", "time"]), st.integers(0, 300)), max_size=700), st.randoms())
def test_none_is_in_use_twice(steps: list[tuple[str, int]], randomness: random.Random) -> None:
    ids = pool(randomness.getrandbits)
    pending: set[Slot] = set()
    order: list[Slot] = []
    lately: set[Slot] = set()
    now = 0.0
    for step, number in steps * 3:
        if step == "time":
            now += number / 2
        elif step == "take" and len(pending) < 256:
            taken = ids.take(pending, lately, now)
            assert taken is not None, "there are free ones"
            assert taken not in pending
            pending.add(taken)
            order.append(taken)
        elif order:
            ended = order.pop(number % len(order))
            pending.discard(ended)
            lately.add(ended)
    every = [bytes((number,)) for number in range(256)]
    assert ids.queue is None or sorted(slot[2] for slot in ids.queue) == every, "the queue has each of them once"


# ----------------------------------------------------------------------------------------------- the registry's


def registry(random_bits: Callable[[int], int]) -> Registry:
    return Registry(Limits(), random_bits)


def ask(records: Registry, tokens: tuple[bytes, ...], now: float = 0.0) -> tuple[Entry, bytes] | None:
    """Begin an exchange with an assigned id."""
    book = records.book(TransactionId(0, 1, assign=True))
    ids = records.pool(tokens[0], book)
    if not ids.gate.enter():
        return None
    assigned = records.assign(ids, tokens, now)
    if assigned is None:
        ids.gate.leave()
        return None
    more = Details(asks=True)
    more.assigned.append(assigned)
    entry = LongEntry(None, now, 5.0, more, plain=False)
    records.enter(entry)
    assert isinstance(assigned[2], bytes)
    records.listen(entry, tokens, book, assigned[2])
    return entry, assigned[2]


def test_there_is_one_pool_for_a_peer_and_a_book() -> None:
    records = registry(Script())
    book = records.book(TransactionId(0, 1, assign=True))
    assert records.pool(TOKEN, book) is records.pool(TOKEN, book)
    assert records.pool(TOKEN, book) is not records.pool(OTHER, book)
    assert records.pool(TOKEN, book) is not records.pool(TOKEN, records.book(TransactionId(4, 1, assign=True)))
    assert records.pool(TOKEN, book) is records.pool(TOKEN, records.book(TransactionId(0, 1)))


def test_all_ids_of_a_peer_can_be_in_use_and_come_back() -> None:
    records = registry(Script())
    asked = [ask(records, (TOKEN,)) for _ in range(256)]
    assert len({one[1] for one in asked if one is not None}) == 256
    assert ask(records, (TOKEN,)) is None
    assert asked[17] is not None
    entry, key = asked[17]
    records.withdraw(entry, 1.0)
    again = ask(records, (TOKEN,), 2.0)
    assert again is not None
    assert again[1] == key
    assert ask(records, (TOKEN,)) is None


def test_an_id_must_be_free_wherever_its_reply_may_come_from() -> None:
    records = registry(Script(7, 7, 8))
    first = ask(records, (OTHER,))
    second = ask(records, (TOKEN, OTHER))
    assert first is not None
    assert second is not None
    assert (first[1], second[1]) == (b"\7", b"\10")


@pytest.mark.parametrize("shared", [250, 256])
def test_peers_that_share_a_source_share_its_ids(shared: int) -> None:
    # A common second source, as reply_from=["peer", OTHER] has it, is full before any of the peers is.
    records = registry(Script())
    keys: set[bytes] = set()
    for number in range(shared):
        asked = ask(records, (wire_of_source(f"198.51.100.{number}", 53), OTHER))
        assert asked is not None
        keys.add(asked[1])
    assert len(keys) == shared
    if shared == 256:
        with_limit = Script()
        records._random_bits = _at_most(20_000, with_limit)
        assert ask(records, (TOKEN, OTHER)) is None


def _at_most(times: int, script: Script) -> Callable[[int], int]:
    def random_bits(bits: int) -> int:
        assert len(script.asked) < times, "it draws without an end"
        return script(bits)

    return random_bits


def test_ids_in_use_elsewhere_come_back_when_they_are_free_there() -> None:
    # All were in use by others when the pool began to keep a queue; it is told of none of them.
    ids = pool(Script())
    pending = {slot(number) for number in range(256)}
    assert take(ids, pending, set(), now=0.0) is None
    pending.clear()
    assert take(ids, pending, set(), now=0.05) is not None


def test_a_peer_is_not_starved_by_what_others_used_once() -> None:
    records = registry(Script())
    elsewhere = []
    for number in range(256):
        asked = ask(records, (wire_of_source(f"198.51.100.{number}", 53), OTHER))
        assert asked is not None
        elsewhere.append(asked[0])
    assert ask(records, (TOKEN, OTHER), 1.0) is None
    for entry in elsewhere:
        records.withdraw(entry, 1.0)
    assert ask(records, (TOKEN, OTHER), 1.05) is not None


def test_a_pool_is_idle_when_all_its_ids_are_back() -> None:
    records = registry(Script())
    book = records.book(TransactionId(0, 1, assign=True))
    ids = records.pool(TOKEN, book)
    asked = [ask(records, (TOKEN,)) for _ in range(3)]
    for number, one in enumerate(asked):
        assert one is not None
        assert ids.gate.free == 253 + number
        assert not ids.is_idle
        records.withdraw(one[0], 1.0)
    assert ids.is_idle


def test_an_id_of_an_exchange_without_extras_comes_back() -> None:
    records = registry(Script())
    book = records.book(TransactionId(0, 1, assign=True))
    ids = records.pool(TOKEN, book)
    entry = records.ask(None, TOKEN, book, b"o", b"o", 5.0, 0.0, True)
    assert entry is not None
    assert not ids.is_idle
    [settled] = records.receive_batch([(assigned_id(entry) + b"reply", TOKEN)], 0.5)
    assert settled == (entry, b"oreply", TOKEN, 0.5, 1)
    assert ids.is_idle


def test_a_peer_whose_ids_are_in_use_is_kept() -> None:
    records = registry(Script())
    book = records.book(TransactionId(0, 1, assign=True))
    ids = records.pool(TOKEN, book)
    idle = records.pool(OTHER, book)
    assert ids.gate.enter()
    assert not ids.is_idle
    assert idle.is_idle
    for number in range(131_072):
        records.source(b"\0\1" + number.to_bytes(4, "big"))
    assert records.pool(TOKEN, book) is ids
    assert records.pool(OTHER, book) is not idle


def test_a_book_whose_ids_are_in_use_is_kept() -> None:
    # So that the caller's bytes can be put back, however many other books are used with the peer meanwhile.
    records = registry(Script(7))
    asked = ask(records, (TOKEN,))
    assert asked is not None
    entry, key = asked
    records.note_sent(entry, entry.slots(), records.source(TOKEN), 0.0, b"o")
    for length in range(2, 60):
        other = LongEntry(None, 0.0, 5.0, None, plain=False)
        records.enter(other)
        records.listen(other, (TOKEN,), records.book(TransactionId(0, length)), bytes(length))
        records.withdraw(other, 0.0)
    assert len(records.source(TOKEN).books) <= 17
    [settled] = records.receive_batch([(key, TOKEN)], 0.5)
    assert settled[1] == b"o"


def test_a_book_of_which_an_id_is_about_to_be_used_is_kept() -> None:
    records = registry(Script())
    book = records.book(TransactionId(0, 1, assign=True))
    ended = ask(records, (TOKEN,))
    assert ended is not None
    records.withdraw(ended[0], 0.0)
    assert records.pool(TOKEN, book).gate.enter()

    def use_others(offset: int) -> None:
        for length in range(2, 40):
            other = LongEntry(None, 0.0, 5.0, None, plain=False)
            records.enter(other)
            records.listen(other, (TOKEN,), records.book(TransactionId(offset, length)), bytes(length))
            records.withdraw(other, 0.0)

    use_others(0)
    assert book in records.source(TOKEN).books
    records.pool(TOKEN, book).gate.leave()
    use_others(1)
    assert book not in records.source(TOKEN).books


def test_the_pools_of_forgotten_books_are_forgotten() -> None:
    # A peer that is asked with ids in ever other places: what is kept of it is bounded, as its books are.
    records = registry(random.Random(1).getrandbits)
    for number in range(200):
        book = records.book(TransactionId(number % 40, 2, assign=True))
        entry = records.ask(None, TOKEN, book, b"oo", b"oo", 5.0, 0.0, True)
        assert entry is not None
        records.withdraw(entry, 0.0)
    source = records.source(TOKEN)
    assert len(source.books) <= 17
    assert source.pools is not None
    assert len(source.pools) <= 40


def test_the_callers_bytes_are_put_back() -> None:
    records = registry(Script(7))
    asked = ask(records, (TOKEN,))
    assert asked is not None
    entry, key = asked
    records.note_sent(entry, entry.slots(), records.source(TOKEN), 0.0, b"o")
    [settled] = records.receive_batch([(key + b"reply", TOKEN)], 0.5)
    assert (settled[1], settled[3]) == (b"oreply", 0.5)
