"""What udpguard draws, many times over: ports of the pool, ports of a range, transaction ids."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from collections.abc import Callable
from random import Random
from typing import Any

from odds_kit import RandomBits

import udpguard
from udpguard import Limits, Ports, TransactionId
from udpguard._guard import Guard
from udpguard._host import Machine
from udpguard._ports import Binder
from udpguard.core.address import wire_of
from udpguard.core.registry import Registry
from udpguard.core.source import assigned_id
from udpguard.testing import Simulation

RANGE = (1024, 65_535)


class Recorder(Machine):
    """A machine that binds nothing, and notes what it was to bind."""

    def __init__(self, random_bits: RandomBits, is_taken: Callable[[int], bool]) -> None:
        self.bits = random_bits
        self.is_taken = is_taken
        self.bound: list[int] = []

    def random_bits(self, count: int) -> int:
        return self.bits(count)

    def bind(self, address: Any, family: int, *, allow_broadcast: bool) -> Any:
        if self.is_taken(address[1]):
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.bound.append(address[1])
        return None


def ports_of_a_range(
    draws: int, random_bits: RandomBits, is_taken: Callable[[int], bool] = lambda _: False
) -> list[int]:
    """The ports that so many sockets are bound to, of `Ports(range=…)`."""
    ports = Ports(range=RANGE)
    guard = Guard(Limits(), None, ports)
    guard.host = host = Recorder(random_bits, is_taken)
    binder = Binder(guard, host, ports, allow_broadcast=False)
    for _ in range(draws):
        binder(("0.0.0.0", 0), socket.AF_INET)
    return host.bound


def ports_of_a_pool(draws: int, pool: int, random_bits: RandomBits) -> list[int]:
    """Which ports of `Ports(pool=…)` so many requests are to leave from: 0, 1, …"""
    guard = Guard(Limits(), None, Ports(pool=pool))
    guard.pool, guard.host = pool, Recorder(random_bits, lambda _: False)
    return [-guard.some_port() for _ in range(draws)]


def ports_of_requests(requests: int, pool: int, seed: int, **kwargs: Any) -> list[int]:
    """From which of its ports, by their rank, an endpoint's requests really left, over the simulated network."""

    async def main() -> None:
        async with udpguard.open_endpoint(("198.51.100.1", 0), ports=Ports(pool=pool), timeout=0.5) as endpoint:
            client = endpoint.client(correlate=TransactionId(0, 2, assign=True))
            for _ in range(requests // 100):
                tasks = [
                    asyncio.ensure_future(client.request(("192.0.2.1", 53), b"\0\0", **kwargs)) for _ in range(100)
                ]
                await asyncio.sleep(0.1)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    with Simulation(seed, icmp=False) as sim:
        sim.run(main)
        left = [event.source.port for event in sim.trace if event.kind == "sent"]
    assert len(left) == requests
    ranks = {port: rank for rank, port in enumerate(sorted(set(left)))}
    return [ranks[port] for port in left]


def assigned_ids(draws: int, length: int, random_bits: RandomBits, *, each: int = 1) -> list[int]:
    """The ids of so many questions, so many of them in a row to each peer, which answers."""
    registry = Registry(Limits(), random_bits)
    book, original = registry.book(TransactionId(0, length, assign=True)), bytes(length)
    found: list[int] = []
    for number in range(draws):
        peer = wire_of(b"\x0a" + (number // each).to_bytes(3, "big"), 53, 0)
        entry = registry.ask(None, peer, book, original, original, math.inf, float(number), True)
        assert entry is not None
        key = assigned_id(entry)
        found.append(int.from_bytes(key, "big"))
        registry.receive_batch([(key, peer)], float(number))
    return found


def biased_bits(generator: Random) -> RandomBits:
    """A source whose bits are ones in 33 of 64 draws: for a test that can fail."""

    def bits(count: int) -> int:
        rarely = generator.getrandbits(count)
        for _ in range(4):
            rarely &= generator.getrandbits(count)
        return generator.getrandbits(count) | rarely

    return bits
