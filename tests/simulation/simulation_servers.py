"""The servers of a simulation, and the forgers beside them.

A server answers each copy of a question that it hears, at once, and says in the answer which one. For some questions
a forger sends as well: it has seen the question, and still can't be in the right place with the right key.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, cast

import simulation_wire as wire

from udpguard._protocol import literal
from udpguard.core.address import Wire, peer_of
from udpguard.testing import Host, Network, VirtualLoop
from udpguard.testing._channel import SimulatedTransport

PORT: Final = 7_000
OTHER_PORT: Final = 7_001
DEAD_PORT: Final = 6_999
_STRANGER: Final = "203.0.113.66"
_STRANGER6: Final = "2001:db8:bad::66"

IsExpected = Callable[[bytes, Wire, tuple[str, int]], bool]
"""Whether a datagram, from a source to a local address, would be taken by something pending now."""


class Server(asyncio.DatagramProtocol):
    """Answers questions at one port of one host.

    Args:
        heard: How often which exchange was heard, of all servers.
        forger: Sends as well, if there is one.
    """

    def __init__(self, heard: Counter[int], forger: Forger | None) -> None:
        self._heard = heard
        self._forger = forger
        self._transport: SimulatedTransport
        self.others: list[Server] = []
        """Where answers may come from instead."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("SimulatedTransport", transport)

    def batch_received(self, batch: Sequence[tuple[bytes, Wire]], _ages: object) -> None:
        """Called by the transport: payloads and where they come from."""
        for data, source in batch:
            kind = wire.kind_of(data)
            if kind == wire.NOTHING:
                continue
            number = wire.number_of(data)
            self._heard[number] += 1
            heard = self._heard[number]
            speaker = self if not self.others or (number + heard) % 2 else self.others[0]
            if kind == wire.SIGN_OF_LIFE_FIRST:
                speaker.say(wire.answer_to(data, wire.SIGN_OF_LIFE, heard), source)
            elif kind == wire.JUNK_FIRST:
                speaker.say(wire.answer_to(data, wire.JUNK, heard), source)
            speaker.say(wire.answer_to(data, wire.TRUE, heard), source)
            if self._forger is not None:
                self._forger.sees(data, source, self)

    def say(self, data: bytes, to: Wire) -> None:
        """Send from this port."""
        self._transport.transmit(data, to)

    @property
    def address(self) -> Any:
        """Where it is."""
        return self._transport.get_extra_info("sockname")


class Forger:
    """Sends forged answers, which arrive whatever the network's loss: from a wrong host, from a wrong port of the right
    host, and from the right place with a wrong key or to a wrong port of the client's.

    Args:
        loop: What it runs in.
        generator: Its own.
        odds: Of each question that a server hears, to be answered by a forger as well.
        is_expected: Tells it what would be no forgery but a lucky guess.
    """

    def __init__(self, loop: VirtualLoop, generator: Random, odds: float, is_expected: IsExpected) -> None:
        self._loop = loop
        self._generator = generator
        self._odds = odds
        self._is_expected = is_expected
        self.sent: Counter[str] = Counter()
        self._local: list[int] = []
        """Local ports of the client's, as seen lately."""

    def sees(self, data: bytes, source: Wire, server: Server) -> None:
        """A server has heard a question."""
        port = peer_of(source).port
        if port not in self._local:
            self._local = [*self._local[-31:], port]
        if self._generator.random() >= self._odds:
            return
        count = 1 if self._generator.random() < 0.8 else self._generator.randint(2, 30)
        delay = self._generator.random() * self._generator.choice((0.001, 0.05, 2.0))
        for _ in range(count):
            kind = self._generator.choice(("wrong host", "wrong port", "wrong key", "wrong port of ours", "icmp"))
            self._loop.call_later(delay, self._forge, kind, data, source, server)

    def _forge(self, kind: str, data: bytes, source: Wire, server: Server) -> None:
        host, port = server.address[:2]
        client = peer_of(source)
        forged = wire.answer_to(data, wire.FORGED, 255)
        claims = (host, port)
        if kind == "icmp":
            quote = self._generator.choice((b"", self._generator.randbytes(len(data)), data[:8] + b"?"))
            self._loop.network.inject_icmp(client, claims, quote)
            self.sent[kind] += 1
            return
        if kind == "wrong host":
            claims = (_STRANGER6 if ":" in host else _STRANGER, port)
        elif kind == "wrong port":
            claims = (host, self._generator.choice((port + 2, port - 2, 53)))
        elif kind == "wrong key":
            forged = self._generator.randbytes(6) + forged[6:]
        elif self._local:
            client = client._replace(port=self._generator.choice(self._local))
        if self._is_expected(forged, literal(claims), client):
            return
        self.sent[kind] += 1
        self._loop.network.inject(forged, claims, client)


async def start(
    loop: VirtualLoop, network: Network, addresses: Sequence[str], forger: Forger | None, second: Callable[[int], bool]
) -> Counter[int]:
    """Start a server at each address, and at some a second port that answers as well; who was heard how often."""
    heard: Counter[int] = Counter()
    for place, address in enumerate(addresses):
        host: Host = network.host(address)
        made = []
        for port in (PORT, OTHER_PORT) if second(place) else (PORT,):
            with host:
                _, server = await loop.create_datagram_endpoint(
                    lambda: Server(heard, forger), local_addr=(address, port)
                )
            made.append(server)
        made[0].others = made[1:]
    return heard
