"""puresnmp_sender.py: puresnmp asks through one endpoint, with request-ids that are udpguard's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import puresnmp
import puresnmp.exc
import pytest
from example_kit import HASTY, check_refused, free_address, imported, lines_of, needs_icmp, run
from hypothesis import given
from hypothesis import strategies as st

import udpguard
from udpguard.testing import Impostor, Request, Server, silent

SYS_NAME = "1.3.6.1.2.1.1.5.0"
GET, RESPONSE, REPORT = 0xA0, 0xA2, 0xA8


def element(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content)
    return bytes((tag, size) if size < 0x80 else (tag, 0x82, size >> 8, size & 0xFF)) + content


def message(community: bytes, kind: int, ident: bytes, *rest: bytes, version: int = 1) -> bytes:
    pdu = element(kind, element(0x02, ident), *rest)
    return element(0x30, element(0x02, bytes((version,))), element(0x04, community), pdu)


def asked(request: bytes) -> tuple[bytes, bytes, bytes]:
    """The community, the request-id and the OID of a request for one value, all of whose lengths are short."""
    community = request[7 : 7 + request[6]]
    at = 7 + request[6] + 2
    ident = request[at + 2 : at + 2 + request[at + 1]]
    at += 2 + len(ident) + 3 + 3 + 4
    return community, ident, request[at : at + 2 + request[at + 1]]


def response(request: bytes, value: bytes = b"router", kind: int = RESPONSE, other: int = 0) -> bytes:
    """What an agent answers; another request-id's, perhaps."""
    community, ident, oid = asked(request)
    ident = ident[:-1] + bytes((ident[-1] ^ other,))
    bound = element(0x30, element(0x30, oid, element(0x04, value)))
    return message(community, kind, ident, b"\2\1\0\2\1\0", bound)


def agent(request: Request) -> bytes:
    """Gives for each OID what tells it from others."""
    return response(request.data, asked(request.data)[2][2:].hex().encode())


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    with imported("puresnmp_sender") as found:
        yield found


@pytest.fixture
def sender(module: Any, endpoint: udpguard.Endpoint) -> Any:
    return module.UdpguardSender(endpoint)


def client(server: Server, sender: Any, *, timeout: float = 30, retries: int = 1) -> puresnmp.PyWrapper:
    found = puresnmp.Client(server.address.host, puresnmp.V2C("public"), server.address.port, sender=sender)
    found.configure(timeout=timeout, retries=retries)
    return puresnmp.PyWrapper(found)


# ------------------------------------------------------------------------------------------------- in puresnmp


async def test_it_gives_what_the_agent_says(sender: Any) -> None:
    async with Server(lambda request: response(request.data)) as server:
        assert await client(server, sender).get(SYS_NAME) == b"router"


async def test_what_is_asked_within_a_second_gets_each_its_own_value(sender: Any, endpoint: udpguard.Endpoint) -> None:
    """puresnmp's own ids are all the same then."""
    async with Server(agent) as server:
        one = client(server, sender)
        told = await asyncio.gather(*(one.get(f"1.3.6.1.4.1.{number}.0") for number in range(1, 101)))
    assert len(set(told)) == 100
    assert [int.from_bytes(bytes.fromhex(value.decode())[5:-1]) & 0x7F for value in told] == [*range(1, 101)]
    assert {request.peer.port for request in server.requests} == {endpoint.local_addr.port}
    assert len({asked(request.data)[1] for request in server.requests}) == 100


async def test_silence_is_puresnmps_time_out_and_says_why(sender: Any) -> None:
    async with Server(silent) as server:
        with pytest.raises(puresnmp.exc.Timeout, match=r"no reply from .* \(3 sent\)") as caught:
            await client(server, sender, timeout=0.2, retries=3).get(SYS_NAME)
        assert len(server.requests) == 3
        assert len({request.data for request in server.requests}) == 1, "the same again"
    assert isinstance(caught.value.__cause__, udpguard.ReplyTimeoutError)


async def test_a_lost_request_is_sent_again(sender: Any) -> None:
    async with Server(lambda request: None if request.number == 0 else response(request.data)) as server:
        assert await client(server, sender, timeout=0.05, retries=20).get(SYS_NAME) == b"router"


@needs_icmp
async def test_a_refusal_is_told_at_once(sender: Any) -> None:
    async with Server(silent) as server:
        one = client(server, sender)
    with pytest.raises(ConnectionRefusedError):
        await one.get(SYS_NAME)


async def test_forged_responses_are_not_believed(sender: Any, endpoint: udpguard.Endpoint) -> None:
    """A wrong request-id, a question, a report, junk, another port: puresnmp would fail at each, or believe it."""
    async with Server(silent) as server, Impostor(server) as impostor:
        asking = asyncio.ensure_future(client(server, sender).get(SYS_NAME))
        request = await server.next()
        await impostor.forge(response(request.data, b"liar", other=1), request.peer)
        await impostor.forge(response(request.data, b"liar", GET), request.peer)
        await impostor.forge(response(request.data, b"liar", REPORT), request.peer)
        await impostor.forge(b"\x30\x82\xff\xff", request.peer)
        await impostor.forge_from_other_port(response(request.data, b"liar"), request.peer)
        await server.send(response(request.data), request.peer)
        assert await asking == b"router"
    statistics = endpoint.statistics()
    assert (statistics.rejected, statistics.unknown_peer, statistics.pending) == (4, 1, 0)


async def test_a_cancelled_request_leaves_nothing(sender: Any, endpoint: udpguard.Endpoint) -> None:
    async with Server(silent) as server:
        asking = [asyncio.ensure_future(client(server, sender).get(SYS_NAME)) for _ in range(20)]
        for _ in asking:
            await server.next()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert (endpoint.statistics().pending, endpoint.statistics().cancelled) == (0, 20)


async def test_messages_of_snmpv3_take_turns(sender: Any, endpoint: udpguard.Endpoint) -> None:
    """They are signed, ids and all: they leave and arrive as they are."""
    header = element(0x30, element(0x02, b"\1\2\3\4"), b"\2\2\5\xdc\4\1\4\2\1\3")
    packet = element(0x30, b"\2\1\3", header, element(0x04, b"security"), element(0x04, b"encrypted"))
    async with Server(silent) as server:
        where = puresnmp.transport.Endpoint(server.address.host, server.address.port)
        asking = [asyncio.ensure_future(sender(where, packet, timeout=30)) for _ in range(3)]
        for number in range(3):
            request = await server.next()
            assert request.data == packet
            assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (1, 2 - number)
            await server.send(packet + bytes((number,)), request.peer)
        assert await asyncio.gather(*asking) == [packet + bytes((number,)) for number in range(3)]


# ------------------------------------------------------------------------------------------------- request-ids


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4), st.binary(min_size=3, max_size=3))
def test_a_request_id_is_replaced_wherever_it_is(community: bytes, ident: bytes, key: bytes) -> None:
    with imported("puresnmp_sender") as module:
        correlator = module.RequestId()
    request, rest = message(community, GET, ident, b"\2\1\0"), message(community, RESPONSE, ident[:1] + key, b"\2\1\0")
    stamped = correlator.stamped(request, key)
    assert stamped == message(community, GET, ident[:1] + key, b"\2\1\0")
    assert correlator.request_key(stamped) == correlator.reply_key(rest) == key
    assert correlator.restored(rest, correlator.request_key(request)) == message(community, RESPONSE, ident, b"\2\1\0")


@given(st.binary(max_size=80))
def test_nothing_that_comes_makes_it_raise(junk: bytes) -> None:
    with imported("puresnmp_sender") as module:
        correlator = module.RequestId()
    for data in (junk, b"\x30" + junk, message(b"", RESPONSE, b"\1\2\3\4")[: len(junk)], b"\x30\x84" + junk):
        assert correlator.reply_key(data) is None or len(correlator.reply_key(data)) == 3


@pytest.mark.parametrize("ident", [b"", b"\1", b"\0\1\2\3\4"])
def test_an_id_of_another_size_is_left_alone(module: Any, ident: bytes) -> None:
    assert module.RequestId().request_key(message(b"public", GET, ident)) is None


# ------------------------------------------------------------------------------------------------- the script


async def test_the_script_prints_the_agents_names() -> None:
    async with Server(lambda request: response(request.data, b"one\x1b")) as one:
        async with Server(lambda request: response(request.data, b"\xff\0")) as two:
            status, out, err = await lines_of("puresnmp_sender.py", str(one.address), str(two.address))
    assert (status, err) == (0, [])
    assert sorted(out) == sorted([f"{one.address} {SYS_NAME} = one\\x1b", f"{two.address} {SYS_NAME} = ff 00"])


async def test_the_script_says_why_there_is_no_answer() -> None:
    async with Server(silent) as dead, Server(lambda request: response(request.data)) as alive:
        arguments = [str(dead.address), str(alive.address), "--timeout", HASTY]
        status, out, err = await lines_of("puresnmp_sender.py", *arguments)
    assert (status, out) == (1, [f"{alive.address} {SYS_NAME} = router"])
    assert err == [line for line in err if line.startswith(f"no reply from {dead.address} in ")]
    assert len(err) == 1


@needs_icmp
async def test_the_script_says_that_nothing_listens_there() -> None:
    at = str(free_address())
    status, out, err = await lines_of("puresnmp_sender.py", at)
    assert (status, out) == (1, [])
    assert err[0].startswith(f"{at} refused")


async def test_the_script_survives_what_is_no_value() -> None:
    async with Server(lambda request: message(*asked(request.data)[:1], RESPONSE, asked(request.data)[1])) as server:
        status, out, err = await lines_of("puresnmp_sender.py", str(server.address))
    assert (status, out) == (1, [])
    assert err[0].startswith(f"{server.address}: puresnmp can't read the response: ")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "HOST"),
        (["127.0.0.1:x"], "127.0.0.1:x"),
        (["127.0.0.1", "--oid", "sysName"], "sysName"),
        (["127.0.0.1", "--oid", SYS_NAME, "--walk", SYS_NAME], "not allowed"),
        (["127.0.0.1", "--timeout", "-1"], "-1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], word: str) -> None:
    check_refused(run("puresnmp_sender.py", *arguments), word)
