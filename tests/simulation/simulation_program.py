"""One simulation: a program that asks servers through one endpoint, over a network that does its worst.

The seed decides everything: how many servers there are, how fast the program asks and in what bursts, how long answers
take, what else is done to it (a small send buffer, a small receive buffer, a blocked loop, tight limits), and what
each exchange is like. After the last one the program listens until nothing can be on its way any more, or closes its
endpoint while things are pending.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import simulation_oracle as oracle
import simulation_wire as wire
from at_rest import leftovers_of
from simulation_lasting import Listeners
from simulation_leftovers import left_sockets
from simulation_servers import DEAD_PORT, PORT, Forger, start
from simulation_sweeping import Sweeper
from simulation_writer import REMEMBERED, OwnIds, Writer

import udpguard
from udpguard.core.address import Wire
from udpguard.core.judge import _keyless
from udpguard.core.source import Entry
from udpguard.testing import Simulation

LONGEST: Final = 59.0
"""The longest way in seconds; a round trip is shorter than what udpguard remembers."""
_SILENCE: Final = 2 * LONGEST + 10.0
_NAME: Final = "several.example"
_OWN_IDS_OF_LISTS: Final = 0x8000


@dataclass(frozen=True)
class Mode:
    """How the program tells answers apart, and what is promised of that.

    Attributes:
        name: For people.
        programs: Those that share the endpoint, as `Writer` knows them.
        ports: The port policy.
        allows_duplicates: See `Oracle`.
    """

    name: str
    programs: tuple[str, ...]
    ports: Callable[[Random], udpguard.Ports]
    allows_duplicates: bool = False


def _rotated(generator: Random) -> udpguard.Ports:
    return udpguard.Ports(rotate=True, spares=generator.choice((8, 16, 64)), pool=generator.choice((1, 1, 1, 4)))


def _spares(generator: Random) -> udpguard.Ports:
    return udpguard.Ports(spares=generator.choice((8, 8, 2)))


def _pool(generator: Random) -> udpguard.Ports:
    return udpguard.Ports(pool=generator.choice((1, 1, 1, 3, 8)))


MODES: Final = {
    mode.name: mode
    for mode in (
        Mode("own ids", ("x",), _pool),
        Mode("assigned ids, 2 bytes", ("y2",), _pool),
        Mode("assigned ids, 4 bytes", ("y4",), _pool),
        Mode("three programs", ("x", "y4", "z"), _rotated),
        Mode("no ids, rotated ports", ("z",), _rotated),
        Mode("no ids, spare ports", ("z",), _spares, allows_duplicates=True),
    )
}


def heavy_tail(generator: Random) -> float:
    """Seconds that one way takes: mostly some ten milliseconds, now and then almost a minute."""
    kind = generator.random()
    if kind < 0.85:
        delay = min(generator.expovariate(20.0), 10.0)
        if generator.random() < 0.1:  # held back, so that others overtake it
            delay += generator.random() * (4 * delay + 0.01)
        return delay
    return generator.uniform(0.2, 3.0) if kind < 0.95 else generator.uniform(3.0, LONGEST)


class Program:
    """Asks, and tells the oracle."""

    def __init__(self, simulation: Simulation, mode: Mode, seed: str, count: int) -> None:
        self.mode = mode
        self.count = count
        self.generator = generator = Random(f"program {seed}")
        self.loop = simulation.loop
        self.network = simulation.network
        odds = generator.random
        self.servers = generator.choice((4, 12, 30))
        self.bursts = odds() < 0.3
        self.blocks = odds() < 0.1
        self.small_queue = odds() < 0.15
        self.closes_early = odds() < 0.4
        limits = {"pending": generator.choice((20, 60)) if odds() < 0.15 else 65_536}
        if odds() < 0.15:
            limits["in_flight_per_peer"] = generator.choice((1, 4))
        if odds() < 0.15:
            limits["near_misses"] = generator.choice((1, 10))
        self.limits = udpguard.Limits(**limits)
        # Without ids, as with one in flight to each peer, a server answers one question in a second or two.
        is_tight = len(limits) > 1 or limits["pending"] < 1_000
        fastest = 0.4 * self.servers if "z" in mode.programs else 0.8 * self.servers if is_tight else 200.0
        self.rate = fastest * 10 ** -(odds() * 1.5)
        self.ports = mode.ports(generator)
        self.oracle = oracle.Oracle(simulation.loop.time, blocks=self.blocks, allows_duplicates=mode.allows_duplicates)
        self.oracle.is_tight = self.limits.pending < 1_000
        self.forger = Forger(self.loop, Random(f"forger {seed}"), 0.15, self._is_expected)
        self.listeners = Listeners(self, seed)
        self._client_host = simulation.client
        self._own_ids: dict[object, OwnIds] = {}
        self._tasks: dict[asyncio.Task[None], oracle.Asked | None] = {}
        self._meddles = True
        self._endpoint: udpguard.Endpoint
        self._clients: dict[str, udpguard.Client] = {}
        if self.small_queue:
            self._client_host.limit_sending(generator.choice((2, 20)), 200.0 + 4 * self.rate)
        if odds() < 0.1:
            self._client_host.receive_buffer = 600 * generator.choice((2, 20))

    # ------------------------------------------------------------------------------------------ the whole

    async def run(self) -> None:
        """Everything, from opening the endpoint to its end."""
        self._addresses = [
            f"2001:db8::{place + 1:x}" if place % 4 == 3 else f"192.0.2.{place + 1}" for place in range(self.servers)
        ]
        await start(self.loop, self.network, self._addresses, self.forger, self._answers_from_two)
        await self.listeners.start(self.loop, self.network, self._addresses)
        self.network.name(_NAME, *self._addresses[:2], delay=0.05)
        endpoint = await udpguard.open_endpoint(
            ports=self.ports, limits=self.limits, on_unexpected=self._unexpected, timeout=4.0
        )
        self._endpoint = endpoint
        self.listeners.watch(endpoint)
        self.oracle.counters = endpoint._guard.registry.counters
        self._own_sockets = len(endpoint._guard.channels)
        self._clients = {name: self._client(name) for name in self.mode.programs}
        await self._ask_all()
        self._meddles = False
        if not self.closes_early:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._rest()
        self.oracle.closing = True
        endpoint.close()
        await endpoint.wait_closed()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was cancelled takes a turn to go
        self._check_leftovers("closed")
        for text in left_sockets(self._client_host):
            self.oracle.violation(f"left over at the end: {text}")
        self.oracle.finish(self.listeners.counted())
        self.statistics = endpoint.statistics()

    def _client(self, name: str) -> udpguard.Client:
        if name == "x":
            return self._endpoint.client(correlate=wire.OWN_IDS)
        if name == "y2":
            return self._endpoint.client(correlate=wire.ASSIGNED_2)
        if name == "y4":
            return self._endpoint.client(correlate=wire.ASSIGNED_4)
        return self._endpoint

    async def _ask_all(self) -> None:
        generator, left = self.generator, self.count
        while left:
            together = min(left, generator.randint(2, 60) if self.bursts and generator.random() < 0.02 else 1)
            for _ in range(together):
                self._begin_one()
            left -= together
            await asyncio.sleep(generator.expovariate(self.rate / together))
            if self.blocks and generator.random() < 0.02:
                self.loop.block(generator.random() * generator.choice((0.1, 3.0)))

    async def _rest(self) -> None:
        """Listen until nothing is on its way; then until what is remembered is forgotten."""
        await asyncio.sleep(_SILENCE)
        self._check_leftovers("open")
        await asyncio.sleep(2 * REMEMBERED)
        for text in left_sockets(self._client_host, self._own_sockets):
            self.oracle.violation(f"spare ports are open though they were idle for long: {text}")

    def _check_leftovers(self, when: str) -> None:
        for text in leftovers_of(self._endpoint, *self._clients.values()):
            self.oracle.violation(f"left over in the endpoint, {when}: {text}")

    # --------------------------------------------------------------------------------------- one exchange

    def _begin_one(self) -> None:
        generator = self.generator
        name = generator.choice(self.mode.programs)
        if generator.random() < 0.01:
            self._spawn(self._send(name), None)
            return
        if self._meddles and generator.random() < 0.04:
            self._begin_listening(name)
            return
        if self._meddles and generator.random() < 0.01:
            self._begin_sweep(name)
            return
        if name == "x" and generator.random() < 0.05:
            coroutine, asked = self._expectation()
        else:
            coroutine, asked = self._request(name)
        task = self._spawn(coroutine, asked)
        if generator.random() < 0.08:
            self.loop.call_later(0.001 + generator.random() ** 3 * 10, self._cancel, task, asked)

    def _begin_listening(self, name: str) -> None:
        """A session, or a discovery, which may be cancelled as well."""
        task = self._spawn(self.listeners.one(self._clients[name], self.generator.choice(self._addresses)), None)
        if self.generator.random() < 0.15:
            self.loop.call_later(self.generator.random() * 5, task.cancel)

    def _begin_sweep(self, name: str) -> None:
        """A sweep, which may be cancelled as well."""
        sweeper = Sweeper(self, name)
        task = self._spawn(sweeper.run(), None)
        if self.generator.random() < 0.15 and not sweeper.is_fed:
            self.loop.call_later(self.generator.random() * 5, self._cancel_sweep, task)

    def _cancel_sweep(self, task: asyncio.Task[None]) -> None:
        if not self.oracle.closing:  # else nobody could tell what was closed from what was withdrawn
            task.cancel()

    def _spawn(self, coroutine: Any, asked: oracle.Asked | None) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self.loop.create_task(coroutine)
        self._tasks[task] = asked
        task.add_done_callback(self._tasks.pop)
        return task

    def _cancel(self, task: asyncio.Task[None], asked: oracle.Asked) -> None:
        if not task.done() and asked.outcome is None and asked.started:
            asked.cancelled = True
            task.cancel()

    def _unexpected(self, datagram: udpguard.Unexpected) -> None:
        self.oracle.unexpected(datagram)
        self._meddle()

    def _meddle(self) -> None:
        """Call back into the endpoint, from its hook or an `accept`: cancel what has waited for longest, or ask."""
        kind = self.generator.random()
        if not self._meddles or kind > 0.03:
            return
        if kind > 0.01:
            task, asked = next(iter(self._tasks.items()), (None, None))
            if task is not None and asked is not None:
                self._cancel(task, asked)
        else:
            self._begin_one()

    async def _send(self, name: str) -> None:
        data = wire.question(wire.NO_X, wire.NO_Y, wire.NOTHING, 0, wire.ANY_SEND)
        with contextlib.suppress(udpguard.EndpointClosedError):
            await self._clients[name].send((self.generator.choice(self._addresses), PORT), data)

    def _answers_from_two(self, place: int) -> bool:
        return place % 8 == 5

    def _whom(self) -> tuple[Any, frozenset[str], object, bool]:
        """Whom to ask, the hosts whose answer may be taken, what `reply_from` is, and whether all are alive."""
        generator = self.generator
        kind = generator.random()
        if kind < 0.01:
            return (self._addresses[0], DEAD_PORT), frozenset(), "peer", False
        if kind < 0.04:
            return (_NAME, PORT), frozenset(self._addresses[:2]), "peer", True
        if kind < 0.8:
            place = generator.randrange(self.servers)
            host = self._addresses[place]
            return (host, PORT), frozenset((host,)), "host" if self._answers_from_two(place) else "peer", True
        alone = [place for place in range(self.servers) if not self._answers_from_two(place)]
        hosts = [self._addresses[place] for place in generator.sample(alone, generator.randint(1, 3))]
        addresses = [(host, PORT) for host in hosts]
        alive = generator.random() < 0.5
        if not alive:
            dead = generator.choice(((hosts[0], DEAD_PORT), ("192.0.2.250", PORT)))
            addresses.insert(generator.randint(0, len(addresses)), dead)
        return addresses, frozenset(hosts), "peer", alive

    def _request(self, name: str) -> tuple[Any, oracle.Asked]:
        generator, client = self.generator, self._clients[name]
        addresses, hosts, reply_from, alive = self._whom()
        asked = self.oracle.begin(hosts, has_key=name != "z", alive=alive)
        retry, timeout = self._schedule()
        kind, accept = self._acceptance()
        by_send = retry is not None and (name == "z" or generator.random() < 0.5)
        asked.distinct = by_send and name != "z" and (name != "x" or generator.random() < 0.5)
        writer = Writer(asked, name, kind, self._pool_of(addresses) if name == "x" else None, self.loop.time)
        data = writer if by_send else writer(wire.ANY_SEND)
        options = {"retry": retry, "timeout": timeout, "accept": accept, "reply_from": reply_from}
        options = {name: value for name, value in options.items() if value is not None}
        # Without ids the oracle must know how often it was sent.
        ask = client.request if name != "z" and generator.random() < 0.5 else client.exchange

        async def go() -> None:
            asked.started = True
            try:
                result = await ask(addresses, data, **options)
            except BaseException as error:
                self.oracle.failed(asked, error)
            else:
                self.oracle.answered(asked, result)
            finally:
                writer.give_back()

        return go(), asked

    def _pool_of(self, addresses: Any) -> OwnIds:
        """The ids for one server, whatever those of others are; or for several."""
        if isinstance(addresses, tuple) and addresses[0] != _NAME:
            return self._own_ids.setdefault(addresses, OwnIds())
        return self._own_ids.setdefault("several", OwnIds(_OWN_IDS_OF_LISTS))

    def _schedule(self) -> tuple[udpguard.RetryPolicy | None, float | None]:
        generator = self.generator
        kind = generator.random()
        timeout = generator.choice((None, None, 1.0, 2.5, generator.uniform(0.05, 30.0)))
        if kind < 0.4:
            return None, timeout
        if kind < 0.55:
            return udpguard.AdaptiveRetry(attempts=generator.randint(1, 4), minimum=0.2), timeout
        initial = generator.choice((0.1, 0.5, 1.0))
        return udpguard.Retry(attempts=generator.randint(1, 5), initial=initial, maximum=5.0), timeout

    def _acceptance(self) -> tuple[bytes, udpguard.Accept | None]:
        kind = self.generator.random()
        if kind < 0.85:
            return wire.PLAIN, None
        if kind < 0.9:
            return wire.SIGN_OF_LIFE_FIRST, self._awaits_the_rest
        return wire.JUNK_FIRST, (self._refuses_junk if kind < 0.98 else _chokes_on_junk)

    def _refuses_junk(self, reply: udpguard.Reply) -> bool:
        self._meddle()
        return reply.data[6:7] != wire.JUNK

    def _awaits_the_rest(self, reply: udpguard.Reply) -> udpguard.Decision:
        if reply.data[6:7] == wire.SIGN_OF_LIFE:
            self.oracle.signs_of_life += 1
            return udpguard.Decision.PROVISIONAL
        return udpguard.Decision.ACCEPT

    def _expectation(self) -> tuple[Any, oracle.Asked]:
        """A reply that is expected first, and asked for then."""
        place = self.generator.randrange(self.servers)
        peer = (self._addresses[place], PORT)
        reply_from = "host" if self._answers_from_two(place) else "peer"
        asked = self.oracle.begin(frozenset(peer[:1]), has_key=True)
        writer = Writer(asked, "x", wire.PLAIN, self._pool_of(peer), self.loop.time)
        data = writer(wire.ANY_SEND)
        timeout = self.generator.uniform(0.5, 5.0)
        client = self._clients["x"]

        async def go() -> None:
            asked.started = True
            try:
                with client.expect(peer, transaction=data[:2], timeout=timeout, reply_from=reply_from) as expected:
                    await expected.send(data)
                    result = await expected
            except BaseException as error:
                self.oracle.failed(asked, error)
            else:
                self.oracle.answered(asked, result)
            finally:
                writer.give_back()

        return go(), asked

    # ------------------------------------------------------------------------------------------ the forger

    def _is_expected(self, data: bytes, source: Wire, client: tuple[str, int]) -> bool:
        registry = self._endpoint._guard.registry
        port = self._number_of(client[1])
        for record in registry._covering(source):
            for book in record.books:
                assert book.correlator is not None
                slot = (record.token, book.number, book.correlator.reply_key(data))
                entry = registry._pending.get(slot)
                if entry is not None and port in _ports_of(entry, [slot]):
                    return True
            if any(port in _ports_of(entry, entry.slots()) for entry in _keyless(record)):
                return True
        return False

    def _number_of(self, port: int) -> int:
        for own in (self._endpoint._guard.own4, self._endpoint._guard.own6):
            for number, channel in enumerate(own):
                if channel.get_extra_info("sockname")[1] == port:
                    return -number
        return port


def _ports_of(entry: Entry, slots: Iterable[Any]) -> Sequence[int]:
    if entry.more is None or not entry.more.sends:
        return (entry.port,)
    return [port for slot in slots if slot in entry.more.sends for port in entry.more.sends[slot].ports]


def _chokes_on_junk(reply: udpguard.Reply) -> bool:
    if reply.data[6:7] == wire.JUNK:
        raise ValueError("junk")
    return True


@dataclass
class Result:
    """What came of one simulation.

    Attributes:
        mode: Its mode.
        seed: Its seed.
        exchanges: How many were begun.
        outcomes: How many ended how.
        wrong: What was delivered that should not have been, by kind; allowed or not.
        violations: What must not be.
        checks: How often the counters were looked at.
        forged: What forgers sent.
        listened: What sessions and discoveries came to.
        strays: Old answers that came to those who had no clean port.
        statistics: What udpguard counted.
        seconds: Of virtual time.
    """

    mode: str
    seed: str
    exchanges: int
    outcomes: Counter[str]
    wrong: Counter[str]
    violations: list[str]
    checks: int
    forged: Counter[str]
    listened: Counter[str]
    strays: Counter[str]
    statistics: dict[str, int]
    seconds: float


def simulate(mode: str, seed: str, count: int = 1_000) -> Result:
    """Run one simulation."""
    seed = f"{mode} {seed}"
    with Simulation(seed, trace=False, loss=0.3, duplicate=0.1, delay=heavy_tail, unreachable=True) as simulation:
        program = Program(simulation, MODES[mode], seed, count)
        simulation.run(program.run)
        judge = program.oracle
        return Result(
            mode,
            seed,
            len(judge.asked),
            judge.outcomes,
            judge.wrong,
            judge.violations,
            judge.checks,
            program.forger.sent,
            program.listeners.outcomes,
            program.listeners.strays,
            {name: getattr(program.statistics, name) for name in udpguard.Statistics.__slots__},
            simulation.loop.time(),
        )
