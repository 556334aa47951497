"""What is remembered: ended exchanges for 120 s, and the latest strangers."""

from __future__ import annotations

import pytest
from core_harness import no_interface
from core_harness import wire as harness_wire
from core_oracle import Place
from core_oracle import places as oracle_places
from hypothesis import given
from hypothesis import strategies as st

from udpguard.core import memory
from udpguard.core.address import ANYWHERE, Sources, Token, Wire, covers, wire_of_source
from udpguard.core.correlation import Slot
from udpguard.core.memory import REMEMBERED, Ended, Passers
from udpguard.core.verdict import Reason

SERVER = wire_of_source("192.0.2.1", 161)


def slot(number: int) -> Slot:
    return (SERVER, 1, number)


def test_what_ended_is_remembered_for_two_minutes() -> None:
    ended = Ended()
    assert ended.reason(slot(1), 0.0) is None
    ended.add(slot(1), (Reason.DUPLICATE, 1000.0, 0))
    ended.add(slot(2), (Reason.LATE, 1000.0, 0))
    assert ended.reason(slot(1), 1000.0) is Reason.DUPLICATE
    assert ended.reason(slot(2), 1120.0) is Reason.LATE
    assert ended.reason(slot(2), 1120.25) is None
    assert slot(1) in ended
    assert slot(3) not in ended


def test_the_latest_end_counts() -> None:
    ended = Ended()
    ended.add(slot(1), (Reason.DUPLICATE, 1000.0, 0))
    ended.add(slot(1), (Reason.LATE, 1130.0, 0))
    assert ended.reason(slot(1), 1140.0) is Reason.LATE
    ended.clear()
    assert len(ended) == 0
    assert ended.reason(slot(1), 1140.0) is None


def test_it_is_bounded() -> None:
    ended = Ended()
    for number in range(200_000):
        ended.add(slot(number), (Reason.LATE, 1000.0, 0))
        if number % 10_000 == 0:
            assert len(ended) <= 65_536
    assert len(ended) <= 65_536
    assert all(ended.reason(slot(number), 1000.0) for number in range(200_000 - 32_768, 200_000))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 90)), max_size=60))
def test_what_ended_agrees_with_a_plain_dictionary(steps: list[tuple[int, bool, int]]) -> None:
    ended, plain, now = Ended(), dict[int, tuple[Reason, float]](), 1000.0
    for number, answered, seconds in steps:
        now += seconds
        reason = Reason.DUPLICATE if answered else Reason.LATE
        ended.add(slot(number), (reason, now, 0))
        plain[number] = (reason, now)
        for other in range(10):
            mark = plain.get(other)
            wanted = mark[0] if mark is not None and now - mark[1] <= REMEMBERED else None
            assert ended.reason(slot(other), now) is wanted


def test_what_is_old_is_dropped_without_a_search() -> None:
    ended = Ended()
    ended.add(slot(1), (Reason.LATE, 1000.0, 0))
    ended.add(slot(2), (Reason.LATE, 1121.0, 0))
    ended.add(slot(3), (Reason.LATE, 1242.0, 0))
    assert slot(1) not in ended
    assert slot(2) in ended


# ---------------------------------------------------------------------------------------------------- strangers


def wire(host: str, port: int) -> bytes:
    return wire_of_source(host, port)


def test_who_came_since_then() -> None:
    log = Passers()
    assert log.covered([ANYWHERE], 0.0) == {}
    log.add(b"early", SERVER, 1.0)
    log.add(b"x" * 100, SERVER, 2.0)
    log.add(b"b", wire("192.0.2.9", 161), 3.0)
    assert log.covered([SERVER], 0.0) == {SERVER: (2, b"x" * 64)}
    assert log.covered([SERVER], 2.0) == {SERVER: (1, b"x" * 64)}
    assert log.covered([SERVER], 2.5) == {}
    assert log.covered([ANYWHERE, SERVER], 0.0) == {SERVER: (2, b"x" * 64), wire("192.0.2.9", 161): (1, b"b")}
    assert log.covered([wire("192.0.2.9", 999)], 0.0) == {}
    assert log.covered([], 0.0) == {}
    log.add(b"late", SERVER, 4.0)
    assert log.covered([SERVER], 3.5) == {SERVER: (1, b"late")}


places = st.sampled_from(["192.0.2.1", "192.0.2.9", "198.51.100.1", "2001:db8::1", "fe80::1", "fe80::1%2", "fe80::1%3"])
peers = st.tuples(places, st.integers(1, 2))
reply_from = (
    peers | places | st.sampled_from(["anywhere", "192.0.2.0/24", "0.0.0.0/0", "fe80::/10", "2000::/3", "::/0"])
)


@given(reply_from, peers)
def test_what_covers_a_peer_is_as_the_oracle_says(source: object, peer: tuple[str, int]) -> None:
    place = oracle_places(peer, source)[0] if not _is_scoped(source) else Place("host", str(source))
    [token] = Sources(source, no_interface).tokens(SERVER)  # type: ignore[arg-type]
    log = Passers()
    log.add(b"x", harness_wire(peer), 1.0)
    told = {harness_wire(peer): (1, b"x")} if place.covers(peer) else {}
    assert log.covered([token], 0.0) == told
    assert log.covered([token, token], 0.0) == told, "what is known by now"
    assert log.covered([token], 2.0) == {}


def _is_scoped(source: object) -> bool:
    return isinstance(source, str) and "%" in source


def test_strangers_that_share_the_host_or_the_port() -> None:
    log = Passers()
    log.add(b"port", wire("192.0.2.9", 161), 1.0)
    log.add(b"host", wire("192.0.2.1", 999), 1.0)
    log.add(b"neither", wire("192.0.2.9", 999), 1.0)
    log.add(b"six", wire("2001:db8::1", 161), 1.0)
    found = log.resembling([SERVER], 0.0)
    assert found == {
        wire("192.0.2.1", 999): (1, b"host"),
        wire("192.0.2.9", 161): (1, b"port"),
        wire("2001:db8::1", 161): (1, b"six"),
    }
    assert log.resembling([], 0.0) == {}
    assert log.resembling([SERVER], 1.5) == {}
    assert log.resembling([wire("203.0.113.1", 7)], 0.0) == {}


def test_the_link_is_part_of_the_host() -> None:
    log = Passers()
    log.add(b"", wire_of_source("fe80::1", 9, 3), 1.0)
    assert log.resembling([wire_of_source("fe80::1", 7, 2)], 0.0) == {}
    assert log.resembling([wire_of_source("fe80::1", 7, 3)], 0.0) == {wire_of_source("fe80::1", 9, 3): (1, b"")}


def test_the_latest_eight_are_told() -> None:
    log = Passers()
    for number in range(20):
        for _ in range(number + 1):
            log.add(b"", wire(f"198.51.100.{number}", 161), 1.0 + number)
    found = log.resembling([SERVER], 0.0)
    assert sorted(count for count, _ in found.values()) == list(range(13, 21))


def test_the_log_is_bounded() -> None:
    log = Passers(64)
    for number in range(1_000):
        log.add(b"", SERVER, float(number))
    assert log.covered([SERVER], 0.0) == {SERVER: (64, b"")}
    everything = Passers()
    for number in range(5_000):
        everything.add(b"", SERVER, float(number))
    assert everything.resembling([SERVER], 0.0) == {SERVER: (512, b"")}


def test_at_most_eight_are_told_of_a_wide_source() -> None:
    log = Passers()
    for number in range(20):
        log.add(b"", wire("192.0.2.9", 1 + number), 1.0)
    assert len(log.covered([ANYWHERE], 0.0)) == 8
    assert len(log.covered([b"\xc0\0\2\x09"], 0.0)) == 8
    assert len(log.resembling([wire("192.0.2.9", 999)], 0.0)) == 8


def test_at_most_eight_are_told_of_a_network() -> None:
    log = Passers()
    for number in range(20):
        log.add(b"", wire(f"192.0.2.{number}", 7), 1.0)
    for _ in range(2):
        found = log.covered([(24, b"\xc0\0\2\0")], 0.0)
        assert list(found.values()) == [(1, b"")] * 8


@pytest.mark.parametrize("token", [ANYWHERE, (24, b"\xc0\0\2\0")])
def test_what_came_before_does_not_hide_what_came_since(token: Token) -> None:
    log = Passers()
    for number in range(20):
        log.add(b"", wire(f"192.0.2.{number}", 7), 1.0)
        log.add(b"", wire(f"192.0.2.{number}", 7), 1.0)
    log.add(b"since", wire("192.0.2.99", 7), 5.0)
    assert log.covered([token], 4.0) == {wire("192.0.2.99", 7): (1, b"since")}


def test_strangers_who_came_before_do_not_hide_who_came_since() -> None:
    log = Passers()
    for number in range(20):
        log.add(b"", wire(f"198.51.100.{number}", 161), 1.0)
        log.add(b"", wire(f"198.51.100.{number}", 161), 1.0)
    log.add(b"since", wire("192.0.2.9", 161), 5.0)
    assert log.resembling([SERVER], 4.0) == {wire("192.0.2.9", 161): (1, b"since")}


def test_a_network_is_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Wire] = []

    def counted(network: tuple[int, bytes], address: Wire) -> bool:
        looked.append(address)
        return covers(network, address)

    monkeypatch.setattr(memory, "covers", counted)
    log = Passers()
    everyone = [wire(f"192.0.{number}.1", 7) for number in range(10)]
    for address in everyone:
        log.add(b"", address, 1.0)
    for _ in range(20):  # so often that it is worth while
        log.resembling([], 0.0)
    for since in (0.0, 1.0, 1.5):
        found = log.covered([(24, b"\xc0\0\2\0"), everyone[5], b"\xc0\0\7\1"], since)
        assert set(found) == ({everyone[2], everyone[5], everyone[7]} if since < 1.5 else set())
    assert looked == everyone, "once, and never for what was indexed"
    log.add(b"", wire("192.0.2.9", 7), 2.0)
    assert set(log.covered([(24, b"\xc0\0\2\0")], 0.0)) == {everyone[2], wire("192.0.2.9", 7)}
    assert len(looked) == 21, "the log has changed"


def test_an_index_is_shared_where_many_ask() -> None:
    log = Passers()
    for number in range(100):
        log.add(b"", SERVER, float(number))
    first = log._since(0.0)
    assert log._since(0.0) is first
    assert log._since(50.0) is first
    log.add(b"", SERVER, 100.0)
    assert log.covered([SERVER], 0.0) == {SERVER: (101, b"")}, "the log has changed"


def test_a_few_who_ask_beside_a_trickle_look_at_little() -> None:
    # One stranger between any two time-outs made an index of 512 for each of them.
    log = Passers()
    for number in range(2_000):
        log.add(b"", SERVER, float(number))
        index = log._since(number - 1.5)
        assert sum(len(times) for times, _ in index._times.values()) <= 4
        assert log.covered([SERVER], number - 1.5) == {SERVER: (min(number + 1, 2), b"")}
    many = [log._since(1_998.0) for _ in range(20)]
    assert many[-1] is many[-2], "for many one is made"


def test_under_a_flood_an_index_may_be_a_little_old() -> None:
    log = Passers()
    made = set()
    for number in range(10_000):
        log.add(b"", SERVER, number * 1e-5)
        made.add(id(log._since(0.0)))
    assert len(made) <= 80, "64 of a few each, and one each 50 ms"
    assert log.covered([SERVER], 0.0)


def test_who_is_asked_for_in_vain_is_not_remembered() -> None:
    # A scan of hosts that are all dead left a place for each of them.
    log = Passers()
    for number in range(1_000):
        assert log.covered([wire(f"192.0.2.{number % 250}", 1 + number), (24, bytes([number % 250, 0, 0]))], 0.0) == {}
        if number == 500:
            log.add(b"", SERVER, 1.0)
    index = log._since(0.0)
    assert len(index._by_token) < 10
    assert len(index._networks) <= 64


def test_who_asks_long_after_the_latest_gets_nothing() -> None:
    log = Passers()
    log.add(b"", SERVER, 1.0)
    assert log.covered([SERVER], 10.0) == {}
    assert log.covered([SERVER], 1.0) == {SERVER: (1, b"")}
