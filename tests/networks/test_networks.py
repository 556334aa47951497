"""Real networks: a host that vanishes, a link that goes down, a router that refuses, a path that narrows, two links."""

from __future__ import annotations

import asyncio
import errno
import os

import networks_kit
import pytest
from loopback_kit import Server, until
from networks_kit import (
    CLIENT_TO_ROUTER,
    FORBIDDEN,
    LINK_LOCAL,
    NOBODY,
    SERVER,
    Networks,
    endpoint_on,
    server_on,
)

import udpguard
from udpguard import Retry

WHY_NOT = networks_kit.why_not()
if WHY_NOT is not None and os.environ.get("UDPGUARD_REQUIRE_INTEROP"):
    pytest.fail(f"these must not be skipped here: {WHY_NOT}", pytrace=False)
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")
TOLD = os.environ.get("UDPGUARD_BACKEND") != "portable"
PATIENT = Retry(attempts=20, initial=0.05, multiplier=1.0, jitter=0.0, final_wait=5.0)


async def test_a_question_crosses_a_router(networks: Networks) -> None:
    async with server_on(networks, "server", SERVER) as server, endpoint_on(networks) as endpoint:
        reply = await endpoint.exchange(server.addr, b"x")
        assert (reply.data, reply.peer) == (b"x", server.addr)
        assert server.got[0][1][0] == "10.90.1.2"


async def test_a_host_that_vanishes_costs_its_own_requests_alone(networks: Networks) -> None:
    async with (
        server_on(networks, "server", SERVER) as gone,
        server_on(networks, "router", CLIENT_TO_ROUTER) as live,
        endpoint_on(networks) as endpoint,
    ):
        await endpoint.request(gone.addr, b"x")
        networks.ip("server", "link", "set", "s0", "down")
        # Until then the router sends what comes into the void, and says nothing.
        await until(lambda: not networks.is_up("router", "r1"))
        lost = asyncio.ensure_future(endpoint.request(gone.addr, b"y", timeout=3.0))
        answers = [await endpoint.request(live.addr, b"%d" % number) for number in range(500)]
        assert len(answers) == 500
        with pytest.raises(udpguard.ReplyTimeoutError) as caught:
            await lost
        assert caught.value.peer == gone.addr
        if TOLD:
            assert [message.sender for message in caught.value.icmp] == [CLIENT_TO_ROUTER]
            assert "10.90.1.1 says that the host is unreachable" in str(caught.value)
        networks.ip("server", "link", "set", "s0", "up")
        networks.ip("server", "route", "replace", "default", "via", "10.90.2.1")
        assert await endpoint.request(gone.addr, b"z", retry=PATIENT) == b"z"


async def test_a_link_that_goes_down_and_comes_back(networks: Networks) -> None:
    async with (
        server_on(networks, "server", SERVER) as far,
        server_on(networks, "client", "127.0.0.1") as near,
        endpoint_on(networks) as endpoint,
    ):
        await endpoint.request(far.addr, b"x")
        networks.ip("client", "link", "set", "c0", "down")
        with pytest.raises(udpguard.PeerUnreachableError) as caught:
            await endpoint.request(far.addr, b"y")
        assert caught.value.errno in (errno.ENETUNREACH, errno.ENETDOWN)
        assert (await endpoint.exchange([far.addr, near.addr], b"y")).peer == near.addr
        networks.ip("client", "link", "set", "c0", "up")
        networks.ip("client", "route", "replace", "default", "via", "10.90.1.1")
        assert await endpoint.request(far.addr, b"z", retry=PATIENT) == b"z"


async def test_a_router_that_refuses(networks: Networks) -> None:
    async with server_on(networks, "server", SERVER) as server, endpoint_on(networks) as endpoint:
        refused = asyncio.ensure_future(endpoint.request((FORBIDDEN, 9), b"x", timeout=0.3))
        for number in range(200):
            assert await endpoint.request(server.addr, b"%d" % number) == b"%d" % number
        with pytest.raises(udpguard.ReplyTimeoutError) as caught:
            await refused
        if TOLD:
            assert [(message.type, message.code) for message in caught.value.icmp] == [(3, 13)]
            assert "10.90.1.1 says that a firewall forbids it" in str(caught.value)


@pytest.mark.skipif(not TOLD, reason="only Linux's own calls tell of ICMP")
async def test_a_port_that_is_closed_beyond_the_router(networks: Networks) -> None:
    async with server_on(networks, "server", SERVER) as server, endpoint_on(networks) as endpoint:
        asked = [asyncio.ensure_future(endpoint.request((SERVER, 9), b"x", retry=PATIENT))]
        asked += [asyncio.ensure_future(endpoint.request(server.addr, b"%d" % number)) for number in range(100)]
        with pytest.raises(udpguard.PeerRefusedError) as caught:
            await asked[0]
        assert caught.value.peer == (SERVER, 9)
        assert await asyncio.gather(*asked[1:]) == [b"%d" % number for number in range(100)]
        assert (await endpoint.exchange([(SERVER, 9), server.addr], b"x")).peer == server.addr


async def test_a_path_that_narrows(networks: Networks) -> None:
    """The first datagram is lost, and with the router's word for it the kernel sends the next in fragments."""
    async with server_on(networks, "server", SERVER) as server, endpoint_on(networks) as endpoint:
        data = bytes(1_400)
        assert await endpoint.request(server.addr, data) == data
        networks.ip("router", "link", "set", "r1", "mtu", "1280")
        networks.ip("server", "link", "set", "s0", "mtu", "1280")
        if TOLD:
            with pytest.raises(udpguard.ReplyTimeoutError, match="the path carries no more than 1,280 bytes") as caught:
                await endpoint.request(server.addr, data, timeout=0.2)
            assert [message.mtu for message in caught.value.icmp] == [1_280]
        reply = await endpoint.exchange(server.addr, data, retry=PATIENT)
        assert reply.data == data
        assert await endpoint.request(server.addr, data) == data


async def test_one_link_local_address_on_two_links(networks: Networks) -> None:
    async with (
        server_on(networks, "router", "::") as router,
        server_on(networks, "neighbour", "::") as neighbour,
        endpoint_on(networks) as endpoint,
    ):
        first, second = networks.index("client", "c0"), networks.index("client", "c1")
        router.handler = lambda server, data, addr: server.send(b"router", addr)
        neighbour.handler = lambda server, data, addr: server.send(b"neighbour", addr)
        both = await asyncio.gather(
            endpoint.exchange((f"{LINK_LOCAL}%{first}", router.port), b"x"),
            endpoint.exchange((f"{LINK_LOCAL}%{second}", neighbour.port), b"x"),
        )
        assert [(reply.data, reply.peer.host) for reply in both] == [
            (b"router", f"{LINK_LOCAL}%{first}"),
            (b"neighbour", f"{LINK_LOCAL}%{second}"),
        ]
        # The same port on both: only the link tells them apart.
        with networks.on("neighbour"):
            twin = Server(lambda server, data, addr: server.send(b"twin", addr), "::", router.port)
        async with twin:
            replies = await asyncio.gather(
                *[endpoint.request((f"{LINK_LOCAL}%{link}", router.port), b"x") for link in (first, second) * 50]
            )
            assert replies == [b"router", b"twin"] * 50


async def test_nobody_at_an_address_of_a_net(networks: Networks) -> None:
    async with endpoint_on(networks) as endpoint:
        with pytest.raises(udpguard.ReplyTimeoutError):
            await endpoint.request((NOBODY, 9), b"x", timeout=0.4)
