"""What type checkers see of the verbs; checked by mypy and pyright, never run."""

from __future__ import annotations

import ipaddress
import socket

from typing_extensions import assert_type

import udpguard
from udpguard import DEFAULT, Decision, Default, Peer, Reply


async def opened_in_both_ways() -> None:
    endpoint = await udpguard.open_endpoint()
    assert_type(endpoint, udpguard.Endpoint)
    async with udpguard.open_endpoint(("127.0.0.1", 0), timeout=None) as entered:
        assert_type(entered, udpguard.Endpoint)
    async with endpoint as again:
        assert_type(again, udpguard.Endpoint)
    await udpguard.open_endpoint(None, family=socket.AF_INET6, timeout=DEFAULT, retry=None, correlate=None)
    await udpguard.open_endpoint(
        ("::1", 0, 0, 0),
        timeout=2,
        retry=udpguard.Retry(),
        correlate=udpguard.TransactionId(0, 2, assign=True),
        limits=udpguard.Limits(pending=10),
        allow_broadcast=True,
        on_unexpected=print,
    )
    assert_type(endpoint.local_addr, Peer)
    assert_type(endpoint.local_addrs, tuple[Peer, ...])
    assert_type(endpoint.statistics(), udpguard.Statistics)
    assert_type(endpoint.peer_statistics(("192.0.2.1", 7)), udpguard.PeerStatistics | None)
    assert_type(endpoint.is_closing(), bool)
    endpoint.close()
    await endpoint.wait_closed()


async def asked(client: udpguard.Client) -> None:
    assert_type(await client.request(("192.0.2.1", 7), b"hello"), bytes)
    assert_type(await client.exchange(("192.0.2.1", 7), b"hello"), Reply)
    await client.request(("fe80::1", 7, 0, 2), b"", timeout=None)
    await client.request(("192.0.2.1", 7), b"", timeout=2, retry=None)
    await client.request(("192.0.2.1", 7), b"", timeout=DEFAULT, retry=DEFAULT)
    await client.request(("192.0.2.1", 7), b"", retry=udpguard.Retry.stun())
    await client.request([("192.0.2.1", 7), ("ns.example", 7)], b"")
    await client.request([Peer("192.0.2.1", 7)], b"")
    await client.request((("192.0.2.1", 7), ("::1", 7, 0, 0)), b"")
    await client.request(Peer("192.0.2.1", 7), b"")
    await client.request(("192.0.2.1", 7), lambda attempt: bytes(attempt))
    await client.request(("192.0.2.1", 7), bytearray(b"x"))
    await client.request(("192.0.2.1", 7), memoryview(b"x"))
    await client.send(("192.0.2.1", 7), b"hello")


async def from_where(client: udpguard.Client, reply_from: udpguard.ReplyFrom) -> None:
    address = ("192.0.2.1", 7)
    await client.request(address, b"", reply_from="host")
    await client.request(address, b"", reply_from=("192.0.2.9", 161))
    await client.request(address, b"", reply_from=Peer("192.0.2.9", 161))
    await client.request(address, b"", reply_from=ipaddress.ip_network("192.0.2.0/24"))
    await client.request(address, b"", reply_from=["peer", ("192.0.2.9", 161), ipaddress.ip_network("::/0")])
    await client.request(address, b"", reply_from=reply_from)


async def judged(client: udpguard.Client) -> None:
    def decide(reply: Reply) -> Decision:
        assert_type(reply.data, bytes)
        assert_type(reply.peer, Peer)
        assert_type(reply.rtt, float | None)
        assert_type(reply.attempts, int)
        return Decision.PROVISIONAL

    def yes(reply: Reply) -> bool:
        return reply.data != b""

    await client.request(("192.0.2.1", 7), b"", accept=decide)
    await client.request(("192.0.2.1", 7), b"", accept=yes)
    await client.exchange(("192.0.2.1", 7), b"", accept=lambda reply: len(reply.data) > 2)


async def expected(client: udpguard.Client) -> None:
    expectation = client.expect(("192.0.2.1", 7), timeout=None, transaction=b"ab")
    assert_type(expectation, udpguard.Expectation)
    await expectation.send(b"hello")
    assert_type(await expectation, Reply)
    with client.expect(Peer("192.0.2.1", 7), reply_from="anywhere") as entered:
        assert_type(await entered, Reply)
    async with client.expect(("192.0.2.1", 7)) as entered_too:
        assert_type(await entered_too, Reply)


async def derived(endpoint: udpguard.Endpoint) -> None:
    client = endpoint.client(correlate=udpguard.TransactionId(0, 2), timeout=2, retry=None, in_flight_per_peer=1)
    assert_type(client, udpguard.Client)
    peer = await endpoint.resolve("ns.example", 53)
    assert_type(peer, Peer)
    assert_type(peer.host, str)
    assert_type(peer.port, int)
    await client.request(peer, b"")


async def wrapped(
    client: udpguard.Client,
    *,
    timeout: float | None | Default = DEFAULT,
    retry: udpguard.RetryPolicy | None | Default = DEFAULT,
) -> bytes:
    """A wrapper passes on what it was not given."""
    return await client.request(("192.0.2.1", 7), b"", timeout=timeout, retry=retry)
