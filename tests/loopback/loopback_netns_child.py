"""What needs links and routes of its own: run as root inside a fresh network namespace, with a case's name."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from loopback_kit import Server, echo, loop_factory, opened, turns, until

import udpguard

LINK_LOCAL = "fe80::1"


def set_up() -> None:
    for command in (
        "link set lo up",
        f"addr add {LINK_LOCAL}/64 dev lo nodad",
        "link add va type veth peer name vb",
        "link set va up",
        "link set vb up",
        "addr add fe80::a/64 dev va nodad",
        "addr add fe80::b/64 dev vb nodad",
        "addr add 10.77.0.1/24 dev va",
        "route add prohibit 203.0.113.0/24",
    ):
        subprocess.run(["ip", *command.split()], check=True)


class LinkServer(Server):
    """A server at a link-local address."""

    def __init__(self, host: str, link: str) -> None:
        super().__init__(echo, "::")
        self.index = socket.if_nametoindex(link)
        self.host = host


async def link_local() -> None:
    lo, va, vb = (socket.if_nametoindex(link) for link in ("lo", "va", "vb"))
    async with LinkServer(LINK_LOCAL, "lo") as server, opened() as endpoint:
        port = server.port
        # with its scope: by index, by name, as a 4-tuple, as a Peer
        canonical = udpguard.Peer(f"{LINK_LOCAL}%{lo}", port)
        for addr in (
            (f"{LINK_LOCAL}%{lo}", port),
            (f"{LINK_LOCAL}%lo", port),
            ("FE80:0::1%lo", port),
            (LINK_LOCAL, port, 0, lo),
            (f"{LINK_LOCAL}%lo", port, 0, lo),
            canonical,
            canonical.sockaddr,
        ):
            reply = await endpoint.exchange(addr, b"x", timeout=3.0)
            assert (reply.data, reply.peer) == (b"x", canonical), (addr, reply)
            with endpoint.expect(addr, timeout=3.0) as expectation:
                await expectation.send(b"y")
                assert (await expectation).peer == canonical
        assert canonical.sockaddr == (LINK_LOCAL, port, 0, lo)
        # between two links
        reply = await endpoint.exchange((f"fe80::b%{va}", port), b"x", timeout=3.0)
        assert reply.peer == (f"fe80::b%{va}", port), reply
        reply = await endpoint.exchange(("fe80::a%vb", port), b"x", timeout=3.0)
        assert reply.peer == (f"fe80::a%{vb}", port), reply
        # a contradiction
        for wrong in ((f"{LINK_LOCAL}%{lo}", port, 0, va), (f"{LINK_LOCAL}%nolink", port)):
            with pytest.raises(udpguard.InvalidAddressError):
                endpoint.expect(wrong)


async def link_local_without_scope() -> None:
    lo, va = socket.if_nametoindex("lo"), socket.if_nametoindex("va")
    async with LinkServer(LINK_LOCAL, "lo") as server, opened() as endpoint:
        port = server.port
        # One that wasn't given matches any link.
        with endpoint.expect((LINK_LOCAL, port), timeout=3.0) as expectation:
            await endpoint.send((f"{LINK_LOCAL}%lo", port), b"x")
            assert (await expectation).peer == (f"{LINK_LOCAL}%{lo}", port)
        with endpoint.expect(("fe80::b", port), timeout=3.0) as expectation:
            await endpoint.send(("fe80::b%va", port), b"x")
            assert (await expectation).peer == (f"fe80::b%{va}", port)
        # Where the kernel takes it, a request goes as well; where it doesn't, the advice names the scope.
        (outcome,) = await asyncio.gather(
            endpoint.exchange((LINK_LOCAL, port), b"x", timeout=3.0), return_exceptions=True
        )
        if isinstance(outcome, udpguard.Reply):
            assert outcome.peer.host.startswith(LINK_LOCAL)
        else:
            assert isinstance(outcome, udpguard.PeerUnreachableError)
            assert "link" in str(outcome)


async def link_local_of_another_link() -> None:
    va, vb = socket.if_nametoindex("va"), socket.if_nametoindex("vb")
    async with LinkServer("fe80::b", "vb") as server, opened() as endpoint:
        port = server.port
        # The answer of fe80::b comes by va; who said vb does not mean that one.
        expectation = endpoint.expect((f"fe80::b%{vb}", port), timeout=5.0)
        await endpoint.send((f"fe80::b%{va}", port), b"x")
        await until(lambda: endpoint.statistics().received == 1)
        assert endpoint.statistics().unknown_peer == 1
        assert not expectation.done()
        expectation.cancel()
        # reply_from="host" holds to the scope as well.
        for scope, fits in ((va, True), (vb, False)):
            expectation = endpoint.expect((f"fe80::b%{scope}", 9), reply_from="host", timeout=5.0)
            received = endpoint.statistics().received
            await endpoint.send((f"fe80::b%{va}", port), b"x")
            await until(lambda received=received: endpoint.statistics().received > received)
            assert expectation.done() == fits, scope
            expectation.cancel()
        expectation = endpoint.expect(("fe80::b", 9), reply_from="host", timeout=5.0)
        await endpoint.send((f"fe80::b%{va}", port), b"x")
        await expectation
        await turns()


async def filtered() -> None:
    """A socket filter knows no links, and lets in what comes in fragments."""
    lo, va, vb = (socket.if_nametoindex(link) for link in ("lo", "va", "vb"))

    def answer(server: Server, data: bytes, addr: object) -> None:
        server.send(data * 20_000, addr)

    async with (
        LinkServer(LINK_LOCAL, "lo") as server,
        Server(answer) as long4,
        Server(answer, "::1") as long6,
        opened(kernel_filter="on") as endpoint,
    ):
        for host in (f"{LINK_LOCAL}%{lo}", f"fe80::b%{va}", f"fe80::a%{vb}"):
            reply = await endpoint.exchange((host, server.port), b"x", timeout=3.0)
            assert reply.peer == (host, server.port), reply
        with endpoint.expect((LINK_LOCAL, server.port), timeout=3.0) as expectation:
            await endpoint.send((f"{LINK_LOCAL}%lo", server.port), b"x")
            assert (await expectation).peer == (f"{LINK_LOCAL}%{lo}", server.port)
        for long in (long4, long6):
            assert await endpoint.request(long.addr, b"y", timeout=3.0) == b"y" * 20_000
        filtering = os.environ.get("UDPGUARD_BACKEND") != "portable"
        assert endpoint.get_extra_info("kernel_filter") is filtering


async def no_route() -> None:
    async with Server(echo) as server, opened() as endpoint:
        for addr in (("198.51.100.1", 9), ("2001:db8::1", 9)):
            for use in (endpoint.request, endpoint.send):
                with pytest.raises(udpguard.PeerUnreachableError, match="route") as caught:
                    await use(addr, b"x")
                assert caught.value.errno == errno.ENETUNREACH
        # A list moves on at once, and not when its schedule says.
        loop = asyncio.get_running_loop()
        began = loop.time()
        servers = [("198.51.100.1", 9), ("2001:db8::1", 9), server.addr]
        reply = await endpoint.exchange(servers, b"x", retry=udpguard.Retry(attempts=2, initial=30.0))
        assert (reply.peer, reply.attempts) == (server.addr, 1)
        assert loop.time() - began < 10.0
        with pytest.raises(udpguard.PeerUnreachableError) as caught:
            await endpoint.request([("198.51.100.1", 9), ("198.51.100.2", 9)], b"x", timeout=3.0)
        assert caught.value.peer == ("198.51.100.2", 9)
        assert endpoint.statistics().unreachable == 3


async def not_permitted() -> None:
    """A prohibiting route is no broadcast, though the kernel's answer is the same."""
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(udpguard.PeerUnreachableError, match="forbids") as caught:
            await endpoint.request(("203.0.113.1", 9), b"x")
        assert caught.value.errno == errno.EACCES
        with pytest.raises(udpguard.InvalidAddressError, match="broadcast"):
            await endpoint.request(("10.77.0.255", 9), b"x")
        assert await endpoint.request(server.addr, b"x", timeout=3.0) == b"x"


async def path_mtu() -> None:
    """A datagram that UDP holds and the path doesn't."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", 0))
    sock.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER = IP_PMTUDISC_DO: never in fragments
    async with Server(echo) as server, opened(sock=sock) as endpoint:
        for use in (endpoint.request, endpoint.send):
            with pytest.raises(udpguard.DatagramTooLargeError) as caught:  # 1,500 is the link's limit
                await use(("10.77.0.2", 9), bytes(2_000))
            assert (caught.value.peer, caught.value.size, caught.value.limit) == (("10.77.0.2", 9), 2_000, None)
        assert await endpoint.request(server.addr, b"x", timeout=3.0) == b"x"


async def no_ipv6() -> None:
    """A machine without IPv6."""
    async with Server(echo) as server, opened() as endpoint:
        assert await endpoint.request(server.addr, b"x", timeout=3.0) == b"x"
        with pytest.raises((udpguard.InvalidAddressError, udpguard.PeerUnreachableError)):
            await endpoint.request(("::1", 9), b"x", timeout=0.1)
        assert (await endpoint.exchange([("::1", 9), server.addr], b"x", timeout=3.0)).peer == server.addr


def disable_ipv6() -> None:
    for name in ("all", "lo", "va", "vb"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


if __name__ == "__main__":
    warnings.simplefilter("error")
    set_up()
    if sys.argv[1] == "filtered":
        subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)
    if sys.argv[1] == "no_ipv6":
        disable_ipv6()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(globals()[sys.argv[1]]())
