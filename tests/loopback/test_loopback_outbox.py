"""Questions asked in one turn of the loop: the first leaves at once, the others together, in their order."""

from __future__ import annotations

import asyncio
import errno
import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from loopback_kit import (
    Crowd,
    Server,
    assert_idle,
    cancelled,
    echo,
    in_jumping_time,
    opened,
    servers,
    turns,
    until,
)

import udpguard
from udpguard import Limits, Retry, TransactionId

KEYED = TransactionId(0, 2)
ASSIGNED = TransactionId(0, 2, assign=True)
ALIKE = pytest.mark.parametrize("correlate", [None, KEYED, ASSIGNED], ids=["keyless", "keyed", "assigned"])
FULL = OSError(errno.ENOBUFS, "No buffer space available")


class Spy:
    """A backend that sends through another as far as the test allows, and notes what left with which call.

    The endpoint's clock stands still unless the test moves it: a turn lasts as long as it takes.
    """

    def __init__(self, endpoint: udpguard.Endpoint, channel: int = 0) -> None:
        guard: Any = endpoint._guard
        self.channel: Any = guard.channels[channel]
        self._real = self.channel._backend
        self.channel._backend = self
        self.allowed = math.inf
        self.refuses: dict[bytes, int] = {}
        """Error numbers, for what the payload ends with."""
        self.calls: list[list[bytes]] = []
        self.now = 1_000.0
        guard.clock = lambda: self.now

    @property
    def sent(self) -> list[bytes]:
        return [data for call in self.calls for data in call]

    def _refusal(self, data: bytes) -> int | None:
        return next((number for end, number in self.refuses.items() if data.endswith(end)), None)

    def receive(self, most: int) -> Any:
        return self._real.receive(most)

    def ages(self, *, exactly: bool) -> None:
        """What is received has come just now."""

    def send(self, data: bytes, wire: bytes) -> bool:
        number = self._refusal(data)
        if number is not None:
            raise OSError(number, os.strerror(number))
        if self.allowed <= 0:
            return False
        self.allowed -= 1
        self.calls.append([data])
        return bool(self._real.send(data, wire))

    def send_many(self, datas: list[bytes], wires: list[bytes]) -> int:
        fine = 0
        while fine < min(len(datas), self.allowed) and self._refusal(datas[fine]) is None:
            fine += 1
        self.allowed -= fine
        self.calls.append(datas[:fine])
        return int(self._real.send_many(datas[:fine], wires[:fine])) if fine else 0


def ask(client: udpguard.Client, addr: Any, data: bytes, **kwargs: Any) -> asyncio.Task[bytes]:
    kwargs.setdefault("timeout", 5.0)
    return asyncio.ensure_future(client.request(addr, data, **kwargs))


def ask_each(client: udpguard.Client, asked: Iterable[Server], **kwargs: Any) -> list[asyncio.Task[bytes]]:
    """Ask `00`, `01`, … of one server after the other, in one turn."""
    return [ask(client, server.addr, b"%02d" % i, **kwargs) for i, server in enumerate(asked)]


def in_this_turn(call: Callable[[], object]) -> None:
    """Call it behind the tasks that were just made, before the turn ends."""
    asyncio.get_running_loop().call_soon(call)


def sent_to(endpoint: udpguard.Endpoint, server: Server) -> int:
    known = endpoint.peer_statistics(server.addr)
    return 0 if known is None else known.sent


def marked(count: int) -> list[bytes]:
    return [b"%02d" % i for i in range(count)]


# ------------------------------------------------------------------------------------------------ together


@ALIKE
async def test_the_first_question_leaves_at_once_and_the_others_with_one_call_at_the_end(correlate: Any) -> None:
    async with servers(*["127.0.0.1"] * 10, handler=echo) as ten, opened(correlate=correlate) as endpoint:
        spy, early = Spy(endpoint), list[int]()
        tasks = ask_each(endpoint, ten)
        in_this_turn(lambda: early.extend(map(len, spy.calls)))
        assert await asyncio.gather(*tasks) == marked(10)
        assert early == [1], "before the turn ended"
        assert [len(call) for call in spy.calls] == [1, 9]
        assert endpoint.statistics().sent == 10
        assert [sent_to(endpoint, server) for server in ten] == [1] * 10


async def test_one_question_a_turn_never_waits_for_the_end() -> None:
    async with Server(echo) as server, opened() as endpoint:
        spy = Spy(endpoint)
        for i in range(5):
            early = list[int]()
            task = ask(endpoint, server.addr, b"%d" % i)
            in_this_turn(lambda early=early: early.append(len(spy.calls)))  # type: ignore[misc]
            assert await task == b"%d" % i
            assert early == [i + 1]
        assert [len(call) for call in spy.calls] == [1] * 5


async def test_whatever_goes_to_one_peer_in_a_turn_leaves_in_the_order_of_the_calls() -> None:
    async with Server(echo) as server, opened(correlate=KEYED) as endpoint:
        spy = Spy(endpoint)
        other, to = endpoint.client(), server.addr
        tasks: list[asyncio.Task[Any]] = [ask(endpoint, to, b"00"), ask(endpoint, to, b"01"), ask(endpoint, to, b"02")]
        tasks.append(asyncio.ensure_future(endpoint.send(to, b"03")))
        tasks += [ask(endpoint, to, b"04"), asyncio.ensure_future(endpoint.exchange(to, b"05", timeout=5.0))]
        tasks.append(ask(endpoint, to, b"06", accept=lambda reply: True))
        tasks += [ask(endpoint, to, b"07"), ask(endpoint, to, b"08", retry=Retry(attempts=2, initial=3.0))]
        tasks += [ask(other, to, b"9"), ask(endpoint, [to, to], b"10"), ask(endpoint, to, b"11")]
        await asyncio.gather(*tasks)
        await until(lambda: len(server.got) == 12)
        assert server.data == spy.sent == [*marked(9), b"9", b"10", b"11"]
        assert endpoint.statistics().sent == 12


def test_a_retransmission_does_not_overtake_what_was_asked_before() -> None:
    async def main() -> None:
        async with Server() as server, opened(correlate=KEYED) as endpoint:
            loop, begun = asyncio.get_running_loop(), list[Any]()
            task = ask(endpoint, server.addr, b"again", retry=Retry(attempts=2, initial=1.0, jitter=0))
            await server.next()

            def post() -> None:
                for data in (b"00", b"01", b"02"):
                    begun.append(endpoint.request(server.addr, data, timeout=9.0))
                    begun[-1].send(None)  # as a task's first step does

            # So little before the timer that both are called in one turn of the loop.
            loop.call_at(loop.time() + 1.0 - 5e-10, post)
            await until(lambda: len(server.got) == 5)
            assert server.data == [b"again", b"00", b"01", b"02", b"again"]
            for one in begun:
                one.close()
            await cancelled(task)
            assert (endpoint.statistics().sent, endpoint.statistics().retransmitted) == (5, 1)

    in_jumping_time(main)


async def test_a_thousand_questions_leave_in_batches_of_64_at_most() -> None:
    async with servers(*["127.0.0.1"] * 4) as four, opened(correlate=KEYED) as endpoint:
        spy = Spy(endpoint)
        datas = [i.to_bytes(2, "big") for i in range(1_000)]
        tasks = [ask(endpoint, four[i % 4].addr, data) for i, data in enumerate(datas)]
        await until(lambda: sum(len(server.got) for server in four) == 1_000)
        assert [server.data for server in four] == [datas[i::4] for i in range(4)]
        assert spy.sent == datas
        assert max(map(len, spy.calls)) == 64
        assert len(spy.calls) <= 1 + math.ceil(999 / 64)
        assert endpoint.statistics().sent == 1_000
        await cancelled(*tasks)


async def test_both_families_in_one_turn_leave_with_a_call_each() -> None:
    async with servers("127.0.0.1", "::1", handler=echo) as both, opened(correlate=KEYED) as endpoint:
        four, six = Spy(endpoint), Spy(endpoint, 1)
        assert await asyncio.gather(*ask_each(endpoint, both * 10)) == marked(20)
        assert [len(call) for call in four.calls] == [1, 9]
        assert [len(call) for call in six.calls] == [10]
        assert [server.data for server in both] == [marked(20)[::2], marked(20)[1::2]]


async def test_both_families_in_one_turn_wait_where_one_of_the_sockets_is_full() -> None:
    async with servers("127.0.0.1", "::1", handler=echo) as both, opened(correlate=KEYED) as endpoint:
        four, six = Spy(endpoint), Spy(endpoint, 1)
        four.allowed = 3
        tasks = ask_each(endpoint, both * 10)
        await until(lambda: all(task.done() for task in tasks[:6:2]))
        four.allowed = math.inf
        assert await asyncio.gather(*tasks) == marked(20)
        assert (four.sent, six.sent) == (marked(20)[::2], marked(20)[1::2])


class BlindLoop(asyncio.SelectorEventLoop):
    """A loop that can't watch sockets for its users, as Windows' Proactor."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError


@ALIKE
def test_they_leave_together_by_the_loop_s_own_transport_too(correlate: Any) -> None:
    async def main() -> None:
        with Crowd() as crowd:
            async with opened(correlate=correlate) as endpoint:
                spy = Spy(endpoint)
                spy.refuses = {b"03": errno.EPERM}
                datas = [data * 2 for data in marked(10)]
                tasks = [ask(endpoint, (f"127.0.0.{i + 1}", crowd.port), data) for i, data in enumerate(datas)]
                got = await asyncio.gather(*tasks, return_exceptions=True)
                assert type(got.pop(3)) is udpguard.PeerUnreachableError
                assert got == [data for data in datas if data != b"0303"]
                assert [len(call) for call in spy.calls] == [1, 2, 6]
                assert endpoint.statistics().sent == 9

    with asyncio.Runner(loop_factory=BlindLoop) as runner:
        runner.run(main())


# ------------------------------------------------------------------------------------------------ given up in between


@ALIKE
@pytest.mark.parametrize("which", [[0], [2, 3], [1, 2, 3, 4]], ids=str)
async def test_what_its_caller_gives_up_before_the_turn_ends_is_not_sent(which: list[int], correlate: Any) -> None:
    limits = Limits(pending=5)
    async with servers(*["127.0.0.1"] * 5) as five, opened(correlate=correlate, limits=limits) as endpoint:
        spy = Spy(endpoint)
        coroutines = [endpoint.request(s.addr, b"%02d%02d" % (i, i), timeout=5.0) for i, s in enumerate(five)]
        for one in coroutines:
            one.send(None)  # as a task's first step does
        for i in which:
            coroutines[i].close()
        left = [i for i in range(5) if i not in which or not i]  # the first is gone already
        await until(lambda: sum(len(server.got) for server in five) == len(left))
        assert [int(data[2:]) for data in spy.sent] == left
        for i in {*range(5)}.difference(which):
            coroutines[i].close()
        stats = endpoint.statistics()
        assert (stats.sent, stats.cancelled, stats.pending, stats.waiting) == (len(left), 5, 0, 0)
        assert [sent_to(endpoint, server) for server in five] == [int(i in left) for i in range(5)]
        # Room, turns and ids are free again.
        for server in five:
            server.handler = echo
        assert await asyncio.gather(*ask_each(endpoint, five)) == marked(5)


@ALIKE
async def test_a_task_that_is_cancelled_before_the_turn_ends_sends_nothing(correlate: Any) -> None:
    async with servers(*["127.0.0.1"] * 5, handler=echo) as five, opened(correlate=correlate) as endpoint:
        spy = Spy(endpoint)
        tasks = ask_each(endpoint, five)
        in_this_turn(tasks[2].cancel)
        in_this_turn(tasks[3].cancel)
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in got[2:4]] == [asyncio.CancelledError] * 2
        stats = endpoint.statistics()
        assert stats.cancelled == 2
        assert len(spy.sent) == stats.sent == 3
        assert (five[2].got, five[3].got) == ([], [])


@ALIKE
@pytest.mark.parametrize("blocked", [False, True])
async def test_closing_before_the_turn_ends_fails_each_and_sends_none(blocked: bool, correlate: Any) -> None:
    async with servers(*["127.0.0.1"] * 5, handler=echo) as five, opened(correlate=correlate) as endpoint:
        spy = Spy(endpoint)
        spy.allowed = 1 if blocked else math.inf
        tasks = ask_each(endpoint, five)
        if blocked:
            await turns(5)
        else:
            in_this_turn(endpoint.close)
            await turns(2)
        endpoint.close()
        errors = await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert [type(error) for error in errors] == [udpguard.EndpointClosedError] * 4
        assert len({id(error) for error in errors}) == 4
        await asyncio.gather(tasks[0], return_exceptions=True)  # that one may have been answered
        await turns(3)
        assert len(spy.sent) == endpoint.statistics().sent == 1
        assert_idle(endpoint)


# ------------------------------------------------------------------------------------------------ refused


@ALIKE
@pytest.mark.parametrize("place", [0, 1, 4, 9])
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EPERM, udpguard.PeerUnreachableError),
        (errno.ENETUNREACH, udpguard.PeerUnreachableError),
        (errno.EMSGSIZE, udpguard.DatagramTooLargeError),
    ],
)
async def test_one_that_the_operating_system_refuses_fails_its_own_caller_alone(
    number: int, error: Any, place: int, correlate: Any
) -> None:
    async with servers(*["127.0.0.1"] * 10, handler=echo) as ten, opened(correlate=correlate) as endpoint:
        spy = Spy(endpoint)
        spy.refuses = {b"!%02d" % place: number}
        datas = [b"%02d!%02d" % (i, i) for i in range(10)]
        tasks = [ask(endpoint, server.addr, data) for server, data in zip(ten, datas, strict=True)]
        got = await asyncio.gather(*tasks, return_exceptions=True)
        failed = got.pop(place)
        assert type(failed) is error
        assert failed.peer == ten[place].addr
        if error is udpguard.PeerUnreachableError:
            assert failed.errno == number
        assert got == [data for i, data in enumerate(datas) if i != place]
        assert ten[place].got == []
        stats = endpoint.statistics()
        assert (stats.sent, stats.matched, stats.timed_out, stats.cancelled) == (9, 9, 0, 0)
        assert stats.unreachable == (error is udpguard.PeerUnreachableError)
        assert stats.send_errors == 1
        assert sent_to(endpoint, ten[place]) == 0
        spy.refuses = {}
        assert await ask(endpoint, ten[place].addr, datas[place]) == datas[place]


async def test_several_that_the_kernel_refuses_in_one_turn() -> None:
    async with servers(*["127.0.0.1"] * 4, handler=echo) as four, opened(("127.0.0.1", 0)) as endpoint:
        bad = [("198.51.100.1", 9), ("127.255.255.255", 9), ("198.51.100.2", 9)]
        tasks = [ask(endpoint, addr, b"x") for addr in (four[0].addr, bad[0], four[1].addr, *bad[1:])]
        tasks += [ask(endpoint, server.addr, b"x") for server in four[2:]]
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in got] == [
            bytes, udpguard.PeerUnreachableError, bytes, udpguard.InvalidAddressError, udpguard.PeerUnreachableError,
            bytes, bytes,
        ]  # fmt: skip
        assert (endpoint.statistics().sent, endpoint.statistics().unreachable) == (4, 2)


async def test_who_may_go_on_since_another_was_refused_overtakes_nobody() -> None:
    limits = Limits(pending=3)
    async with servers(*["127.0.0.1"] * 2, handler=echo) as two, opened(correlate=KEYED, limits=limits) as endpoint:
        server, refused = two
        Spy(endpoint).refuses = {b"01": errno.EPERM}
        tasks = ask_each(endpoint, [server, refused, server, server])  # the last one waits for room
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in got] == [bytes, udpguard.PeerUnreachableError, bytes, bytes]
        assert server.data == [b"00", b"02", b"03"]


# ------------------------------------------------------------------------------------------------ held up


@pytest.mark.parametrize("correlate", [KEYED, ASSIGNED], ids=["keyed", "assigned"])
async def test_what_a_full_socket_does_not_take_waits_in_order(correlate: Any) -> None:
    async with Server(echo) as server, opened(correlate=correlate) as endpoint:
        spy = Spy(endpoint)
        spy.allowed = 4
        tasks = [ask(endpoint, server.addr, b"%02d%02d" % (i, i)) for i in range(10)]
        await asyncio.gather(*tasks[:4])
        later = [ask(endpoint, server.addr, b"%02d%02d" % (i, i)) for i in range(10, 15)]
        await turns(5)
        assert not any(task.done() for task in (*tasks[4:], *later))
        assert endpoint.statistics().sent == 4
        for allowed in (1, 2, math.inf):
            spy.allowed = allowed
            await turns(5)
        assert await asyncio.gather(*tasks, *later) == [b"%02d%02d" % (i, i) for i in range(15)]
        assert [data[2:] for data in server.data] == marked(15)
        assert (endpoint.statistics().sent, sent_to(endpoint, server)) == (15, 15)
        assert endpoint.statistics().send_errors == endpoint.statistics().retransmitted == 0


@ALIKE
async def test_requests_that_wait_for_the_socket_are_waiting_not_pending(correlate: Any) -> None:
    async with servers(*["127.0.0.1"] * 5) as five, opened(correlate=correlate) as endpoint:
        spy = Spy(endpoint)
        spy.allowed = 2
        tasks = ask_each(endpoint, five)
        await turns(5)
        stats = endpoint.statistics()
        spy.allowed = math.inf
        await cancelled(*tasks)
        assert (stats.sent, stats.pending, stats.waiting) == (2, 2, 3)


@ALIKE
def test_deadlines_count_from_the_call_and_who_never_left_says_so(correlate: Any) -> None:
    async def main() -> None:
        async with servers(*["127.0.0.1"] * 4) as four, opened(correlate=correlate) as endpoint:
            loop, spy = asyncio.get_running_loop(), Spy(endpoint)
            endpoint._guard.clock = loop.time
            spy.refuses = {b"02": FULL.errno or 0, b"03": FULL.errno or 0}
            began, ended = loop.time(), dict[bytes, float]()
            payload = {b"%02d" % i: b"%02d%02d" % (i, i) for i in range(4)}
            timeouts = (1.0, 1.0, 2.0, 0.5)
            tasks = [
                ask(endpoint, server.addr, data, timeout=timeout)
                for server, data, timeout in zip(four, payload.values(), timeouts, strict=True)
            ]
            for task, mark in zip(tasks, payload, strict=True):
                task.add_done_callback(lambda _, mark=mark: ended.update({mark: loop.time() - began}))
            await asyncio.sleep(0.75)
            assert tasks[3].done()
            spy.refuses = {}
            errors = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(error) for error in errors] == [udpguard.ReplyTimeoutError] * 4
            assert [error.attempts for error in errors] == [1, 1, 1, 0]  # type: ignore[union-attr]
            assert "send buffer" in str(errors[3])
            assert not any("send buffer" in str(error) for error in errors[:3])
            assert [ended[mark] for mark in payload] == pytest.approx(timeouts, abs=0.01), (
                "from the call, in virtual time"
            )
            assert [len(server.got) for server in four] == [1, 1, 1, 0]
            assert (endpoint.statistics().sent, endpoint.statistics().timed_out) == (3, 4)

    in_jumping_time(main)


async def test_cancelling_one_that_is_held_up_gives_back_its_turn_and_its_room() -> None:
    async with servers(*["127.0.0.1"] * 3, handler=echo) as three, opened(limits=Limits(pending=3)) as endpoint:
        spy = Spy(endpoint)
        spy.allowed = 1
        tasks = ask_each(endpoint, three)
        await turns(5)
        behind = [ask(endpoint, three[1].addr, b"next"), ask(endpoint, three[1].addr, b"last")]
        await cancelled(tasks[1])
        spy.allowed = math.inf
        assert await asyncio.gather(tasks[0], tasks[2], *behind) == [b"00", b"02", b"next", b"last"]
        assert three[1].data == [b"next", b"last"]
        assert (endpoint.statistics().sent, endpoint.statistics().cancelled) == (4, 1)


async def test_cancelling_those_that_are_held_up_gives_back_their_ids() -> None:
    one_byte = TransactionId(0, 1, assign=True)
    async with Server() as server, opened(correlate=one_byte) as endpoint:
        spy = Spy(endpoint)
        spy.allowed = 200
        tasks = [ask(endpoint, server.addr, b"?%03d" % i) for i in range(256)]
        behind = [ask(endpoint, server.addr, b"?%03d" % i) for i in range(256, 300)]
        await until(lambda: len(server.got) == 200)
        await cancelled(*tasks[200:])
        spy.allowed = math.inf
        await until(lambda: len(server.got) == 244)
        assert len({data[0] for data in server.data}) == 244, "no id is used twice"
        assert [data[1:] for data in server.data] == [b"%03d" % i for i in (*range(200), *range(256, 300))]
        await cancelled(*tasks[:200], *behind)


@ALIKE
async def test_a_reply_that_comes_before_its_question_left_is_none(correlate: Any) -> None:
    async with servers(*["127.0.0.1"] * 3) as three, opened(correlate=correlate) as endpoint:
        spy = Spy(endpoint)
        spy.allowed = 1
        tasks = ask_each(endpoint, three, timeout=60.0)
        _, here = await three[0].next()
        await turns(5)
        three[1].send(b"01", here)
        await until(lambda: endpoint.statistics().received == 1)
        await turns(3)
        assert not tasks[1].done()
        assert (endpoint.statistics().matched, endpoint.statistics().rejected) == (0, 1)
        spy.allowed = math.inf
        for i, server in enumerate(three):
            data, here = await server.next() if i else server.got[0]
            server.send(data + b"answer", here)
        assert await asyncio.gather(*tasks) == [b"%02danswer" % i for i in range(3)]


# ------------------------------------------------------------------------------------------------ what is measured


@ALIKE
async def test_the_round_trip_begins_when_the_question_really_left(correlate: Any) -> None:
    async with servers(*["127.0.0.1"] * 3) as three, opened(correlate=correlate) as endpoint:
        spy = Spy(endpoint)
        spy.allowed = 2
        ask_one = [endpoint.exchange(server.addr, b"%02d" % i, timeout=60.0) for i, server in enumerate(three)]
        tasks = [asyncio.ensure_future(one) for one in ask_one]
        in_this_turn(lambda: setattr(spy, "now", 1_000.5))  # so long the turn takes
        await three[1].next()
        await turns(5)
        spy.now = 1_001.0
        spy.allowed = math.inf
        await three[2].next()
        spy.now = 1_001.25
        for server in three:
            server.send(*server.got[0])
        replies = await asyncio.gather(*tasks)
        assert [reply.rtt for reply in replies] == [1.25, 0.75, 0.25]
        assert [reply.attempts for reply in replies] == [1, 1, 1]
        known = [endpoint.peer_statistics(server.addr) for server in three]
        assert [peer.srtt for peer in known if peer is not None] == [1.25, 0.75, 0.25]
