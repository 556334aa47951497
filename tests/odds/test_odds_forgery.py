"""What forgeries that guess have for chances: as RFC 5452 has it, and none against 64 bits.

`python tests/odds/run.py` gives the full figures; here is a slice of them, from fixed seeds.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from odds_kit import Case, Client, attack, odds_of_a_window, odds_of_an_attack, tokens_believed

import udpguard
from udpguard import Ports, TransactionId
from udpguard.core.address import wire_of
from udpguard.testing import Simulation

CASES = [
    Case("one port, 8-bit ids", ports=1, id_bytes=1, forgeries=16, windows=4_000),
    Case("pool of 4, 8-bit ids", ports=4, id_bytes=1, forgeries=64, windows=1_000),
    Case("pool of 4, no ids", ports=4, id_bytes=0, forgeries=1, windows=4_000),
    Case("pool of 64, no ids", ports=64, id_bytes=0, forgeries=16, windows=2_000),
    Case("one port, 16-bit ids", ports=1, id_bytes=2, forgeries=512, windows=200),
    Case("one port, 16-bit ids, 64 questions", ports=1, id_bytes=2, forgeries=256, windows=250, questions=64),
    Case("pool of 4, 16-bit ids, 64 questions", ports=4, id_bytes=2, forgeries=512, windows=125, questions=64),
]


def test_the_formula_gives_the_figures_of_rfc_5452() -> None:
    """7,000 forgeries a second against 16-bit ids: even odds in 7 s on one port, in 116 h with 64,000 of them."""

    def seconds(ports: int) -> float:
        window = odds_of_a_window(7_000 * 0.1, ports=ports, ids=65_536)
        return 0.1 * math.log(0.5) / math.log(1 - window)

    assert seconds(1) == pytest.approx(7, abs=0.6)
    assert seconds(64_000) / 3_600 == pytest.approx(116, abs=1.0)
    assert odds_of_an_attack(odds_of_a_window(700, ids=65_536), seconds(1) / 0.1) == pytest.approx(0.5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forgeries_have_the_odds_of_the_formula(case: Case) -> None:
    result = attack(case, Random(f"client {case.name}").getrandbits, Random(f"forger {case.name}"))
    assert abs(result.sigmas) <= 3, (result.believed, case.windows * case.odds)
    if case.questions == 1:
        won, attacks = result.attacks_won(8)
        wanted = odds_of_an_attack(case.odds, 8)
        assert abs(won - attacks * wanted) <= 3 * math.sqrt(attacks * wanted * (1 - wanted))


@pytest.mark.parametrize("strategy", ["after what he saw", "what he saw"])
@pytest.mark.parametrize("case", CASES[:4], ids=lambda case: case.name)
def test_what_a_forger_sees_at_his_own_server_helps_him_nothing(case: Case, strategy: Any) -> None:
    """He may have the client ask him, just before: that tells its port and its id then, and nothing of the next."""
    case = replace(case, strategy=strategy, windows=case.windows)
    result = attack(case, Random(f"client {case}").getrandbits, Random(0))
    assert abs(result.sigmas) <= 3, (result.believed, case.windows * case.odds)


def test_a_client_whose_ids_can_be_guessed_is_found_out() -> None:
    """The same forger against a client that counts its ids up: what this test is worth."""
    count = iter(range(10**9))

    def counting(bits: int) -> int:
        return int.from_bytes(bytes(next(count) & 255 for _ in range(bits // 8)), "big")

    case = replace(CASES[0], strategy="after what he saw", windows=500)
    assert attack(case, counting, Random(0)).believed > 450


def test_without_ids_on_one_port_every_forgery_is_believed() -> None:
    """What docs say: the source's address alone is no authentication."""
    case = Case("one port, no ids", ports=1, id_bytes=0, forgeries=1, windows=1_000)
    assert attack(case, Random(1).getrandbits, Random(2)).believed == 1_000


def test_of_forged_64_bit_tokens_none_is_believed() -> None:
    assert tokens_believed(200_000, Random("client").getrandbits, Random("forger")) == (0, 1_000)


def test_a_token_must_be_right_in_each_bit() -> None:
    client = Client(Case("64-bit tokens", 1, 8, 1, 1), Random(3).getrandbits)
    server = wire_of(bytes((10, 0, 0, 1)), 53, 0)
    _, _, key = client.ask(server)
    token = int.from_bytes(key, "big")
    for bit in range(64):
        assert client.receive([(token ^ 1 << bit).to_bytes(8, "big")], server, 0) == 0
    assert client.receive([key], server, 0) == 1


def test_over_the_network_the_odds_are_the_same() -> None:
    """The whole endpoint, with a pool of four ports and 8-bit ids: 128 forgeries against 1,024 possibilities."""
    windows, forgeries, server = 400, 128, ("192.0.2.1", 53)
    forger = Random("over the network")

    class Truthful(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            asyncio.get_running_loop().call_later(0.1, self.transport.sendto, data[:1] + b"true", addr)

    async def main() -> int:
        loop: Any = asyncio.get_running_loop()
        loop.network.host(server[0])
        await loop.create_datagram_endpoint(Truthful, local_addr=server)
        believed = 0
        async with udpguard.open_endpoint(
            ("198.51.100.1", 0), ports=Ports(pool=4), correlate=TransactionId(0, 1, assign=True)
        ) as endpoint:
            here = [channel.get_extra_info("sockname") for channel in endpoint._guard.own4]
            assert len(here) == 4
            for _ in range(windows):
                asked = asyncio.ensure_future(endpoint.request(server, b"\0"))
                for number in forger.sample(range(1_024), forgeries):
                    loop.network.inject(bytes((number & 255,)) + b"forged", server, here[number >> 8], delay=0.05)
                believed += (await asked)[1:] == b"forged"
                await asyncio.sleep(120.0)  # no id is passed over as lately used
            return believed

    with Simulation(1, trace=False) as sim:
        believed = sim.run(main)
    wanted = odds_of_a_window(forgeries, ports=4, ids=256)
    assert abs(believed - windows * wanted) <= 3 * math.sqrt(windows * wanted * (1 - wanted)), believed
