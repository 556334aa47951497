"""Which local ports may get somebody's old reply, and the spare ones."""

from __future__ import annotations

import math
from typing import Any

import pytest

from udpguard import Ports
from udpguard.core.address import Token, host_token, wire_of
from udpguard.core.ports import Soil, Spares

ALICE = wire_of(bytes([192, 0, 2, 1]), 161)
ALICE_TOO = wire_of(bytes([192, 0, 2, 1]), 162)
BOB = wire_of(bytes([192, 0, 2, 2]), 161)
NETWORK = (24, bytes([192, 0, 2, 0]))
ANYWHERE = b""


class TestPorts:
    def test_the_defaults_are_the_contract_s(self) -> None:
        assert Ports() == Ports(pool=1, spares=8, rotate=False, quarantine=1.0, range=None)

    @pytest.mark.parametrize(
        ("given", "error", "says"),
        [
            ({"pool": 0}, ValueError, "pool must be 1 to 65535, not 0"),
            ({"pool": True}, TypeError, "pool must be an int"),
            ({"spares": -1}, ValueError, "spares must be 0 to 65535"),
            ({"spares": 1.5}, TypeError, "spares must be an int"),
            ({"quarantine": -0.1}, ValueError, "quarantine must be 0 seconds or more"),
            ({"quarantine": math.nan}, ValueError, "quarantine"),
            ({"quarantine": math.inf}, ValueError, "quarantine"),
            ({"quarantine": "1"}, TypeError, "quarantine must be seconds"),
            ({"quarantine": True}, TypeError, "quarantine must be seconds"),
            ({"range": (5, 4)}, ValueError, "the lower one first"),
            ({"range": (0, 4)}, ValueError, "1 to 65535"),
            ({"range": (1, 65_536)}, ValueError, "1 to 65535"),
            ({"range": [1, 2]}, TypeError, "lowest port, highest port"),
            ({"range": (1, 2, 3)}, TypeError, "lowest port, highest port"),
            ({"range": (1.0, 2)}, TypeError, "lowest port, highest port"),
            ({"range": (5000, 5007)}, ValueError, "has not the 9 ports"),
            ({"rotate": True, "spares": 0}, ValueError, "rotate needs ports to change to"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, given: dict[str, Any], error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            Ports(**given)

    def test_rotation_within_a_pool_needs_no_spares(self) -> None:
        assert Ports(rotate=True, spares=0, pool=64).rotate


def soiled(token: Token, asked: Token, port: int = 0, *, now: float = 10.0, until: float = 11.0, owed: int = 1) -> Soil:
    soil = Soil()
    soil.add(token, asked, port, now, until=until, owed=owed)
    return soil


class TestSoil:
    def test_nothing_is_soiled_at_first(self) -> None:
        soil = Soil()
        assert not soil.dirty
        assert soil.is_clean(0, (ALICE,), (ALICE,), 1.0)
        assert soil.blocked_until(0, (ALICE,), (ALICE,)) == -math.inf

    def test_a_port_is_soiled_for_one_peer_for_two_minutes(self) -> None:
        soil = soiled(ALICE, ALICE)
        assert soil.dirty
        assert not soil.is_clean(0, (ALICE,), (ALICE,), 130.0)
        assert soil.is_clean(0, (ALICE,), (ALICE,), 130.25)
        assert soil.is_clean(0, (BOB,), (BOB,), 10.0)
        assert soil.is_clean(-1, (ALICE,), (ALICE,), 10.0), "another port of ours"
        assert soil.is_clean(0, (ALICE_TOO,), (ALICE_TOO,), 10.0), "another port of that host"

    def test_who_listens_to_the_whole_host_hears_what_one_of_its_ports_owes(self) -> None:
        soil = soiled(ALICE, ALICE)
        host = host_token(ALICE)
        assert not soil.is_clean(0, (host,), (ALICE_TOO,), 11.0)
        assert soil.is_clean(0, (host_token(BOB),), (BOB,), 11.0)

    def test_what_a_host_owes_may_come_from_any_of_its_ports(self) -> None:
        host = host_token(ALICE)
        soil = soiled(host, ALICE)
        assert not soil.is_clean(0, (ALICE_TOO,), (ALICE_TOO, host), 11.0)
        assert not soil.is_clean(0, (ALICE,), (ALICE,), 11.0), "whom it had asked"

    @pytest.mark.parametrize("wide", [NETWORK, ANYWHERE])
    def test_who_listens_to_a_network_needs_a_port_that_nobody_soiled(self, wide: Token) -> None:
        soil = soiled(ALICE, ALICE)
        assert not soil.is_clean(0, (BOB, wide), (BOB,), 11.0)
        assert soil.is_clean(1, (BOB, wide), (BOB,), 11.0)
        assert soil.is_clean(0, (BOB, wide), (BOB,), 140.0)
        assert soil.blocked_until(0, (wide,), (BOB,)) == 11.0

    def test_a_late_reply_ends_the_quarantine_when_no_more_are_owed(self) -> None:
        soil = soiled(ALICE, ALICE, owed=2)
        assert soil.blocked_until(0, (ALICE,), (ALICE,)) == 11.0
        soil.settle(ALICE, 0, 10.75)
        assert soil.blocked_until(0, (ALICE,), (ALICE,)) == 11.0
        soil.settle(ALICE, 0, 10.75)
        assert soil.blocked_until(0, (ALICE,), (ALICE,)) == -math.inf
        assert not soil.is_clean(0, (ALICE,), (ALICE,), 12.0), "it may still come twice"
        soil.settle(BOB, 0, 10.75)

    def test_one_port_of_a_host_owes_its_reply_whatever_came_from_another(self) -> None:
        host = host_token(ALICE)
        soil = soiled(ALICE, ALICE, until=12.0)
        soil.add(ALICE_TOO, ALICE_TOO, 0, 10.5, until=11.5, owed=1)
        soil.settle(ALICE_TOO, 0, 10.75)
        assert soil.blocked_until(0, (ALICE_TOO,), (ALICE_TOO,)) == -math.inf
        assert soil.blocked_until(0, (host,), (BOB,)) == 12.0
        soil.settle(ALICE, 0, 10.75)
        assert soil.blocked_until(0, (host,), (BOB,)) == -math.inf

    def test_who_listens_to_a_network_waits_for_all_that_is_owed_at_the_port(self) -> None:
        soil = soiled(ALICE, ALICE)
        soil.add(BOB, BOB, 0, 10.25, until=11.25, owed=1)
        assert soil.settle(BOB, 0, 10.75)
        assert not soil.settle(BOB, 0, 10.75), "the same once more is nobody else's"
        assert soil.blocked_until(0, (NETWORK,), (BOB,)) == 11.25
        assert soil.settle(ALICE, 0, 10.75)
        assert soil.blocked_until(0, (NETWORK,), (BOB,)) == -math.inf

    def test_a_reply_that_comes_after_its_quarantine_ends_no_other_s(self) -> None:
        soil = soiled(ALICE, ALICE)
        soil.add(BOB, BOB, 0, 20.0, until=21.0, owed=1)
        soil.settle(ALICE, 0, 20.5)
        assert soil.blocked_until(0, (NETWORK,), (BOB,)) == 21.0

    def test_what_is_owed_adds_up_while_the_quarantine_lasts(self) -> None:
        soil = soiled(ALICE, ALICE)
        soil.add(ALICE, ALICE, 0, 10.5, until=10.75, owed=1)
        soil.settle(ALICE, 0, 10.75)
        assert soil.blocked_until(0, (ALICE,), (ALICE,)) == 11.0
        soil.add(ALICE, ALICE, 0, 20.0, until=21.0, owed=1)
        soil.settle(ALICE, 0, 20.5)
        assert soil.blocked_until(0, (ALICE,), (ALICE,)) == -math.inf

    def test_all_ports_that_are_clean_are_found_at_once(self) -> None:
        soil = soiled(ALICE, ALICE, port=3)
        soil.add(BOB, BOB, 5, 20.0, until=21.0, owed=1)
        assert soil.clean(range(2, 7), (ALICE,), (ALICE,), 30.0) == [2, 4, 5, 6]
        assert soil.clean(range(2, 7), (NETWORK,), (ALICE,), 135.0) == [2, 3, 4, 6]
        assert list(soil.clean(range(2, 7), (ALICE,), (ALICE,), 300.0)) == [2, 3, 4, 5, 6]

    def test_it_is_bounded_and_forgets_the_oldest(self) -> None:
        soil = Soil()
        wires = [wire_of(number.to_bytes(4, "big"), 1) for number in range(1, 100_000)]
        for wire in wires:
            soil.add(wire, wire, 0, 10.0, until=11.0, owed=1)
        known = [not soil.is_clean(0, (wire,), (wire,), 11.0) for wire in wires]
        assert sum(known) <= 65_536
        assert all(known[-32_768:])
        assert not known[0]

    def test_one_peer_s_many_exchanges_push_out_nobody_else_s(self) -> None:
        soil = soiled(BOB, BOB)
        for _ in range(100_000):
            soil.add(ALICE, ALICE, 0, 10.0, until=11.0, owed=1)
        assert not soil.is_clean(0, (BOB,), (BOB,), 11.0)

    def test_when_all_is_too_old_nobody_need_look(self) -> None:
        soil = soiled(ALICE, ALICE)
        assert soil.is_clean(0, (ALICE,), (ALICE,), 250.0)
        assert soil.dirty
        assert soil.is_clean(0, (ALICE,), (ALICE,), 250.5)
        assert not soil.dirty

    def test_what_is_too_old_is_dropped_in_passing(self) -> None:
        soil = soiled(ALICE, ALICE, port=7)
        for now in (200.0, 400.0):
            soil.add(BOB, BOB, 0, now, until=now, owed=1)
        assert (ALICE, 7) not in soil._old
        assert 7 not in soil._any
        soil.clear()
        assert not soil.dirty


class TestSpares:
    def test_one_that_is_in_use_is_chosen_before_an_idle_one(self) -> None:
        spares = Spares(8)
        for port in (40_000, 40_001, 40_002):
            spares.add(port, 1.0, ipv4=True)
        spares.hold(40_001)
        assert spares.choose(lambda ports: ports, ipv4=True) == 40_001
        assert spares.choose(lambda ports: [port for port in ports if port != 40_001], ipv4=True) in (40_000, 40_002)
        assert spares.choose(lambda _: [], ipv4=True) is None
        assert spares.choose(lambda ports: ports, ipv4=False) is None

    def test_the_longest_idle_is_replaced(self) -> None:
        spares = Spares(2)
        spares.add(1, 1.0, ipv4=True)
        spares.add(2, 2.0, ipv4=False)
        assert spares.replaceable() == 1
        spares.hold(1)
        assert spares.replaceable() == 2
        first = spares.hold(2)
        assert spares.replaceable() is None
        second = spares.hold(2)
        assert not spares.release(first, 3.0), "somebody else still uses it"
        assert spares.release(second, 4.0)
        assert spares.replaceable() == 2
        spares.remove(2)
        spares.remove(2)
        assert (len(spares), 1 in spares, 2 in spares) == (1, True, False)

    def test_one_that_is_lost_has_nothing_to_do_with_the_next_of_its_number(self) -> None:
        """Else who used the old one would seem to leave the new one, which then had less than no users for ever."""
        spares = Spares(2)
        spares.add(2_000, 1.0, ipv4=True)
        lost = spares.hold(2_000)
        spares.remove(2_000)
        spares.add(2_000, 2.0, ipv4=True)
        used = spares.hold(2_000)
        assert not spares.release(lost, 3.0), "it was closed in the meantime"
        assert spares.replaceable() is None
        assert spares.release(used, 4.0)
        assert spares.replaceable() == 2_000
        assert spares.long_idle(124.0) == [2_000]

    def test_those_that_were_idle_for_long(self) -> None:
        spares = Spares(2)
        spares.add(1, 1.0, ipv4=True)
        spares.add(2, 1.0, ipv4=True)
        spares.hold(2)
        assert spares.long_idle(120.0) == []
        assert spares.long_idle(121.0) == [1]
