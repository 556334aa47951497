"""How many wrong keys are too many."""

from __future__ import annotations

from udpguard.core.address import wire_of
from udpguard.core.source import Entry, LongEntry
from udpguard.core.suspicion import Suspicion

ALICE = wire_of(bytes([192, 0, 2, 1]), 53)
BOB = wire_of(bytes([192, 0, 2, 2]), 53)


def entry() -> Entry:
    return LongEntry(None, 0.0, 1.0, None, plain=True)


def test_one_more_than_the_limit_is_too_many() -> None:
    suspicion, one = Suspicion(2), entry()
    suspicion.watch(one, (ALICE,))
    assert suspicion.note((ALICE,)) == []
    assert suspicion.note((ALICE,)) == []
    assert suspicion.note((ALICE,)) == [one]
    assert suspicion.note((ALICE,)) == [], "once"


def test_none_at_all_may_be_allowed() -> None:
    suspicion, one = Suspicion(0), entry()
    suspicion.watch(one, (ALICE,))
    assert suspicion.note((ALICE,)) == [one]


def test_only_what_came_while_it_waited_counts() -> None:
    suspicion, early, late = Suspicion(1), entry(), entry()
    suspicion.watch(early, (ALICE,))
    suspicion.note((ALICE,))
    suspicion.watch(late, (ALICE,))
    assert suspicion.note((ALICE,)) == [early]
    assert suspicion.note((ALICE,)) == [late]


def test_others_and_those_who_have_ended_are_left_alone() -> None:
    suspicion, one, ended = Suspicion(0), entry(), entry()
    suspicion.watch(ended, (ALICE,))
    suspicion.watch(one, (ALICE, BOB))
    ended.ended = True
    assert suspicion.note((wire_of(bytes([192, 0, 2, 3]), 53),)) == []
    assert suspicion.note((ALICE, BOB)) == [one]


def test_the_ended_do_not_pile_up() -> None:
    suspicion = Suspicion(5)
    for _ in range(10_000):
        one = entry()
        suspicion.watch(one, (ALICE,))
        one.ended = True
    assert len(suspicion._watches[ALICE].waiting) <= 64
    for number in range(10_000):
        one = entry()
        suspicion.watch(one, (wire_of(number.to_bytes(4, "big"), 1),))
        one.ended = True
    assert len(suspicion._watches) <= 1_024
