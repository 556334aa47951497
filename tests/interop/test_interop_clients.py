"""The whole clients in examples/clients with real servers: unbound, libcoap's, chronyd; and a game server."""

from __future__ import annotations

import asyncio
import importlib
import re
from pathlib import Path
from types import ModuleType

import a2s
import interop_coap
import interop_servers
import pytest
from interop_a2s import Game
from interop_servers import RECORDS, ZONE, Server

import udpguard
from udpguard.testing import Relay
from udpguard.testing import Server as GameServer

pytestmark = pytest.mark.interop

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"


@pytest.fixture
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The client that the test names."""
    monkeypatch.syspath_prepend(CLIENTS)
    return importlib.import_module(request.param)


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", [name], indirect=True)


@pytest.fixture
def dead() -> tuple[str, int]:
    """Where no server is, nor gets by chance."""
    return "127.0.0.1", interop_servers.free_port("127.0.0.1")


# ------------------------------------------------------------------------------------------------
# DNS


@of("dns_failover")
async def test_dns_moves_on_from_the_dead_and_the_silent(
    client: ModuleType, unbound: Server, dead: tuple[str, int], silent: tuple[str, int]
) -> None:
    servers = [dead, silent, unbound.address]
    async with udpguard.open_endpoint(correlate=client.ID, timeout=1.0) as endpoint:
        assert sorted(await client.look_up(endpoint, RECORDS, servers)) == ["192.0.2.1", "192.0.2.2"]
        assert await client.look_up(endpoint, f"no-such-name.{ZONE}", servers) == []


@of("dns_failover")
async def test_dns_a_thousand_names_at_once(client: ModuleType, unbound: Server) -> None:
    retry = udpguard.Retry(attempts=8, initial=1.0, multiplier=1.0)
    async with udpguard.open_endpoint(correlate=client.ID, retry=retry) as endpoint:
        names = [unbound.bulk(index) for index in range(1000)]
        found = await asyncio.gather(*(client.look_up(endpoint, name, [unbound.address]) for name, _ in names))
    assert found == [[address] for _, address in names]


@of("dns_failover")
async def test_dns_moves_on_from_a_server_that_refuses(client: ModuleType, unbound: Server, dnsmasq: Server) -> None:
    """dnsmasq has no server above it to ask for what is not its own."""
    async with udpguard.open_endpoint(correlate=client.ID, timeout=10.0) as endpoint:
        with pytest.raises(OSError, match=rf"{dnsmasq.host}: error 5"):
            await client.look_up(endpoint, "www.example.org", [dnsmasq.address])
        assert await client.look_up(endpoint, "www.example.org", [dnsmasq.address, unbound.address]) == []


# ------------------------------------------------------------------------------------------------
# CoAP


@of("coap_separate")
async def test_coap_an_answer_that_comes_with_the_acknowledgement(client: ModuleType, coap: Server) -> None:
    expected, _ = interop_coap.client(f"coap://{coap.at}/")
    async with udpguard.open_endpoint() as endpoint, endpoint.session(coap.address) as session:
        assert await client.get(session) == expected.encode()
        assert re.fullmatch(rb"\w{3} \d\d \d\d:\d\d:\d\d", await client.get(session, "time"))
        with pytest.raises(LookupError, match=r"4\.04"):
            await client.get(session, "no", "such", "thing")
        with pytest.raises(LookupError, match="option 23"):  # It comes in blocks.
            await client.get(session, "example_data")


@of("coap_separate")
async def test_coap_an_answer_that_comes_later_and_twice(
    client: ModuleType, coap: Server, coap_directory: Path
) -> None:
    """A network that doubles everything; the server's log tells of the question, and of both acknowledgements."""
    before = len(interop_coap.log(coap_directory))
    async with (
        Relay(coap.address, seed=1, duplicate=1.0, delay=0.01) as relay,
        udpguard.open_endpoint() as endpoint,
        endpoint.session(relay.address) as session,
    ):
        again = asyncio.create_task(client.acknowledge_again(session))
        assert await client.get(session, "async") == b"done"
        for _ in range(2):  # What was sent before these has arrived when they are answered: the relay keeps the order.
            await client.get(session, "time")
        statistics = endpoint.statistics()
    await again
    said = interop_coap.log(coap_directory)[before:]
    answer = re.search(r"t:CON c:2\.05 i:(\w+) \{\w+\}", said)
    assert answer
    assert said.count(f"t:ACK c:0.00 i:{answer[1]} ") == 4  # Each of the two comes twice.
    assert statistics.retransmitted == 0


# ------------------------------------------------------------------------------------------------
# NTP


@of("ntp_clock")
async def test_ntp_the_clock_of_this_machine_is_right_by_itself(
    client: ModuleType, chronyd: Server, dead: tuple[str, int]
) -> None:
    async with udpguard.open_endpoint(correlate=client.ORIGIN, timeout=10.0) as endpoint:
        offset, delay = await client.ask(endpoint, chronyd.address)
        assert 0 < delay < 10
        assert abs(offset) <= delay / 2 + 1e-4
        assert abs(await client.offset(endpoint, [dead, chronyd.address, chronyd.address])) < 1


# ------------------------------------------------------------------------------------------------
# A2S


@of("a2s_split")
@pytest.mark.parametrize("count", [0, 3, 60, 400])
async def test_a2s_both_clients_are_told_the_same(client: ModuleType, count: int) -> None:
    """python-a2s, which others have written, and this one: in one datagram, and in several."""
    game = Game(rules={f"sv_rule_{number}": f"größer als {number}" for number in range(count)})
    async with GameServer(game.answer) as server, udpguard.open_endpoint() as endpoint:
        theirs = await asyncio.to_thread(a2s.rules, server.address, timeout=10.0)
        assert await client.rules(endpoint, server.address) == theirs == game.rules


@of("a2s_split")
async def test_a2s_a_bad_network(client: ModuleType) -> None:
    game = Game(rules={f"sv_rule_{number}": f"value {number}" for number in range(400)})
    retry = udpguard.Retry(attempts=100, initial=0.1, multiplier=1.0)
    async with (
        GameServer(game.answer) as server,
        Relay(server.address, seed=2, loss=0.2, duplicate=0.2, delay=(0.0, 0.01)) as relay,
        udpguard.open_endpoint(retry=retry) as endpoint,
    ):
        for _ in range(5):
            assert await client.rules(endpoint, relay.address) == game.rules
        assert relay.trace.count("lost") > 0
