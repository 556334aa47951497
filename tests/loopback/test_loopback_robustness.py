"""What once went wrong under attack, each with its reason: a scripted socket, foreign code that misbehaves."""

from __future__ import annotations

import asyncio
import errno
import gc
import math
import socket
from collections.abc import Hashable
from types import SimpleNamespace
from typing import Any

import pytest
from loopback_kit import LOOP, loop_factory, turns, until

import udpguard
from udpguard import Correlator, Decision, Limits, Reply, Retry, RetryPolicy, TransactionId
from udpguard._client import Client, Settings
from udpguard._exchange import Quota
from udpguard._guard import Guard
from udpguard._platform import sockets
from udpguard._resolve import Resolver
from udpguard._transport import Posted
from udpguard.core.address import wire_of_source


class ScriptedChannel:
    """A socket that is full when the test says so, and fails as it says."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.sent: list[tuple[bytes, int]] = []
        self.full = False
        self.error: OSError | None = None
        self.posted = Posted()

    def carries(self, wire: bytes) -> bool:
        return True

    def transmit(self, data: bytes, wire: bytes) -> bool:
        if self.error is not None:
            raise self.error
        if self.full:
            self.guard.pause(self)
            return False
        self.sent.append((data, int.from_bytes(wire[:2], "big")))
        return True

    def transmit_many(self, datas: list[bytes], wires: list[bytes]) -> int:
        if self.full or self.error is not None:
            return 0
        self.sent += [(data, int.from_bytes(wire[:2], "big")) for data, wire in zip(datas, wires, strict=True)]
        return len(datas)

    def has_room(self) -> None:
        self.full = False
        self.guard.resume(self)

    def catch_up(self) -> bool:
        return True

    def dropped(self) -> int:
        return 0

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(self.guard.lost, None)

    abort = close


class ScriptedResolver(Resolver):
    """Answers when the test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, socket.AF_UNSPEC)
        self.told: list[Any] = []

    def look_up(self, name: Any, told: Any) -> None:
        self.told.append(told)

    def answer(self, answer: Any) -> None:
        told, self.told = self.told, []
        for one in told:
            one(answer)


def made(
    correlate: Correlator | None = None, *, limits: Limits | None = None, resolver: Resolver | None = None
) -> tuple[Guard, ScriptedChannel, Client]:
    guard = Guard(limits or Limits(), None)
    loop = asyncio.get_running_loop()
    guard.bind(loop)
    channel = ScriptedChannel(guard)
    guard.add_channel(channel)
    guard.opened()
    client = Client(guard, resolver or Resolver(loop, 0), correlate, Settings(5.0, None), None, allow_broadcast=False)
    return guard, channel, client


def at(port: int) -> tuple[str, int]:
    return ("127.0.0.1", port)


def wire(port: int) -> bytes:
    return wire_of_source("127.0.0.1", port)


def start(coroutine: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(coroutine)


def assert_nothing_left(guard: Guard) -> None:
    stats = guard.statistics()
    assert (stats.pending, stats.waiting) == (0, 0)
    assert guard.registry.room.free == guard.registry.limits.pending
    assert not guard.writable.queue
    assert stats.received == stats.matched + stats.duplicate + stats.late + stats.rejected + stats.unknown_peer


async def test_a_provisional_reply_while_the_retransmission_waits_for_the_socket_blocks_nobody() -> None:
    # The one that needs no retransmission any more stood in front of the queue for good.
    guard, channel, client = made()

    def accept(reply: Reply) -> bool | Decision:
        return Decision.PROVISIONAL if reply.data == b"ack" else True

    schedule = Retry(attempts=3, initial=0.01, multiplier=1.0, jitter=0.0)
    first = start(client.request(at(1001), b"a", timeout=5, retry=schedule, accept=accept))
    await turns()
    channel.full = True
    await until(lambda: guard.writable.queue)
    second, third = start(client.request(at(1002), b"b")), start(client.send(at(1003), b"s"))
    await turns()
    guard.receive([(b"ack", wire(1001))])
    channel.has_room()
    await third
    assert channel.sent == [(b"a", 1001), (b"b", 1002), (b"s", 1003)]
    guard.receive([(b"A", wire(1001)), (b"B", wire(1002))])
    assert [await first, await second] == [b"A", b"B"]
    assert_nothing_left(guard)


@pytest.mark.parametrize("error", [asyncio.CancelledError, StopIteration, GeneratorExit, ValueError])
async def test_what_a_data_function_raises_is_its_own_callers_affair(error: type[BaseException]) -> None:
    # It came out of whoever let the request go on: another's cancel(), the timer, the transport.
    guard, channel, client = made()

    def data(attempt: int) -> bytes:
        raise error

    first = guard.expect(
        asyncio.get_running_loop(),
        wire(1),
        guard.registry.book(None),
        timeout=9.0,
        reply_from="peer",
        accept=None,
        transaction=None,
    )
    channel.full = True
    blocked = start(client.request(at(1001), b"x"))
    await turns()
    raising, after = start(client.request(at(1002), data)), start(client.request(at(1003), b"after"))
    await turns()
    first.cancel()
    channel.has_room()
    await asyncio.gather(raising, return_exceptions=True)
    assert channel.sent == [(b"x", 1001), (b"after", 1003)]
    guard.receive([(b"X", wire(1001)), (b"AFTER", wire(1003))])
    assert [await blocked, await after] == [b"X", b"AFTER"]
    assert_nothing_left(guard)


async def test_a_policy_that_raises_once_a_name_is_resolved_harms_only_its_request() -> None:
    # The others who asked for the same name were never told.
    class Unprepared(RetryPolicy):
        def waits(self, peer: Any, random: Any) -> list[Any]:
            return [0.3] if peer is None else [None]

    resolver = ScriptedResolver(asyncio.get_running_loop())
    guard, channel, client = made(resolver=resolver)
    guard.registry.source(wire(7)).sent = 1
    raising = start(client.request(("server.example", 7), b"a", retry=Unprepared()))
    other, sent = start(client.request(("server.example", 7), b"b")), start(client.send(("server.example", 7), b"c"))
    await turns()
    resolver.answer([wire(7)])
    with pytest.raises(ValueError, match="gave None as a wait"):
        await raising
    await sent
    assert sorted(channel.sent) == [(b"b", 7), (b"c", 7)]
    guard.receive([(b"B", wire(7))])
    assert await other == b"B"
    assert_nothing_left(guard)


class Touchy:
    """A key that raises when it is compared with another."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare me")


class TouchyKeys(Correlator):
    def request_key(self, data: bytes) -> Hashable:
        return 1

    def reply_key(self, data: bytes) -> Hashable:
        return Touchy() if data == b"bad" else 1


async def test_a_key_that_can_not_be_compared_costs_no_other_reply() -> None:
    # The rest of the batch was lost, and those already answered in it never woke.
    guard, _, client = made(TouchyKeys())
    first, second = start(client.request(at(1), b"a")), start(client.request(at(2), b"b"))
    await turns()
    guard.receive([(b"A", wire(1)), (b"bad", wire(2)), (b"B", wire(2))])
    assert [await first, await second] == [b"A", b"B"]
    assert (guard.statistics().hook_errors, guard.statistics().rejected) == (1, 1)
    assert_nothing_left(guard)


class Unshowable:
    def __repr__(self) -> str:
        raise asyncio.CancelledError

    @property
    def __class__(self) -> Any:
        raise RuntimeError("nor may you ask what I am")


async def test_an_answer_that_can_not_be_shown_costs_no_other_reply() -> None:
    guard, _, client = made()
    accept: Any = lambda reply: Unshowable()  # noqa: E731
    asking = start(client.request(at(1), b"a", timeout=0.05, accept=accept))
    other = start(client.request(at(2), b"b"))
    await turns()
    guard.receive([(b"A", wire(1)), (b"B", wire(2))])
    assert await other == b"B"
    with pytest.raises(udpguard.ReplyTimeoutError):
        await asking
    assert_nothing_left(guard)


@pytest.mark.parametrize("assign", [True, False])
async def test_keys_are_kept_apart_where_sources_overlap(assign: bool) -> None:
    # An id picked for a request with reply_from="host" was picked for one to the same peer again.
    guard, channel, client = made(TransactionId(0, 1, assign=assign))
    asked = [(b"%c%d" % (n, n), "host" if n % 2 else "peer") for n in range(200)]
    tasks = [start(client.request(at(7), data, reply_from=where)) for data, where in asked]
    await turns()
    assert len({data[0] for data, _ in channel.sent}) == 200
    guard.receive([(data, wire(7)) for data, _ in channel.sent])
    assert await asyncio.gather(*tasks) == [data for data, _ in asked]
    assert_nothing_left(guard)


@pytest.mark.parametrize("order", [("host", "peer"), ("peer", "host")])
async def test_one_key_of_one_peer_is_pending_once_wherever_its_reply_may_come_from(order: tuple[str, str]) -> None:
    guard, _, client = made(TransactionId(0, 1))
    first = start(client.request(at(7), b"1a", reply_from=order[0]))
    await turns()
    with pytest.raises(udpguard.DuplicateTransactionError):
        await client.request(at(7), b"1b", reply_from=order[1])
    guard.receive([(b"1A", wire(7))])
    assert await first == b"1A"
    assert_nothing_left(guard)


async def test_a_turn_is_kept_while_its_slot_listens() -> None:
    # It waited for the socket with its slot open, and gave the turn away when another address was sent to first.
    resolver = ScriptedResolver(asyncio.get_running_loop())
    guard, channel, client = made(resolver=resolver)
    channel.full = True
    blocker = start(client.send(at(9), b"blocker"))
    first = start(client.request([("server.example", 1001), at(1002)], b"A", retry=Retry(attempts=3, initial=9)))
    await turns()
    resolver.answer([wire(1001)])
    channel.has_room()
    await blocker
    second = start(client.request(at(1002), b"B"))
    await turns()
    sent = [port for data, port in channel.sent if data == b"A"]
    guard.receive([(b"reply to A", wire(sent[0]))])
    assert await first == b"reply to A"
    await turns()
    guard.receive([(b"reply to B", wire(1002))])
    assert await second == b"reply to B"
    assert_nothing_left(guard)


async def test_out_of_descriptors_is_not_a_missing_family(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    class Scarce(real):  # type: ignore[misc,valid-type]
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EMFILE, "Too many open files")
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(sockets.socket, "socket", Scarce)
    with pytest.raises(OSError, match="Too many open files"):
        await udpguard.open_endpoint()
    gc.collect()


@pytest.mark.parametrize("verb", ["request", "send", "resolve"])
def test_a_name_that_is_being_looked_up_when_the_loop_is_closed_keeps_nobody_from_closing(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(*_args: Any, **_kwargs: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    if LOOP == "uvloop":
        pytest.skip("tasks that are left pending in a closed uvloop can't be told from leaks")
    loop = loop_factory()()
    monkeypatch.setattr(loop, "getaddrinfo", forever)
    loop.set_task_factory(quiet_task)  # nobody is left to run them: that is no news

    async def main() -> tuple[udpguard.Endpoint, Any]:
        endpoint = await udpguard.open_endpoint()
        call: Any = {
            "request": lambda: endpoint.request(("name.test", 1), b"x"),
            "send": lambda: endpoint.send(("name.test", 1), b"x"),
            "resolve": lambda: endpoint.resolve("name.test", 1),
        }[verb]()
        task = asyncio.ensure_future(call)
        await turns()
        return endpoint, task

    endpoint, task = loop.run_until_complete(main())
    loop.close()
    endpoint.close()
    assert endpoint.is_closing()
    assert not task.done()


def quiet_task(loop: Any, coro: Any, **kwargs: Any) -> Any:
    task: Any = asyncio.Task(coro, loop=loop, **kwargs)
    task._log_destroy_pending = False
    return task


def test_an_endpoint_whose_loop_is_closed_closes_its_sockets() -> None:
    async def opening() -> udpguard.Endpoint:
        return await udpguard.open_endpoint()

    endpoint = asyncio.run(opening())
    socks = [channel._sock for channel in endpoint._guard.channels]  # type: ignore[attr-defined]
    endpoint.close()
    assert [sock.fileno() for sock in socks] == [-1] * len(socks)

    async def closing() -> None:
        await endpoint.wait_closed()

    asyncio.run(closing())


async def test_a_transaction_that_can_not_be_hashed_leaves_nothing() -> None:
    class Unhashable:
        def __hash__(self) -> int:
            raise RuntimeError

    class Any2(Correlator):
        def request_key(self, data: bytes) -> Hashable:
            return data

        def reply_key(self, data: bytes) -> Hashable:
            return data

    guard, _, client = made(Any2())
    with pytest.raises(RuntimeError):
        client.expect(at(1), transaction=Unhashable())
    assert_nothing_left(guard)


async def test_a_transaction_that_no_reply_can_have_is_refused() -> None:
    # One that compared as it liked once made the replies beside it disappear.
    class Odd:
        def __hash__(self) -> int:
            return hash(b"\0\1")

        def __eq__(self, other: object) -> bool:
            raise ValueError

    guard, _, client = made(TransactionId(0, 2))
    for transaction in (Odd(), 1, "12"):
        with pytest.raises(TypeError, match="must be the id's bytes"):
            client.expect(at(1), transaction=transaction)
    assert_nothing_left(guard)


async def test_a_key_that_closes_the_endpoint_when_it_is_compared_fails_its_request() -> None:
    closing: list[bool] = []

    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            if closing:
                guard.close()
            return self is other

    class Keys(Correlator):
        def request_key(self, data: bytes) -> Hashable:
            return Key()

        def reply_key(self, data: bytes) -> None:
            return None

    guard, _, client = made(Keys())
    first = start(client.request(at(1), b"1"))
    await turns()
    closing.append(True)
    with pytest.raises(udpguard.EndpointClosedError):
        await client.request(at(1), b"2")
    with pytest.raises(udpguard.EndpointClosedError):
        await first
    assert guard.statistics().pending == 0


async def test_payloads_that_lie_about_their_length_are_sent_as_they_are() -> None:
    class Liar(bytes):
        def __len__(self) -> int:
            return 2

    guard, channel, client = made()
    tasks = [start(client.request(at(port), Liar(b"12345"))) for port in (1, 2, 3)]
    await turns()
    assert [(type(data), data) for data, _ in channel.sent] == [(bytes, b"12345")] * 3
    guard.receive([(b"x", wire(port)) for port in (1, 2, 3)])
    assert await asyncio.gather(*tasks) == [b"x"] * 3
    assert_nothing_left(guard)


async def test_what_was_posted_does_not_leave_after_its_deadline() -> None:
    # A turn that blocks longer than the time-out: an answer could only be late, and might be taken for another's.
    guard, channel, client = made()
    now = 0.0
    real = guard.clock
    guard.clock = lambda: real() + now
    tasks = [start(client.request(at(port), b"x", timeout=0.05)) for port in (1, 2, 3)]

    async def blocks() -> None:
        nonlocal now
        now = 0.1

    tasks.append(start(blocks()))
    await turns()
    assert [port for _, port in channel.sent] == [1]
    outcomes = await asyncio.gather(*tasks[:3], return_exceptions=True)
    assert [getattr(outcome, "attempts", None) for outcome in outcomes] == [1, 0, 0]
    assert guard.statistics().sent == 1
    assert_nothing_left(guard)


async def test_two_sockets_that_are_never_empty_keep_nothing_from_its_deadline() -> None:
    # The one that had read enough began anew while the other was not done, and so for ever.
    guard, channel, client = made()

    class Flooded:
        def __init__(self, calls: int) -> None:
            self.calls = self.most = calls

        def catch_up(self) -> bool:
            self.calls -= 1
            if self.calls:
                return False
            self.calls = self.most
            return True

        def __getattr__(self, name: str) -> Any:
            return getattr(channel, name)

    guard.channels[:] = [Flooded(2), Flooded(3)]  # type: ignore[list-item]
    with pytest.raises(udpguard.ReplyTimeoutError):
        await asyncio.wait_for(client.request(at(1), b"x", timeout=0.01), 5.0)


class Busy:
    """A channel that always has more to read, such as a sweep's whose questions are answered as fast as they are asked.

    What it has comes from this list first, as payloads, ports and how long they have lain there.
    """

    def __init__(self, guard: Guard, channel: Any, first: list[tuple[bytes, int, float]]) -> None:
        self.guard = guard
        self.channel = channel
        self.first = first
        self.overdue = 0
        """How often it was read when something was due already."""

    def catch_up(self) -> bool:
        self.overdue += self.guard.clock() >= self.guard.timer_at
        data, port, age = self.first.pop(0) if self.first else (b"junk", 9, 0.0)
        self.guard.receive([(data, wire(port))], lambda *, exactly: [age])
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel, name)


async def test_a_socket_that_is_never_empty_keeps_nothing_from_its_deadline() -> None:
    guard, channel, client = made()
    busy = Busy(guard, channel, [])
    guard.channels[:] = [busy]  # type: ignore[list-item]
    with pytest.raises(udpguard.ReplyTimeoutError):
        await asyncio.wait_for(client.request(at(1), b"x", timeout=0.01), 5.0)
    # After a timer that was early, as uvloop's may be, whatever comes before the deadline is read, and it fires again.
    assert guard.statistics().unknown_peer >= 1
    assert 1 <= busy.overdue <= 2, "what is read comes after the deadline"
    assert_nothing_left(guard)


async def test_what_came_before_the_deadline_is_read_before_anything_expires() -> None:
    guard, channel, client = made()
    guard.channels[:] = [Busy(guard, channel, [(b"junk", 9, 60.0)] * 20 + [(b"X", 1, 60.0)])]  # type: ignore[list-item]
    assert await client.request(at(1), b"x", timeout=0.01) == b"X"
    assert guard.statistics().unknown_peer >= 20
    assert_nothing_left(guard)


async def test_what_is_due_is_looked_at_one_by_one_only_where_a_deadline_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # That takes twice as long; the timer may be for a request that was answered since, or for sending one again.
    guard, _, client = made()
    overdue: list[int] = []
    real = guard.registry.receive_overdue
    monkeypatch.setattr(
        guard.registry, "receive_overdue", lambda batch, *rest: overdue.append(len(batch)) or real(batch, *rest)
    )
    answered = start(client.request(at(1), b"x", timeout=1.0))
    again = start(client.request(at(2), b"x", retry=udpguard.Retry(attempts=2, initial=1.0, jitter=0.0)))
    brief = start(client.request(at(3), b"x", timeout=5.0))
    await turns()
    guard.receive([(b"X", wire(1))])
    real_clock, late = guard.clock, 2.0
    guard.clock = lambda: real_clock() + late
    guard.receive([(b"Y", wire(2))], lambda *, exactly: [0.0])
    assert (await answered, await again, overdue) == (b"X", b"Y", [])
    late = 6.0
    guard.receive([(b"Z", wire(3))], lambda *, exactly: [0.0])
    assert overdue == [1]
    with pytest.raises(udpguard.ReplyTimeoutError):
        await brief
    assert_nothing_left(guard)


async def test_an_endless_wait_is_no_step_to_remember() -> None:
    class Once(RetryPolicy):
        def waits(self, peer: Any, random: Any) -> list[float]:
            return [math.inf, 1.0]

    guard, _, client = made()
    for _ in range(100):
        task = start(client.request(at(1), b"x", retry=Once()))
        await turns()
        guard.receive([(b"X", wire(1))])
        assert await task == b"X"
    assert len(guard.registry.timetable) == 0
    assert_nothing_left(guard)


async def test_an_exception_thrown_into_a_request_ends_it() -> None:
    guard, _, client = made()
    coroutine = client.request(at(1), b"x")
    coroutine.send(None)
    with pytest.raises(ValueError, match="thrown"):
        coroutine.throw(ValueError("thrown"))
    assert_nothing_left(guard)


async def test_a_derived_transaction_id_reads_replies_in_its_own_way() -> None:
    class LowerCase(TransactionId):
        def request_key(self, data: bytes) -> bytes:
            return data[:2].lower()

        def reply_key(self, data: bytes) -> bytes:
            return data[:2].lower()

    guard, _, client = made(TransactionId(0, 2))
    derived = Client(
        guard, client._context.resolver, LowerCase(0, 2), Settings(5.0, None), None, allow_broadcast=False, owner=None
    )
    plain = start(client.request(at(1), b"zz"))
    task = start(derived.request(at(1), b"AB"))
    await turns()
    guard.receive([(b"aB", wire(1)), (b"zz", wire(1))])
    assert [await task, await plain] == [b"aB", b"zz"]
    assert_nothing_left(guard)


async def test_many_peers_with_a_quota_cost_what_few_do() -> None:
    quota = Quota(1)
    rebuilt = 0
    gates = None
    for number in range(5_000):
        gate = quota.gate(number.to_bytes(6, "big"))
        assert gate.enter()
        rebuilt += quota._gates is not gates
        gates = quota._gates
    assert rebuilt <= 4, "the table is swept when it has doubled, not for each peer"


async def test_a_list_of_many_busy_servers_is_looked_through_once() -> None:
    guard, channel, client = made()
    holders = [start(client.request(at(port), b"h")) for port in range(1000, 1300)]
    await turns()
    channel.sent.clear()
    waiting = start(client.request([at(port) for port in range(1000, 1300)], b"w"))
    await turns()
    assert (channel.sent, guard.statistics().waiting) == ([], 1)
    guard.receive([(b"H", wire(1150))])
    await turns()
    assert channel.sent == [(b"w", 1150)]
    guard.receive([(b"W", wire(1150))])
    assert await waiting == b"W"
    for task in holders:
        task.cancel()
    await asyncio.gather(*holders, return_exceptions=True)
    assert_nothing_left(guard)


async def test_a_deadline_that_is_not_quite_there_gets_a_delay_that_no_loop_takes_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # uvloop rounds to whole milliseconds: half of one was none, and the timer fired again and again until it was due.
    guard, _, _ = made()
    delays: list[float] = []
    monkeypatch.setattr(guard, "loop", SimpleNamespace(call_later=lambda delay, _: delays.append(delay)))
    guard.due_at(guard.clock() + 0.0001)
    assert [round(1000 * delay) for delay in delays] == [1]
