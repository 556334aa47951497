"""Three clients on one endpoint, each with a way of its own to tell its replies: does any get another's?

They ask the same hosts at the same time, partly at the same ports, over a network that loses, duplicates, delays and
overtakes. Every question names its client and has a number, and a server's answer repeats it: whoever is told anything
but its own question's answer was given somebody else's.

Where an answer could be either's by everything that is in it, nothing but its sender tells: so those without ids ask
at ports of their own (as protocols do), from changing local ports, and ids that share a port are long.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Final

from typing_extensions import override

import udpguard
from udpguard import Ports, Retry, TransactionId
from udpguard.testing import Network, Simulation

HOSTS: Final = [f"192.0.2.{number}" for number in range(1, 41)] + [f"2001:db8::{number}" for number in range(1, 11)]
SHARED, DNS, PLAIN = 7, 53, 161
_ALIKE: Final = Retry(attempts=8, initial=0.5, jitter=0.1, maximum=2.0)
_EACH_AT_ONCE: Final = 60


class Lines(udpguard.Correlator):
    """Replies in text: `word number …`; the number is the key."""

    @override
    def request_key(self, data: bytes) -> object:
        return self.reply_key(data)

    @override
    def reply_key(self, data: bytes) -> object:
        word, _, rest = data[4:].partition(b" ")
        return int(rest.split(b" ")[0]) if word == b"line" else None


@dataclass
class Outcome:
    """What became of all the exchanges."""

    answered: dict[str, int] = field(default_factory=dict)
    timed_out: int = 0
    crossed: list[str] = field(default_factory=list)
    statistics: udpguard.Statistics | None = None

    @property
    def total(self) -> int:
        return sum(self.answered.values()) + self.timed_out


def _question(name: str, number: int, dice: random.Random) -> bytes:
    if name == "ids":  # the first eight bytes are the id that udpguard picks
        return dice.randbytes(8) + b"ids %d" % number
    if name == "dns":
        return b"\0\0dns question %d" % number
    if name == "lines":
        return b"\0\1\2\3line %d how are you?" % number
    return b"plain question %d of mine" % number


async def _ask(client: udpguard.Client, name: str, ports: list[int], count: int, seed: str, outcome: Outcome) -> None:
    dice = random.Random(f"{seed} {name}")
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for number in left:
            data = _question(name, number, dice)
            addr = (dice.choice(HOSTS), dice.choice(ports))
            try:
                reply = await client.exchange(addr, data)
            except udpguard.ReplyTimeoutError:
                outcome.timed_out += 1
                continue
            outcome.answered[name] = outcome.answered.get(name, 0) + 1
            if reply.data != data or reply.peer != addr:
                outcome.crossed.append(f"{name} asked {addr} {data!r} and was told {reply}")

    await asyncio.gather(*(one_after_the_other() for _ in range(_EACH_AT_ONCE)))


class _Echo(asyncio.DatagramProtocol):
    @override
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    @override
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)


def cross(seed: int, exchanges: int) -> Outcome:
    """Have the clients ask that many questions in all."""
    outcome = Outcome()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for host in HOSTS:
            loop.network.host(host)  # type: ignore[attr-defined]
            for port in (SHARED, DNS, PLAIN):
                await loop.create_datagram_endpoint(_Echo, local_addr=(host, port))
        async with udpguard.open_endpoint(retry=_ALIKE, ports=Ports(rotate=True, spares=64)) as endpoint:
            clients = {
                "ids": (endpoint.client(correlate=TransactionId(0, 8, assign=True)), [SHARED]),
                "dns": (endpoint.client(correlate=TransactionId(0, 2, assign=True)), [DNS]),
                "lines": (endpoint.client(correlate=Lines()), [SHARED, PLAIN]),
                "plain": (endpoint, [PLAIN]),
            }
            share = exchanges // len(clients)
            await asyncio.gather(
                *(_ask(client, name, ports, share, str(seed), outcome) for name, (client, ports) in clients.items())
            )
            await asyncio.sleep(10)
            outcome.statistics = endpoint.statistics()

    network = Network(seed, trace=False, loss=0.02, duplicate=0.05, delay=(0.001, 0.2), reorder=0.1)
    with Simulation(network=network) as simulation:
        simulation.run(main)
    return outcome
