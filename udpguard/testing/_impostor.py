"""Somebody who answers in a server's place: from where it is asked, from beside it, with wrong keys, and in floods."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, Self

from udpguard._typing import override
from udpguard.core.address import IPV4_WIRE, Address, Peer, Wire, peer_of
from udpguard.testing._loop import VirtualLoop
from udpguard.testing._places import Later, Place, literal_address, neighbour
from udpguard.testing._server import Server
from udpguard.testing._trace import Seed

_MOST: Final = 1_000_000
# Floods leave in bursts of so many seconds' worth.
_BURST: Final = 0.001
# From so many sockets a flood comes on a real network.
_SOURCES: Final = 8


class Impostor:
    """Forges datagrams; use it with `async with`.

        async with Impostor(server) as impostor:
            await impostor.flood(endpoint.local_addr, count=1_000, rate=10_000.0)

    In a simulation it can say that it is anybody. On a real network it sends from sockets of its own, so that it is
    beside the server, at another port or another loopback address; only a `Server` it can play exactly, by its socket.

    Args:
        plays: Whom: a `Server`, or an address.
        seed: Decides what it guesses; in a simulation the network's, unless given.
    """

    def __init__(self, plays: Server | Address, *, seed: Seed | None = None) -> None:
        self._plays = plays
        self._seed = seed
        self._generator = random.Random()  # noqa: S311 (a simulation is predictable)
        self._places: dict[Peer, Place] = {}
        self._later = Later()
        self._strangers: list[Place] = []

    @property
    def plays(self) -> Peer:
        """Whose place it takes."""
        return self._plays.address if isinstance(self._plays, Server) else peer_of(literal_address(self._plays))

    async def forge(
        self, data: bytes, to: Address, *, sent_from: Address | None = None, delay: float = 0.0, copies: int = 1
    ) -> None:
        """Send what claims to come from somewhere.

        Args:
            data: The payload.
            to: Who gets it.
            sent_from: Where it claims to come from; the server that is played, unless given. Port 0 stands for any.
            delay: In how many seconds.
            copies: How often.

        Raises:
            InvalidAddressError: An address is no literal.
            OSError: On a real network: there can't be a socket of its own at that address.
        """
        claimed = self.plays if sent_from is None else peer_of(literal_address(sent_from, port_zero=True))
        receiver = literal_address(to)
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualLoop):
            source = claimed if claimed.port else claimed._replace(port=self._generator.randint(1_024, 65_535))
            for _ in range(copies):
                loop.network.inject(data, source.sockaddr, peer_of(receiver).sockaddr, delay=delay)
            return
        place = await self._place_at(claimed)

        def leave() -> None:
            for _ in range(copies):
                place.send(data, receiver)

        self._later.call(delay, leave)

    async def forge_from_other_port(self, data: bytes, to: Address) -> None:
        """Send from the server's host, but another port."""
        host, port = self.plays
        other = port + 1 if port < 65_535 else port - 1
        real = not isinstance(asyncio.get_running_loop(), VirtualLoop)
        await self.forge(data, to, sent_from=Peer(host, 0 if real else other))

    async def forge_from_other_host(self, data: bytes, to: Address) -> None:
        """Send from the server's port number, but another host: the address beside it."""
        await self.forge(data, to, sent_from=neighbour(literal_address(self.plays)))

    async def guess(
        self, to: Address, template: bytes, *, offset: int = 0, length: int = 2, count: int, rate: float
    ) -> int:
        """Send answers with guessed transaction ids, from the server's own address.

        Args:
            to: Who gets them.
            template: The answer.
            offset: Where the id is.
            length: How many bytes it has.
            count: How many to send, 1,000,000 at the most.
            rate: How many a second.

        Returns:
            How many were sent.

        Raises:
            ValueError: A number makes no sense.
        """
        if not 0 <= offset < offset + length <= len(template):
            raise ValueError(f"a datagram of {len(template)} bytes has no id of {length} bytes at {offset}")

        async def send(_: int) -> None:
            key = self._generator.randbytes(length)
            await self.forge(template[:offset] + key + template[offset + length :], to)

        return await _paced(send, count, rate)

    async def flood(self, to: Address, *, count: int, rate: float, data: bytes | None = None) -> int:
        """Send junk from strangers.

        Args:
            to: Who gets it.
            count: How many datagrams, 1,000,000 at the most.
            rate: How many a second.
            data: Their payload; unless given, 32 random bytes.

        Returns:
            How many were sent.

        Raises:
            ValueError: A number makes no sense.
        """
        receiver = literal_address(to)
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop) and not self._strangers:
            for _ in range(_SOURCES):
                place = Place()
                await place.open("127.0.0.1" if len(receiver) == IPV4_WIRE else "::1", 0)
                self._strangers.append(place)

        async def send(number: int) -> None:
            junk = self._generator.randbytes(32) if data is None else data
            if isinstance(loop, VirtualLoop):
                loop.network.inject(junk, self._stranger(receiver).sockaddr, peer_of(receiver).sockaddr)
            else:
                self._strangers[number % _SOURCES].send(junk, receiver)

        return await _paced(send, count, rate)

    def close(self) -> None:
        """Close its sockets; what has not left yet never does."""
        self._later.cancel()
        for place in (*self._places.values(), *self._strangers):
            place.close()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        seed = self._seed
        if seed is None and isinstance(loop, VirtualLoop):
            seed = loop.network.seed
        self._generator.seed(f"udpguard impostor {seed!r}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
        await asyncio.sleep(0)  # the transports tell that they are closed

    @override
    def __repr__(self) -> str:
        return f"<udpguard.testing.Impostor of {self._plays!r}>"

    # --------------------------------------------------------------------------------------------- sending

    def _stranger(self, receiver: Wire) -> Peer:
        """Somebody from the documentation's networks (RFC 5737, RFC 3849)."""
        port = self._generator.randint(1, 65_535)
        if len(receiver) == IPV4_WIRE:
            return Peer(f"203.0.113.{self._generator.randint(1, 254)}", port)
        return Peer(f"2001:db8:bad::{self._generator.randint(1, 0xFFFF):x}", port)

    async def _place_at(self, peer: Peer) -> Place:
        if isinstance(self._plays, Server) and peer == self._plays.address:
            return self._plays._place
        place = self._places.get(peer)
        if place is None:
            place = Place()
            await place.open(*peer)
            self._places[peer] = place
        return place


async def _paced(send: Callable[[int], Awaitable[None]], count: int, rate: float) -> int:
    """Send so many at that rate; how many were sent."""
    if not 0 <= count <= _MOST or not rate > 0:
        raise ValueError(f"count must be 0 to {_MOST} and rate positive, not {count!r} and {rate!r}")
    loop = asyncio.get_running_loop()
    began, sent, burst = loop.time(), 0, max(1, int(rate * _BURST))
    while sent < count:
        for _ in range(min(burst, count - sent)):
            await send(sent)
            sent += 1
        # Who falls behind does not make up for it in one go: others want their turn.
        await asyncio.sleep(max(0.0, began + sent / rate - loop.time()))
    return sent
