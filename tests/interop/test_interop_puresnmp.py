"""puresnmp over udpguard, with a real snmpd: values, walks, very many at once, silence, as net-snmp's tools have it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import interop_snmp
import puresnmp
import puresnmp.exc
import pytest
from interop_checks import EXAMPLES, check_at_rest
from interop_servers import Server
from interop_snmp import COMMUNITY, CONTACT, told

import udpguard

pytestmark = pytest.mark.interop

SYSTEM = "1.3.6.1.2.1.1"
NAME, CONTACT_OID, SERVICES = (f"{SYSTEM}.{number}.0" for number in (5, 4, 7))
DESCRIPTIONS = f"{SYSTEM}.9.1.3"  # sysORDescr, the same at each time


@pytest.fixture(scope="module")
def snmpd(
    start: Callable[[AbstractContextManager[Server]], Server], tmp_path_factory: pytest.TempPathFactory
) -> Server:
    return start(interop_snmp.snmpd(tmp_path_factory.mktemp("snmpd")))


@pytest.fixture
async def endpoint() -> AsyncIterator[udpguard.Endpoint]:
    async with udpguard.open_endpoint() as opened:
        yield opened
        check_at_rest(opened.statistics())


@pytest.fixture
def sender(endpoint: udpguard.Endpoint, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("puresnmp_sender").UdpguardSender(endpoint)


def client_of(server: Server, sender: Any, community: str = COMMUNITY) -> puresnmp.PyWrapper:
    return puresnmp.PyWrapper(puresnmp.Client(server.host, puresnmp.V2C(community), port=server.port, sender=sender))


def strings(lines: list[str]) -> list[str]:
    """The values of net-snmp's tools' lines, without their quotes."""
    return [line.partition(" = STRING: ")[2].strip('"') for line in lines]


async def test_a_value_is_what_snmpget_gets(snmpd: Server, sender: Any) -> None:
    client = client_of(snmpd, sender)
    assert await client.get(CONTACT_OID) == CONTACT.encode()
    assert await client.get(SERVICES) == 72
    assert [(await client.get(NAME)).decode()] == strings(told("snmpget", snmpd, NAME))


@pytest.mark.parametrize("verb", ["walk", "bulkwalk"])
async def test_a_walk_is_what_snmpwalk_finds(snmpd: Server, sender: Any, verb: str) -> None:
    client = client_of(snmpd, sender)
    walk = client.walk(DESCRIPTIONS) if verb == "walk" else client.bulkwalk([DESCRIPTIONS])
    found = [(oid, value.decode()) async for oid, value in walk]
    theirs = told("snmpwalk", snmpd, DESCRIPTIONS)
    assert len(found) > 5
    assert [value for _, value in found] == strings(theirs)
    assert [f".{oid}" for oid, _ in found] == [line.partition(" = ")[0] for line in theirs]


async def test_many_clients_ask_at_once_over_one_socket(
    snmpd: Server, sender: Any, endpoint: udpguard.Endpoint
) -> None:
    """All within a second or two: puresnmp's own request-ids would be the same."""
    asked = [(client_of(snmpd, sender), oid) for _ in range(100) for oid in (CONTACT_OID, SERVICES)]
    values = await asyncio.gather(*(client.get(oid) for client, oid in asked))
    assert values == [CONTACT.encode(), 72] * 100
    assert endpoint.statistics().matched == 200
    assert endpoint.statistics().rejected == 0


async def test_many_walks_at_once_find_the_same(snmpd: Server, sender: Any) -> None:
    async def walk() -> list[Any]:
        return [pair async for pair in client_of(snmpd, sender).bulkwalk([DESCRIPTIONS])]

    first, *others = await asyncio.gather(*(walk() for _ in range(20)))
    assert len(first) > 5
    assert all(other == first for other in others)


async def test_an_agent_that_hangs_is_a_time_out_and_says_so(snmpd: Server, sender: Any) -> None:
    client = client_of(snmpd, sender)
    client.client.configure(timeout=0.3, retries=2)
    with snmpd.held(), pytest.raises(puresnmp.exc.Timeout, match=r"no reply from .* \(2 sent\)"):
        await client.get(NAME)


async def test_a_wrong_community_is_met_with_silence(snmpd: Server, sender: Any) -> None:
    client = client_of(snmpd, sender, "wrong")
    client.client.configure(timeout=0.2, retries=1)
    with pytest.raises(puresnmp.exc.Timeout, match="no reply"):
        await client.get(NAME)


async def test_what_there_is_not_is_puresnmps_error(snmpd: Server, sender: Any) -> None:
    with pytest.raises(puresnmp.exc.NoSuchOID):
        await client_of(snmpd, sender).get("1.3.9.9")


async def test_cancellation_leaves_nothing(snmpd: Server, sender: Any, endpoint: udpguard.Endpoint) -> None:
    with snmpd.held():
        asking = [asyncio.ensure_future(client_of(snmpd, sender).get(NAME)) for _ in range(50)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert endpoint.statistics().sent == 50
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert (endpoint.statistics().pending, endpoint.statistics().cancelled) == (0, 50)


def test_the_script_prints_what_snmpget_and_snmpwalk_print(snmpd: Server, run_example: Callable[..., str]) -> None:
    printed = run_example("puresnmp_sender.py", "-c", COMMUNITY, snmpd.at)
    assert printed == f"{snmpd.at} {NAME} = {strings(told('snmpget', snmpd, NAME))[0]}\n"
    walked = run_example("puresnmp_sender.py", "-c", COMMUNITY, "--walk", f".{DESCRIPTIONS}", snmpd.at)
    assert [line.partition(" = ")[2] for line in walked.splitlines()] == strings(told("snmpwalk", snmpd, DESCRIPTIONS))


def test_the_script_says_what_there_is_not(snmpd: Server, run_failing: Callable[..., str]) -> None:
    printed = run_failing("puresnmp_sender.py", "-c", COMMUNITY, "--oid", "1.3.9.9", snmpd.at)
    assert printed.startswith(f"{snmpd.at}: ")
    nothing = run_failing("puresnmp_sender.py", "-c", COMMUNITY, "--walk", "1.3.9.9", snmpd.at)
    assert nothing == f"{snmpd.at}: nothing under 1.3.9.9\n"
