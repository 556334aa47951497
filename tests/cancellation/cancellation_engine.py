"""Plays a scenario again and again, and each time strikes a blow at another point of it.

A point is a moment between two callbacks of the loop, or just before a turn begins (so: between what the last turn
did and what the network brings next). A scenario is played once to count the points from its beginning to its end,
then once for each of them, with one blow there: its task is cancelled, an exception is thrown into it, the endpoint is
closed, … Virtual time and one seed make the way up to that point the same each time.

After each blow the victim must have one outcome, at once; whoever else asks through the same endpoint must get the
right answers; and in the end nothing may be left (`at_rest`).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from at_rest import callbacks_left, leftovers_of, zombies
from typing_extensions import override

import udpguard
from udpguard._guard import Guard
from udpguard.testing import Network, VirtualLoop

# Longer than any deadline, schedule, spare port's idle time and memory of ended exchanges in the scenarios.
_FOR_EVERYTHING = 1_000.0
_MOST_POINTS = 5_000


class SteppedLoop(VirtualLoop):
    """A loop that stops at each point."""

    def __init__(self, network: Network) -> None:
        self.at_point: Callable[[], object] | None = None
        super().__init__(network)

    @override
    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        return super().call_soon(self._stop_and_call, callback, args, context=context)

    @override
    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return super().call_at(when, self._stop_and_call, callback, args, context=context)

    def _stop_and_call(self, callback: Any, args: tuple[Any, ...]) -> None:
        self._stop()
        callback(*args)

    def _run_once(self) -> None:
        self._stop()
        super()._run_once()  # type: ignore[misc]

    def _stop(self) -> None:
        if self.at_point is not None:
            self.at_point()


class Puppet:
    """Drives a coroutine without a task, so that anything can be thrown into it while it waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[Any] = loop.create_future()
        self._coroutine = coroutine
        self._loop = loop
        self._turn = 0
        loop.call_soon(self._go_on, 0)

    def _go_on(self, turn: int, *_: object) -> None:
        if turn == self._turn:
            self._drive(self._coroutine.send, None)

    def throw(self, error: BaseException) -> None:
        if not self.done.done():
            self._drive(self._coroutine.throw, error)

    def close(self) -> None:
        if not self.done.done():
            self._turn += 1
            try:
                self._coroutine.close()
            except BaseException as error:
                self.done.set_exception(error)
            else:
                self.done.set_exception(GeneratorExit())

    def _drive(self, how: Callable[[Any], Any], what: object) -> None:
        self._turn += 1
        try:
            waits_for = how(what)
        except StopIteration as end:
            self.done.set_result(end.value)
        except BaseException as error:
            self.done.set_exception(error)
        else:
            if asyncio.isfuture(waits_for):
                waits_for._asyncio_future_blocking = False
                waits_for.add_done_callback(lambda _, turn=self._turn: self._go_on(turn))
            else:
                self._loop.call_soon(self._go_on, self._turn)


class Server(asyncio.DatagramProtocol):
    """Answers as its port says: see `SERVERS`."""

    def __init__(self, answer: Callable[[Server, bytes, Any, int], object]) -> None:
        self._answer = answer
        self._asked = 0

    @override
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    @override
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._asked += 1
        self._answer(self, data, addr, self._asked)

    def later(self, seconds: float, data: bytes, addr: Any) -> None:
        asyncio.get_running_loop().call_later(seconds, self.transport.sendto, data, addr)


HOSTS = ("192.0.2.1", "192.0.2.2", "2001:db8::1")
ECHO, SECOND, SILENT, ACKS, FALSE, LATE, MOVED = 7, 8, 9, 10, 11, 12, 13
"""Ports: answers at once; only every second question; never; after a sign of life; after a wrong answer; too late; from
another port."""
SERVERS: dict[int, Callable[[Server, bytes, Any, int], object]] = {
    ECHO: lambda server, data, addr, _: server.transport.sendto(data, addr),
    SECOND: lambda server, data, addr, asked: server.transport.sendto(data, addr) if asked % 2 == 0 else None,
    SILENT: lambda server, data, addr, _: None,
    ACKS: lambda server, data, addr, _: (server.later(0.0, data[:4] + b"ack", addr), server.later(0.05, data, addr)),
    FALSE: lambda server, data, addr, _: (server.later(0.0, data[:4] + b"no", addr), server.later(0.0, data, addr)),
    LATE: lambda server, data, addr, _: server.later(1.2, data, addr),
}  # fmt: skip
DELAY = 0.02


@dataclass
class Stage:
    """Where a scenario is played: an endpoint, servers, and others that ask."""

    loop: SteppedLoop
    endpoint: udpguard.Endpoint = None  # type: ignore[assignment]
    clients: list[udpguard.Client] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    """Of endpoints and protocols that the victim itself opens."""
    found: list[str] = field(default_factory=list)
    """What is wrong."""
    others: list[asyncio.Task[None]] = field(default_factory=list)
    finally_: list[Callable[[], object]] = field(default_factory=list)
    """Called before it is looked for what is left."""

    @property
    def guard(self) -> Guard:
        return self.endpoint._guard

    def client(self, **options: Any) -> udpguard.Client:
        client = self.endpoint.client(**options)
        self.clients.append(client)
        return client

    def other(self, asks: Coroutine[Any, Any, Any], answer: bytes | type[BaseException]) -> None:
        """Have somebody else ask, who must get this answer, whatever befalls the victim (but for a close)."""
        self.others.append(asyncio.ensure_future(self._other(asks, answer)))

    async def _other(self, asks: Coroutine[Any, Any, Any], answer: bytes | type[BaseException]) -> None:
        try:
            told: object = await asks
        except udpguard.EndpointClosedError:
            if self.guard.closed:
                return
            raise
        except udpguard.UdpGuardError as error:
            told = type(error)
        if told != answer:
            self.found.append(f"another one was told {told!r} instead of {answer!r}")

    async def set_up(self) -> None:
        network = self.loop.network
        for address in HOSTS:
            with network.host(address):
                speakers = {}
                for port, answer in SERVERS.items():
                    speakers[port], _ = await self.loop.create_datagram_endpoint(
                        lambda answer=answer: Server(answer), local_addr=(address, port)
                    )
                moved = lambda server, data, addr, _, speaks=speakers[ECHO]: speaks.sendto(data, addr)  # noqa: E731
                await self.loop.create_datagram_endpoint(
                    lambda answer=moved: Server(answer), local_addr=(address, MOVED)
                )
        network.name("server.example", HOSTS[0], delay=0.1)
        network.name("both.example", "192.0.2.77", HOSTS[1], delay=0.1)

    def check_ended(self) -> None:
        """The victim has its outcome: at once nothing of it is left."""
        for guard in [*self.guards, *([self.guard] if self.endpoint is not None else [])]:
            self.found += [f"when the victim had ended: {text}" for text in zombies(guard)]

    def deliver_now(self) -> None:
        """Have all that is on its way to the endpoint arrive, and be read, in this very callback."""
        network, client = self.loop.network, self.loop.network.client
        mine = [one for one in network._heap if one[2].__name__ == "_arrive" and client.has(one[3][0].wire)]
        network._heap = [one for one in network._heap if one not in mine]
        heapq.heapify(network._heap)
        for _, _, action, args in sorted(mine, key=lambda one: one[:2]):
            action(self.loop.time(), *args)
        for sock in list(client._sockets.values()):
            if sock.channel is not None and sock.arrived:
                sock.channel._on_readable()


async def _nothing(stage: Stage) -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """One use of one verb.

    Args:
        name: Of the test.
        verb: What the victim does; run in a task of its own.
        outcome: What it gets where nobody strikes: this, or an error of this class.
        opening: How the endpoint is opened; None: the victim does it.
        before: What happened before.
        alongside: Called right after the victim was started, before it runs.
        needs_task: Whether the verb can't run without a task of its own.
        sending: How many datagrams the send buffers hold, and how many leave in a second.
    """

    name: str
    verb: Callable[[Stage], Coroutine[Any, Any, Any]]
    outcome: object
    opening: dict[str, Any] | None = field(default_factory=dict)
    before: Callable[[Stage], Awaitable[None]] = _nothing
    alongside: Callable[[Stage], object] = lambda stage: None
    needs_task: bool = False
    sending: tuple[int, float] | None = None


@dataclass(frozen=True)
class Blow:
    """What befalls the victim.

    Args:
        name: Of the test.
        strike: What is done, given the stage and the victim, at the point and at each of `after` points later.
        errors: What the victim may be told then, besides what it would have been told anyway.
        start: Makes the victim of the verb.
        after: How many points later it strikes once more; None: it doesn't.
    """

    name: str
    strike: Callable[[Stage, Any], object]
    errors: tuple[type[BaseException], ...]
    start: Callable[[Stage, Scenario], Any] = lambda stage, scenario: asyncio.ensure_future(scenario.verb(stage))
    after: int | None = None


class _Timed:
    """A task inside `asyncio.timeout`, which runs out when it is told to."""

    def __init__(self, stage: Stage, scenario: Scenario) -> None:
        self._scope: asyncio.Timeout | None = None
        self.done = asyncio.ensure_future(self._run(scenario.verb(stage)))

    async def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            async with asyncio.timeout(None) as self._scope:
                return await coroutine
        finally:
            self._scope = None
            coroutine.close()

    def run_out(self) -> None:
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())


class _Stubborn:
    """A task that is cancelled, and does it all again."""

    def __init__(self, stage: Stage, scenario: Scenario) -> None:
        self._stage = stage
        self._scenario = scenario
        self._begun = False
        self.done = asyncio.ensure_future(self._run())

    async def _run(self) -> Any:
        self._begun = True
        try:
            return await self._scenario.verb(self._stage)
        except asyncio.CancelledError:
            self.done.uncancel()
            self._stage.check_ended()
            return await self._scenario.verb(self._stage)

    def cancel(self) -> None:
        if self._begun:
            self.done.cancel()


def _close(stage: Stage) -> None:
    if stage.endpoint is not None:
        stage.endpoint.close()
    for guard in stage.guards:
        if guard.channels:  # else it is not open yet, and nobody has anything to close
            guard.close()


def _puppet(stage: Stage, scenario: Scenario) -> Puppet:
    return Puppet(scenario.verb(stage), stage.loop)


class Foreign(Exception):
    """What nobody has heard of."""


_CANCELLED = (asyncio.CancelledError,)
_CLOSED = (udpguard.EndpointClosedError,)
BLOWS = [
    Blow("cancel", lambda stage, task: task.cancel(), _CANCELLED),
    Blow("cancel twice", lambda stage, task: (task.cancel(), task.cancel()), _CANCELLED),
    Blow("cancel, and again at the next point", lambda stage, task: task.cancel(), _CANCELLED, after=1),
    Blow("cancel, and again two points later", lambda stage, task: task.cancel(), _CANCELLED, after=2),
    Blow("cancel, and it tries again", lambda stage, task: task.cancel(), (), start=_Stubborn),
    Blow("cancel, then its reply", lambda stage, task: (task.cancel(), stage.deliver_now()), _CANCELLED),
    Blow("its reply, then cancel", lambda stage, task: (stage.deliver_now(), task.cancel()), _CANCELLED),
    Blow("asyncio.timeout", lambda stage, timed: timed.run_out(), (TimeoutError,), start=_Timed),
    Blow("close", lambda stage, task: _close(stage), _CLOSED),
    Blow("cancel, then close", lambda stage, task: (task.cancel(), _close(stage)), _CANCELLED + _CLOSED),
    Blow("close, then cancel", lambda stage, task: (_close(stage), task.cancel()), _CANCELLED + _CLOSED),
    Blow("throw", lambda stage, puppet: puppet.throw(Foreign()), (Foreign,), start=_puppet),
    Blow("throw KeyboardInterrupt", lambda stage, puppet: puppet.throw(KeyboardInterrupt()), (KeyboardInterrupt,),
         start=_puppet),
    # A coroutine that is closed in `async with` can't await the end of its endpoint: Python says so.
    Blow("generator.close", lambda stage, puppet: puppet.close(), (GeneratorExit, RuntimeError), start=_puppet),
]  # fmt: skip
PUPPETS = [blow for blow in BLOWS if blow.start is _puppet]
UNHARMED = Blow("nothing", lambda stage, task: None, ())


def play(scenario: Scenario, blow: Blow = UNHARMED, at: int | None = None) -> int:
    """Play a scenario, with a blow at a point; how many points there were until the victim's end.

    Raises:
        AssertionError: The victim had the wrong outcome, somebody else was harmed, or something was left.
    """
    network = Network(1, trace=False, delay=DELAY)
    if scenario.sending is not None:
        network.client.limit_sending(*scenario.sending)
    loop = SteppedLoop(network)
    logged: list[str] = []
    loop.set_exception_handler(lambda _, context: logged.append(repr(context)))
    asyncio.set_event_loop(None)
    try:
        stage = Stage(loop)
        points = loop.run_until_complete(_play(stage, scenario, blow, at))
        loop.run_until_complete(_end(stage))
        stage.found += [f"left in the loop: {text}" for text in callbacks_left(loop, _may_stay)] + logged
        stage.found += [f"socket left: {sock}" for sock in network.client._sockets.values()]
        if stage.found:
            raise AssertionError("\n".join([f"{scenario.name}: {blow.name} at point {at}", *stage.found]))
        return points
    finally:
        loop.close()


def _may_stay(text: str) -> bool:
    # What ends the run itself.
    return "_run_until_complete_cb" in text


async def _play(stage: Stage, scenario: Scenario, blow: Blow, at: int | None) -> int:
    await stage.set_up()
    if scenario.opening is not None:
        stage.endpoint = await udpguard.open_endpoint(**scenario.opening)
        _watch_ends(stage)
    await scenario.before(stage)
    victim = blow.start(stage, scenario)
    done: asyncio.Future[Any] = victim if asyncio.isfuture(victim) else victim.done
    scenario.alongside(stage)
    count = 0

    def at_point() -> None:
        nonlocal count
        here, count = count, count + 1
        assert count < _MOST_POINTS, "it never ends"
        if done.done():
            stage.loop.at_point = None
        elif at is not None and here in (at, at + (blow.after or 0)):
            blow.strike(stage, victim)

    stage.loop.at_point = at_point
    await asyncio.wait([done])
    stage.loop.at_point = None
    stage.check_ended()
    _judge(stage, scenario, blow, done)
    return count


def _judge(stage: Stage, scenario: Scenario, blow: Blow, done: asyncio.Future[Any]) -> None:
    usual = scenario.outcome
    if done.cancelled():
        told: object = asyncio.CancelledError()
    else:
        told = done.exception() or done.result()
    if isinstance(told, ExceptionGroup):
        told = told.exceptions[0]
    if isinstance(told, BaseException):
        if isinstance(told, blow.errors) or (isinstance(usual, type) and isinstance(told, usual)):
            return
    elif told == usual or (isinstance(told, udpguard.Reply) and told.data == usual):
        return
    stage.found.append(f"the victim was told {told!r} instead of {usual!r}")


def _watch_ends(stage: Stage) -> None:
    """No exchange may end twice."""
    registry = stage.guard.registry
    end = registry.end

    def once(entry: Any, *args: Any, **more: Any) -> None:
        if entry.ended:
            stage.found.append(f"{entry!r} ended twice")
        end(entry, *args, **more)

    registry.end = once  # type: ignore[method-assign]


async def _end(stage: Stage) -> None:
    if stage.others:
        _, waiting = await asyncio.wait(stage.others, timeout=_FOR_EVERYTHING)
        stage.found += [f"somebody waits for ever: {task!r}" for task in waiting]
        stage.found += [repr(task.exception()) for task in stage.others if task.done() and task.exception()]
    await asyncio.sleep(_FOR_EVERYTHING)
    for call in stage.finally_:
        call()
    if stage.endpoint is not None:
        stage.found += leftovers_of(stage.endpoint, *stage.clients)
        if not stage.endpoint.is_closing():
            stage.found += await _aftermath(stage)
        stage.endpoint.close()
        await stage.endpoint.wait_closed()
    for guard in stage.guards:
        if guard.channels and not guard.closed:
            stage.found.append(f"an endpoint stayed open: {guard}")
    await asyncio.sleep(_FOR_EVERYTHING)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    stage.found += [f"task left: {task!r}" for task in tasks]


async def _aftermath(stage: Stage) -> list[str]:
    """Whether everybody is served as ever."""
    wrong: list[str] = []
    for client in (stage.endpoint, *stage.clients):
        for host in HOSTS:
            if not any(channel.carries(_wire(host)) for channel in stage.guard.channels):
                continue
            told = await asyncio.gather(*(client.request((host, ECHO), bytes([n]) * 8) for n in range(3)))
            if told != [bytes([n]) * 8 for n in range(3)]:
                wrong.append(f"afterwards {host} was understood to say {told}")
    return wrong


def _wire(host: str) -> bytes:
    return bytes(24 if ":" in host else 6)
