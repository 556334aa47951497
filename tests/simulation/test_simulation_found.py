"""What the simulations have found, each as small as it can be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from at_rest import leftovers_of

import udpguard
from udpguard.testing import Simulation


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if data != b"silence":
            self.transport.sendto(data, addr)


@pytest.mark.parametrize("seed", range(8))
def test_spare_ports_of_both_families_never_share_a_number(seed: int) -> None:
    """They were told apart by their number alone, so that the second hid the first, which was never closed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        peers = [("192.0.2.1", 7), ("2001:db8::1", 7)]
        for peer in peers:
            await loop.create_datagram_endpoint(Echo, local_addr=peer)
        ports = udpguard.Ports(range=(40_000, 40_002), spares=2)
        async with udpguard.open_endpoint(ports=ports) as endpoint:
            for peer in peers:
                with pytest.raises(udpguard.ReplyTimeoutError):
                    await endpoint.request(peer, b"silence", timeout=0.1)
            answers = await asyncio.gather(*(endpoint.request(peer, b"x", timeout=0.1) for peer in peers))
            assert answers == [b"x", b"x"]
            await asyncio.sleep(400)
            assert len(sim.client._sockets) == 2  # the spare ones were closed when they had been idle for long

    with Simulation(seed) as sim:
        sim.host("192.0.2.1", "2001:db8::1")
        sim.run(main)
        assert not sim.client._sockets


class Cut(udpguard.Correlator):
    """Has no key in a request without a first byte of its own, as where a protocol's first message carries none."""

    def request_key(self, data: bytes) -> bytes | None:
        return data[1:] if data[:1] == b"k" else None

    reply_key = request_key


@pytest.mark.parametrize("first", [b"k", b"-"])
def test_what_a_full_socket_holds_back_of_a_pool_keeps_what_it_has(first: bytes) -> None:
    """A question from another port than the first was taken for one with an assigned id, whatever it had."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        peers = [(f"192.0.2.{number}", 7) for number in range(1, 41)]
        for peer in peers:
            sim.host(peer[0])
            await loop.create_datagram_endpoint(Echo, local_addr=peer)
        sim.client.limit_sending(1, rate=1_000)
        async with udpguard.open_endpoint(ports=udpguard.Ports(pool=4), correlate=Cut()) as endpoint:
            for again in (b"1", b"2"):
                data = [first + again + peer[0].encode() for peer in peers]
                asked = [endpoint.request(peer, one, timeout=1) for peer, one in zip(peers, data, strict=True)]
                assert await asyncio.gather(*asked) == data
            await asyncio.sleep(2)  # past the deadlines
            assert leftovers_of(endpoint) == []
            assert endpoint.statistics().hook_errors == 0

    with Simulation() as sim:
        sim.run(main)


def test_a_spare_port_of_one_family_may_follow_the_other_s_with_its_number() -> None:
    """The end of the first one's socket, which is told a turn later, closed the second one's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        peers = [("192.0.2.1", 7), ("2001:db8::1", 7)]
        for peer in peers:
            await loop.create_datagram_endpoint(Echo, local_addr=peer)
        async with udpguard.open_endpoint(ports=udpguard.Ports(range=(40_000, 40_001), spares=1)) as endpoint:
            for peer in peers:
                with pytest.raises(udpguard.ReplyTimeoutError):
                    await endpoint.request(peer, b"silence", timeout=0.1)
                assert await endpoint.request(peer, b"x", timeout=0.1) == b"x"

    with Simulation() as sim:
        sim.host("192.0.2.1", "2001:db8::1")
        sim.run(main)


def test_those_who_wait_for_a_spare_port_share_the_one_that_is_opened() -> None:
    """The first of them had it for itself; the others noticed when they looked again, up to a second later."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        peers = [(f"192.0.2.{number}", 7) for number in range(1, 6)]
        for peer in peers:
            await loop.create_datagram_endpoint(Echo, local_addr=peer)
        async with udpguard.open_endpoint(ports=udpguard.Ports(spares=1)) as endpoint:

            async def in_vain(peer: tuple[str, int], seconds: float = 0.1) -> None:
                with pytest.raises(udpguard.ReplyTimeoutError):
                    await endpoint.request(peer, b"silence", timeout=seconds)

            await asyncio.gather(*map(in_vain, peers))  # the endpoint's own port is soiled for all
            user = asyncio.create_task(in_vain(peers[0], 0.5))
            await asyncio.gather(*map(in_vain, peers[1:]))  # and the spare one for those
            first = asyncio.create_task(in_vain(peers[1], 5.0))
            others = [asyncio.create_task(endpoint.request(peer, b"x")) for peer in peers[2:]]
            await user
            since = loop.time()
            await asyncio.gather(*others)
            assert loop.time() - since < 0.1
            await first

    with Simulation() as sim:
        sim.host(*(f"192.0.2.{number}" for number in range(1, 6)))
        sim.run(main)
