"""Two measurements on the simulated network: how often retransmission succeeds, and how often a reply goes astray.

The first has an exact answer: with loss p each way one attempt succeeds with (1 - p)², so n of them with
1 - (1 - (1 - p)²)ⁿ. The second has none: how likely it is that a request without a transaction id gets another one's
answer depends on the network, the port policy, and the pace.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import simulation_oracle as oracle
import simulation_wire as wire
from simulation_program import heavy_tail
from simulation_servers import PORT, start

import udpguard
from udpguard.testing import Delay, Simulation

_AT_ONCE: Final = 200
_PEERS: Final = 20

LAW: Final = tuple((loss, attempts) for loss in (0.1, 0.3, 0.5) for attempts in (1, 2, 4, 7))
"""Losses each way, and attempts."""


def law(loss: float, attempts: int) -> float:
    """The share of requests that succeed."""
    return 1.0 - (1.0 - (1.0 - loss) ** 2) ** attempts


def deviation(answered: int, of: int, loss: float, attempts: int) -> float:
    """How many standard deviations a count is from the law."""
    expected = law(loss, attempts)
    return (answered - of * expected) / math.sqrt(of * expected * (1 - expected))


def successes(loss: float, attempts: int, seed: str, count: int, *, has_ids: bool) -> int:
    """How many of so many requests were answered."""

    async def main() -> int:
        addresses = [f"192.0.2.{place + 1}" for place in range(_PEERS)]
        await start(simulation.loop, simulation.network, addresses, None, lambda _: False)
        retry = udpguard.Retry(attempts, initial=0.1, multiplier=1.0, jitter=0.0)
        limits = udpguard.Limits(pending=_AT_ONCE)
        correlate = wire.ASSIGNED_4 if has_ids else None
        async with udpguard.open_endpoint(correlate=correlate, retry=retry, limits=limits, ports=_SPARES) as endpoint:

            async def ask(number: int) -> bool:
                data = wire.question(wire.NO_X, wire.NO_Y, wire.PLAIN, number, wire.ANY_SEND)
                peer = (addresses[number % _PEERS], PORT)
                try:
                    return wire.number_of(await endpoint.request(peer, data)) == number
                except udpguard.ReplyTimeoutError:
                    return False

            answered = 0
            together = _AT_ONCE if has_ids else _PEERS
            for first in range(0, count, together):
                asked = range(first, min(first + together, count))
                answered += sum(await asyncio.gather(*map(ask, asked)))
            return answered

    with Simulation(f"law {loss} {attempts} {has_ids} {seed}", trace=False, loss=loss, delay=0.01) as simulation:
        return simulation.run(main)


_SPARES: Final = udpguard.Ports(spares=64)


@dataclass(frozen=True)
class Policy:
    """What a request may leave from."""

    name: str
    ports: udpguard.Ports
    local_addr: tuple[str, int] | None = None
    correlate: udpguard.Correlator | None = None


_FIXED: Final = ("0.0.0.0", 5_683)

POLICIES: Final = (
    Policy("one port, no quarantine", udpguard.Ports(quarantine=0.0), _FIXED),
    Policy("one port, quarantine 10 s", udpguard.Ports(quarantine=10.0), _FIXED),
    Policy("spare ports (default)", udpguard.Ports()),
    Policy("rotated ports", udpguard.Ports(rotate=True)),
    Policy("assigned ids of 2 bytes", udpguard.Ports(), correlate=wire.ASSIGNED_2),
)


@dataclass(frozen=True)
class Weather:
    """What the network is like, and the pace of those who ask.

    Attributes:
        loss: The odds each way.
        duplicate: The odds each way.
        delay: Each way.
        tail: Whether that is now and then as long as a minute.
        pause: The mean of the seconds between the end of a request and the next one to that peer.
    """

    loss: float
    duplicate: float
    delay: Delay
    tail: bool
    pause: float


def _calm(generator: Random) -> float:
    return 0.005 + generator.expovariate(50.0)


WEATHERS: Final = tuple(
    Weather(loss, duplicate, delay, delay is heavy_tail, pause)
    for pause in (0.0, 1.0)
    for loss, duplicate, delay in (
        (0.0, 0.001, _calm),
        (0.01, 0.01, _calm),
        (0.1, 0.1, _calm),
        (0.01, 0.001, heavy_tail),
        (0.3, 0.1, heavy_tail),
    )
)


@dataclass
class Odds:
    """What came of one measurement: how many got an answer, and how many of these another one's, by kind."""

    asked: int
    answered: int
    wrong: dict[str, int]
    violations: list[str]


def odds(policy: Policy, weather: Weather, seed: str, count: int) -> Odds:
    """Ask so often in all, twenty peers, one request at a time each, with a time-out of 1 s."""
    by_oracle: list[oracle.Oracle] = []

    async def main() -> None:
        addresses = [f"192.0.2.{place + 1}" for place in range(_PEERS)]
        await start(simulation.loop, simulation.network, addresses, None, lambda _: False)
        has_key = policy.correlate is not None
        judge = oracle.Oracle(
            simulation.loop.time,
            allows_duplicates=policy is POLICIES[2],
            may_be_wrong=policy in POLICIES[:2],
        )
        by_oracle.append(judge)
        async with udpguard.open_endpoint(
            policy.local_addr,
            ports=policy.ports,
            correlate=policy.correlate,
            timeout=1.0,
            on_unexpected=judge.unexpected,
        ) as endpoint:
            judge.counters = endpoint._guard.registry.counters

            async def ask(host: str) -> None:
                asked = judge.begin(frozenset((host,)), has_key=has_key)
                x, y = asked.xs[wire.ANY_SEND], asked.ys[wire.ANY_SEND] = wire.NO_X, wire.NO_Y
                data = wire.question(x, y, wire.PLAIN, asked.number, wire.ANY_SEND)
                try:
                    reply = await endpoint.exchange((host, PORT), data)
                except udpguard.UdpGuardError as error:
                    judge.failed(asked, error)
                else:
                    judge.answered(asked, reply)

            await asyncio.gather(*(_one_by_one(ask, host, count // _PEERS, weather, seed) for host in addresses))
        judge.finish()

    name = f"odds {policy.name} {weather.loss} {weather.duplicate} {weather.tail} {weather.pause} {seed}"
    with Simulation(
        name, trace=False, loss=weather.loss, duplicate=weather.duplicate, delay=weather.delay
    ) as simulation:
        simulation.run(main)
    judge = by_oracle[0]
    return Odds(len(judge.asked), judge.outcomes[oracle.ANSWERED], dict(judge.wrong), judge.violations)


async def _one_by_one(ask: Callable[[str], Any], host: str, count: int, weather: Weather, seed: str) -> None:
    generator = Random(f"{host} {seed}")
    for _ in range(count):
        if weather.pause:
            await asyncio.sleep(generator.expovariate(1 / weather.pause))
        await ask(host)
