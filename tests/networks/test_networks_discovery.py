"""Discovery on real links: what is asked by one of two interfaces is heard there, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

import networks_kit
import pytest
from loopback_kit import Server, until
from networks_kit import CLIENT_TO_ROUTER, LINK_LOCAL, Networks, endpoint_on, server_on

import udpguard
from udpguard import InvalidAddressError, Reply
from udpguard._platform import routing

WHY_NOT = networks_kit.why_not()
if WHY_NOT is not None and os.environ.get("UDPGUARD_REQUIRE_INTEROP"):
    pytest.fail(f"these must not be skipped here: {WHY_NOT}", pytrace=False)
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

GROUP = "239.255.77.7"
GROUP6 = "ff05::77:7"
ON_LINK6 = "ff02::77:7"
NEIGHBOUR = "10.90.4.2"
_RECVHOPLIMIT, _HOPLIMIT = 51, 52  # <linux/in6.h>
with_control = pytest.mark.parametrize("control", [True, False])


@contextlib.asynccontextmanager
async def members(networks: Networks, address: str) -> AsyncIterator[tuple[Server, Server]]:
    """A server on each of two links, on one port, which have joined the groups there."""
    networks.ip("client", "addr", "add", "10.90.4.1/24", "dev", "c1")
    networks.ip("neighbour", "addr", "add", "10.90.4.2/24", "dev", "n0")
    networks.ip("neighbour", "route", "add", "default", "via", "10.90.4.1")
    async with (
        server_on(networks, "router", address) as router,
        server_on(networks, "neighbour", address, router.port) as neighbour,
    ):
        for server, host, link in ((router, "router", "r0"), (neighbour, "neighbour", "n0")):
            index = networks.index(host, link)
            if ":" in address:
                for group in (GROUP6, ON_LINK6):
                    joined = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
                    server.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
            else:
                joined = socket.inet_aton(GROUP) + bytes(4) + struct.pack("@i", index)
                server.sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        yield router, neighbour


async def found(networks: Networks, endpoint: udpguard.Endpoint, addr: Any, **more: Any) -> list[Reply]:
    """Who answers within the window; interfaces are those of the client."""
    with networks.on("client"):
        discovery = endpoint.discover(addr, b"who", window=0.3, **more)
    async with discovery as replies:
        return [reply async for reply in replies]


def by(networks: Networks, how: str, link: str, address: str) -> str | int:
    """How the caller names an interface."""
    return {"name": link, "index": networks.index("client", link), "address": address}[how]


@with_control
@pytest.mark.parametrize("how", ["name", "index", "address"])
async def test_ipv4_multicast_leaves_by_the_interface_that_was_chosen(
    networks: Networks, monkeypatch: pytest.MonkeyPatch, control: bool, how: str
) -> None:
    monkeypatch.setattr(routing, "_HAS_CONTROL", control)
    async with members(networks, "0.0.0.0") as (router, neighbour), endpoint_on(networks) as endpoint:
        addr = (GROUP, router.port)
        first = await found(networks, endpoint, addr, interface=by(networks, how, "c0", "10.90.1.2"))
        assert [reply.peer.host for reply in first] == [CLIENT_TO_ROUTER]
        second = await found(networks, endpoint, addr, interface=by(networks, how, "c1", "10.90.4.1"))
        assert [reply.peer.host for reply in second] == [NEIGHBOUR]
        assert [addr[0] for _, addr in (*router.got, *neighbour.got)] == ["10.90.1.2", "10.90.4.1"]
        # Nobody else who sends through the socket is sent by that interface: this goes by the default route.
        assert [reply.peer.host for reply in await found(networks, endpoint, addr)] == [CLIENT_TO_ROUTER]


@with_control
@pytest.mark.parametrize("how", ["name", "index", "scope"])
async def test_ipv6_multicast_leaves_by_the_interface_that_was_chosen(
    networks: Networks, monkeypatch: pytest.MonkeyPatch, control: bool, how: str
) -> None:
    monkeypatch.setattr(routing, "_HAS_CONTROL", control)
    async with members(networks, "::") as (router, neighbour), endpoint_on(networks) as endpoint:
        for link, server, other in (("c0", router, neighbour), ("c1", neighbour, router)):
            index, before = networks.index("client", link), len(other.got)
            addr: Any = (GROUP6, router.port)
            more: dict[str, Any] = {"interface": by(networks, how, link, "")} if how != "scope" else {}
            if how == "scope":
                addr = (f"{ON_LINK6}%{index}", router.port)
            replies = await found(networks, endpoint, addr, **more)
            assert [reply.peer.host for reply in replies] == [f"{LINK_LOCAL}%{index}"]
            assert replies[0].peer.port == server.port
            assert len(other.got) == before
        assert {addr[0].partition("%")[0] for _, addr in (*router.got, *neighbour.got)} == {"fe80::c"}


async def test_both_links_at_once_each_by_its_scope(networks: Networks) -> None:
    """One question to both, and the answers told apart by their link alone."""
    async with members(networks, "::") as (router, _), endpoint_on(networks) as endpoint:
        links = [networks.index("client", link) for link in ("c0", "c1")]
        both = [(f"{ON_LINK6}%{link}", router.port) for link in links]
        assert await found(networks, endpoint, both, reply_from="192.0.2.0/24") == []
        assert endpoint.statistics().unknown_peer == 2
        replies = await found(networks, endpoint, both, reply_from="fe80::/10")
        assert {reply.peer.host for reply in replies} == {f"{LINK_LOCAL}%{link}" for link in links}


@with_control
@pytest.mark.parametrize("hops", [1, 7, None])
async def test_the_hop_limit_is_what_was_asked_for(
    networks: Networks, monkeypatch: pytest.MonkeyPatch, control: bool, hops: int | None
) -> None:
    monkeypatch.setattr(routing, "_HAS_CONTROL", control)
    with networks.on("router"), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, _RECVHOPLIMIT, 1)
        sock.setblocking(False)
        sock.bind(("::", 0))
        joined = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", networks.index("router", "r0"))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
        limits: list[int] = []

        def heard() -> bool:
            with contextlib.suppress(BlockingIOError):
                _, ancillary, _, _ = sock.recvmsg(100, 100)
                limits.extend(int.from_bytes(data, sys.byteorder) for _, kind, data in ancillary if kind == _HOPLIMIT)
            return bool(limits)

        async with endpoint_on(networks) as endpoint:
            with networks.on("client"):
                discovery = endpoint.discover((GROUP6, sock.getsockname()[1]), b"who", interface="c0", ttl=hops)
            async with discovery:
                await until(heard)
    assert limits == [hops or 1]


@pytest.mark.parametrize("how", ["name", "index", "address"])
async def test_the_limited_broadcast_leaves_by_the_interface_that_was_chosen(networks: Networks, how: str) -> None:
    async with members(networks, "0.0.0.0") as (router, neighbour):
        async with endpoint_on(networks, allow_broadcast=True) as endpoint:
            addr = ("255.255.255.255", router.port)
            for link, own, peer in (("c1", "10.90.4.1", NEIGHBOUR), ("c0", "10.90.1.2", CLIENT_TO_ROUTER)):
                replies = await found(networks, endpoint, addr, interface=by(networks, how, link, own))
                assert [reply.peer for reply in replies] == [(peer, router.port)]
            assert (len(router.got), len(neighbour.got)) == (1, 1)


async def test_a_nets_own_broadcast_goes_there(networks: Networks) -> None:
    async with members(networks, "0.0.0.0") as (router, neighbour):
        async with endpoint_on(networks, allow_broadcast=True) as endpoint:
            replies = await found(networks, endpoint, ("10.90.4.255", router.port), reply_from="10.90.4.0/24")
            assert [reply.peer for reply in replies] == [(NEIGHBOUR, neighbour.port)]
            assert router.got == []
        async with endpoint_on(networks) as endpoint:
            with networks.on("client"), pytest.raises(InvalidAddressError, match="allow_broadcast=True"):
                async with endpoint.discover(("10.90.4.255", router.port), b"who"):
                    pytest.fail("it left")


async def test_a_session_with_who_was_found(networks: Networks) -> None:
    async with members(networks, "::") as (router, _), endpoint_on(networks) as endpoint:
        index = networks.index("client", "c1")
        (reply,) = await found(networks, endpoint, (GROUP6, router.port), interface=index)
        async with endpoint.session(reply.peer) as session:
            await session.send(b"hello")
            assert await session.receive() == b"hello"
            assert session.peer == (f"{LINK_LOCAL}%{index}", router.port)
