"""One endpoint asks two real name servers, in every way the public API has."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable

import interop_dns
import pytest
from interop_checks import Witness, check_at_rest, check_reply
from interop_servers import BULK, RECORDS, ZONE, Server, UnavailableError, program

import udpguard

pytestmark = pytest.mark.interop

# A server's buffer holds a few hundred queries: of a thousand sent at once it may lose some.
PATIENT = udpguard.Retry(attempts=8, initial=0.25, multiplier=1.5, maximum=2.0)
ASSIGNED = udpguard.TransactionId(0, 2, assign=True)
OWN_IDS = udpguard.TransactionId(0, 2)


async def test_two_thousand_queries_at_once_all_with_id_zero(unbound: Server, dnsmasq: Server) -> None:
    async with udpguard.open_endpoint() as endpoint:
        dns = endpoint.client(correlate=ASSIGNED)

        async def ask(server: Server, index: int) -> None:
            query = interop_dns.query(server.bulk(index)[0], ident=0)
            reply = await dns.exchange(server.address, query, timeout=30, retry=PATIENT)
            check_reply(server, index, 0, reply)

        async with asyncio.TaskGroup() as group:
            for index in range(BULK):
                group.create_task(ask(unbound, index))
                group.create_task(ask(dnsmasq, index))
            await asyncio.sleep(0)
            assert endpoint.statistics().pending == 2 * BULK
        check_at_rest(endpoint.statistics())
        assert endpoint.statistics().matched == 2 * BULK


async def test_two_thousand_queries_at_once_with_ids_of_ones_own(unbound: Server, dnsmasq: Server) -> None:
    async with udpguard.open_endpoint(correlate=OWN_IDS) as endpoint:

        async def ask(server: Server, index: int) -> None:
            ident = 0xFFFF - index
            query = interop_dns.query(server.bulk(index)[0], ident=ident)
            reply = await endpoint.exchange(server.address, query, timeout=30, retry=PATIENT)
            check_reply(server, index, ident, reply)

        async with asyncio.TaskGroup() as group:
            for index in range(BULK):
                group.create_task(ask(unbound, index))  # The same id at both servers:
                group.create_task(ask(dnsmasq, index))  # it is the peer *and* the key that count.
        check_at_rest(endpoint.statistics())
        assert endpoint.statistics().matched == 2 * BULK


async def test_an_id_of_ones_own_that_is_in_use_is_refused(unbound: Server) -> None:
    async with udpguard.open_endpoint(correlate=OWN_IDS) as endpoint:
        query = interop_dns.query(RECORDS, ident=7)
        with unbound.held():
            first = asyncio.ensure_future(endpoint.exchange(unbound.address, query, timeout=30))
            await asyncio.sleep(0)
            with pytest.raises(udpguard.DuplicateTransactionError):
                await endpoint.exchange(unbound.address, query, timeout=30)
        assert interop_dns.parse((await first).data).ident == 7
        check_at_rest(endpoint.statistics())


async def test_keyless_queries_to_one_server_take_turns(unbound: Server) -> None:
    async with udpguard.open_endpoint() as endpoint:

        async def ask(index: int) -> None:
            query = interop_dns.query(unbound.bulk(index)[0], ident=index)
            check_reply(unbound, index, index, await endpoint.exchange(unbound.address, query, timeout=30))

        async with asyncio.TaskGroup() as group:
            for index in range(200):
                group.create_task(ask(index))
            await asyncio.sleep(0)
            assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (1, 199)
        check_at_rest(endpoint.statistics())
        assert endpoint.statistics().matched == 200


async def test_clients_with_and_without_keys_share_an_endpoint(
    unbound: Server, dnsmasq: Server, mortal: Server
) -> None:
    """Two clients whose ids are assigned ask the same servers; one without keys has a server for itself.

    Its replies are DNS too: were it the same server, an id in them could be one that was assigned and answered a
    short while ago, and the reply would count as that exchange's duplicate.
    """
    async with udpguard.open_endpoint() as endpoint:
        dns, other, keyless = (
            endpoint.client(correlate=ASSIGNED),
            endpoint.client(correlate=ASSIGNED),
            endpoint.client(),
        )

        async def ask(client: udpguard.Client, server: Server, index: int) -> None:
            query = interop_dns.query(server.bulk(index)[0], ident=index)
            check_reply(server, index, index, await client.exchange(server.address, query, timeout=30))

        async with asyncio.TaskGroup() as group:
            for index in range(50):
                for client in (dns, other):
                    group.create_task(ask(client, unbound, index))
                    group.create_task(ask(client, dnsmasq, index))
                group.create_task(ask(keyless, mortal, index))
        check_at_rest(endpoint.statistics())
        assert endpoint.statistics().matched == 250


# ---------------------------------------------------------------------------------------------
# Addresses


async def test_servers_of_both_families_on_one_endpoint(unbound: Server, unbound_ipv6: Server) -> None:
    async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
        servers = {
            unbound.address: unbound,
            ("::FFFF:127.0.0.1", unbound.port): unbound,
            unbound_ipv6.address: unbound_ipv6,
            ("0:0:0:0:0:0:0:1", unbound_ipv6.port): unbound_ipv6,
        }

        async def ask(address: tuple[str, int], server: Server) -> None:
            query = interop_dns.query(server.bulk(1)[0])
            check_reply(server, 1, 0, await endpoint.exchange(address, query, timeout=10))

        async with asyncio.TaskGroup() as group:
            for address, server in servers.items():
                group.create_task(ask(address, server))
        check_at_rest(endpoint.statistics())


@pytest.fixture
async def localhost_is_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have localhost mean ::1 and 127.0.0.1, where the machine's own table knows only one of them.

    uvloop has a resolver of its own: the loop's method is replaced as well as the socket module's function.
    """
    real = socket.getaddrinfo
    found = {entry[4][0] for entry in real("localhost", 53, type=socket.SOCK_DGRAM)}
    if found >= {"::1", "127.0.0.1"}:
        return

    def both(host: object, port: object, *arguments: object, **options: object) -> list[tuple[object, ...]]:
        if host not in {"localhost", b"localhost"}:
            return real(host, port, *arguments, **options)  # type: ignore[call-overload]
        family = arguments[0] if arguments else options.get("family", 0)
        entries: list[tuple[object, ...]] = []
        if family in {0, socket.AF_INET6}:
            entries += real("::1", port, type=socket.SOCK_DGRAM)  # type: ignore[call-overload]
        if family in {0, socket.AF_INET}:
            entries += real("127.0.0.1", port, type=socket.SOCK_DGRAM)  # type: ignore[call-overload]
        return entries

    async def both_in_loop(
        host: object, port: object, *arguments: object, **options: object
    ) -> list[tuple[object, ...]]:
        return both(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", both)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both_in_loop)


@pytest.mark.usefixtures("localhost_is_both")
@pytest.mark.parametrize("correlate", [None, ASSIGNED], ids=["keyless", "assigned"])
@pytest.mark.parametrize("listens_on", ["unbound", "unbound_ipv6"])
async def test_localhost_where_the_server_listens_on_one_family_only(
    request: pytest.FixtureRequest, listens_on: str, correlate: udpguard.Correlator | None
) -> None:
    server: Server = request.getfixturevalue(listens_on)
    async with udpguard.open_endpoint(correlate=correlate) as endpoint:
        query = interop_dns.query(server.bulk(2)[0], ident=2)
        response = interop_dns.parse(await endpoint.request(("localhost", server.port), query, timeout=10))
        assert response.ident == 2
        assert [record.data for record in response.answers] == [server.bulk(2)[1]]
        check_at_rest(endpoint.statistics())


# ---------------------------------------------------------------------------------------------
# Failing over


@pytest.mark.parametrize("correlate", [None, ASSIGNED], ids=["keyless", "assigned"])
async def test_a_dead_server_first_in_the_list(
    unbound: Server, silent: tuple[str, int], correlate: udpguard.Correlator | None
) -> None:
    async with udpguard.open_endpoint(correlate=correlate) as endpoint:
        query = interop_dns.query(unbound.bulk(3)[0], ident=3)
        reply = await endpoint.exchange([silent, unbound.address], query, timeout=10)
        check_reply(unbound, 3, 3, reply)
        assert reply.attempts == 2
        check_at_rest(endpoint.statistics())


async def test_a_server_that_dies_between_two_queries(mortal: Server, unbound: Server) -> None:
    async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
        query = interop_dns.query(RECORDS, "MX")
        servers = [mortal.address, unbound.address]
        assert (await endpoint.exchange(servers, query, timeout=10)).peer == mortal.address
        mortal.process.terminate()
        mortal.process.wait(10)
        retry = udpguard.Retry(attempts=4, initial=0.1)
        reply = await endpoint.exchange(servers, query, timeout=10, retry=retry)
        assert reply.peer == unbound.address
        exchanges = {record.data for record in interop_dns.parse(reply.data).answers}
        assert exchanges == {f"10 mail.{ZONE}", f"20 backup.mail.{ZONE}"}
        check_at_rest(endpoint.statistics())


async def test_what_comes_after_the_deadline_is_late_and_helps_nobody_else(dnsmasq: Server) -> None:
    witness = Witness()
    async with udpguard.open_endpoint(correlate=ASSIGNED, on_unexpected=witness) as endpoint:
        with dnsmasq.held():
            query = interop_dns.query(dnsmasq.bulk(4)[0])
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await endpoint.request(dnsmasq.address, query, timeout=0.1)
            assert caught.value.peer == dnsmasq.address
            query = interop_dns.query(dnsmasq.bulk(5)[0])
            second = asyncio.ensure_future(endpoint.exchange(dnsmasq.address, query, timeout=30))
            await asyncio.sleep(0)
        check_reply(dnsmasq, 5, 0, await second)
        await witness.until(1)
        assert witness.reasons == {udpguard.Reason.LATE: 1}
        assert witness.seen[0].peer == dnsmasq.address
        check_at_rest(endpoint.statistics())
        assert endpoint.statistics().late == 1


# ---------------------------------------------------------------------------------------------
# Below the verbs


async def test_an_expectation_that_sends(dnsmasq: Server) -> None:
    async with udpguard.open_endpoint() as endpoint:
        with endpoint.expect(dnsmasq.address, timeout=10) as expectation:
            await expectation.send(interop_dns.query(dnsmasq.bulk(6)[0], ident=6))
            reply = await expectation
        check_reply(dnsmasq, 6, 6, reply)
        assert (reply.rtt, reply.attempts) == (None, 0)
        check_at_rest(endpoint.statistics())


async def test_the_protocol_under_the_loops_own_transport(unbound: Server) -> None:
    loop = asyncio.get_running_loop()
    transport, guard = await loop.create_datagram_endpoint(
        lambda: udpguard.GuardProtocol(correlate=OWN_IDS), local_addr=("127.0.0.1", 0)
    )
    try:
        replies = []
        for index in range(20):
            query = interop_dns.query(unbound.bulk(index)[0], ident=index)
            replies.append(guard.expect(unbound.address, timeout=10, transaction=query[:2]))
            transport.sendto(query, unbound.address)
        for index, reply in enumerate(replies):
            check_reply(unbound, index, index, await reply)
        check_at_rest(guard.statistics())
        assert guard.statistics().matched == 20
    finally:
        transport.close()


# ---------------------------------------------------------------------------------------------
# The example


@pytest.fixture(scope="session")
def dig() -> Callable[[Server, str, str], list[str]]:
    """Ask a server as `dig` does, and give the records it prints, sorted: servers shuffle them."""
    try:
        command = [program("dig"), "-r", "+noall", "+answer", "+notcp", "+tries=3", "+time=5"]
    except UnavailableError as error:
        pytest.skip(str(error))

    def ask(server: Server, name: str, rrtype: str) -> list[str]:
        question = [f"@{server.host}", "-p", str(server.port), name, rrtype]
        done = subprocess.run(
            [*command, *question], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(one_space(line) for line in done.stdout.splitlines())

    return ask


def one_space(record: str) -> str:
    """A record's name, time to live, class, type and data, with one space between."""
    return " ".join(record.split(maxsplit=4))


def read_lookup(printed: str) -> dict[str, list[str]]:
    """What `dns_lookup.py` printed: the records of each server."""
    records: dict[str, list[str]] = {}
    server = ""
    for line in printed.splitlines():
        if line.startswith("; "):
            server = line.removeprefix("; ").partition(": ")[0]
            records[server] = []
        else:
            records[server].append(one_space(line))
    return {server: sorted(lines) for server, lines in records.items()}


@pytest.mark.parametrize(("rrtype", "count"), [("A", 2), ("AAAA", 2), ("MX", 2), ("TXT", 1)])
def test_the_lookup_example_gives_the_same_records_as_dig(
    unbound: Server,
    dnsmasq: Server,
    unbound_ipv6: Server,
    dig: Callable[[Server, str, str], list[str]],
    run_example: Callable[..., str],
    rrtype: str,
    count: int,
) -> None:
    servers = [unbound, dnsmasq, unbound_ipv6]
    places = [f"@{server.at}" for server in servers]
    printed = read_lookup(run_example("dns_lookup.py", "--type", rrtype, RECORDS, *places))
    assert printed == {server.at: dig(server, RECORDS, rrtype) for server in servers}
    assert {len(records) for records in printed.values()} == {count}


def test_the_lookup_example_tells_servers_apart(
    unbound: Server,
    dnsmasq: Server,
    dig: Callable[[Server, str, str], list[str]],
    run_example: Callable[..., str],
) -> None:
    """Both know the name, and each gives another address."""
    name = unbound.bulk(8)[0]
    printed = read_lookup(run_example("dns_lookup.py", name, f"@{unbound.at}", f"@{dnsmasq.at}"))
    assert printed == {server.at: dig(server, name, "A") for server in (unbound, dnsmasq)}
    assert printed[unbound.at] != printed[dnsmasq.at]


def test_the_monitor_example(unbound: Server, dnsmasq: Server, run_example: Callable[..., str]) -> None:
    servers = (unbound, dnsmasq)
    at = (server.at for server in servers)
    printed = run_example("uptime_monitor.py", "--protocol", "dns", "--count", "2", "--interval", "0.2", *at)
    for server in servers:
        assert f"\n{server.at}: asked 2, lost 0%, " in printed
