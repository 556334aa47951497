"""What a thousand exchanges cost, in counts: system calls, wake-ups, timers, tasks and objects. No times."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from loopback_kit import Server, cancelled, echo, opened, plain_socket, servers, turns, until
from typing_extensions import override

import udpguard
from udpguard import Correlator, Retry, TransactionId
from udpguard._platform import choice
from udpguard._platform.portable import PortableBackend
from udpguard._transport import UdpTransport
from udpguard.core import registry as registry_module
from udpguard.core.address import Wire, peer_of, wire_of
from udpguard.core.correlation import sealed
from udpguard.core.options import Limits
from udpguard.core.registry import Registry

LINUX = sys.platform == "linux"
if LINUX:
    from udpguard._platform.linux_mmsg import Buffers, MmsgBackend

linux_only = pytest.mark.skipif(not LINUX, reason="recvmmsg and sendmmsg are Linux's")
BACKENDS = ["portable", pytest.param("mmsg", marks=linux_only)]
KEYED = TransactionId(0, 2)
ASSIGNED = TransactionId(0, 2, assign=True)
ALIKE = pytest.mark.parametrize("correlate", [None, KEYED, ASSIGNED], ids=["keyless", "keyed", "assigned"])
AT_ONCE = 64
ROUNDS = 16
EXCHANGES = AT_ONCE * ROUNDS
_CALLS = ("_recvfrom", "_sendto", "_recvmmsg", "_sendmmsg")


KINDS = ("Question", "AssignedQuestion", "LongEntry")


def exchanges_in(counted: Counter[str]) -> int:
    return sum(counted[name] for name in KINDS)


def count_calls(endpoint: udpguard.Endpoint, name: str) -> Counter[str]:
    """Serve an endpoint with this backend from now on; what it calls the operating system for, and how often."""
    calls: Counter[str] = Counter()

    def counted(call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            calls[call] += 1
            return real(*args)

        return wrapper

    for channel in endpoint._guard.channels:
        assert isinstance(channel, UdpTransport)
        sock = channel.get_extra_info("socket")
        backend: Any = PortableBackend(sock) if name == "portable" else MmsgBackend(sock, asyncio.get_running_loop())
        for call in _CALLS:
            if hasattr(backend, call):
                setattr(backend, call, counted(call, getattr(backend, call)))
        channel._backend = backend
    return calls


@pytest.fixture
def wakeups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a socket of an endpoint that is opened from now on woke the loop."""
    woken = [0]
    real = UdpTransport._on_readable

    def on_readable(transport: UdpTransport) -> None:
        woken[0] += 1
        real(transport)

    monkeypatch.setattr(UdpTransport, "_on_readable", on_readable)
    return woken


@contextlib.asynccontextmanager
async def many_servers() -> AsyncIterator[list[Server]]:
    """A peer for each of those in flight: without a key they would take turns. They live in this very loop, so what
    is counted does not depend on who gets the processor."""
    async with servers(*["127.0.0.1"] * AT_ONCE, handler=echo) as many:
        yield many


async def exchanges(endpoint: udpguard.Client, many: list[Server], **kwargs: Any) -> None:
    """A thousand of them, 64 in flight."""

    async def ask(server: Server, number: int) -> None:
        for i in range(ROUNDS):
            data = b"%02d%03d" % (number, i)
            assert await endpoint.request(server.addr, data, timeout=60.0, **kwargs) == data

    await asyncio.gather(*(ask(server, i) for i, server in enumerate(many)))


def freeze(endpoint: udpguard.Endpoint) -> None:
    """Stop an endpoint's clock, so that a turn of the loop is one turn however slow the machine is."""
    now = endpoint._guard.clock()
    endpoint._guard.clock = lambda: now


def ours() -> Counter[str]:
    """The objects of udpguard's classes that are alive."""
    gc.collect()
    kinds = map(type, gc.get_objects())
    return Counter(kind.__name__ for kind in kinds if str(kind.__module__).startswith("udpguard."))


# ------------------------------------------------------------------------------------------- calls and wake-ups


@ALIKE
@pytest.mark.parametrize("name", BACKENDS)
async def test_system_calls_and_wake_ups_with_64_in_flight(name: str, correlate: Any, wakeups: list[int]) -> None:
    async with many_servers() as many, opened(correlate=correlate) as endpoint:
        freeze(endpoint)
        calls = count_calls(endpoint, name)
        await exchanges(endpoint, many)
        stats = endpoint.statistics()
        assert stats.sent == stats.received == stats.matched == EXCHANGES
        assert wakeups[0] <= 100 * EXCHANGES / 1_000
        if name == "portable":
            assert calls.total() >= 2 * EXCHANGES
        else:
            assert calls.total() <= 150 * EXCHANGES / 1_000, calls
            assert calls["_sendto"] <= 3 * ROUNDS, "the first of each turn; uvloop needs two for a round"


@pytest.mark.parametrize(("name", "most"), [("portable", 3_000), pytest.param("mmsg", 2_000, marks=linux_only)])
async def test_system_calls_and_wake_ups_one_at_a_time(name: str, most: int, wakeups: list[int]) -> None:
    async with Server(echo) as server, opened() as endpoint:
        calls = count_calls(endpoint, name)
        for _ in range(1_000):
            await endpoint.request(server.addr, b"x", timeout=60.0)
        assert wakeups[0] <= 1_000
        assert calls.total() <= most, calls


@pytest.mark.parametrize("name", BACKENDS)
async def test_what_strangers_send_costs_no_object_no_task_and_few_wake_ups(name: str, wakeups: list[int]) -> None:
    async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
        calls = count_calls(endpoint, name)
        pending = asyncio.ensure_future(endpoint.request(server.addr, b"x", timeout=60.0))
        _, here = await server.next()
        with contextlib.ExitStack() as stack, counting_tasks() as tasks:
            strangers = [stack.enter_context(plain_socket(f"127.8.0.{i + 1}")) for i in range(50)]
            before, cached = ours(), peer_of.cache_info()
            for round_ in range(20):  # so few at once that the smallest receive buffer holds them
                for i, stranger in enumerate(strangers):
                    stranger.sendto(b"junk %d" % i, here)
                await until(lambda upto=50 * round_ + 50: endpoint.statistics().received == upto)  # type: ignore[misc]
            assert endpoint.statistics().unknown_peer == 1_000
            assert peer_of.cache_info() == cached, "no address is built for them, nor looked for"
            assert not ours() - before
            assert tasks == [0]
        assert wakeups[0] <= 100
        if name == "mmsg":
            assert calls.total() <= 100, calls
        server.send(b"y", here)
        assert await pending == b"y"


# ------------------------------------------------------------------------------------------- tasks and timers


@contextlib.contextmanager
def counting_tasks() -> Iterator[list[int]]:
    """How many tasks are made."""
    loop, made = asyncio.get_running_loop(), [0]

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        made[0] += 1
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    try:
        yield made
    finally:
        loop.set_task_factory(None)


@ALIKE
async def test_a_request_creates_no_task(correlate: Any) -> None:
    async with servers("127.0.0.1", "::1", handler=echo) as both, opened(correlate=correlate) as endpoint:
        one, other = (server.addr for server in both)
        with counting_tasks() as tasks:
            for _ in range(250):
                await endpoint.request(one, b"01", timeout=60.0)
                await endpoint.exchange(other, b"02", timeout=60.0)
                await endpoint.request([one, other], b"03", retry=Retry(), accept=lambda reply: True)
                await endpoint.send(one, b"04")
            assert tasks == [0]
        assert endpoint.statistics().matched >= 750


@contextlib.contextmanager
def counting_scheduling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often udpguard has itself called by the loop, soon or later."""
    loop: Any = asyncio.get_running_loop()
    counts: Counter[str] = Counter()

    def counted(name: str, at: int) -> Callable[..., Any]:
        real = getattr(loop, name)

        def schedule(*args: Any, **kwargs: Any) -> Any:
            owner = type(getattr(args[at], "__self__", None))
            counts[name] += owner.__module__.startswith("udpguard.")
            return real(*args, **kwargs)

        return schedule

    with monkeypatch.context() as patch:
        for name, at in (("call_soon", 0), ("call_later", 1), ("call_at", 1)):
            patch.setattr(loop, name, counted(name, at))
        yield counts


@pytest.mark.parametrize("kwargs", [{}, {"retry": Retry(attempts=3, initial=50.0)}], ids=["plain", "retried"])
@ALIKE
async def test_one_timer_serves_a_thousand_requests(
    correlate: Any, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with many_servers() as many, opened(correlate=correlate) as endpoint:
        freeze(endpoint)
        with counting_scheduling(monkeypatch) as counts:
            await exchanges(endpoint, many, **kwargs)
        # Asyncio's own call_later goes on to call_at; a jittered schedule may bring the timer forward.
        assert counts["call_later"] + counts["call_at"] <= (2 if not kwargs else 40)
        assert counts["call_soon"] <= 2 * ROUNDS, "once a turn"


async def test_one_timer_serves_a_thousand_that_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        clock = endpoint._guard.clock
        freeze(endpoint)
        with counting_scheduling(monkeypatch) as counts:
            keys = [i.to_bytes(2, "big") for i in range(1_000)]
            tasks = [asyncio.ensure_future(endpoint.request(server.addr, key, timeout=0.1)) for key in keys]
            await turns(2)
            endpoint._guard.clock = clock
            errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in errors} == {udpguard.ReplyTimeoutError}
        assert counts["call_later"] + counts["call_at"] <= 10  # a loop's timer may be early


# ------------------------------------------------------------------------------------------- objects


@ALIKE
async def test_of_ended_exchanges_nothing_is_left_but_a_bounded_rest(correlate: Any) -> None:
    async with many_servers() as many, opened(correlate=correlate) as endpoint:
        await exchanges(endpoint, many)
        rest = ours()
        # What ended before its deadline is swept out when it is more than 64 and more than what is pending.
        assert exchanges_in(rest) <= 3 * 64, rest
        for _ in range(3):
            await exchanges(endpoint, many)
            grown = ours() - rest
            assert exchanges_in(grown) <= 3 * 64
            assert not grown.keys() - {*KINDS, "Assigned"}, grown


async def test_nor_of_those_that_were_cancelled_or_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with many_servers() as many, opened(correlate=KEYED) as endpoint:
        for server in many:
            server.handler = None
        for round_ in range(5):
            kwargs: dict[str, Any] = {"retry": Retry(attempts=2, initial=30.0)} if round_ % 2 else {"timeout": 60.0}
            asked = [endpoint.request(server.addr, b"%02d" % i, **kwargs) for i, server in enumerate(many)]
            await cancelled(*(tasks := [asyncio.ensure_future(one) for one in asked]))
            asked = [endpoint.request(server.addr, b"%02d" % i, timeout=0.01) for i, server in enumerate(many)]
            await asyncio.gather(*asked, return_exceptions=True)
            del tasks
            alive = ours()
            assert exchanges_in(alive) + alive["Exchange"] <= 3 * 64 + 128, alive
            assert alive["ReplyTimeoutError"] == 0


@ALIKE
async def test_a_pending_request_is_one_object_of_ours(correlate: Any) -> None:
    async with many_servers() as many, opened(correlate=correlate) as endpoint:
        for server in many:
            server.handler = None
        before = ours()
        tasks = [
            asyncio.ensure_future(endpoint.request(server.addr, b"%02d%02d" % (k, i), timeout=60.0))
            for i, server in enumerate(many)
            for k in range(1 if correlate is None else 4)
        ]
        await until(lambda: endpoint.statistics().sent == len(tasks))
        made = ours() - before
        # A peer has a record, and where ids are assigned a pool with its gate; the id that replaces another is noted.
        allowed = {"Question": 1, "AssignedQuestion": 1, "Source": 1, "IdPool": 1, "Pools": 1, "Gate": 1, "Assigned": 1}
        assert exchanges_in(made) == len(tasks)
        assert made["Source"] == len(many)
        assert all(count <= allowed.get(name, 0) * len(tasks) for name, count in made.items()), made
        await cancelled(*tasks)


@linux_only
async def test_fifty_endpoints_have_the_buffers_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    before = ours()["Buffers"]
    async with contextlib.AsyncExitStack() as stack:
        endpoints = [await stack.enter_async_context(opened()) for _ in range(50)]
        assert ours()["Buffers"] <= before + 1
        assert Buffers.__module__.startswith("udpguard."), "so that they are counted"
        async with servers("127.0.0.1", "::1", handler=echo) as both:
            asked = [(e, s, b"%d" % i) for i, e in enumerate(endpoints) for s in both]
            got = await asyncio.gather(*(e.request(s.addr, data, timeout=5.0) for e, s, data in asked))
            assert got == [data for *_, data in asked]


# ------------------------------------------------------------------------------------------- the core


def address(number: int) -> Wire:
    return wire_of(b"\x0a" + number.to_bytes(3, "big"), 53)


class Core:
    """A registry that is asked the short way."""

    def __init__(self, pending: int) -> None:
        self.registry = Registry(Limits(pending=pending), random.Random(1).getrandbits)
        self.now = 1_000.0

    def ask(self, correlator: Correlator | None, key: Any, timeout: float, wire: Wire, *, assign: bool = False) -> Any:
        book = self.registry.book(correlator)
        original = b"orig" if assign else None
        entry = self.registry.ask(object(), wire, book, key, original, timeout, self.now, plain=True)
        assert entry is not None
        return entry

    def sizes(self) -> dict[str, int]:
        """Of whatever it keeps that has a size."""
        return {name: len(one) for name, one in vars(self.registry).items() if hasattr(one, "__len__")}


@pytest.mark.parametrize("peers", [1, 1_000_000], ids=["one peer", "ever other peers"])
@pytest.mark.parametrize("end", ["time out", "answer", "withdraw"])
def test_requests_that_end_one_by_one_do_not_pile_up(end: str, peers: int) -> None:
    core, correlator = Core(10), TransactionId(0, 4)
    registry = core.registry
    steady = [core.ask(correlator, b"long", 1e9, address(0)), core.ask(None, None, 1e9, address(1))]
    for i in range(200_000 if end == "time out" else 70_000):
        core.now += 0.001
        key = i.to_bytes(4, "big")
        wire = address(i % peers + 2)
        entry = core.ask(correlator, key, 2.0, wire)
        if end == "time out":
            core.now += 2.0
            assert registry.expire(core.now) == [entry]
        elif end == "answer":
            assert len(registry.receive_batch([(key, wire)], core.now)) == 1
        else:
            assert registry.withdraw(entry, core.now)
        if i % 997 == 0:
            sizes = core.sizes()
            # Idle peers are kept, 65,536 to twice as many, and as many ended exchanges, for two minutes.
            assert sizes.pop("_sources") <= min(peers + 2, 131_072)
            assert sizes.pop("_ended") <= 65_536 + 64
            assert sizes.pop("timetable") <= 200
            assert sizes.pop("_pot", 0) <= 4_096
            assert max(sizes.values()) <= 1_024, sizes
    assert not any(entry.ended for entry in steady)
    assert registry.statistics().pending == 2


class Key:
    """A key that counts how often anybody looks at it."""

    looks = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        Key.looks += 1
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        Key.looks += 1
        return isinstance(other, Key) and self.number == other.number


class Numbers(Correlator):
    @override
    def request_key(self, data: bytes) -> object:
        return Key(int(data))

    @override
    def reply_key(self, data: bytes) -> object:
        return Key(int(data))


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Which exchanges anybody read anything of."""
    seen: set[int] = set()

    class Touchy(registry_module.Question):  # type: ignore[misc]
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            seen.add(id(self))
            return super().__getattribute__(name)

    monkeypatch.setattr(registry_module, "Question", Touchy)
    return seen


@pytest.mark.parametrize("kind", ["keyless", "keyed", "assigned", "foreign keys"])
def test_no_step_looks_at_more_with_a_hundred_thousand_pending(kind: str, touched: set[int]) -> None:
    correlators = {
        "keyed": TransactionId(0, 4),
        "assigned": TransactionId(0, 4, assign=True),
        "foreign keys": Numbers(),
    }
    correlator = correlators.get(kind)

    def steps(pending: int) -> list[tuple[str, int, int]]:
        """What each step touched, with so many pending: exchanges and keys."""
        core = Core(pending + 100)
        registry, asked = core.registry, list[Any]()

        def ask(number: int, timeout: float) -> Any:
            core.now += 0.000_01
            key = (
                None
                if kind == "keyless"
                else sealed(Key(number))
                if kind == "foreign keys"
                else number.to_bytes(4, "big")
            )
            wire = address(number) if kind == "keyless" else address(number % 7)
            asked.append((core.ask(correlator, key, timeout, wire, assign=kind == "assigned"), wire, number))
            return asked[-1]

        def answer(one: Any) -> None:
            entry, wire, number = one
            slot = entry.own_slot
            data = b"%d" % number if kind == "foreign keys" else slot[2] if slot is not None else b"keyless"
            assert len(registry.receive_batch([(data, wire)], core.now)) == 1

        for i in range(pending):
            ask(i, 60.0 + i % 3)
        noted: list[tuple[str, int, int]] = []

        def note(what: str, step: Callable[..., Any], *args: Any) -> Any:
            touched.clear()
            Key.looks = 0
            result = step(*args)
            noted.append((what, len(touched), Key.looks))
            return result

        late = note("ask", ask, pending, 60.0)
        note("ask with a time-out of its own", ask, pending + 1, 7.5)
        note("answer the newest", answer, late)
        note("answer one in the middle", answer, asked[pending // 2])
        note("answer the oldest", answer, asked[0])
        note("withdraw one in the middle", registry.withdraw, asked[pending // 3][0], core.now)
        note("a stranger", registry.receive_batch, [(b"7777", address(1 << 23))], core.now)
        note("the next deadline", registry.timetable.next_due)
        core.now = asked[pending + 1][0].deadline
        assert note("expire one", registry.expire, core.now) == [asked[pending + 1][0]]
        note("expire nothing", registry.expire, core.now)
        note("the next deadline after that", registry.timetable.next_due)
        return noted

    few, many = steps(100), steps(100_000)
    assert max(entries for _, entries, _ in many) <= 8, many
    assert max(keys for *_, keys in many) <= 16, many
    for (what, *before), (_, *after) in zip(few, many, strict=True):
        assert all(a <= b + 3 for a, b in zip(after, before, strict=True)), (what, before, after)


def test_ending_a_hundred_thousand_looks_at_each_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps are rare enough that their cost is each exchange's own: amortised, O(1)."""
    reads = [0]

    class Counted(registry_module.Question):  # type: ignore[misc]
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            reads[0] += name == "ended"
            return super().__getattribute__(name)

    monkeypatch.setattr(registry_module, "Question", Counted)
    core, correlator = Core(100_000), TransactionId(0, 4)
    keys = [i.to_bytes(4, "big") for i in range(100_000)]
    for i, key in enumerate(keys):
        core.now += 1e-6
        core.ask(correlator, key, 60.0 + i % 40, address(i % 50))  # more time-outs than there are lanes
    random.Random(2).shuffle(keys)
    for key in keys:
        wire = address(int.from_bytes(key, "big") % 50)
        assert len(core.registry.receive_batch([(key, wire)], core.now)) == 1
    assert core.registry.timetable.next_due() == math.inf or len(core.registry.timetable) <= 200
    assert reads[0] <= 10 * len(keys)
