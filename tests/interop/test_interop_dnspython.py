"""dnspython over udpguard, with a real unbound: very many at once, truncation and TCP, an impostor, cancellation."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.message
import dns.nameserver
import interop_dns
import interop_servers
import pytest
from interop_checks import EXAMPLES, Witness, check_at_rest
from interop_servers import BULK, ZONE, Server

import udpguard
from udpguard.testing import Impostor

pytestmark = pytest.mark.interop

LONG = f"long.{ZONE}"
STRINGS = [f"{number:02}-{'x' * 60}" for number in range(20)]
"""The TXT records of `LONG`: more than the 512 bytes of an answer without EDNS (RFC 1035 section 4.2.1)."""


@pytest.fixture(scope="module")
def server(
    start: Callable[[AbstractContextManager[Server]], Server], tmp_path_factory: pytest.TempPathFactory
) -> Server:
    long = [f'{LONG} TXT "{text}"' for text in STRINGS]
    return start(interop_servers.unbound(tmp_path_factory.mktemp("unbound-tcp"), network=7, tcp=True, more=long))


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
async def endpoint(witness: Witness) -> AsyncIterator[udpguard.Endpoint]:
    async with udpguard.open_endpoint(on_unexpected=witness) as opened:
        yield opened
        check_at_rest(opened.statistics())


@pytest.fixture
def backend(endpoint: udpguard.Endpoint, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("dnspython_backend").UdpguardBackend(endpoint)


def resolver_of(*servers: Server) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [dns.nameserver.Do53Nameserver(*one.address) for one in servers]
    resolver.lifetime = 30
    return resolver


async def until_sent(endpoint: udpguard.Endpoint, count: int) -> None:
    """Let tasks begin: what they ask leaves within a few turns of the loop."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert endpoint.statistics().sent == count


async def test_a_thousand_names_at_once_over_one_socket(
    server: Server, backend: Any, endpoint: udpguard.Endpoint
) -> None:
    resolver = resolver_of(server)
    names, addresses = zip(*(server.bulk(index) for index in range(BULK)), strict=True)
    answers = await asyncio.gather(*(resolver.resolve(name, "A", backend=backend) for name in names))
    assert tuple(answer[0].to_text() for answer in answers) == addresses
    assert endpoint.statistics().matched == BULK
    assert len(endpoint.local_addrs) <= 2, "one socket of each family"


def test_what_dig_says(server: Server, run_example: Callable[..., str]) -> None:
    name = server.bulk(5)[0]
    theirs = subprocess.run(
        [interop_servers.program("dig"), "+noall", "+answer", f"@{server.host}", "-p", str(server.port), name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    printed = run_example("dnspython_backend.py", "--server", server.at, name)
    assert printed.split() == theirs.split()


async def test_a_truncated_answer_is_fetched_by_tcp(server: Server, backend: Any, endpoint: udpguard.Endpoint) -> None:
    query = dns.message.make_query(LONG, "TXT")
    message, by_tcp = await dns.asyncquery.udp_with_fallback(
        query, server.host, timeout=30, port=server.port, backend=backend
    )
    assert by_tcp
    assert sorted(record.strings[0].decode() for record in message.answer[0]) == sorted(STRINGS)
    assert endpoint.statistics().matched == 1, "the one that was truncated"


async def test_with_edns_the_same_answer_fits(server: Server, backend: Any) -> None:
    query = dns.message.make_query(LONG, "TXT", use_edns=0, payload=4096)
    message, by_tcp = await dns.asyncquery.udp_with_fallback(
        query, server.host, timeout=30, port=server.port, backend=backend
    )
    assert not by_tcp
    assert len(message.answer[0]) == len(STRINGS)


async def test_the_resolver_falls_back_to_tcp_by_itself(server: Server, backend: Any) -> None:
    resolver = resolver_of(server)
    resolver.use_edns(edns=False)
    answer = await resolver.resolve(LONG, "TXT", backend=backend)
    assert len(answer) == len(STRINGS)


async def test_a_server_that_hangs_is_a_time_out_and_says_so(server: Server, backend: Any) -> None:
    query = dns.message.make_query(server.bulk(0)[0], "A")
    with server.held():
        with pytest.raises(dns.exception.Timeout) as caught:
            await dns.asyncquery.udp(query, server.host, timeout=0.1, port=server.port, backend=backend)
    assert isinstance(caught.value.__cause__, udpguard.ReplyTimeoutError)
    assert server.at in str(caught.value.__cause__)


async def test_an_impostors_answer_is_not_believed(
    server: Server, backend: Any, endpoint: udpguard.Endpoint, witness: Witness
) -> None:
    name, address = server.bulk(1)
    query = dns.message.make_query(name, "A")
    with server.held():  # so that the impostor is first
        asking = asyncio.ensure_future(
            dns.asyncquery.udp(query, server.host, timeout=30, port=server.port, backend=backend)
        )
        await until_sent(endpoint, 1)
        async with Impostor(server.address) as impostor:
            forged = interop_dns.answer(query.to_wire(), "192.0.2.66")
            await impostor.forge_from_other_port(forged, endpoint.local_addr)
            await witness.until(1)
    message = await asking
    assert [record.to_text() for record in message.answer[0]] == [address]


async def test_cancellation_leaves_nothing(server: Server, backend: Any, endpoint: udpguard.Endpoint) -> None:
    with server.held():
        asking = [
            asyncio.ensure_future(
                dns.asyncquery.udp(
                    dns.message.make_query(server.bulk(index)[0], "A"), server.host, port=server.port, backend=backend
                )
            )
            for index in range(100)
        ]
        await until_sent(endpoint, len(asking))
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert (endpoint.statistics().pending, endpoint.statistics().cancelled) == (0, 100)


def test_a_name_there_is_not(server: Server, run_failing: Callable[..., str]) -> None:
    printed = run_failing("dnspython_backend.py", "--server", server.at, f"nobody.{ZONE}")
    assert printed == f"nobody.{ZONE}: The DNS query name does not exist: nobody.{ZONE.rstrip('.')}\n"
