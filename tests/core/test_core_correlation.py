"""Transaction ids and books of keys."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from udpguard import Correlator, TransactionId
from udpguard.core.correlation import Book, SealedKey, checked_id, request_key, sealed, space_of, unsealed


def test_the_key_is_at_its_place() -> None:
    dns = TransactionId(0, 2)
    assert dns.request_key(b"\1\2rest") == b"\1\2"
    assert dns.reply_key(b"\1\2") == b"\1\2"
    assert dns.request_key(b"\1") is None
    assert dns.reply_key(b"") is None
    ntp = TransactionId(40, 8, reply_offset=24)
    packet = bytes(range(48))
    assert ntp.request_key(packet) == packet[40:48]
    assert ntp.reply_key(packet) == packet[24:32]
    assert ntp.request_key(packet[:47]) is None
    assert ntp.reply_key(packet[:31]) is None


@given(st.binary(max_size=40), st.integers(0, 20), st.integers(1, 20), st.integers(0, 20), st.data())
def test_an_id_that_is_written_is_read_and_put_back(
    data: bytes, offset: int, length: int, reply_offset: int, more: st.DataObject
) -> None:
    ids = TransactionId(offset, length, reply_offset=reply_offset, assign=True)
    key = more.draw(st.binary(min_size=length, max_size=length))
    original = ids.request_key(data)
    assert (original is None) == (len(data) < offset + length)
    if original is not None:
        stamped = ids.stamped(data, key)
        assert len(stamped) == len(data)
        assert ids.request_key(stamped) == key
        assert ids.stamped(stamped, original) == data
    if (own := ids.reply_key(data)) is not None:
        restored = ids.restored(data, key)
        assert len(restored) == len(data)
        assert ids.reply_key(restored) == key
        assert ids.restored(restored, own) == data


@pytest.mark.parametrize(
    ("arguments", "keywords", "error"),
    [
        ((-1, 2), {}, ValueError),
        ((0, 0), {}, ValueError),
        ((0, -2), {}, ValueError),
        ((0, 2), {"reply_offset": -1}, ValueError),
        (("0", 2), {}, TypeError),
        ((0, 2.0), {}, TypeError),
        ((True, 2), {}, TypeError),
        ((0, True), {}, TypeError),
        ((0, 2), {"reply_offset": "1"}, TypeError),
    ],
)
def test_what_is_no_place_is_refused(arguments: tuple[Any, ...], keywords: dict[str, Any], error: type) -> None:
    with pytest.raises(error, match=r"offset|length"):
        TransactionId(*arguments, **keywords)


def test_equality_is_by_value() -> None:
    assert TransactionId(0, 2) == TransactionId(0, 2, reply_offset=0)
    assert hash(TransactionId(0, 2)) == hash(TransactionId(0, 2))
    assert len({TransactionId(0, 2), TransactionId(0, 2), TransactionId(0, 2, assign=True), TransactionId(1, 2)}) == 3
    assert TransactionId(0, 2) != TransactionId(0, 3)
    assert TransactionId(0, 2) != (0, 2, 0, False)
    assert TransactionId(0, 2) != Everything()


def test_it_shows_how_to_make_it() -> None:
    for ids in (TransactionId(0, 2), TransactionId(40, 8, reply_offset=24), TransactionId(0, 2, assign=True)):
        assert eval(repr(ids)) == ids
    assert (
        repr(TransactionId(40, 8, reply_offset=24, assign=True)) == "TransactionId(40, 8, reply_offset=24, assign=True)"
    )


def test_it_can_be_sent_to_another_process() -> None:
    ids = TransactionId(40, 8, reply_offset=24, assign=True)
    copy = pickle.loads(pickle.dumps(ids))
    assert copy == ids
    assert copy.reply_key(bytes(40)) == bytes(8)


class Everything(Correlator):
    """The key is the datagram."""

    @override
    def request_key(self, data: bytes) -> bytes:
        return data

    @override
    def reply_key(self, data: bytes) -> bytes:
        return data


def test_a_correlator_must_say_both_keys() -> None:
    with pytest.raises(TypeError):
        Correlator()  # type: ignore[abstract]
    assert Everything().request_key(b"x") == Everything().reply_key(b"x") == b"x"


def test_those_that_read_the_same_bytes_share_a_book() -> None:
    assert space_of(TransactionId(0, 2)) == space_of(TransactionId(0, 2, assign=True))
    assert space_of(TransactionId(40, 8, reply_offset=24)) == space_of(TransactionId(24, 8))
    assert space_of(TransactionId(0, 2)) != space_of(TransactionId(0, 4))
    mine = Everything()
    assert space_of(mine) is mine


def test_where_no_key_is_needed_nobody_looks_for_one() -> None:
    assert Book(0, None).finder is None


def test_the_longest_key_reads_first() -> None:
    books = [Book(1, Everything()), Book(2, TransactionId(0, 2)), Book(3, TransactionId(8, 8)), Book(0, None)]
    assert [book.number for book in sorted(books, key=lambda book: book.rank)] == [3, 2, 1, 0]


def test_only_bytes_can_be_replaced_by_an_id() -> None:
    assert checked_id(b"ab") == b"ab"
    with pytest.raises(TypeError, match="it must give bytes"):
        checked_id(7)


class Touchy:
    """A key that will not be compared."""

    @override
    def __hash__(self) -> int:
        return hash(1)

    @override
    def __eq__(self, other: object) -> bool:
        raise LookupError("not now")


class Touch(Everything):
    @override
    def request_key(self, data: bytes) -> object:  # type: ignore[override]
        return Touchy()


def test_plain_keys_are_kept_as_they_are() -> None:
    for key in (b"ab", "ab", 7, None, (1, b"x", None), ()):
        assert sealed(key) is key
        assert unsealed(key) is key
    for odd in (1.5, True, (1, 1.5), ((1,),), frozenset((1,)), Touchy()):
        assert isinstance(sealed(odd), SealedKey)
        assert unsealed(sealed(odd)) is odd


def test_a_sealed_key_equals_what_its_key_equals() -> None:
    assert sealed(1.0) == sealed(True) == sealed(1) == sealed(1.0)
    assert hash(sealed(1.0)) == hash(1)
    assert {1: "found"}[sealed(True)] == "found"  # type: ignore[index]
    assert sealed(2.0) != sealed(1.0)
    nan = float("nan")
    assert sealed(nan) == sealed(nan)
    assert sealed(nan) != sealed(float("nan"))


def test_a_key_that_will_not_be_compared_can_be_put_in_and_taken_out_among_others() -> None:
    """Where one of the same hash raised, an exchange would end by half, and keep its place for ever."""
    first, second = (request_key(Touch(), b"x") for _ in range(2))
    pending = {1: 0, first: 1, second: 2}
    assert [pending.pop(key) for key in (second, first, 1)] == [2, 1, 0]
    with pytest.raises(KeyError):
        pending.pop(second)


def test_a_fault_is_told_once() -> None:
    faults: list[int] = []
    key = sealed(Touchy(), lambda: faults.append(1))
    assert key != 1
    assert key != 1
    assert faults == [1]


def test_what_ends_programs_is_not_held_up_by_a_comparison() -> None:
    class Interrupted(Touchy):
        @override
        def __hash__(self) -> int:
            return 1

        @override
        def __eq__(self, other: object) -> bool:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assert sealed(Interrupted()) == 1
