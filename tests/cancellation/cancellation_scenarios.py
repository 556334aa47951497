"""Each use of each verb that is cancelled everywhere: one table. A new verb is a new row."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from cancellation_engine import (
    ACKS,
    BLOWS,
    ECHO,
    FALSE,
    HOSTS,
    LATE,
    MOVED,
    PUPPETS,
    SECOND,
    SERVERS,
    SILENT,
    Scenario,
    Server,
    Stage,
)
from typing_extensions import override

import udpguard
from udpguard import Decision, Limits, Ports, Reply, Retry, TransactionId

A, B, C = HOSTS
DATA = b"\x12\x34 the question"
IDS = TransactionId(0, 2)
ASSIGNED = TransactionId(0, 2, assign=True)
FEW_IDS = TransactionId(0, 1, assign=True)
QUICK = Retry(attempts=3, initial=0.1, jitter=0.0, final_wait=0.2)
DEAF = {"timeout": 0.1}


@dataclass(frozen=True)
class Word(udpguard.Correlator):
    """A correlator of a user's."""

    @override
    def request_key(self, data: bytes) -> object:
        return data.split(b" ")[0]

    @override
    def reply_key(self, data: bytes) -> object:
        return data.split(b" ")[0]


def request(
    host: Any = A, port: int = ECHO, data: Any = DATA, **more: Any
) -> Callable[[Stage], Coroutine[Any, Any, Any]]:
    addr = host if isinstance(host, list) else (host, port)
    return lambda stage: stage.endpoint.request(addr, data, **more)


def exchange(
    host: Any = A, port: int = ECHO, data: Any = DATA, **more: Any
) -> Callable[[Stage], Coroutine[Any, Any, Any]]:
    addr = host if isinstance(host, list) else (host, port)
    return lambda stage: stage.endpoint.exchange(addr, data, **more)


# --------------------------------------------------------------------------------------------- opening and closing


async def opens(stage: Stage, ask: bool = False, **more: Any) -> bytes:
    opener = udpguard.open_endpoint(**more)
    stage.guards.append(opener._guard)
    endpoint = await opener
    try:
        if ask:
            return await endpoint.request((A, ECHO), DATA)
    finally:
        endpoint.close()
    await endpoint.wait_closed()
    return DATA


async def opens_with(stage: Stage, **more: Any) -> bytes:
    opener = udpguard.open_endpoint(**more)
    stage.guards.append(opener._guard)
    async with opener as endpoint:
        return await endpoint.request((A, ECHO), DATA)


async def closes(stage: Stage) -> bytes:
    endpoint = await udpguard.open_endpoint()
    stage.guards.append(endpoint._guard)
    endpoint.close()
    await asyncio.gather(endpoint.wait_closed(), endpoint.wait_closed())
    return DATA


OPENING = [
    Scenario("open, await", opens, DATA, None),
    Scenario("open, await, ask", lambda stage: opens(stage, ask=True), DATA, None),
    Scenario("open, async with", opens_with, DATA, None),
    Scenario("open, a pool", lambda stage: opens_with(stage, ports=Ports(pool=3, rotate=True)), DATA, None),
    Scenario("open, one family", lambda stage: opens_with(stage, family=socket.AF_INET), DATA, None),
    Scenario("open, at a name", lambda stage: opens_with(stage, local_addr=("me.example", 0)), DATA, None,
             before=lambda stage: _name(stage, "me.example", "198.51.100.1")),
    Scenario("open, a range", lambda stage: opens_with(stage, ports=Ports(range=(2_000, 2_020))), DATA, None),
    Scenario("wait_closed", closes, DATA, None),
]  # fmt: skip


async def _name(stage: Stage, name: str, *addresses: str) -> None:
    stage.loop.network.name(name, *addresses, delay=0.1)


# ---------------------------------------------------------------------------------------------------------- asking


def alongside(stage: Stage) -> None:
    """Others ask the same peer, and another, in the same turn and after it."""
    endpoint, keyed = stage.endpoint, stage.client(correlate=TransactionId(4, 4, assign=True))
    stage.other(endpoint.request((B, ECHO), b"another peer"), b"another peer")
    stage.other(keyed.request((A, FALSE), b"0000another protocol"), b"0000another protocol")
    stage.other(endpoint.request((A, ECHO), b"\x99\x99 behind it", timeout=30.0), b"\x99\x99 behind it")
    stage.other(endpoint.request((A, ECHO), b"\x88\x88 behind that", timeout=30.0), b"\x88\x88 behind that")


def apart(stage: Stage) -> None:
    """Others ask others: with the same host they would take each other's replies, as nothing tells those apart."""
    for host in (B, B, C):
        stage.other(stage.endpoint.request((host, ECHO), b"\x99\x99 apart"), b"\x99\x99 apart")


def asking(name: str, verb: Any, outcome: object = DATA, **more: Any) -> Scenario:
    return Scenario(name, verb, outcome, **{"alongside": alongside, **more})


def refuse_twice() -> Callable[[Reply], object]:
    asked = 0

    def accept(reply: Reply) -> object:
        nonlocal asked
        asked += 1
        if reply.data.endswith(b"ack"):
            return Decision.PROVISIONAL
        if asked == 1:
            raise LookupError("of no use")
        return reply.data == DATA

    return accept


async def unreachable(stage: Stage) -> None:
    network = stage.loop.network
    network.link(network.client, B, both_ways=False, send_error=errno.ENETUNREACH)
    stage.finally_.append(lambda: network.link(network.client, B, both_ways=False, send_error=None))


async def gathered(stage: Stage) -> bytes:
    """Several questions of one caller in one turn: all but the first leave at its end."""
    told = await asyncio.gather(*(stage.endpoint.request((host, ECHO), DATA) for host in (B, A, C, A, B)))
    return told[0] if set(told) == {DATA} else b"wrong"


async def in_parallel(stage: Stage) -> bytes:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stage.endpoint.request((host, ECHO), DATA)) for host in (A, A, B)]
    return tasks[0].result()


async def one_after_the_other(stage: Stage) -> bytes:
    for number in range(4):
        data = bytes([number, number])
        assert await stage.endpoint.request((A, ECHO), data) == data
    return DATA


SHORT = [
    asking("request", request()),
    asking("request, IPv6", request(C)),
    asking("exchange", exchange()),
    asking("request, no deadline", request(timeout=None, retry=QUICK)),
    asking("request, timed out", request(port=SILENT, **DEAF), udpguard.ReplyTimeoutError),
    asking("request, several at once", gathered),
    asking("request, a task group", in_parallel, needs_task=True),
    asking("request, one after the other", one_after_the_other),
    asking("request, a pool", request(), opening={"ports": Ports(pool=4)}),
    asking("request, rotating ports", one_after_the_other, opening={"ports": Ports(rotate=True)}),
    asking("request, keyed", request(), opening={"correlate": IDS}),
    asking("request, keyed, near misses", request(), opening={"correlate": IDS, "limits": Limits(near_misses=3)}),
    asking("request, assigned", request(), opening={"correlate": ASSIGNED}),
    asking("request, assigned, from a pool", request(), opening={"correlate": ASSIGNED, "ports": Ports(pool=4)}),
    asking("request, a key of one's own", request(), opening={"correlate": Word()}),
    asking("request, assigned, timed out", request(port=SILENT, **DEAF), udpguard.ReplyTimeoutError,
           opening={"correlate": ASSIGNED}),
]  # fmt: skip

LONG = [
    asking("retry, answered", request(retry=QUICK)),
    asking("retry, lost once", request(port=SECOND, retry=QUICK)),
    asking("retry, adaptive", request(port=SECOND, retry=udpguard.AdaptiveRetry(attempts=3))),
    asking("retry, timed out", request(port=SILENT, retry=QUICK), udpguard.ReplyTimeoutError),
    asking("retry, assigned", request(port=SECOND, retry=QUICK), opening={"correlate": ASSIGNED}),
    asking("retry, a function", request(port=SECOND, data=lambda n: DATA, retry=QUICK), opening={"correlate": IDS}),
    asking("accept, after wrong ones", lambda stage: exchange(port=FALSE, accept=refuse_twice(), timeout=2.0)(stage)),
    asking("accept, provisional", lambda stage: request(port=ACKS, accept=refuse_twice(), retry=QUICK)(stage)),
    asking("reply_from, the host", request(reply_from="host"), alongside=apart),
    asking("reply_from, networks", request(reply_from=["192.0.2.0/31", "host", "peer"]), alongside=apart),
    asking("reply_from, anywhere", request(reply_from="anywhere"), opening={"correlate": ASSIGNED}),
    asking("too late", request(port=LATE, timeout=1.0), udpguard.ReplyTimeoutError),
    asking("servers, the first is dead", request([(A, SILENT), (B, ECHO)])),
    asking("servers, in turn", request([(A, SILENT), (B, SILENT), (C, ECHO)], retry=QUICK)),
    asking("servers, assigned", request([(A, SILENT), (B, ECHO)]), opening={"correlate": ASSIGNED}),
    asking("servers, busy", request([(A, SECOND), (B, ECHO)]),
           before=lambda stage: holds_turn(stage, SECOND)),
    asking("unreachable", request(B, SILENT), udpguard.PeerUnreachableError, before=unreachable,
           alongside=lambda stage: None),
    asking("servers, unreachable", request([(B, ECHO), (A, ECHO)]), before=unreachable,
           alongside=lambda stage: None),
    asking("a client of its own", lambda stage: stage.client(
        correlate=FEW_IDS, retry=QUICK, timeout=3.0, in_flight_per_peer=1).request((A, SECOND), DATA)),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- in the way


async def _started(stage: Stage) -> None:
    await asyncio.sleep(0.001)  # so that all that was begun has left, or waits


async def holds_turn(stage: Stage, port: int = ECHO) -> None:
    """Two others are before it with its peer: the first gets no answer."""
    stage.other(stage.endpoint.request((A, SILENT), b"holds", timeout=0.1), udpguard.ReplyTimeoutError)
    if port != SILENT:
        stage.other(stage.endpoint.request((A, port), b"holds it", timeout=2.0, retry=QUICK), b"holds it")
    await _started(stage)


async def holds_turns(stage: Stage) -> None:
    """Others hold each of several turns, one longer than the other."""
    for reply_from, seconds in (("192.0.2.0/31", 0.1), ("host", 0.2), ("peer", 0.3)):
        asks = stage.endpoint.request(
            (A, SILENT), b"holds", timeout=seconds, reply_from=reply_from, accept=lambda reply: False
        )
        stage.other(asks, udpguard.ReplyTimeoutError)
    await _started(stage)


async def holds_ids(stage: Stage) -> None:
    """Of the ids that are assigned for its peer all but one are in use, and that one is another's."""
    registry = stage.guard.registry
    gate = registry.pool(registry.source(b"\x00\x07\xc0\x00\x02\x01").token, stage.endpoint._context.book).gate
    gate.free -= 255
    stage.finally_.append(lambda: [gate.leave() for _ in range(255)])
    stage.other(stage.endpoint.request((A, ECHO), b"\x12 holds it"), b"\x12 holds it")
    await _started(stage)


async def holds_room(stage: Stage) -> None:
    stage.other(stage.endpoint.request((B, SILENT), b"\x77\x77 room", timeout=0.1), udpguard.ReplyTimeoutError)
    await _started(stage)


async def holds_quota(stage: Stage) -> None:
    stage.other(stage.endpoint.request((A, ECHO), b"\x77\x77 quota"), b"\x77\x77 quota")
    stage.other(stage.endpoint.request((A, ECHO), b"\x78\x78 quota"), b"\x78\x78 quota")
    await _started(stage)


async def holds_socket(stage: Stage) -> None:
    """The send buffer is full, and others wait for it."""
    for number in range(6):
        data = bytes([number]) * 6
        stage.other(stage.endpoint.request((HOSTS[number % 2], ECHO), data), data)
    await _started(stage)


async def soils(stage: Stage) -> None:
    """An old reply of its peer may still come to the endpoint's port."""
    stage.other(
        stage.endpoint.request((A, ECHO), DATA, accept=lambda reply: False, timeout=0.05), udpguard.ReplyTimeoutError
    )
    await asyncio.sleep(0.1)


async def holds_spare(stage: Stage) -> None:
    """So it does for another peer, who has the only spare port."""
    await soils(stage)
    for port in (SILENT, SILENT):
        stage.other(stage.endpoint.request((B, port), b"old", timeout=0.2), udpguard.ReplyTimeoutError)
    await asyncio.sleep(0.25)


async def soils_late(stage: Stage) -> None:
    """A late reply of its peer is on its way."""
    stage.other(stage.endpoint.request((A, LATE), DATA, timeout=1.0), udpguard.ReplyTimeoutError)
    await asyncio.sleep(1.01)


async def frees_writers(stage: Stage) -> bytes:
    await asyncio.gather(*(stage.endpoint.send((A, SILENT), b"%d" % number) for number in range(4)))
    return DATA


FIXED = {"local_addr": ("0.0.0.0", 4_444)}
IN_THE_WAY = [
    asking("a turn", request(), before=holds_turn),
    asking("a turn, with a retry", request(retry=QUICK, timeout=2.0), before=holds_turn),
    asking("a turn, timed out", request(port=SILENT, timeout=0.05), udpguard.ReplyTimeoutError, before=holds_turn),
    asking("turns of several sources", request(reply_from=["peer", "host", "192.0.2.0/31"]), before=holds_turns,
           alongside=apart),
    asking("an id", request(), opening={"correlate": FEW_IDS}, before=holds_ids),
    asking("an id and a quota", request(), before=holds_ids,
           opening={"correlate": FEW_IDS, "limits": Limits(in_flight_per_peer=1)}),
    asking("a quota", request(), before=holds_quota,
           opening={"correlate": IDS, "limits": Limits(in_flight_per_peer=1)}),
    asking("room", request(), before=holds_room, opening={"limits": Limits(pending=1)}),
    asking("room, keyed", exchange(), before=holds_room, opening={"correlate": IDS, "limits": Limits(pending=1)}),
    asking("a turn, then room", request(timeout=3.0), before=holds_turn, opening={"limits": Limits(pending=1)}),
    asking("the socket", request(), before=holds_socket, sending=(2, 20.0)),
    asking("the socket, keyed", request(), before=holds_socket, sending=(2, 20.0), opening={"correlate": ASSIGNED}),
    asking("the socket, several at once", gathered, before=holds_socket, sending=(2, 20.0)),
    asking("the socket, with a retry", request(port=SECOND, retry=QUICK), before=holds_socket, sending=(2, 50.0)),
    asking("a spare port", request(), before=soils),
    asking("a spare port, in use", request(timeout=3.0), before=holds_spare, opening={"ports": Ports(spares=1)}),
    asking("a quarantine", request(timeout=3.0), before=soils, opening=FIXED),
    asking("a quarantine, the late reply comes", request(port=LATE, timeout=3.0), before=soils_late,
           opening={**FIXED, "ports": Ports(quarantine=20.0)}),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ names


async def asks_the_same_name(stage: Stage) -> None:
    stage.other(stage.endpoint.request(("server.example", ECHO), b"\x99 same name"), b"\x99 same name")
    await _started(stage)


async def resolves(stage: Stage) -> bytes:
    peer = await stage.endpoint.resolve("server.example", ECHO)
    return DATA if peer == (A, ECHO) else b"wrong"


NAMES = [
    asking("a name", request("server.example")),
    asking("a name, of several addresses", request("both.example")),
    asking("a name, asked for already", request("server.example"), before=asks_the_same_name),
    asking("a name that is none", request("nowhere.example"), socket.gaierror),
    asking("a name and a literal", request([("server.example", ECHO), (B, ECHO)])),
    asking("a name, timed out", request("server.example", timeout=0.05), udpguard.ReplyTimeoutError),
    asking("a name, with a retry", request("server.example", SECOND, retry=QUICK)),
    asking("resolve", resolves),
    asking("resolve, asked for already", resolves, before=asks_the_same_name),
    asking("resolve, none", lambda stage: stage.endpoint.resolve("nowhere.example", 7), socket.gaierror),
]


# --------------------------------------------------------------------------------------------- expecting and sending


async def expects(stage: Stage, **more: Any) -> bytes:
    expectation = stage.endpoint.expect(
        (B, ACKS), timeout=5.0, accept=lambda reply: not reply.data.endswith(b"ack"), **more
    )
    await expectation.send(DATA)
    return (await expectation).data


async def expects_within(stage: Stage, **more: Any) -> bytes:
    with stage.endpoint.expect((B, ECHO), **more) as expectation:
        await expectation.send(DATA)
        return (await expectation).data


async def expects_async_within(stage: Stage) -> bytes:
    async with stage.endpoint.expect((B, ECHO)) as first, stage.endpoint.expect((B, ECHO)) as second:
        await first.send(DATA)
        await second.send(DATA)
        await asyncio.sleep(0)
        return (await first).data if (await second).data == DATA else b"wrong"


async def expects_in_vain(stage: Stage) -> bytes:
    async with stage.endpoint.expect((B, SILENT)) as expectation:
        await expectation.send(DATA)
        await asyncio.sleep(0.1)
    assert expectation.done()
    return DATA


async def expects_both(stage: Stage) -> bytes:
    """What `asyncio.wait` waits for is not cancelled with it."""
    expectations = [
        stage.endpoint.expect((B, ECHO), reply_from="host"),
        stage.endpoint.expect((A, SILENT), timeout=0.2),
    ]
    with expectations[0], expectations[1]:
        await stage.endpoint.send((B, ECHO), DATA)
        await asyncio.wait([one._future for one in expectations])
        return (await expectations[0]).data


async def guards(stage: Stage, transaction: object = None, **more: Any) -> bytes:
    """A bare protocol on the loop's own transport."""
    transport, guard = await stage.loop.create_datagram_endpoint(
        lambda: udpguard.GuardProtocol(**more), local_addr=("198.51.100.1", 0)
    )
    stage.guards.append(guard._guard)
    try:
        reply = guard.expect((B, ECHO), timeout=1.0, transaction=transaction)
        transport.sendto(DATA, (B, ECHO))
        data = (await reply).data
        silent = guard.expect((A, SILENT), timeout=0.1)
        with _raises(udpguard.ReplyTimeoutError):
            await silent
        return data
    finally:
        transport.close()


class _raises:
    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._kind)


async def sends(stage: Stage, addr: Any = (A, SILENT)) -> bytes:
    await stage.endpoint.send(addr, DATA)
    return DATA


def alongside_of_expecting(stage: Stage) -> None:
    stage.other(stage.endpoint.request((A, ECHO), b"\x71\x71 behind"), b"\x71\x71 behind")
    stage.other(stage.endpoint.request((A, ECHO), b"\x72\x72 that"), b"\x72\x72 that")


def expecting(name: str, verb: Any, **more: Any) -> Scenario:
    return Scenario(name, verb, DATA, **{"alongside": alongside_of_expecting, **more})


EXPECTING = [
    expecting("expect", expects),
    expecting("expect, wide", lambda stage: expects(stage, reply_from=["host", "192.0.2.2/31"])),
    expecting("expect, with", expects_within),
    expecting("expect, with, keyed", lambda stage: expects_within(stage, transaction=DATA[:2]),
              opening={"correlate": IDS}),
    expecting("expect, a pool", expects_within, opening={"ports": Ports(pool=3)}),
    expecting("expect, async with", expects_async_within),
    expecting("expect, in vain", expects_in_vain),
    expecting("expect, both", expects_both),
    expecting("expect, the socket is full", expects_within, before=holds_socket, sending=(2, 20.0)),
    expecting("send", sends),
    expecting("send, to a name", lambda stage: sends(stage, ("server.example", SILENT))),
    expecting("send, the socket is full", sends, before=holds_socket, sending=(2, 20.0)),
    expecting("send, several, the socket is full", frees_writers, before=holds_socket, sending=(2, 20.0)),
    Scenario("GuardProtocol", guards, DATA, None),
    Scenario("GuardProtocol, keyed", lambda stage: guards(stage, DATA[:2], correlate=IDS), DATA, None),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------------------- sweeping


class Items:
    """What a sweep asks, and whether what gives it was closed in the end."""

    def __init__(self, stage: Stage, *items: Any, pause: float | None = None) -> None:
        self._items = items
        self._pause = pause
        self._open = 0
        stage.finally_.append(lambda: stage.found.append("an iterator stayed open") if self._open else None)

    def __iter__(self) -> Iterator[Any]:
        self._open += 1
        try:
            yield from self._items
        finally:
            self._open -= 1

    async def __aiter__(self) -> AsyncIterator[Any]:
        self._open += 1
        try:
            for item in self._items:
                await asyncio.sleep(self._pause or 0.0)
                yield item
        finally:
            self._open -= 1
            await asyncio.sleep(0)


def sweep(
    *items: Any, pause: float | None = None, stop: int = 1_000, **more: Any
) -> Callable[[Stage], Coroutine[Any, Any, Any]]:
    """Sweeps items, and gives how many were answered, right, and how many were not."""

    async def sweeps(stage: Stage) -> tuple[int, int]:
        given = Items(stage, *items, pause=pause)
        right = failed = 0
        # An endpoint is closed for all who read, so the error that says so is the victim's.
        async with stage.endpoint.sweep(given if pause is not None else iter(given), **more) as outcomes:
            async for _, data, _, reply, error in outcomes:
                if isinstance(error, udpguard.EndpointClosedError):
                    raise error
                right += reply is not None and reply.data == data
                failed += error is not None
                if right + failed >= stop:
                    break
        return right, failed

    return sweeps


def questions(count: int, *addresses: Any) -> list[Any]:
    return [(addresses[number % len(addresses)], bytes([number, number]) + b" swept") for number in range(count)]


def reads_elsewhere(items: list[Any], **more: Any) -> Callable[[Stage], Coroutine[Any, Any, Any]]:
    """Two tasks read one sweep."""

    async def reads(sweep: udpguard.Sweep) -> int:
        return len([outcome async for outcome in sweep if outcome.reply is not None])

    async def sweeps(stage: Stage) -> tuple[int, int]:
        given = Items(stage, *items)
        async with stage.endpoint.sweep(iter(given), **more) as outcomes, asyncio.TaskGroup() as group:
            tasks = [group.create_task(reads(outcomes)) for _ in range(2)]
        return sum(task.result() for task in tasks), 0

    return sweeps


ABC = [(A, ECHO), (B, ECHO), (C, ECHO)]
SWEEPING = [
    asking("sweep", sweep(*questions(6, *ABC)), (6, 0)),
    asking("sweep, one in flight", sweep(*questions(4, *ABC), in_flight=1), (4, 0)),
    asking("sweep, a queue for a turn", sweep(*questions(5, (B, ECHO)), in_flight=3), (5, 0)),
    asking("sweep, assigned", sweep(*questions(6, *ABC)), (6, 0), opening={"correlate": ASSIGNED}),
    asking("sweep, assigned, from a pool", sweep(*questions(6, *ABC)), (6, 0),
           opening={"correlate": ASSIGNED, "ports": Ports(pool=4)}),
    asking("sweep, keyed", sweep(*questions(6, (A, ECHO))), (6, 0), opening={"correlate": IDS}),
    asking("sweep, a key of one's own", sweep(*questions(6, (A, ECHO))), (6, 0), opening={"correlate": Word()}),
    asking("sweep, fed later", sweep(*questions(6, *ABC), pause=0.01, in_flight=2), (6, 0)),
    asking("sweep, fed at once", sweep(*questions(6, *ABC), pause=0.0, in_flight=2), (6, 0)),
    asking("sweep, left early", sweep(*questions(8, *ABC), stop=3, in_flight=4), (3, 0)),
    asking("sweep, fed later, left early", sweep(*questions(8, *ABC), pause=0.01, stop=3, in_flight=4), (3, 0)),
    asking("sweep, silence", sweep(*questions(4, (A, SILENT), (B, SILENT)), timeout=0.1), (0, 4)),
    asking("sweep, sent again", sweep(*questions(3, (A, SECOND), (B, SECOND), (C, SECOND)), retry=QUICK), (3, 0)),
    asking("sweep, sent again in vain", sweep(*questions(2, (A, SILENT), (B, SILENT)), retry=QUICK), (0, 2)),
    asking("sweep, sent again, assigned", sweep(*questions(3, (A, SECOND), (B, SECOND)), retry=QUICK), (3, 0),
           opening={"correlate": ASSIGNED}),
    asking("sweep, at a rate", sweep(*questions(4, *ABC), rate=50.0), (4, 0)),
    asking("sweep, sent again at a rate", sweep(*questions(3, (A, SECOND), (B, SECOND), (C, ECHO)), rate=30.0,
                                                retry=QUICK), (3, 0)),
    asking("sweep, the long way at a rate", sweep(*questions(4, [(A, ECHO)], [(B, ECHO)]), rate=50.0), (4, 0)),
    asking("sweep, names", sweep(*questions(3, ("server.example", ECHO), ("nowhere.example", ECHO))), (2, 1)),
    asking("sweep, whatever there is", sweep(
        ((A, ECHO), b"\x00\x01"), ([(A, SILENT), (B, ECHO)], b"\x00\x02"), ((A, 0), b"x"), ((B, ECHO), "text"),
        timeout=3.0), (2, 2)),
    asking("sweep, an id", sweep(*questions(4, (A, ECHO))), (4, 0), opening={"correlate": FEW_IDS}, before=holds_ids),
    asking("sweep, room", sweep(*questions(4, *ABC)), (4, 0), opening={"limits": Limits(pending=1)}, before=holds_room),
    asking("sweep, the socket", sweep(*questions(4, *ABC)), (4, 0), before=holds_socket, sending=(2, 20.0)),
    asking("sweep, the socket, and sent again", sweep(*questions(3, (A, SECOND), (B, SECOND)), retry=QUICK), (3, 0),
           before=holds_socket, sending=(2, 50.0)),
    asking("sweep, a spare port", sweep(*questions(3, (A, ECHO))), (3, 0), before=soils),
    asking("sweep, a quarantine", sweep(*questions(3, (A, ECHO))), (3, 0), before=soils, opening=FIXED),
    asking("sweep, two who read", reads_elsewhere(questions(6, *ABC), in_flight=2), (6, 0), needs_task=True),
]  # fmt: skip

# ------------------------------------------------------------------------------------------ sessions and discoveries

GROUP = "239.255.255.250"


def _keeps(stage: Stage, one: Any) -> Any:
    """What was opened: in the end nobody may wait there any more."""

    def check() -> None:
        inbox = one._line if isinstance(one, udpguard.Session) else one._call
        if inbox is not None and (inbox._readers or inbox.queue or not inbox.entry.ended):
            stage.found.append(f"left: {list(inbox._readers)}, {list(inbox.queue)}, ended: {inbox.entry.ended}")
        if isinstance(one, udpguard.Session) and inbox is not None and inbox.requests:
            stage.found.append(f"requests left: {inbox.requests}")

    stage.finally_.append(check)
    return one


def session(stage: Stage, addr: Any = (A, ECHO), **more: Any) -> Any:
    return _keeps(stage, stage.endpoint.session(addr, **more))


async def converses(stage: Stage, addr: Any = (A, ECHO), **more: Any) -> bytes:
    async with session(stage, addr, **more) as one:
        await one.send(b"\x01\x01 first")
        assert await one.receive(timeout=5.0) == b"\x01\x01 first"
        await one.send(DATA)
        return bytes(await one.receive(timeout=None))


async def opens_session(stage: Stage) -> bytes:
    one = await session(stage, ("server.example", ECHO))
    try:
        await one.send(DATA)
        return bytes(await one.receive())
    finally:
        one.close()


async def asks_within(stage: Stage, port: int = ECHO, **more: Any) -> bytes:
    async with session(stage, (A, port), **more) as one:
        return bytes(await one.request(DATA, retry=QUICK))


async def asks_at_once_within(stage: Stage) -> bytes:
    async with session(stage) as one, asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.request(DATA)) for _ in range(3)]
    return DATA if {task.result() for task in tasks} == {DATA} else b"wrong"


async def iterates(stage: Stage) -> bytes:
    async with session(stage, (B, ECHO)) as one:
        asyncio.get_running_loop().call_later(0.1, one.close)
        await one.send(b"1")
        await one.send(DATA)
        return [data async for data in one][-1:][0]


async def receives_in_vain(stage: Stage) -> bytes:
    async with session(stage, (A, SILENT)) as one:
        await one.send(DATA)
        with _raises(udpguard.ReplyTimeoutError):
            await one.receive(timeout=0.1)
    return DATA


async def several_receive(stage: Stage) -> bytes:
    """Of those who wait each gets one, and none is lost with one who gives up."""
    async with session(stage, (B, ECHO)) as one, asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.receive(timeout=1.0)) for _ in range(3)]
        for number in range(3):
            await one.send(bytes([number]) * 5)
    return DATA if {task.result() for task in tasks} == {bytes([number]) * 5 for number in range(3)} else b"wrong"


async def moves(stage: Stage) -> bytes:
    """The answer comes from another port, which is the peer then."""
    async with session(stage, (A, MOVED), reply_from="host") as one:
        await one.send(DATA)
        data = bytes(await one.receive())
        assert one.peer == (A, ECHO)
        await one.send(DATA)
        assert await one.receive() == data
        return data


async def holds_session(stage: Stage) -> None:
    """Others converse with its peer, one of them from the only spare port."""
    sessions = [await stage.endpoint.session((A, ECHO)), await stage.endpoint.session((B, ECHO))]

    async def converse(one: udpguard.Session, data: bytes) -> bytes:
        await one.send(data)
        told = await one.receive()
        await asyncio.sleep(2.0)
        one.close()
        return told

    for one in sessions:
        stage.other(converse(one, b"\x55\x55 another one"), b"\x55\x55 another one")
    await _started(stage)


async def discovers(stage: Stage, addr: Any = ((A, ECHO), (B, ECHO)), leaves_at: int = 99, **more: Any) -> bytes:
    discovery = stage.endpoint.discover(list(addr) if isinstance(addr[0], tuple) else addr, DATA, **more)
    found: list[Any] = []
    async with _keeps(stage, discovery) as replies:
        async for reply in replies:
            found.append(reply)
            if len(found) == leaves_at:
                break
    return found[0].data if {reply.data for reply in found} == {DATA} else b"wrong"


async def joins(stage: Stage) -> None:
    """On two hosts somebody has joined a group."""
    for address in (A, B):
        host = stage.loop.network.host(address)
        host.join(GROUP)
        with host:
            await stage.loop.create_datagram_endpoint(lambda: Server(SERVERS[ECHO]), local_addr=("0.0.0.0", 1_900))


def beside(stage: Stage) -> None:
    """Others ask the same peers, and converse with one."""
    keyed = stage.client(correlate=TransactionId(4, 4, assign=True))
    stage.other(stage.endpoint.request((B, ECHO), b"\x71\x71 beside"), b"\x71\x71 beside")
    stage.other(keyed.request((A, ECHO), b"0000another protocol"), b"0000another protocol")
    stage.other(_converse(stage, (C, ECHO)), b"\x73\x73 of another")


async def _converse(stage: Stage, addr: Any) -> bytes:
    async with stage.endpoint.session(addr) as one:
        await one.send(b"\x73\x73 of another")
        return await one.receive()


def lasting(name: str, verb: Any, **more: Any) -> Scenario:
    return Scenario(name, verb, DATA, **{"alongside": beside, **more})


SESSIONS = [
    lasting("session", converses),
    lasting("session, IPv6", lambda stage: converses(stage, (C, ECHO))),
    lasting("session, by name, await", opens_session),
    lasting("session, by a name asked for already", lambda stage: converses(stage, ("server.example", ECHO)),
            before=asks_the_same_name),
    lasting("session, from another port", moves),
    lasting("session, a pool", converses, opening={"ports": Ports(pool=3)}),
    lasting("session, a spare port", converses, before=holds_session),
    lasting("session, the socket is full", converses, before=holds_socket, sending=(2, 20.0)),
    lasting("session, a short queue", lambda stage: converses(stage, max_queue=1, drop="newest")),
    lasting("session, in vain", receives_in_vain),
    lasting("session, several receive", several_receive, needs_task=True),
    lasting("session, iterated", iterates),
    lasting("session, request", asks_within),
    lasting("session, request, the host", lambda stage: asks_within(stage, MOVED, reply_from="host")),
    lasting("session, request, lost once", lambda stage: asks_within(stage, SECOND)),
    lasting("session, request, keyed", asks_within, opening={"correlate": ASSIGNED}),
    lasting("session, requests", asks_at_once_within, needs_task=True),
    lasting("session, requests, assigned", asks_at_once_within, needs_task=True, opening={"correlate": ASSIGNED}),
    lasting("session, request, the socket is full", asks_within, before=holds_socket, sending=(2, 20.0)),
]  # fmt: skip

DISCOVERIES = [
    lasting("discover", lambda stage: discovers(stage, window=0.2)),
    lasting("discover, a limit", lambda stage: discovers(stage, limit=2)),
    lasting("discover, and leave", lambda stage: discovers(stage, leaves_at=1)),
    lasting("discover, both families", lambda stage: discovers(stage, [(A, ECHO), (C, ECHO)], limit=2)),
    lasting("discover, by name", lambda stage: discovers(stage, ("server.example", ECHO), window=0.2)),
    lasting("discover, multicast", lambda stage: discovers(stage, (GROUP, 1_900), window=0.2), before=joins),
    lasting("discover, again and again", lambda stage: discovers(
        stage, [(A, SECOND), (B, SECOND)], retry=QUICK, window=0.5, repeats=True)),
    lasting("discover, from the peers", lambda stage: discovers(stage, reply_from="peer", limit=2)),
    lasting("discover, from a network", lambda stage: discovers(stage, reply_from="192.0.2.0/30", limit=2)),
    lasting("discover, judged", lambda stage: discovers(
        stage, [(A, FALSE), (B, FALSE)], accept=lambda reply: reply.data == DATA, limit=2)),
    lasting("discover, assigned", lambda stage: discovers(stage, limit=2), opening={"correlate": ASSIGNED}),
    lasting("discover, no spare port", lambda stage: discovers(stage, reply_from="peer", window=0.2), opening=FIXED,
            alongside=lambda stage: None),
    lasting("discover, the socket is full", lambda stage: discovers(stage, window=0.3), before=holds_socket,
            sending=(2, 20.0)),
]  # fmt: skip

SCENARIOS = [*OPENING, *SHORT, *LONG, *IN_THE_WAY, *NAMES, *EXPECTING, *SWEEPING, *SESSIONS, *DISCOVERIES]
CASES = [(scenario, blow) for scenario in SCENARIOS for blow in BLOWS if not (scenario.needs_task and blow in PUPPETS)]
"""Every scenario with every blow that makes sense there."""
