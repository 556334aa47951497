"""Many requests at once: turns, room, cancellation at any moment, closing in the middle, and what none of it costs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from loopback_kit import (
    Crowd,
    Names,
    Server,
    assert_idle,
    cancelled,
    echo,
    opened,
    servers,
    stall,
    turns,
    until,
)

import udpguard
from udpguard import Limits, Retry, TransactionId

KEYED = TransactionId(0, 2)
ASSIGNED = TransactionId(0, 2, assign=True)


def ask(client: udpguard.Client, server: Server, data: bytes = b"x", **kwargs: Any) -> asyncio.Task[bytes]:
    kwargs.setdefault("timeout", 5.0)
    return asyncio.ensure_future(client.request(server.addr, data, **kwargs))


# ------------------------------------------------------------------------------------------------ turns


async def test_without_a_correlator_requests_to_one_peer_take_turns_first_come_first_served() -> None:
    async with Server() as server, opened() as endpoint:
        tasks = [ask(endpoint, server, b"%d" % i) for i in range(10)]
        for i, task in enumerate(tasks):
            data, addr = await server.next()
            assert data == b"%d" % i
            await turns()
            assert len(server.got) == i + 1, "one at a time"
            assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (1, 9 - i)
            server.send(b"reply to " + data, addr)
            assert await task == b"reply to %d" % i


async def test_turns_are_each_peers_own() -> None:
    async with Server() as silent, Server(echo) as lively, opened() as endpoint:
        stuck = [ask(endpoint, silent) for _ in range(3)]
        for i in range(10):
            assert await ask(endpoint, lively, b"%d" % i) == b"%d" % i
        await cancelled(*stuck)


async def test_a_silent_keyless_peer_starves_nobody_else_although_room_is_small() -> None:
    async with Server() as silent, Server(echo) as lively, opened(limits=Limits(pending=2)) as endpoint:
        stuck = [ask(endpoint, silent, b"%d" % i, timeout=30.0) for i in range(50)]
        await silent.next()
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (1, 49)
        for i in range(20):
            assert await ask(endpoint, lively, b"%d" % i, timeout=2.0) == b"%d" % i
        await cancelled(*stuck)


async def test_turns_go_on_after_a_timeout_a_cancellation_and_an_error() -> None:
    async with Server() as server, opened() as endpoint:
        first = ask(endpoint, server, b"1", timeout=0.02)
        second = ask(endpoint, server, b"2")
        third = ask(endpoint, server, b"3")
        fourth = ask(endpoint, server, lambda _: 1 / 0)  # type: ignore[arg-type]
        fifth = ask(endpoint, server, b"5")
        with pytest.raises(udpguard.ReplyTimeoutError):
            await first
        await until(lambda: len(server.got) == 2)
        await cancelled(second)
        await until(lambda: len(server.got) == 3)
        server.send(b"ok", server.got[2][1])  # from another port than those before it, which may still be answered
        assert await third == b"ok"
        with pytest.raises(ZeroDivisionError):
            await fourth
        await until(lambda: len(server.got) == 4)
        server.send(b"ok", server.got[3][1])
        assert await fifth == b"ok"
        assert server.data == [b"1", b"2", b"3", b"5"]


async def test_a_turn_handed_to_a_waiter_that_was_just_cancelled_goes_on_to_the_next() -> None:
    async with Server() as server, opened() as endpoint:
        first, second, third = (ask(endpoint, server, b"%d" % i) for i in range(3))
        await server.next()
        first.cancel()  # both in one turn of the loop: the turn goes to the second, which has been cancelled
        second.cancel()
        _, addr = await server.next()
        server.send(b"ok", addr)
        assert await third == b"ok"
        await cancelled(first, second)
        assert server.data == [b"0", b"2"], "who was cancelled while it waited sends nothing"


async def test_a_turn_freed_by_a_reply_in_the_turn_in_which_its_successor_is_cancelled() -> None:
    async with Server() as server, opened() as endpoint:
        first, second, third = (ask(endpoint, server, b"%d" % i) for i in range(3))
        _, addr = await server.next()
        server.send(b"for the first", addr)  # lies in the socket while the second is cancelled
        second.cancel()
        assert await first == b"for the first"
        with pytest.raises(asyncio.CancelledError):
            await second
        await server.next()
        server.send(b"for the third", addr)
        assert await third == b"for the third"
        assert server.data == [b"0", b"2"], "who was cancelled while it waited sends nothing"


async def test_a_turn_freed_by_a_reply_is_not_used_by_a_cancelled_successor() -> None:
    """As above, in the one order that matters: the cancellation first, then the reply, then the waiter's own turn."""
    cancel: list[Callable[[], object]] = []

    def accept(_: udpguard.Reply) -> bool:
        cancel[0]()
        return True

    async with Server() as server, opened() as endpoint:
        first = ask(endpoint, server, b"0", accept=accept)
        second, third = (ask(endpoint, server, b"%d" % i) for i in (1, 2))
        cancel.append(second.cancel)
        _, addr = await server.next()
        server.send(b"for the first", addr)
        assert await first == b"for the first"
        await server.next()
        server.send(b"for the third", addr)
        assert await third == b"for the third"
        await cancelled(second)
        assert server.data == [b"0", b"2"], "who was cancelled while it waited sends nothing"


async def test_room_freed_by_a_reply_is_not_used_by_a_cancelled_successor() -> None:
    cancel: list[Callable[[], object]] = []

    def accept(_: udpguard.Reply) -> bool:
        cancel[0]()
        return True

    async with Server() as a, Server() as b, Server() as c, opened(limits=Limits(pending=1)) as endpoint:
        first = ask(endpoint, a, accept=accept)
        second, third = ask(endpoint, b), ask(endpoint, c)
        cancel.append(second.cancel)
        a.send(b"y", (await a.next())[1])
        assert await first == b"y"
        c.send(b"y", (await c.next())[1])
        assert await third == b"y"
        await cancelled(second)
        assert b.got == []


async def test_the_turn_belongs_to_the_expected_source_the_host_with_reply_from_host() -> None:
    async with Server() as one, Server() as two, opened() as endpoint:
        first = ask(endpoint, one, b"1", reply_from="host")
        second = ask(endpoint, two, b"2", reply_from="host")  # another port of the same host
        _, addr = await one.next()
        await turns(5)
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (1, 1)
        two.send(b"for the first", addr)
        assert await first == b"for the first"
        await two.next()
        one.send(b"for the second", addr)
        assert await second == b"for the second"


async def test_the_turn_belongs_to_the_address_that_reply_from_names() -> None:
    async with Server() as front, Server() as front2, Server() as back, opened() as endpoint:
        first = ask(endpoint, front, b"1", reply_from=back.addr)
        second = ask(endpoint, front2, b"2", reply_from=back.addr)
        third = ask(endpoint, front, b"3")  # answered by another source: no need to wait
        _, addr = await front.next()
        assert (await front.next())[0] == b"3"
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (2, 1)
        back.send(b"1", addr)
        assert await first == b"1"
        await front2.next()
        back.send(b"2", addr)
        assert await second == b"2"
        front.send(b"3", addr)
        assert await third == b"3"


async def test_two_requests_that_need_the_same_two_turns_do_not_lock_each_other_out() -> None:
    async with Server() as a, Server() as b, opened() as endpoint:
        holders = [ask(endpoint, a), ask(endpoint, b)]
        _, addr = await a.next()
        await b.next()
        one = ask(endpoint, a, b"1", reply_from=[a.addr, b.addr])
        two = ask(endpoint, b, b"2", reply_from=[b.addr, a.addr])
        await turns()
        a.send(b"y", addr)
        assert await holders[0] == b"y"
        await turns()
        b.send(b"y", addr)
        assert await holders[1] == b"y"
        a.handler = b.handler = echo
        for server in (a, b):
            for data, source in server.got[1:]:
                server.send(data, source)
        done, late = await asyncio.wait([one, two], timeout=2.0)
        if late:
            await cancelled(*late)
        assert len(done) == 2, "each holds the turn that the other waits for"


async def test_places_that_several_need_two_of_are_not_passed_round_for_ever() -> None:
    """Both turns come free in one batch; each goes to another who needs both."""
    async with Server() as a, Server() as b, opened() as endpoint:
        holders = [ask(endpoint, a), ask(endpoint, b)]
        _, addr = await a.next()
        await b.next()
        both = [
            ask(endpoint, a, b"%d" % i, reply_from=[a.addr, b.addr] if i % 2 else [b.addr, a.addr]) for i in range(6)
        ]
        await turns(3)
        a.send(b"y", addr)
        b.send(b"y", addr)
        await asyncio.gather(*holders)
        for i in range(6):
            assert (await a.next())[1] == addr
            a.send(b"%d" % i, addr)
        assert sorted(await asyncio.gather(*both)) == [b"%d" % i for i in range(6)]


async def test_a_list_whose_servers_come_free_at_once_takes_one_turn_only() -> None:
    async with Server() as a, Server() as b, opened() as endpoint:
        holders = [ask(endpoint, a), ask(endpoint, b)]
        _, addr = await a.next()
        await b.next()
        either = asyncio.ensure_future(
            endpoint.request([a.addr, b.addr], b"either", retry=Retry(attempts=1, initial=30))
        )
        await turns()
        after = ask(endpoint, b, b"after")
        await turns()
        a.send(b"y", addr)
        b.send(b"y", addr)
        await asyncio.gather(*holders)
        assert (await a.next())[0] == b"either"
        done = [asyncio.ensure_future(b.next())]
        await asyncio.wait(done, timeout=2.0)
        sent = b.data[1:]
        b.send(b"z", addr)
        a.send(b"z", addr)
        assert await either == b"z"
        done[0].cancel()
        await until(lambda: len(b.got) == 2)
        b.send(b"z", addr)
        assert await after == b"z"
        assert sent == [b"after"], "it held the turn of a server that it did not ask"


# ------------------------------------------------------------------------------------------------ crowds


async def test_with_a_correlator_thousands_are_in_flight_to_one_peer() -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        tasks = [ask(endpoint, server, i.to_bytes(2, "big"), timeout=30.0) for i in range(3_000)]
        await until(lambda: len(server.got) == 3_000)
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (3_000, 0)
        answers = list(server.got)
        random.Random(7).shuffle(answers)
        for i, (data, addr) in enumerate(answers):
            server.send(data + b" reply", addr)
            if i % 200 == 0:
                await turns()
        assert await asyncio.gather(*tasks) == [i.to_bytes(2, "big") + b" reply" for i in range(3_000)]


@pytest.mark.parametrize("correlate", [None, ASSIGNED], ids=["keyless", "keyed"])
async def test_ten_thousand_requests_to_a_thousand_peers_at_once_on_one_socket(
    correlate: udpguard.Correlator | None,
) -> None:
    schedule = Retry(attempts=8, initial=0.5, multiplier=1.5)
    with Crowd() as crowd:
        async with opened(correlate=correlate, retry=schedule) as endpoint:
            peers = [(f"127.{1 + n // 250}.{n % 250}.{1 + n % 199}", crowd.port) for n in range(1_000)]
            assert len(set(peers)) == 1_000
            asked = [(peers[i % 1_000], b"\0\0 %d" % i) for i in range(10_000)]
            # Without a key, the second reply to a request that was sent twice looks like that to the next.
            accepts = [None if correlate else lambda reply, data=data: reply.data == data for _, data in asked]
            replies = await asyncio.gather(
                *(
                    endpoint.exchange(peer, data, accept=accept)
                    for (peer, data), accept in zip(asked, accepts, strict=True)
                )
            )
            assert [(reply.peer, reply.data) for reply in replies] == asked
            stats = endpoint.statistics()
            assert (stats.matched, stats.pending, stats.waiting) == (10_000, 0, 0)
            assert stats.sent == 10_000 + stats.retransmitted


async def test_a_thousand_requests_need_no_task_and_no_timer_each(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[str] = []
    at, later = loop.call_at, loop.call_later
    monkeypatch.setattr(loop, "call_at", lambda *args, **kwargs: (timers.append("at"), at(*args, **kwargs))[1])
    monkeypatch.setattr(loop, "call_later", lambda *args, **kwargs: (timers.append("later"), later(*args, **kwargs))[1])
    async with Server() as server, Server() as silent, opened(correlate=KEYED) as endpoint:
        keyless = endpoint.client(correlate=None)
        mine = asyncio.all_tasks()
        # an asyncio.timeout of the test's own would take a timer
        tasks = [ask(endpoint, server, i.to_bytes(2, "big")) for i in range(900)]
        tasks += [ask(keyless, silent, retry=Retry(initial=9.0)) for _ in range(100)]
        await until(lambda: len(server.got) == 900)
        assert asyncio.all_tasks() - mine == set(tasks)
        assert endpoint.statistics().pending == 901
        for i, (data, addr) in enumerate(server.got):
            server.send(data, addr)
            if i % 100 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks[:900])
        assert asyncio.all_tasks() - mine == set(tasks[900:])
        await cancelled(*tasks[900:])
    assert len(timers) < 20, len(timers)


async def test_expectations_need_no_task_either() -> None:
    async with Server() as server, opened() as endpoint:
        mine = asyncio.all_tasks()
        expectations = [endpoint.expect(server.addr) for _ in range(1_000)]
        await turns()
        assert asyncio.all_tasks() == mine
        for expectation in expectations:
            expectation.cancel()


# ------------------------------------------------------------------------------------------------ room


async def test_requests_beyond_the_limit_wait_for_room_first_come_first_served() -> None:
    async with Server() as server, opened(limits=Limits(pending=2), correlate=KEYED) as endpoint:
        tasks = [ask(endpoint, server, b"%02d" % i) for i in range(6)]
        for i in range(6):
            data, addr = await server.next()
            assert data == b"%02d" % i
            await turns()
            assert len(server.got) <= i + 2
            if i:
                server.send(server.got[i - 1][0], addr)
                await tasks[i - 1]
        server.send(b"05", addr)
        await tasks[5]


async def test_expectations_take_room_too() -> None:
    async with Server() as server, opened(limits=Limits(pending=1)) as endpoint:
        expectation = endpoint.expect(server.addr)
        task = ask(endpoint, server)
        await turns(5)
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (1, 1)
        assert server.got == []
        expectation.cancel()
        server.send(b"y", (await server.next())[1])
        assert await task == b"y"


# ------------------------------------------------------------------------------------------------ cancellation


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    async with Server() as server, opened() as endpoint:
        task = ask(endpoint, server)
        await server.next()
        await cancelled(task)
        assert_idle(endpoint)
        assert endpoint.statistics().cancelled == 1


async def test_a_request_cancelled_before_it_begins_sends_nothing() -> None:
    async with Server() as server, opened() as endpoint:
        await cancelled(ask(endpoint, server))
        assert (endpoint.statistics().sent, endpoint.statistics().cancelled) == (0, 0)


async def test_cancelled_while_it_waits_for_its_turn() -> None:
    async with Server() as server, opened() as endpoint:
        first, second, third = (ask(endpoint, server, b"%d" % i) for i in range(3))
        _, addr = await server.next()
        await cancelled(second)
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (1, 1)
        server.send(b"y", addr)
        await first
        await server.next()
        server.send(b"y", addr)
        await third
        assert server.data == [b"0", b"2"]


async def test_cancelled_while_it_waits_for_room() -> None:
    async with Server() as a, Server() as b, Server() as c, opened(limits=Limits(pending=1)) as endpoint:
        first, second, third = ask(endpoint, a), ask(endpoint, b), ask(endpoint, c)
        _, addr = await a.next()
        await cancelled(second)
        again = ask(endpoint, b, b"again")  # the turn that the second held is free
        a.send(b"y", addr)
        await first
        await c.next()
        c.send(b"y", addr)
        await third
        b.send(b"y", (await b.next())[1])
        await again
        assert b.data == [b"again"]


async def test_cancelled_while_it_waits_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, server=["127.0.0.1"])
    names.hold = asyncio.Event()
    async with Server(echo) as server, opened() as endpoint:
        first, second = (
            asyncio.ensure_future(endpoint.request(("server", server.port), b"%d" % i, timeout=5.0)) for i in range(2)
        )
        peer = asyncio.ensure_future(endpoint.resolve("server", server.port))
        await until(lambda: names.asked)
        await cancelled(first, peer)
        assert endpoint.statistics().waiting == 1
        names.hold.set()
        assert await second == b"1"
        assert server.data == [b"1"]


async def test_cancelled_while_it_waits_for_an_id() -> None:
    async with Server() as server, opened(correlate=TransactionId(0, 1, assign=True)) as endpoint:
        tasks = [ask(endpoint, server, b"\0%d" % i) for i in range(258)]
        await until(lambda: len(server.got) == 256)
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (256, 2)
        await cancelled(tasks[256])
        server.send(*server.got[0])
        await tasks[0]
        await until(lambda: len(server.got) == 257)
        assert server.data[256][1:] == b"257"
        await cancelled(*tasks[1:256], tasks[257])


async def test_a_reply_and_a_cancellation_in_the_same_loop_turn_have_one_outcome() -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        task = ask(endpoint, server, b"ab")
        _, addr = await server.next()
        server.send(b"ab", addr)  # lies in the socket when the task is cancelled
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert outcome == b"ab" or isinstance(outcome, asyncio.CancelledError)
        await until(lambda: endpoint.statistics().received)
        stats = endpoint.statistics()
        assert stats.matched + stats.cancelled == 1
        assert stats.late == stats.cancelled
        again = ask(endpoint, server, b"cd")
        await until(lambda: len(server.got) == 2)
        server.send(b"cd", addr)
        assert await again == b"cd"


async def test_a_cancellation_after_the_reply_and_before_the_task_resumes() -> None:
    tasks: list[asyncio.Task[bytes]] = []

    def accept(_: udpguard.Reply) -> bool:
        # The reply is accepted and settles the request; its task, which has not resumed yet, is cancelled then.
        asyncio.get_running_loop().call_soon(tasks[0].cancel)
        return True

    async with Server(echo) as server, opened() as endpoint:
        tasks.append(ask(endpoint, server, accept=accept))
        (outcome,) = await asyncio.gather(*tasks, return_exceptions=True)
        assert outcome == b"x" or isinstance(outcome, asyncio.CancelledError)
        stats = endpoint.statistics()
        assert (stats.matched, stats.cancelled, stats.pending) == (1, 0, 0)
        assert await ask(endpoint, server, b"again") == b"again"


async def test_asyncio_timeout_around_a_request() -> None:
    async with Server() as server, opened() as endpoint:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.02):
                await endpoint.request(server.addr, b"x", timeout=30.0)
        assert not isinstance(caught.value, udpguard.ReplyTimeoutError)
        assert_idle(endpoint)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endpoint.request(server.addr, b"x", timeout=30.0), 0.02)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endpoint.expect(server.addr, timeout=30.0), 0.02)
        assert_idle(endpoint)
        with pytest.raises(udpguard.ReplyTimeoutError):
            async with asyncio.timeout(30.0):
                await endpoint.request(server.addr, b"x", timeout=0.02)
        assert endpoint.statistics().cancelled == 3


async def test_a_task_group_whose_one_task_fails_cancels_the_others() -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:

        async def ask_all() -> None:
            async with asyncio.TaskGroup() as group:
                for i in range(10):
                    group.create_task(endpoint.request(server.addr, b"%02d" % i, timeout=30.0))
                group.create_task(endpoint.request(server.addr, b"xx", timeout=0.05))

        with pytest.raises(ExceptionGroup) as caught:
            await ask_all()
        assert [type(error) for error in caught.value.exceptions] == [udpguard.ReplyTimeoutError]
        assert_idle(endpoint)
        stats = endpoint.statistics()
        assert (stats.timed_out, stats.cancelled) == (1, 10)


async def test_a_task_group_of_requests_that_are_answered() -> None:
    async with Server(echo) as server, opened() as endpoint:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(endpoint.request(server.addr, b"%d" % i, timeout=5.0)) for i in range(50)]
        assert [task.result() for task in tasks] == [b"%d" % i for i in range(50)]


async def test_gather_with_errors_among_the_replies() -> None:
    async with Server(echo) as server, Server() as silent, opened() as endpoint:
        outcomes = await asyncio.gather(
            endpoint.request(server.addr, b"x", timeout=5.0),
            endpoint.request(silent.addr, b"x", timeout=0.02),
            endpoint.request(("127.0.0.1", 0), b"x"),
            endpoint.request(server.addr, b"y", timeout=5.0),
            return_exceptions=True,
        )
        assert [outcomes[0], outcomes[3]] == [b"x", b"y"]
        assert isinstance(outcomes[1], udpguard.ReplyTimeoutError)
        assert isinstance(outcomes[2], udpguard.InvalidAddressError)


async def test_cancelling_a_gather_cancels_all_of_it() -> None:
    async with Server() as server, opened() as endpoint:
        gathered = asyncio.gather(*(endpoint.request(server.addr, b"%d" % i) for i in range(20)))
        await server.next()
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        await until(lambda: endpoint.statistics().cancelled == 20)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("correlate", [None, KEYED, ASSIGNED], ids=["keyless", "keyed", "assigned"])
async def test_cancellation_at_any_moment_leaves_nothing(seed: int, correlate: udpguard.Correlator | None) -> None:
    dice = random.Random(seed)

    def sometimes(server: Server, data: bytes, addr: Any) -> None:
        for _ in range(dice.choice((0, 1, 1, 1, 2))):
            server.send(data, addr)

    hosts = ("127.0.0.1", "127.0.0.1", "::1")
    guarded = opened(correlate=correlate, limits=Limits(pending=5))
    async with servers(*hosts, handler=sometimes) as (a, b, c), guarded as endpoint:
        schedule = Retry(attempts=3, initial=0.01, jitter=0.5)
        tasks = []
        for i in range(150):
            addr: Any = dice.choice((a.addr, b.addr, c.addr, [a.addr, b.addr], ("127.0.0.1", a.port), [c.addr, a.addr]))
            tasks.append(
                asyncio.ensure_future(
                    endpoint.request(
                        addr,
                        i.to_bytes(2, "big"),
                        timeout=dice.choice((0.01, 0.05, 0.2)),
                        retry=dice.choice((None, schedule)),
                        reply_from=dice.choice(("peer", "peer", "host", [a.addr, b.addr])),
                    )
                )
            )
            if dice.random() < 0.5:
                dice.choice(tasks).cancel()
            for _ in range(dice.choice((0, 0, 1, 2, 5))):
                await asyncio.sleep(0)
                if dice.random() < 0.3:
                    dice.choice(tasks).cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            allowed = (
                bytes,
                udpguard.ReplyTimeoutError,
                asyncio.CancelledError,
                udpguard.DuplicateTransactionError,
            )
            assert isinstance(outcome, allowed), outcome
        assert_idle(endpoint)
        # Nothing holds a turn or room any more.
        last = [
            endpoint.request(s.addr, b"\xff\xff", timeout=5, retry=Retry(attempts=20, initial=0.02)) for s in (a, b, c)
        ]
        await asyncio.gather(*last)


@pytest.mark.parametrize("moment", range(12))
async def test_closing_in_the_middle_of_everything(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, name=["127.0.0.1", "::1"])
    names.hold = asyncio.Event()
    async with Server(echo) as lively, Server() as silent:
        endpoint = await udpguard.open_endpoint(limits=Limits(pending=3))
        keyed = endpoint.client(correlate=ASSIGNED, retry=Retry(initial=0.01))
        tasks: list[asyncio.Future[Any]] = []
        for i in range(4):
            tasks.append(ask(endpoint, lively, b"%d" % i, timeout=30.0))
            tasks.append(ask(endpoint, silent, b"%d" % i, timeout=30.0))
            tasks.append(ask(keyed, silent, b"\0\0%d" % i, timeout=30.0))
            tasks.append(asyncio.ensure_future(endpoint.request(("name", 9), b"%d" % i, timeout=30.0)))
            tasks.append(asyncio.ensure_future(endpoint.send(lively.addr, b"s")))
        await turns(moment)
        endpoint.close()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5.0)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert all(isinstance(error, udpguard.EndpointClosedError) for error in errors), errors
        assert len({id(error) for error in errors}) == len(errors)
        await endpoint.wait_closed()
        assert_idle(endpoint)
        names.hold.set()
        await turns(5)


async def test_requests_started_while_others_end_are_served() -> None:
    """A chain: each request is begun by the one before, at once."""
    async with Server(echo) as server, opened(limits=Limits(pending=1)) as endpoint:

        async def chain(name: bytes) -> None:
            for i in range(50):
                assert await endpoint.request(server.addr, b"%s%d" % (name, i), timeout=10.0) == b"%s%d" % (name, i)

        await asyncio.gather(*(chain(name) for name in (b"a", b"b", b"c")))


# ------------------------------------------------------------------------------------------------ a stalled loop


async def test_a_reply_that_reached_the_socket_before_the_deadline_is_delivered_however_late_it_is_read() -> None:
    async with Server() as server, opened() as endpoint:
        task = ask(endpoint, server, timeout=0.5)
        _, addr = await server.next()
        server.send(b"in time", addr)
        stall(0.6)
        assert await task == b"in time"


async def test_many_replies_that_lie_in_the_socket_while_the_loop_is_blocked_are_all_delivered() -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        tasks = [ask(endpoint, server, i.to_bytes(2, "big"), timeout=1.0) for i in range(200)]
        await until(lambda: len(server.got) == 200)
        for data, addr in server.got:
            server.send(data, addr)
        stall(1.1)
        assert await asyncio.gather(*tasks) == [i.to_bytes(2, "big") for i in range(200)]


async def test_an_expectation_is_served_after_a_stall_too() -> None:
    async with Server() as server, opened() as endpoint:
        expectation = endpoint.expect(server.addr, timeout=0.5)
        await expectation.send(b"x")
        _, addr = await server.next()
        server.send(b"in time", addr)
        stall(0.6)
        assert (await expectation).data == b"in time"


async def test_a_loop_that_was_blocked_is_named_in_the_timeout() -> None:
    async with Server() as server, opened() as endpoint:
        task = ask(endpoint, server, timeout=0.5)
        await server.next()
        stall(0.9)
        with pytest.raises(udpguard.ReplyTimeoutError, match="blocked"):
            await task
