"""dnspython_backend.py: dnspython asks through one endpoint, and is told only what that believes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.nameserver
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from example_kit import HASTY, check_refused, free_address, imported, lines_of, needs_icmp, run

import udpguard
from udpguard.testing import Impostor, Request, Server, silent, with_other_id

TRUTH, LIE = "192.0.2.1", "192.0.2.66"
NAME = "www.example.org."


def response(query: bytes, address: str = TRUTH, name: str | None = None) -> bytes:
    """The answer to a query; to the question for another name, perhaps."""
    asked = dns.message.from_wire(query)
    if name is not None:
        other = dns.message.make_query(name, "A", id=asked.id)
        asked = other
    message = dns.message.make_response(asked)
    message.answer.append(dns.rrset.from_text(asked.question[0].name, 300, "IN", "A", address))
    return message.to_wire()


def truthful(request: Request) -> bytes:
    return response(request.data)


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    with imported("dnspython_backend") as found:
        yield found


@pytest.fixture
def backend(module: Any, endpoint: udpguard.Endpoint) -> Any:
    return module.UdpguardBackend(endpoint)


def addresses(message: dns.message.Message) -> list[str]:
    return [record.to_text() for rrset in message.answer for record in rrset]


async def ask(server: Server, backend: Any, name: str = NAME, **options: Any) -> dns.message.Message:
    options = {"timeout": 30, "port": server.address.port, **options}
    return await dns.asyncquery.udp(dns.message.make_query(name, "A"), server.address.host, backend=backend, **options)


# ------------------------------------------------------------------------------------------------ in dnspython


async def test_it_gives_what_the_server_says(backend: Any) -> None:
    async with Server(truthful) as server:
        assert addresses(await ask(server, backend)) == [TRUTH]


async def test_all_queries_share_the_endpoints_socket(backend: Any, endpoint: udpguard.Endpoint) -> None:
    async with Server(truthful) as server:
        told = await asyncio.gather(*(ask(server, backend, f"host-{n}.example.org.") for n in range(500)))
    assert [addresses(message) for message in told] == [[TRUTH]] * 500
    assert {request.peer.port for request in server.requests} == {endpoint.local_addr.port}
    assert len({request.data[:2] for request in server.requests}) > 400, "the ids are udpguard's own"


async def test_queries_with_the_same_id_get_each_its_own_answer(backend: Any) -> None:
    async with Server(truthful) as server:
        names = [f"host-{n}.example.org." for n in range(50)]
        queries = [dns.message.make_query(name, "A", id=7) for name in names]
        host, port = server.address
        told = await asyncio.gather(*(dns.asyncquery.udp(query, host, 30, port, backend=backend) for query in queries))
    assert [message.question[0].name.to_text() for message in told] == names
    assert {message.id for message in told} == {7}


async def test_silence_is_dnspythons_time_out_and_its_cause_explains_it(backend: Any) -> None:
    async with Server(silent) as server:
        with pytest.raises(dns.exception.Timeout) as caught:
            await ask(server, backend, timeout=0.05)
    assert 0.0 < caught.value.kwargs["timeout"] <= 0.05  # what was left of it when dnspython began to wait
    assert isinstance(caught.value.__cause__, udpguard.ReplyTimeoutError)
    assert caught.value.__cause__.peer == server.address


async def test_a_lifetime_that_is_over_is_a_time_out_too(backend: Any) -> None:
    async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.sendto(b"", ("127.0.0.1", 53), None)
        with pytest.raises(dns.exception.Timeout):
            await sock.recvfrom(65_535, 0.0)


@needs_icmp
async def test_a_refusal_is_told_at_once(backend: Any) -> None:
    address = free_address()
    with pytest.raises(ConnectionRefusedError):
        await dns.asyncquery.udp(dns.message.make_query(NAME, "A"), address.host, 30, address.port, backend=backend)


async def test_forged_answers_are_not_believed(backend: Any, endpoint: udpguard.Endpoint) -> None:
    """A wrong id, another question, another port: dnspython would raise, or believe, each of them."""
    async with Server(silent) as server, Impostor(server) as impostor:
        asking = asyncio.ensure_future(ask(server, backend))
        request = await server.next()
        await impostor.forge(with_other_id(response(request.data, LIE)), request.peer)
        await impostor.forge(response(request.data, LIE, "other.example.org."), request.peer)
        await impostor.forge(b"\xff" * 40, request.peer)
        await impostor.forge_from_other_port(response(request.data, LIE), request.peer)
        await server.send(response(request.data), request.peer)
        assert addresses(await asking) == [TRUTH]
    statistics = endpoint.statistics()
    assert (statistics.rejected, statistics.unknown_peer, statistics.pending) == (3, 1, 0)


async def test_an_answer_to_another_question_is_named_when_it_times_out(backend: Any) -> None:
    async with Server(lambda request: response(request.data, LIE, "other.example.org.")) as server:
        with pytest.raises(dns.exception.Timeout) as caught:
            await ask(server, backend, timeout=0.5)
    assert isinstance(caught.value.__cause__, udpguard.ReplyTimeoutError)
    assert [miss.peer for miss in caught.value.__cause__.near_misses] == [server.address]


async def test_a_truncated_answer_is_told_as_such(backend: Any) -> None:
    def truncated(request: Request) -> bytes:
        message = dns.message.make_response(dns.message.from_wire(request.data))
        message.flags |= dns.flags.TC
        return message.to_wire()

    async with Server(truncated) as server:
        with pytest.raises(dns.message.Truncated):
            await ask(server, backend, raise_on_truncation=True)
        assert (await ask(server, backend)).flags & dns.flags.TC


async def test_a_cancelled_query_leaves_nothing(backend: Any, endpoint: udpguard.Endpoint) -> None:
    async with Server(silent) as server:
        asking = [asyncio.ensure_future(ask(server, backend)) for _ in range(20)]
        for _ in asking:
            await server.next()
        assert endpoint.statistics().pending == 20
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    statistics = endpoint.statistics()
    assert (statistics.pending, statistics.waiting, statistics.cancelled) == (0, 0, 20)


async def test_the_resolver_goes_on_to_the_next_server(backend: Any) -> None:
    async with Server(silent) as dead, Server(truthful) as alive:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.timeout = 0.1
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*one.address) for one in (dead, alive)]
        answer = await resolver.resolve(NAME, "A", backend=backend)
    assert [record.to_text() for record in answer] == [TRUTH]
    assert len(dead.requests) == len(alive.requests) == 1


async def test_a_source_of_ones_own_is_refused(backend: Any) -> None:
    async with Server(truthful) as server:
        with pytest.raises(ValueError, match="open_endpoint"):
            await ask(server, backend, source="127.0.0.1")


async def test_a_socket_asks_once_and_says_where_it_is(backend: Any, endpoint: udpguard.Endpoint) -> None:
    async with Server(truthful) as server:
        async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            query = dns.message.make_query(NAME, "A").to_wire()
            assert await sock.sendto(query, server.address, None) == len(query)
            data, source = await sock.recvfrom(65_535, None)
            assert (dns.message.from_wire(data).id, source) == (dns.message.from_wire(query).id, server.address)
            with pytest.raises(RuntimeError, match="send it again"):
                await sock.recvfrom(65_535, None)
            assert await sock.getsockname() == endpoint.local_addr


async def test_what_else_a_backend_is_asked_goes_to_dnspythons_own(backend: Any) -> None:
    assert backend.name() == "udpguard"
    assert backend.datagram_connection_required() is False
    assert backend.get_transport_class() is dns.asyncbackend.get_backend("asyncio").get_transport_class()
    await backend.sleep(0)
    assert await backend.wait_for(asyncio.sleep(0, 3), 1.0) == 3


# ------------------------------------------------------------------------------------------------- the script


async def test_the_script_prints_records_as_dig_does() -> None:
    async with Server(truthful) as server:
        names = ["a.example.org", "b.example.org"]
        status, out, err = await lines_of("dnspython_backend.py", "--server", str(server.address), *names)
    assert (status, err) == (0, [])
    assert sorted(out) == [f"{name}. 300 IN A {TRUTH}" for name in names]


async def test_the_script_says_why_there_is_no_answer() -> None:
    async with Server(silent) as server:
        arguments = ["--server", str(server.address), "--timeout", HASTY, "example.org"]
        status, out, err = await lines_of("dnspython_backend.py", *arguments)
    assert (status, out) == (1, [])
    assert err[0].startswith("example.org: The resolution lifetime expired")
    assert f"no reply from {server.address} in" in err[0]
    assert len(err) == 1


@needs_icmp
async def test_the_script_says_that_nothing_listens_there() -> None:
    at = str(free_address())
    status, out, err = await lines_of("dnspython_backend.py", "--server", at, "example.org")
    assert (status, out) == (1, [])
    assert f"{at} refused" in err[0]


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
async def test_the_script_says_that_the_server_fails(rcode: dns.rcode.Rcode) -> None:
    def failing(request: Request) -> bytes:
        message = dns.message.make_response(dns.message.from_wire(request.data))
        message.set_rcode(rcode)
        return message.to_wire()

    async with Server(failing) as server:
        status, out, err = await lines_of("dnspython_backend.py", NAME, "--server", str(server.address))
    assert (status, out) == (1, [])
    assert err == [f"{NAME}: All nameservers failed to answer the query {NAME} IN A: {rcode.name}"]


async def test_the_script_says_that_there_is_no_such_name() -> None:
    def unknown(request: Request) -> bytes:
        message = dns.message.make_response(dns.message.from_wire(request.data))
        message.set_rcode(dns.rcode.NXDOMAIN)
        return message.to_wire()

    async with Server(unknown) as server:
        status, out, err = await lines_of("dnspython_backend.py", "--server", str(server.address), "example.org")
    assert (status, out) == (1, [])
    assert err == ["example.org: The DNS query name does not exist: example.org"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["example.org"], "--server"),
        (["--server", "127.0.0.1"], "NAME"),
        (["--server", "127.0.0.1:0", "example.org"], "127.0.0.1:0"),
        (["--server", "127.0.0.1", "--type", "NONSENSE", "example.org"], "NONSENSE"),
        (["--server", "127.0.0.1", "--timeout", "0", "example.org"], "0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], word: str) -> None:
    check_refused(run("dnspython_backend.py", *arguments), word)


async def test_a_name_that_is_none_is_told() -> None:
    async with Server(truthful) as server:
        status, out, err = await lines_of("dnspython_backend.py", "--server", str(server.address), "a..b")
    assert (status, out) == (1, [])
    assert err[0].startswith("a..b: ")


@pytest.mark.parametrize("server", ["a..b", "-", "0.0.0.0", "x" * 70, "no.such.host.invalid"])
def test_a_server_that_is_none_is_told(server: str) -> None:
    done = run("dnspython_backend.py", NAME, "--server", server)
    assert (done.returncode, done.stdout) == (1, "")
    assert server in done.stderr
    assert len(done.stderr.splitlines()) == 1
