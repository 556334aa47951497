"""What addresses reach whom, and which are refused at the caller with the shared socket unharmed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from typing import Any

import pytest
from loopback_kit import (
    Names,
    Server,
    closed_port,
    echo,
    in_jumping_time,
    opened,
    plain_socket,
    same_port,
    turns,
    until,
)

import udpguard

IS_TOLD = sys.platform == "linux" and os.environ.get("UDPGUARD_BACKEND") != "portable"
"""Whether a closed port is told of at once."""


async def test_one_endpoint_reaches_ipv4_and_ipv6_by_literal() -> None:
    async with (
        Server(echo) as four,
        Server(echo, "127.9.8.7") as other,
        Server(echo, "::1") as six,
        opened() as endpoint,
    ):
        for server in (four, other, six):
            reply = await endpoint.exchange(server.addr, b"x", timeout=2.0)
            assert reply.peer == server.addr


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_localhost_where_only_one_of_its_addresses_answers(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for order in (["::1", "127.0.0.1"], ["127.0.0.1", "::1"]):
        Names(asyncio.get_running_loop(), monkeypatch, localhost=order)
        async with Server(echo, host) as server, opened() as endpoint:
            began = time.monotonic()
            reply = await endpoint.exchange(("localhost", server.port), b"x", timeout=5.0)
            took = time.monotonic() - began
            assert (reply.data, reply.peer) == (b"x", server.addr)
            assert reply.attempts == order.index(host) + 1
            assert reply.rtt is not None  # each address was asked once: nothing is ambiguous
            waited = 0.0 if IS_TOLD else 0.25 * order.index(host)
            assert reply.rtt < took - waited + 0.01, "counted from when its own address was asked"


def test_the_next_address_of_a_name_is_tried_after_250_ms() -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            loop = asyncio.get_running_loop()
            Names(loop, monkeypatch, localhost=["127.0.0.2", "127.0.0.3", "127.0.0.1"])
            async with same_port("127.0.0.2", "127.0.0.3", "127.0.0.1") as (*_, server), opened() as endpoint:
                server.handler = echo
                began = loop.time()
                reply = await endpoint.exchange(("localhost", server.port), b"x", timeout=5.0)
                assert loop.time() - began == pytest.approx(0.5, abs=0.01)
                assert (reply.peer, reply.attempts) == (server.addr, 3)

    in_jumping_time(main)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_real_localhost_where_only_one_of_its_addresses_answers(host: str) -> None:
    found = await asyncio.get_running_loop().getaddrinfo("localhost", 9, type=socket.SOCK_DGRAM)
    if host not in {address[4][0] for address in found}:
        pytest.skip(f"localhost does not resolve to {host} here")
    async with Server(echo, host) as server, opened() as endpoint:
        reply = await endpoint.exchange(("localhost", server.port), b"x", timeout=5.0)
        assert reply.peer == server.addr


async def test_a_name_with_an_address_of_a_family_the_endpoint_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(asyncio.get_running_loop(), monkeypatch, localhost=["::1", "127.0.0.1"])
    async with Server(echo) as server, opened(family=socket.AF_INET) as endpoint:
        reply = await endpoint.exchange(("localhost", server.port), b"x", timeout=2.0)
        assert (reply.peer, reply.attempts) == (server.addr, 1)


async def test_an_unknown_name_raises_gaierror(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(asyncio.get_running_loop(), monkeypatch)
    async with opened() as endpoint:
        for use in (endpoint.request, endpoint.exchange, endpoint.send):
            with pytest.raises(socket.gaierror):
                await use(("nobody.example", 53), b"x")  # type: ignore[operator]


async def test_a_really_unknown_name_raises_gaierror() -> None:
    async with opened() as endpoint:
        with pytest.raises(socket.gaierror):
            await endpoint.request(("nobody.invalid", 53), b"x", timeout=60.0)


async def test_a_name_that_stands_for_no_host_or_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(asyncio.get_running_loop(), monkeypatch, nothing=["0.0.0.0"], group=["239.1.2.3"], all=["255.255.255.255"])
    async with opened() as endpoint:
        for name in ("nothing", "group", "all"):
            with pytest.raises(udpguard.InvalidAddressError, match=name):
                await endpoint.request((name, 53), b"x", timeout=2.0)


async def test_a_name_does_not_block_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, slow=["127.0.0.1"])
    names.hold = asyncio.Event()
    async with Server(echo) as server, opened() as endpoint:
        task = asyncio.ensure_future(endpoint.request(("slow", server.port), b"slow", timeout=5.0))
        await until(lambda: names.asked)
        assert await endpoint.request(server.addr, b"x", timeout=2.0) == b"x"
        assert not task.done()
        names.hold.set()
        assert await task == b"slow"


EQUALS = [
    ("::1", "0:0:0:0:0:0:0:1"),
    ("::1", "0000:0000:0000:0000:0000:0000:0000:0001"),
    ("::1", "::0.0.0.1"),
    ("127.0.0.1", "::ffff:127.0.0.1"),
    ("127.0.0.1", "::FFFF:7F00:1"),
    ("127.0.0.1", "0:0:0:0:0:FFFF:7F00:0001"),
]


@pytest.mark.parametrize(("host", "written"), EQUALS)
async def test_other_ways_to_write_a_literal_reach_the_same_peer(host: str, written: str) -> None:
    async with Server(echo, host) as server, opened() as endpoint:
        reply = await endpoint.exchange((written, server.port), b"x", timeout=2.0)
        assert (reply.data, reply.peer) == (b"x", server.addr)
        assert str(reply.peer.host) == host
        with endpoint.expect((written, server.port)) as expectation:
            assert expectation.peer == server.addr
            await expectation.send(b"y")
            assert (await expectation).data == b"y"
        known = endpoint.peer_statistics((written, server.port))
        assert known is not None
        assert known.matched == 2


async def test_all_ways_to_write_a_peer_share_its_turn() -> None:
    async with Server() as server, opened() as endpoint:
        tasks = [
            asyncio.ensure_future(endpoint.request((host, server.port), b"%d" % i, timeout=5.0))
            for i, host in enumerate(("127.0.0.1", "::ffff:127.0.0.1", "::FFFF:7F00:1"))
        ]
        for i, task in enumerate(tasks):
            data, addr = await server.next()
            assert data == b"%d" % i
            assert endpoint.statistics().waiting == 2 - i
            server.send(b"ok", addr)
            await task


async def test_four_tuples_and_peers_are_addresses() -> None:
    async with Server(echo, "::1") as six, Server(echo) as four, opened() as endpoint:
        for addr in (
            six.sock.getsockname(),
            ("::1", six.port, 7, 0),
            udpguard.Peer("::1", six.port),
            udpguard.Peer("::1", six.port).sockaddr,
        ):
            assert (await endpoint.exchange(addr, b"x", timeout=2.0)).peer == six.addr
        for addr in (udpguard.Peer(*four.addr), udpguard.Peer(*four.addr).sockaddr):
            assert (await endpoint.exchange(addr, b"x", timeout=2.0)).peer == four.addr


async def test_a_peer_goes_to_a_socket_as_its_sockaddr() -> None:
    async with Server(echo, "::1") as server, opened() as endpoint:
        peer = (await endpoint.exchange(server.addr, b"x", timeout=2.0)).peer
        with plain_socket("::1") as sock:
            sock.sendto(b"direct", peer.sockaddr)
            await server.next()
            assert (await server.next())[0] == b"direct"


async def test_a_reply_from_the_mapped_form_of_a_dual_stack_server() -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    sock.setblocking(False)
    async with opened() as endpoint:
        task = asyncio.ensure_future(endpoint.exchange(("127.0.0.1", sock.getsockname()[1]), b"x", timeout=5.0))
        await turns(2)
        loop = asyncio.get_running_loop()
        data, addr = await loop.run_in_executor(None, lambda: (sock.setblocking(True), sock.recvfrom(99))[1])
        sock.sendto(data, addr)
        assert (await task).peer == ("127.0.0.1", sock.getsockname()[1])
    sock.close()


# ------------------------------------------------------------------------------------------------ refused

MALFORMED: list[Any] = [
    ("127.0.0.1", 0),
    ("127.0.0.1", -1),
    ("127.0.0.1", 65_536),
    ("127.0.0.1", 70_000),
    ("127.0.0.1", "53"),
    ("127.0.0.1", "domain"),
    ("127.0.0.1", 53.0),
    ("127.0.0.1", None),
    ("127.0.0.1", True),
    ("0.0.0.0", 53),
    ("::", 53),
    ("::ffff:0.0.0.0", 53),
    ("a..b", 53),
    (".", 53),
    ("", 53),
    ("-a.example", 53),
    ("a" * 64, 53),
    ("a b", 53),
    ("a\0b", 53),
    ("127.0.0.1:53", 53),
    ("[::1]", 53),
    ("http://127.0.0.1", 53),
    ("::1::", 53),
    ("1:2:3:4:5:6:7:8:9", 53),
    ("fe80::1%", 53),
    ("fe80::1%no-such-link", 53),
    ("127.0.0.1%1", 53),
    (b"127.0.0.1", 53),
    (2130706433, 53),
    (None, 53),
    ("127.0.0.1",),
    ("127.0.0.1", 53, 0),
    ("127.0.0.1", 53, 0, 3),
    ("::1", 53, "0", 0),
    ("::1", 53, 0, -1),
    ("::1", 53, 0, 2**32),
    (),
    "127.0.0.1",
    "127.0.0.1:53",
    b"127.0.0.1",
    None,
    53,
]
GROUPS: list[Any] = [
    ("255.255.255.255", 53),
    ("::ffff:255.255.255.255", 53),
    ("224.0.0.1", 53),
    ("239.255.255.250", 1900),
    ("ff02::1", 53),
    ("FF05::1:3", 547),
    ("ff02::fb%1", 5353),
]


@pytest.mark.parametrize("addr", MALFORMED + GROUPS, ids=repr)
async def test_refused_at_the_caller_with_the_shared_socket_unharmed(addr: Any) -> None:
    async with Server(echo) as four, Server(echo, "::1") as six, opened() as endpoint:
        waiting = asyncio.ensure_future(endpoint.request(four.addr, b"before", timeout=5.0))
        for use in (endpoint.request, endpoint.exchange):
            with pytest.raises(udpguard.InvalidAddressError) as caught:
                await use(addr, b"x", timeout=2.0)  # type: ignore[operator]
            assert isinstance(caught.value, ValueError)
            assert str(caught.value)
        with pytest.raises(udpguard.InvalidAddressError):
            endpoint.expect(addr)
        with pytest.raises(udpguard.InvalidAddressError):
            endpoint.peer_statistics(addr)
        with pytest.raises(udpguard.InvalidAddressError):
            await endpoint.request([four.addr, addr], b"x", timeout=2.0)
        if addr not in GROUPS:
            with pytest.raises(udpguard.InvalidAddressError):
                await endpoint.send(addr, b"x")
        assert await waiting == b"before"
        assert endpoint.statistics().send_errors == 0
        for server in (four, six):
            assert await endpoint.request(server.addr, b"after", timeout=2.0) == b"after"
        assert four.data == [b"before", b"after"]


async def test_send_to_the_broadcast_address_wants_allow_broadcast() -> None:
    async with opened() as endpoint:
        with pytest.raises(udpguard.InvalidAddressError, match="allow_broadcast"):
            await endpoint.send(("255.255.255.255", 9), b"x")
        assert endpoint.statistics().send_errors == 0


async def test_a_directed_broadcast_is_refused_where_the_kernel_refuses_it() -> None:
    async with Server(echo) as server, opened() as endpoint:
        for use in (endpoint.request, endpoint.send):
            with pytest.raises(udpguard.InvalidAddressError, match="broadcast"):
                await use(("127.255.255.255", server.port), b"x")  # type: ignore[operator]
        assert endpoint.statistics().pending == 0
        assert await endpoint.request(server.addr, b"x", timeout=2.0) == b"x"


async def test_a_directed_broadcast_is_sent_with_allow_broadcast() -> None:
    async with Server(None, "0.0.0.0") as everywhere, opened(allow_broadcast=True) as endpoint:
        await endpoint.send(("127.255.255.255", everywhere.port), b"x")
        assert (await everywhere.next())[0] == b"x"


async def test_send_to_a_group_is_not_refused_as_an_address() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", 0))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    async with opened(sock=sock) as endpoint:
        try:
            await endpoint.send(("239.255.77.77", 9), b"x")
        except udpguard.PeerUnreachableError:  # a machine may have no route for groups
            assert endpoint.statistics().send_errors == 1


@pytest.mark.parametrize(("family", "missing"), [(socket.AF_INET, "::1"), (socket.AF_INET6, "127.0.0.1")])
async def test_a_family_the_endpoint_lacks_is_refused(family: int, missing: str) -> None:
    mine = "127.0.0.1" if family == socket.AF_INET else "::1"
    async with Server(echo, mine) as server, Server(echo, missing) as other, opened(family=family) as endpoint:
        for use in (endpoint.request, endpoint.send):
            with pytest.raises(udpguard.InvalidAddressError, match=r"family|socket"):
                await use(other.addr, b"x")  # type: ignore[operator]
        with pytest.raises(udpguard.InvalidAddressError):
            endpoint.expect(other.addr)
        with pytest.raises(udpguard.InvalidAddressError):
            await endpoint.request([server.addr, other.addr], b"x", timeout=2.0)
        assert await endpoint.request(server.addr, b"x", timeout=2.0) == b"x"
        assert other.got == []


async def test_the_mapped_form_needs_an_ipv4_socket() -> None:
    async with opened(family=socket.AF_INET6) as endpoint:
        with pytest.raises(udpguard.InvalidAddressError):
            await endpoint.request(("::ffff:127.0.0.1", 53), b"x")
    async with Server(echo) as server, opened(family=socket.AF_INET) as endpoint:
        assert await endpoint.request(("::ffff:127.0.0.1", server.port), b"x", timeout=2.0) == b"x"


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(("host", "limit"), [("127.0.0.1", 65_507), ("::1", 65_527)])
async def test_a_datagram_larger_than_udp_carries_is_refused_before_anything_is_sent(host: str, limit: int) -> None:
    async with Server(echo, host) as server, opened() as endpoint:
        for use in (endpoint.request, endpoint.exchange, endpoint.send):
            with pytest.raises(udpguard.DatagramTooLargeError, match=str(limit)) as caught:
                await use(server.addr, bytes(limit + 1))  # type: ignore[operator]
            assert (caught.value.peer, caught.value.size, caught.value.limit) == (server.addr, limit + 1, limit)
            assert isinstance(caught.value, ValueError)
        with endpoint.expect(server.addr) as expectation, pytest.raises(udpguard.DatagramTooLargeError):
            await expectation.send(bytes(limit + 1))
        assert endpoint.statistics().send_errors == 0
        assert await endpoint.request(server.addr, b"x", timeout=2.0) == b"x"
        assert server.data == [b"x"]


@pytest.mark.parametrize(("host", "limit"), [("127.0.0.1", 65_507), ("::1", 65_527)])
async def test_the_largest_datagram_goes_there_and_back(host: str, limit: int) -> None:
    async with Server(echo, host) as server, opened() as endpoint:
        data = bytes(range(256)) * 255 + bytes(limit - 256 * 255)
        assert len(data) == limit
        (outcome,) = await asyncio.gather(endpoint.request(server.addr, data, timeout=5.0), return_exceptions=True)
        if isinstance(outcome, udpguard.DatagramTooLargeError):  # what the path does not carry, the kernel says
            assert outcome.limit is None
            assert endpoint.statistics().send_errors == 1
        else:
            assert outcome == data


async def test_a_request_and_a_reply_of_no_bytes() -> None:
    for host in ("127.0.0.1", "::1"):
        async with Server(echo, host) as server, opened() as endpoint:
            reply = await endpoint.exchange(server.addr, b"", timeout=2.0)
            assert (reply.data, reply.attempts) == (b"", 1)
            assert await endpoint.request(server.addr, lambda _: b"", timeout=2.0) == b""
            await endpoint.send(server.addr, b"")
            await until(lambda: len(server.got) == 3)
            assert server.data == [b"", b"", b""]
            await until(lambda: endpoint.statistics().received == 3)


async def test_a_reply_of_no_bytes_to_a_request_with_a_key_is_refused() -> None:
    async with Server(echo) as server, opened(correlate=udpguard.TransactionId(0, 2)) as endpoint:
        expectation = endpoint.expect(server.addr, transaction=b"ab", timeout=5.0)
        await expectation.send(b"")
        await until(lambda: endpoint.statistics().rejected)
        await expectation.send(b"ab")
        assert (await expectation).data == b"ab"


# ------------------------------------------------------------------------------------------------ the kernel refuses


async def test_no_route_fails_only_that_request() -> None:
    async with Server(echo) as server, opened(("127.0.0.1", 0)) as endpoint:  # from there only this machine is reached
        waiting = asyncio.ensure_future(endpoint.request(server.addr, b"before", timeout=5.0))
        for use in (endpoint.request, endpoint.exchange, endpoint.send):
            with pytest.raises(udpguard.PeerUnreachableError, match=r"198\.51\.100\.1:9") as caught:
                await use(("198.51.100.1", 9), b"x")  # type: ignore[operator]
            error = caught.value
            assert isinstance(error, OSError)
            assert error.peer == ("198.51.100.1", 9)
            assert error.errno in (errno.EINVAL, errno.ENETUNREACH)
            assert error.strerror
        assert await waiting == b"before"
        assert await endpoint.request(server.addr, b"after", timeout=2.0) == b"after"
        stats = endpoint.statistics()
        assert (stats.unreachable, stats.send_errors) == (2, 3)


async def test_a_dead_peer_costs_the_live_ones_nothing() -> None:
    async with Server(echo) as server, opened() as endpoint:
        dead = [asyncio.ensure_future(endpoint.request(closed_port(), b"x", timeout=0.2)) for _ in range(20)]
        for i in range(50):
            assert await endpoint.request(server.addr, b"%d" % i, timeout=2.0) == b"%d" % i
        for outcome in await asyncio.gather(*dead, return_exceptions=True):
            assert isinstance(outcome, (udpguard.PeerRefusedError, udpguard.ReplyTimeoutError))
        assert endpoint.statistics().send_errors == 0


async def test_a_server_of_the_same_port_in_the_other_family_is_another_peer() -> None:
    async with same_port("127.0.0.1", "::1") as (four, six), opened() as endpoint:
        task = asyncio.ensure_future(endpoint.request(four.addr, b"x", timeout=5.0))
        await four.next()
        six.send(b"forged", ("::1", endpoint.local_addrs[1].port))
        await until(lambda: endpoint.statistics().unknown_peer == 1)
        four.send(b"right", four.got[0][1])
        assert await task == b"right"
