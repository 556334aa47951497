"""Which sources a filter lets in: a superset of what is expected, and not for ever more than that."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from udpguard.core.address import ANYWHERE, Token, host_token, wire_of
from udpguard.core.sieve import Sieve


def wire(number: int, port: int = 53) -> bytes:
    return wire_of((0x0A000000 + number).to_bytes(4, "big"), port)


def wire6(number: int) -> bytes:
    return wire_of((0x2001_0DB8 << 96 | number).to_bytes(16, "big"), 53)


def sieve(*, ipv4: bool = True, ipv6: bool = True) -> Sieve:
    return Sieve(ipv4=ipv4, ipv6=ipv6)


def test_what_is_new_is_told_once() -> None:
    one = sieve()
    one.begin([wire(1)])
    assert one.admit([wire(1)]) == []
    assert one.admit([wire(2), wire(2), wire(1)]) == [wire(2)]
    assert one.admit([wire(2)]) == []
    assert one.covers([wire(1), wire(2)])
    assert not one.covers([wire(3)])
    assert one.sources == {wire(1), wire(2)}


def test_a_new_beginning_forgets_the_rest() -> None:
    one = sieve()
    one.begin([])
    one.admit([wire(1), wire(2)])
    one.begin([wire(2)])
    assert one.sources == {wire(2)}
    assert not one.covers([wire(2)])
    assert one.admit([wire(1)]) == [wire(1)]


def test_of_each_family_only_what_the_socket_hears() -> None:
    tokens: list[Token] = [wire(1), wire6(1), host_token(wire(2)), host_token(wire6(2)), (8, bytes(4)), (8, bytes(16))]
    assert set(sieve(ipv6=False).admit(tokens)) == {tokens[0], tokens[2], tokens[4]}
    assert set(sieve(ipv4=False).admit(tokens)) == {tokens[1], tokens[3], tokens[5]}
    assert set(sieve().admit(tokens)) == set(tokens)
    only4 = sieve(ipv6=False)
    only4.begin(tokens)
    assert only4.sources == {tokens[0], tokens[2], tokens[4]}


def test_anywhere_opens_every_socket() -> None:
    for ipv4, ipv6 in ((True, False), (False, True), (True, True)):
        one = sieve(ipv4=ipv4, ipv6=ipv6)
        one.begin([wire(1)])
        assert not one.is_open
        one.admit([ANYWHERE])
        assert one.is_open
        one.begin([ANYWHERE])
        assert one.is_open
        one.begin([])
        assert not one.is_open


def test_too_many_open_it() -> None:
    one = sieve()
    one.begin([wire(i) for i in range(16_384)])
    assert not one.is_open
    one.admit([wire(99_999)])
    assert one.is_open
    one.begin([wire(i) for i in range(16_385)])
    assert one.is_open


def test_too_many_networks_open_it() -> None:
    one = sieve()
    one.begin([(24, bytes((10, 0, i, 0))) for i in range(31)])
    one.admit([(24, bytes((10, 1, 0, 0)))])
    assert not one.is_open
    one.admit([(24, bytes((10, 2, 0, 0)))])
    assert one.is_open


def test_who_asks_the_same_peers_in_rotation_needs_nothing_new() -> None:
    one = sieve()
    one.begin([])
    peers = [wire(i) for i in range(4_000)]
    loads = 0
    for turn in range(5):
        for begin in range(0, len(peers), 50):
            some = peers[begin : begin + 50]
            if one.covers(some):
                continue
            if one.admit(some):
                loads += 1
                assert turn == 0
            if one.is_stale:
                one.rotate(some)
                one.admit(some)
    assert loads == 80


def test_what_nobody_expects_leaves_after_others_came() -> None:
    one = sieve()
    one.begin([])
    one.admit([wire(0)])
    pending = {wire(1)}
    one.admit(pending)
    rotations = 0
    for i in range(2, 20_000):
        one.admit([wire(i)])
        if one.is_stale:
            one.rotate(pending)
            rotations += 1
            assert pending <= one.sources
            assert (wire(0) in one.sources) == (rotations == 1)
        assert len(one.sources) <= 2 * 4_096 + len(pending)
        assert not one.is_open
    assert rotations >= 4


@given(st.integers(0, 2**32), st.lists(st.sampled_from(["ask", "end", "rotate", "begin"]), max_size=60))
def test_what_is_expected_is_let_in_at_every_step(seed: int, steps: list[str]) -> None:
    rng = random.Random(seed)
    one, expected, loaded = sieve(), set[Token](), set[Token]()
    one.begin([])
    for step in steps:
        if step == "ask":
            tokens = [wire(rng.randrange(40)) for _ in range(rng.randrange(1, 6))]
            if not one.covers(tokens):
                loaded |= set(one.admit(tokens))
            expected |= set(tokens)
        elif step == "end" and expected:
            expected.discard(rng.choice(sorted(expected, key=repr)))
        elif step == "rotate":
            one.rotate(expected)
            loaded |= one.sources
        else:
            one.begin(expected)
            loaded = set(one.sources)
        assert expected <= loaded
        assert expected <= one.sources
