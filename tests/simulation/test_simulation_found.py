"""What the simulations have found, each as small as it can be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

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
