"""The verbs: request, exchange, expect, send, resolve, client; their deadlines, and which of several counts."""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import pickle
import socket
import time
from collections.abc import Iterable
from typing import Any

import pytest
from loopback_kit import (
    SOON,
    Names,
    Server,
    assert_idle,
    cancelled,
    closed_port,
    echo,
    in_jumping_time,
    opened,
    stall,
    turns,
    until,
)

import udpguard
from udpguard import DEFAULT, Retry


async def test_request_returns_the_bytes_of_the_reply() -> None:
    async with Server(echo) as server, opened() as endpoint:
        reply = await endpoint.request(server.addr, b"hello", timeout=2.0)
        assert reply == b"hello"
        assert type(reply) is bytes


async def test_exchange_returns_the_whole_reply() -> None:
    async with Server(echo) as server, opened() as endpoint:
        began = time.monotonic()
        reply = await endpoint.exchange(server.addr, b"hello", timeout=2.0)
        took = time.monotonic() - began
        assert isinstance(reply, udpguard.Reply)
        data, peer, rtt, attempts = reply
        assert (data, peer, attempts) == (b"hello", server.addr, 1)
        assert isinstance(peer, udpguard.Peer)
        assert rtt is not None
        assert 0 < rtt <= took


async def test_rtt_ends_when_the_datagram_arrives_not_when_the_task_resumes() -> None:
    asked: list[float] = []

    def slow(_: udpguard.Reply) -> bool:
        asked.append(time.monotonic())
        stall(0.3)
        return True

    async with Server(echo) as server, opened() as endpoint:
        began = time.monotonic()
        reply = await endpoint.exchange(server.addr, b"x", timeout=5.0, accept=slow)
        assert reply.rtt is not None
        # However long the answer took to come, `accept` is no part of it.
        assert reply.rtt < asked[0] - began + 0.1


@pytest.mark.parametrize("data", [b"x", bytearray(b"x"), memoryview(b"x")])
async def test_any_bytes_like_object_is_data(data: Any) -> None:
    async with Server(echo) as server, opened() as endpoint:
        assert await endpoint.request(server.addr, data, timeout=2.0) == b"x"
        await endpoint.send(server.addr, data)
        await until(lambda: len(server.got) == 2)
        await until(lambda: endpoint.statistics().received == 2)


async def test_a_bytearray_that_changes_after_the_call_does_not_change_the_request() -> None:
    async with Server() as server, opened() as endpoint:
        data = bytearray(b"before")
        first = asyncio.ensure_future(endpoint.request(server.addr, b"0", timeout=5.0))
        await server.next()
        second = asyncio.ensure_future(endpoint.request(server.addr, data, timeout=5.0))  # waits for its turn
        await turns()
        data[:] = b"later!"
        server.send(b"ok", server.got[0][1])
        assert await first == b"ok"
        assert (await server.next())[0] == b"before"
        server.send(b"ok", server.got[0][1])
        await second


@pytest.mark.parametrize("data", ["text", 3, None, ["x"], object()])
async def test_other_data_is_a_type_error_before_anything_is_sent(data: Any) -> None:
    async with Server(echo) as server, opened() as endpoint:
        for use in (endpoint.request, endpoint.exchange, endpoint.send):
            with pytest.raises(TypeError, match="encode" if isinstance(data, str) else "bytes"):
                await use(server.addr, data)  # type: ignore[operator]
        assert await endpoint.request(server.addr, b"still works", timeout=2.0) == b"still works"
        assert server.data == [b"still works"]


async def test_many_requests_to_many_servers_through_one_endpoint() -> None:
    async with Server(echo) as a, Server(echo) as b, Server(echo, "::1") as c, opened() as endpoint:
        asked = [(server, b"%d" % i) for i in range(20) for server in (a, b, c)]
        replies = await asyncio.gather(*(endpoint.request(server.addr, data, timeout=5.0) for server, data in asked))
        assert replies == [data for _, data in asked]


# ------------------------------------------------------------------------------------------------ data as a function


async def test_data_may_be_a_function_of_the_attempts_number() -> None:
    async with Server() as server, opened() as endpoint:
        schedule = Retry(attempts=3, initial=0.02, multiplier=1.0, jitter=0.0, final_wait=5.0)
        task = asyncio.ensure_future(endpoint.exchange(server.addr, lambda n: b"attempt %d" % n, retry=schedule))
        for n in range(3):
            data, addr = await server.next()
            assert data == b"attempt %d" % n
        server.send(b"y", addr)
        assert (await task).attempts == 3


async def test_a_data_function_that_raises_raises_at_the_caller() -> None:
    def data(_: int) -> bytes:
        raise ZeroDivisionError("in data")

    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(ZeroDivisionError, match="in data"):
            await endpoint.request(server.addr, data, timeout=2.0)
        assert await endpoint.request(server.addr, b"x", timeout=2.0) == b"x"


async def test_a_data_function_that_raises_in_a_retransmission_raises_at_the_caller() -> None:
    def data(n: int) -> bytes:
        return [b"first"][n]

    async with Server() as server, opened() as endpoint:
        with pytest.raises(IndexError):
            await endpoint.request(server.addr, data, retry=Retry(initial=0.02, jitter=0.0))
        assert server.data == [b"first"]


async def test_a_data_function_that_returns_no_bytes_is_a_type_error() -> None:
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(TypeError, match="encode"):
            await endpoint.request(server.addr, lambda _: "text", timeout=2.0)  # type: ignore[arg-type, return-value]
        with pytest.raises(udpguard.DatagramTooLargeError):
            await endpoint.request(server.addr, lambda _: bytes(65_508), timeout=2.0)
        assert server.got == []


async def test_a_coroutine_function_is_no_data() -> None:
    async def data(_: int) -> bytes:
        return b""

    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(TypeError, match="coroutine"):
            await endpoint.request(server.addr, data, timeout=2.0)  # type: ignore[arg-type]


async def test_a_data_function_that_raises_stop_iteration_does_not_hang() -> None:
    def data(n: int) -> bytes:
        return next(iter(()))

    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(RuntimeError):
            await endpoint.request(server.addr, data, timeout=2.0)


async def test_a_data_function_that_closes_the_endpoint_leaves_nothing() -> None:
    async with Server(echo) as server, opened() as endpoint:

        def data(_: int) -> bytes:
            endpoint.close()
            return b"x"

        with pytest.raises(udpguard.EndpointClosedError):
            await endpoint.request(server.addr, data, timeout=2.0)
    assert server.got == []


async def test_a_data_function_that_closes_the_endpoint_in_a_retransmission_leaves_nothing() -> None:
    async with Server() as server, opened() as endpoint:

        def data(n: int) -> bytes:
            if n:
                endpoint.close()
            return b"x"

        with pytest.raises(udpguard.EndpointClosedError):
            await endpoint.request(server.addr, data, retry=Retry(initial=0.02))


# ------------------------------------------------------------------------------------------------ expect


async def test_expect_gives_the_reply_to_what_was_sent_by_other_means() -> None:
    async with Server(echo) as server, opened() as endpoint:
        expectation = endpoint.expect(server.addr, timeout=2.0)
        assert isinstance(expectation, udpguard.Expectation)
        assert endpoint.statistics().pending == 1
        await endpoint.send(server.addr, b"hello")
        reply = await expectation
        assert reply == udpguard.Reply(b"hello", udpguard.Peer(*server.addr), None, 0)


async def test_an_expectation_sends_from_the_port_that_listens() -> None:
    async with Server(echo) as server, opened() as endpoint:
        expectation = endpoint.expect(server.addr, timeout=2.0)
        await expectation.send(b"hello")
        assert (await expectation).data == b"hello"
        assert server.got[0][1][1] == endpoint.local_addr.port
        assert expectation.peer == server.addr
        assert expectation.done()


async def test_an_expectation_may_be_awaited_again() -> None:
    async with Server(echo) as server, opened() as endpoint:
        expectation = endpoint.expect(server.addr, timeout=2.0)
        await expectation.send(b"hello")
        assert await expectation == await expectation


async def test_a_reply_that_comes_before_anybody_awaits_is_kept() -> None:
    async with Server(echo) as server, opened() as endpoint:
        expectation = endpoint.expect(server.addr, timeout=2.0)
        await expectation.send(b"hello")
        await until(lambda: endpoint.statistics().matched)
        assert expectation.done()
        assert (await expectation).data == b"hello"


async def test_as_a_context_manager_an_expectation_withdraws_itself() -> None:
    async with Server(echo) as server, opened() as endpoint:
        with endpoint.expect(server.addr) as expectation:
            assert endpoint.statistics().pending == 1
        assert endpoint.statistics().pending == 0
        assert expectation.done()
        async with endpoint.expect(server.addr):
            assert endpoint.statistics().pending == 1
        assert endpoint.statistics().pending == 0
        with pytest.raises(ZeroDivisionError), endpoint.expect(server.addr):
            raise ZeroDivisionError
        assert endpoint.statistics().pending == 0
        assert endpoint.statistics().cancelled == 3


async def test_leaving_the_context_after_the_reply_counts_as_no_cancellation() -> None:
    async with Server(echo) as server, opened() as endpoint:
        async with endpoint.expect(server.addr, timeout=2.0) as expectation:
            await expectation.send(b"x")
            assert (await expectation).data == b"x"
        assert endpoint.statistics().cancelled == 0


async def test_an_expectation_never_awaited_makes_no_noise() -> None:
    async with Server(echo) as server:
        async with opened() as endpoint:
            expectation = endpoint.expect(server.addr, timeout=0.01)
            await until(expectation.done)
            del expectation
            endpoint.expect(server.addr).cancel()
            endpoint.expect(server.addr)
            await turns()
            endpoint.close()
        gc.collect()
        await turns()


async def test_an_expectation_times_out() -> None:
    async with Server() as server, opened() as endpoint:
        with pytest.raises(udpguard.ReplyTimeoutError) as caught:
            await endpoint.expect(server.addr, timeout=0.01)
        assert (caught.value.attempts, caught.value.peer) == (0, server.addr)


async def test_cancelling_who_awaits_an_expectation_withdraws_it() -> None:
    async with Server() as server, opened() as endpoint:
        expectation = endpoint.expect(server.addr)

        async def wait() -> None:
            await expectation

        task = asyncio.ensure_future(wait())
        await turns()
        await cancelled(task)
        assert endpoint.statistics().pending == 0


async def test_keyless_expectations_of_one_peer_are_met_in_the_order_they_were_registered() -> None:
    async with Server(echo) as server, opened() as endpoint:
        expectations = [endpoint.expect(server.addr, timeout=2.0) for _ in range(5)]
        assert endpoint.statistics().pending == 5
        expectations.pop(2).cancel()
        for i in range(4):
            await endpoint.send(server.addr, b"%d" % i)
        assert [(await one).data for one in expectations] == [b"0", b"1", b"2", b"3"]


async def test_expectations_beyond_the_limit_are_refused() -> None:
    async with Server(echo) as server, opened(limits=udpguard.Limits(pending=2)) as endpoint:
        first = endpoint.expect(server.addr)
        second = endpoint.expect(server.addr)
        with pytest.raises(udpguard.TooManyPendingError, match="pending") as caught:
            endpoint.expect(server.addr)
        assert caught.value.limit == 2
        first.cancel()
        endpoint.expect(server.addr).cancel()
        second.cancel()


async def test_a_name_is_not_looked_up_by_expect() -> None:
    async with opened() as endpoint:
        with pytest.raises(udpguard.InvalidAddressError, match="resolve"):
            endpoint.expect(("localhost", 53))


async def test_expect_of_anywhere_needs_no_accept() -> None:
    async with Server(echo) as server, opened() as endpoint:
        expectation = endpoint.expect(("127.0.0.1", 9), reply_from="anywhere", timeout=2.0)
        await endpoint.send(server.addr, b"x")
        assert (await expectation).peer == server.addr


async def test_a_transaction_needs_a_correlator() -> None:
    async with opened() as endpoint:
        with pytest.raises(ValueError, match="correlat"):
            endpoint.expect(("127.0.0.1", 9), transaction=b"ab")


async def test_expect_with_a_transaction_takes_that_key_alone() -> None:
    async with Server(echo) as server, opened(correlate=udpguard.TransactionId(0, 2)) as endpoint:
        expectation = endpoint.expect(server.addr, transaction=b"ab", timeout=2.0)
        with pytest.raises(udpguard.DuplicateTransactionError):
            endpoint.expect(server.addr, transaction=b"ab")
        await expectation.send(b"cd wrong")
        await expectation.send(b"ab right")
        assert (await expectation).data == b"ab right"
        assert endpoint.statistics().rejected == 1


async def test_expect_without_a_transaction_takes_a_keyless_datagram() -> None:
    async with Server(echo) as server, opened(correlate=udpguard.TransactionId(0, 2)) as endpoint:
        expectation = endpoint.expect(server.addr, timeout=2.0)
        await expectation.send(b"ab has a key")
        await expectation.send(b"n")
        assert (await expectation).data == b"n"


async def test_expect_with_a_transaction_that_cannot_be_hashed() -> None:
    async with opened(correlate=udpguard.TransactionId(0, 2)) as endpoint:
        with pytest.raises(TypeError):
            endpoint.expect(("127.0.0.1", 9), transaction=bytearray(b"ab"))


# ------------------------------------------------------------------------------------------------ send


async def test_send_sends_and_expects_nothing() -> None:
    async with Server() as server, opened() as endpoint:
        assert await endpoint.send(server.addr, b"fire") is None  # type: ignore[func-returns-value]
        assert (await server.next())[0] == b"fire"
        stats = endpoint.statistics()
        assert (stats.sent, stats.pending) == (1, 0)


async def test_the_answer_to_a_send_is_from_an_unknown_peer() -> None:
    told: list[udpguard.Unexpected] = []
    async with Server(echo) as server, opened(on_unexpected=told.append) as endpoint:
        await endpoint.send(server.addr, b"x")
        await until(lambda: told)
        assert told == [udpguard.Unexpected(b"x", udpguard.Peer(*server.addr), udpguard.Reason.UNKNOWN_PEER)]


async def test_sends_to_one_peer_arrive_in_order() -> None:
    async with Server() as server, opened() as endpoint:
        await asyncio.gather(*(endpoint.send(server.addr, b"%d" % i) for i in range(200)))
        await until(lambda: len(server.got) == 200)
        assert server.data == [b"%d" % i for i in range(200)]


async def test_send_to_a_closed_port_raises_nothing_and_harms_nobody() -> None:
    async with Server(echo) as server, opened() as endpoint:
        dead = closed_port()
        for _ in range(20):
            await endpoint.send(dead, b"x")
            assert await endpoint.request(server.addr, b"y", timeout=2.0) == b"y"


async def test_send_takes_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(asyncio.get_running_loop(), monkeypatch, server=["127.0.0.1"])
    async with Server() as server, opened() as endpoint:
        await endpoint.send(("server", server.port), b"x")
        assert (await server.next())[0] == b"x"
        with pytest.raises(socket.gaierror):
            await endpoint.send(("nobody", server.port), b"x")


# ------------------------------------------------------------------------------------------------ resolve


async def test_resolve_gives_a_peer_to_pass_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, server=["127.0.0.1", "::1"])
    async with Server(echo) as server, opened() as endpoint:
        peer = await endpoint.resolve("server", server.port)
        assert peer == ("127.0.0.1", server.port)
        assert isinstance(peer, udpguard.Peer)
        for _ in range(3):
            assert await endpoint.request(peer, b"x", timeout=2.0) == b"x"
        assert len(names.asked) == 1
        with endpoint.expect(peer):
            pass


async def test_resolve_of_a_literal_gives_its_canonical_form() -> None:
    async with opened() as endpoint:
        assert await endpoint.resolve("::FFFF:127.0.0.1", 53) == ("127.0.0.1", 53)
        assert await endpoint.resolve("0:0:0:0:0:0:0:1", 53) == ("::1", 53)


async def test_resolve_of_the_real_localhost() -> None:
    async with opened() as endpoint:
        assert (await endpoint.resolve("localhost", 53)).host in ("127.0.0.1", "::1")


async def test_resolve_gives_an_address_the_endpoint_has_a_socket_for(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(asyncio.get_running_loop(), monkeypatch, both=["::1", "127.0.0.1"], six=["::1"])
    async with opened(family=socket.AF_INET) as endpoint:
        assert await endpoint.resolve("both", 53) == ("127.0.0.1", 53)
        with pytest.raises((socket.gaierror, udpguard.InvalidAddressError)):
            await endpoint.resolve("six", 53)


async def test_resolve_of_an_unknown_name_raises_gaierror(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(asyncio.get_running_loop(), monkeypatch)
    async with opened() as endpoint:
        with pytest.raises(socket.gaierror):
            await endpoint.resolve("nobody", 53)


@pytest.mark.parametrize(("host", "port"), [("a..b", 53), ("", 53), ("localhost", 0), ("localhost", "53"), (None, 5)])
async def test_resolve_refuses_what_is_malformed(host: Any, port: Any) -> None:
    async with opened() as endpoint:
        with pytest.raises(udpguard.InvalidAddressError):
            await endpoint.resolve(host, port)


async def test_callers_who_ask_at_once_share_one_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, server=["127.0.0.1"])
    names.hold = asyncio.Event()
    async with Server(echo) as server, opened() as endpoint:
        tasks = [
            asyncio.ensure_future(endpoint.request(("server", server.port), b"%d" % i, timeout=5)) for i in range(5)
        ]
        peer = asyncio.ensure_future(endpoint.resolve("server", server.port))
        await until(lambda: names.asked)
        assert endpoint.statistics().waiting == 5
        names.hold.set()
        assert await asyncio.gather(*tasks) == [b"%d" % i for i in range(5)]
        assert await peer == server.addr
        assert names.asked == [("server", server.port)]


async def test_each_of_those_gets_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch)
    async with opened() as endpoint:
        outcomes = await asyncio.gather(
            *(endpoint.request(("nobody", 53), b"x") for _ in range(3)),
            *(endpoint.resolve("nobody", 53) for _ in range(2)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [socket.gaierror] * 5
        assert len({id(outcome) for outcome in outcomes}) == 5
        assert len(names.asked) == 1


async def test_a_name_is_looked_up_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, server=["127.0.0.1"])
    async with Server(echo) as server, opened() as endpoint:
        for _ in range(2):
            await endpoint.request(("server", server.port), b"x", timeout=2.0)
        assert len(names.asked) == 2


@pytest.mark.parametrize("verb", ["request", "exchange", "send", "resolve"])
async def test_closing_while_a_name_is_looked_up_fails_who_waits_for_it(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, server=["127.0.0.1"])
    names.hold = asyncio.Event()
    async with opened() as endpoint:
        use: Any = getattr(endpoint, verb)
        coroutine = use("server", 53) if verb == "resolve" else use(("server", 53), b"x")
        task = asyncio.ensure_future(coroutine)
        await until(lambda: names.asked)
        endpoint.close()
        done, _ = await asyncio.wait([task], timeout=2.0)
        if not done:
            task.cancel()
        assert done, "it waits for good"
        with pytest.raises(udpguard.EndpointClosedError):
            task.result()
    await turns()


# ------------------------------------------------------------------------------------------------ deadlines


async def test_a_request_times_out_with_all_its_facts() -> None:
    async with Server() as server, opened() as endpoint:
        began = time.monotonic()
        with pytest.raises(udpguard.ReplyTimeoutError) as caught:
            await endpoint.request(server.addr, b"x", timeout=0.05)
        took = time.monotonic() - began
        error = caught.value
        assert 0.045 <= took < 2.0
        assert isinstance(error, TimeoutError)
        assert isinstance(error, udpguard.UdpGuardError)
        assert (error.peer, error.timeout, error.attempts, tuple(error.near_misses)) == (server.addr, 0.05, 1, ())
        assert f"no reply from {server.addr[0]}:{server.port} in 0.05 s (1 sent)" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.peer, again.timeout, again.attempts) == (str(error), error.peer, 0.05, 1)
        assert endpoint.statistics().timed_out == 1


def test_the_default_deadline_is_five_seconds() -> None:
    async def main() -> None:
        async with Server() as server, opened() as endpoint:
            loop = asyncio.get_running_loop()
            for use in (endpoint.request(server.addr, b"x"), endpoint.exchange(server.addr, b"x")):
                began = loop.time()
                with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                    await use
                assert loop.time() - began == pytest.approx(5.0, abs=0.01)
                assert caught.value.timeout == 5.0
            began = loop.time()
            with pytest.raises(udpguard.ReplyTimeoutError):
                await endpoint.expect(server.addr)
            assert loop.time() - began == pytest.approx(5.0, abs=0.01)

    in_jumping_time(main)


class EachSecond(udpguard.RetryPolicy):
    """Two sends, a second apart; it ends a second after the last."""

    def waits(self, peer: udpguard.PeerStatistics | None, random: object) -> Iterable[float]:
        return [1.0, 1.0]


THREE_SECONDS = Retry(attempts=3, initial=1.0, multiplier=1.0, jitter=0.0)
UNTIL_3 = (3.0, 3)
DEADLINES: list[tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any], tuple[float, int]]] = [
    # endpoint, client (None: the endpoint itself), call, (seconds, datagrams)
    ({}, None, {}, (5.0, 1)),
    ({"timeout": 7.0}, None, {}, (7.0, 1)),
    ({"timeout": 7.0}, {}, {}, (7.0, 1)),
    ({"timeout": 7.0}, {"timeout": 2.0}, {}, (2.0, 1)),
    ({"timeout": 7.0}, {"timeout": 2.0}, {"timeout": 1.0}, (1.0, 1)),
    ({"timeout": 7.0}, {"timeout": 2.0}, {"timeout": DEFAULT}, (2.0, 1)),
    ({"timeout": 7.0}, {"timeout": DEFAULT}, {"timeout": DEFAULT}, (7.0, 1)),
    ({"timeout": DEFAULT}, {"timeout": DEFAULT}, {"timeout": DEFAULT, "retry": DEFAULT}, (5.0, 1)),
    # a schedule without a time-out in the same place: its own end
    ({"retry": THREE_SECONDS}, None, {}, UNTIL_3),
    ({"retry": THREE_SECONDS}, {}, {}, UNTIL_3),
    ({"timeout": 7.0}, {"retry": THREE_SECONDS}, {}, UNTIL_3),
    ({"timeout": 7.0}, {"timeout": 6.0}, {"retry": THREE_SECONDS}, UNTIL_3),
    ({}, {}, {"retry": THREE_SECONDS, "timeout": DEFAULT}, UNTIL_3),
    # both in one place
    ({"retry": THREE_SECONDS, "timeout": 1.5}, None, {}, (1.5, 2)),
    ({}, {"retry": THREE_SECONDS, "timeout": 9.0}, {}, (9.0, 3)),
    ({}, {}, {"retry": THREE_SECONDS, "timeout": 2.5}, (2.5, 3)),
    # a time-out nearer to the call cuts the schedule that stands further away
    ({"retry": THREE_SECONDS}, {"timeout": 1.5}, {}, (1.5, 2)),
    ({"retry": THREE_SECONDS}, {}, {"timeout": 0.5}, (0.5, 1)),
    ({"retry": THREE_SECONDS}, {"retry": EachSecond()}, {}, (2.0, 2)),
    # None takes the schedule away
    ({"retry": THREE_SECONDS, "timeout": 4.0}, {"retry": None}, {}, (4.0, 1)),
    ({"timeout": 4.0}, {"retry": THREE_SECONDS, "timeout": 3.5}, {"retry": None}, (3.5, 1)),
    ({"timeout": 4.0}, {}, {"retry": None}, (4.0, 1)),
]


@pytest.mark.parametrize(("endpoint_says", "client_says", "call_says", "outcome"), DEADLINES)
def test_what_the_call_says_beats_the_client_beats_the_endpoint(
    endpoint_says: dict[str, Any],
    client_says: dict[str, Any] | None,
    call_says: dict[str, Any],
    outcome: tuple[float, int],
) -> None:
    async def main() -> None:
        async with Server() as server, opened(**endpoint_says) as endpoint:
            client = endpoint if client_says is None else endpoint.client(**client_says)
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await client.request(server.addr, b"x", **call_says)
            seconds, sent = outcome
            assert loop.time() - began == pytest.approx(seconds, abs=0.01)
            assert caught.value.timeout == pytest.approx(seconds)
            assert caught.value.attempts == sent
            await until(lambda: len(server.got) == sent)

    in_jumping_time(main)


@pytest.mark.parametrize("says", ["endpoint", "client", "call"])
def test_without_a_deadline_it_waits_for_good(says: str) -> None:
    async def main() -> None:
        given = {name: ({"timeout": None} if name == says else {}) for name in ("endpoint", "client", "call")}
        async with Server() as server, opened(**given["endpoint"]) as endpoint:
            client = endpoint.client(**given["client"])
            task = asyncio.ensure_future(client.request(server.addr, b"x", **given["call"]))
            _, addr = await server.next()
            await asyncio.sleep(100_000)
            assert not task.done()
            server.send(b"y", addr)
            assert await task == b"y"

    in_jumping_time(main)


def test_without_a_deadline_but_with_a_schedule_it_waits_for_good_after_the_last_send() -> None:
    async def main() -> None:
        async with Server() as server, opened() as endpoint:
            task = asyncio.ensure_future(endpoint.request(server.addr, b"x", timeout=None, retry=THREE_SECONDS))
            await asyncio.sleep(100_000)
            assert not task.done()
            assert len(server.got) == 3
            server.send(b"y", server.got[0][1])
            assert await task == b"y"

    in_jumping_time(main)


def test_an_infinite_timeout_is_none() -> None:
    async def main() -> None:
        async with Server() as server, opened() as endpoint:
            task = asyncio.ensure_future(endpoint.request(server.addr, b"x", timeout=math.inf))
            await asyncio.sleep(100_000)
            assert not task.done()
            await cancelled(task)

    in_jumping_time(main)


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.001, math.nan, -math.inf])
async def test_a_timeout_of_zero_negative_or_nan_is_a_value_error(timeout: float) -> None:
    async with Server(echo) as server, opened() as endpoint:
        for use in (endpoint.request, endpoint.exchange):
            with pytest.raises(ValueError, match="timeout"):
                await use(server.addr, b"x", timeout=timeout)  # type: ignore[operator]
        with pytest.raises(ValueError, match="timeout"):
            endpoint.expect(server.addr, timeout=timeout)
        with pytest.raises(ValueError, match="timeout"):
            endpoint.client(timeout=timeout)
        assert server.got == []


@pytest.mark.parametrize("timeout", ["2", True, b"1", [1]])
async def test_a_timeout_that_is_no_number_is_a_type_error(timeout: Any) -> None:
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(TypeError, match="timeout"):
            await endpoint.request(server.addr, b"x", timeout=timeout)
        with pytest.raises(TypeError, match="timeout"):
            endpoint.expect(server.addr, timeout=timeout)


async def test_a_retry_that_is_no_policy_is_a_type_error() -> None:
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(TypeError, match="retry"):
            await endpoint.request(server.addr, b"x", retry=3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="retry"):
            endpoint.client(retry=3)  # type: ignore[arg-type]


async def test_a_wrapper_can_pass_default_on() -> None:
    async def ask(
        endpoint: udpguard.Endpoint,
        addr: udpguard.Address,
        *,
        timeout: float | None | udpguard.Default = DEFAULT,
        retry: udpguard.RetryPolicy | None | udpguard.Default = DEFAULT,
    ) -> bytes:
        return await endpoint.request(addr, b"x", timeout=timeout, retry=retry)

    async with Server() as server, opened(timeout=0.02) as endpoint:
        for kwargs, seconds in (({}, 0.02), ({"timeout": 0.03}, 0.03)):
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await ask(endpoint, server.addr, **kwargs)
            assert caught.value.timeout == seconds


async def test_the_deadline_counts_from_the_call_whatever_happens_inside_it() -> None:
    async with Server() as server, opened() as endpoint:
        # Junk arrives all the time, and the second request waits for its turn.
        first = asyncio.ensure_future(endpoint.request(server.addr, b"1", timeout=30.0))
        _, addr = await server.next()
        began = time.monotonic()
        second = asyncio.ensure_future(endpoint.request(server.addr, b"2", timeout=0.1, accept=lambda _: False))
        async with Server() as stranger:
            while not second.done():
                stranger.send(b"junk", addr)
                await asyncio.sleep(0.001)
        assert 0.09 <= time.monotonic() - began < SOON
        with pytest.raises(udpguard.ReplyTimeoutError) as caught:
            await second
        assert caught.value.attempts == 0
        await cancelled(first)


async def test_refused_replies_do_not_prolong_the_wait() -> None:
    async with Server() as server, opened() as endpoint:
        began = time.monotonic()
        task = asyncio.ensure_future(endpoint.request(server.addr, b"1", timeout=0.1, accept=lambda _: False))
        _, addr = await server.next()
        while not task.done():
            server.send(b"no", addr)
            await asyncio.sleep(0.001)
        assert 0.09 <= time.monotonic() - began < SOON
        with pytest.raises(udpguard.ReplyTimeoutError):
            await task


def test_a_lookup_counts_towards_the_deadline() -> None:
    async def main() -> None:
        async with opened() as endpoint:
            loop = asyncio.get_running_loop()
            with pytest.MonkeyPatch.context() as monkeypatch:
                names = Names(loop, monkeypatch, slow=["127.0.0.1"])
                names.hold = asyncio.Event()
                began = loop.time()
                with pytest.raises(udpguard.ReplyTimeoutError, match="name") as caught:
                    await endpoint.request(("slow", 9), b"x", timeout=3.0)
                assert loop.time() - began == pytest.approx(3.0, abs=0.01)
                assert (caught.value.peer, caught.value.attempts) == (None, 0)
                assert_idle(endpoint)
                names.hold.set()
                await turns(5)

    in_jumping_time(main)


# ------------------------------------------------------------------------------------------------ clients, peers


async def test_a_client_has_its_own_correlator_timeout_and_retry() -> None:
    async with Server() as server, opened() as endpoint:
        client = endpoint.client(
            correlate=udpguard.TransactionId(0, 2), timeout=0.4, retry=Retry(attempts=2, initial=0.02, jitter=0.0)
        )
        assert not hasattr(client, "close")
        with pytest.raises(udpguard.ReplyTimeoutError) as caught:
            await client.request(server.addr, b"ab", retry=DEFAULT)
        assert (caught.value.attempts, caught.value.timeout) == (2, 0.4)


async def test_a_client_inherits_and_can_take_the_correlator_away() -> None:
    async with Server() as server, opened(correlate=udpguard.TransactionId(0, 2), timeout=5.0) as endpoint:
        heirs = [asyncio.ensure_future(endpoint.client().request(server.addr, key)) for key in (b"ab", b"cd")]
        for _ in heirs:
            await server.next()
        assert endpoint.statistics().pending == 2
        keyless = endpoint.client(correlate=None)
        others = [asyncio.ensure_future(keyless.request(server.addr, key)) for key in (b"ef", b"gh")]
        await server.next()
        await turns()
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (3, 1)
        await cancelled(*heirs, *others)


async def test_a_clients_wrong_arguments() -> None:
    async with opened() as endpoint:
        with pytest.raises(TypeError, match="correlate"):
            endpoint.client(correlate=(0, 2))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="in_flight_per_peer"):
            endpoint.client(in_flight_per_peer=0)
        with pytest.raises(TypeError, match="in_flight_per_peer"):
            endpoint.client(in_flight_per_peer="1")  # type: ignore[arg-type]


async def test_in_flight_per_peer_bounds_requests_with_a_key() -> None:
    key = udpguard.TransactionId(0, 2, assign=True)
    async with Server() as server, opened(limits=udpguard.Limits(in_flight_per_peer=2), correlate=key) as endpoint:
        tasks = [asyncio.ensure_future(endpoint.request(server.addr, b"\0\0%d" % i, timeout=5)) for i in range(5)]
        for _ in range(2):
            await server.next()
        await turns(5)
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (2, 3)
        assert len(server.got) == 2
        other = endpoint.client(in_flight_per_peer=1)  # counts for itself
        more = [asyncio.ensure_future(other.request(server.addr, b"\0\0m%d" % i, timeout=5)) for i in range(2)]
        await server.next()
        await turns(5)
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (3, 4)
        free = endpoint.client(in_flight_per_peer=None)
        many = [asyncio.ensure_future(free.request(server.addr, b"\0\0f%d" % i, timeout=5)) for i in range(20)]
        for _ in range(20):
            await server.next()
        server.handler = echo
        for data, addr in list(server.got):
            server.send(data, addr)
        await asyncio.gather(*tasks, *more, *many)


async def test_peer_statistics_tell_what_is_known_of_a_peer() -> None:
    async with Server(echo) as server, Server() as silent, opened() as endpoint:
        assert endpoint.peer_statistics(server.addr) is None
        for _ in range(3):
            await endpoint.request(server.addr, b"x", timeout=2.0)
        known = endpoint.peer_statistics(server.addr)
        assert isinstance(known, udpguard.PeerStatistics)
        assert (known.sent, known.matched, known.timed_out) == (3, 3, 0)
        assert known.srtt is not None
        assert known.rttvar is not None
        assert 0 < known.srtt < 1
        assert known.rto == 1.0  # RFC 6298's floor
        with pytest.raises(udpguard.ReplyTimeoutError):
            await endpoint.request(silent.addr, b"x", timeout=0.02)
        known = endpoint.peer_statistics(udpguard.Peer(*silent.addr))
        assert known is not None
        assert (known.srtt, known.rttvar, known.rto) == (None, None, 1.0)
        assert (known.sent, known.matched, known.timed_out) == (1, 0, 1)
        await endpoint.send(silent.addr, b"x")
        again = endpoint.peer_statistics(silent.addr)
        assert again is not None
        assert again.sent == 2
        peer = udpguard.Peer(*server.addr)
    assert endpoint.peer_statistics(peer) is None  # closed: peers are forgotten, counters are not
    assert endpoint.statistics().matched


async def test_peer_statistics_wants_a_literal() -> None:
    async with opened() as endpoint:
        with pytest.raises(udpguard.InvalidAddressError, match="resolve"):
            endpoint.peer_statistics(("localhost", 53))
        assert endpoint.peer_statistics(("::1", 53)) is None


async def test_peer_statistics_after_a_retransmission_take_no_sample() -> None:
    async with Server() as server, opened() as endpoint:
        schedule = Retry(attempts=2, initial=0.02, jitter=0.0, final_wait=5.0)
        task = asyncio.ensure_future(endpoint.exchange(server.addr, b"x", retry=schedule))
        await server.next()
        _, addr = await server.next()
        server.send(b"y", addr)
        reply = await task
        assert (reply.rtt, reply.attempts) == (None, 2)
        known = endpoint.peer_statistics(server.addr)
        assert known is not None
        assert (known.srtt, known.sent, known.matched) == (None, 2, 1)


async def test_statistics_count_what_happened() -> None:
    async with Server() as server, opened() as endpoint:
        assert endpoint.statistics() == udpguard.Statistics()
        schedule = Retry(attempts=2, initial=0.02, jitter=0.0, final_wait=0.02)
        with pytest.raises(udpguard.ReplyTimeoutError):
            await endpoint.request(server.addr, b"x", retry=schedule)
        await cancelled(asyncio.ensure_future(_never_answered(endpoint, server.addr)))
        stats = endpoint.statistics()
        assert (stats.sent, stats.retransmitted, stats.timed_out) == (2, 1, 1)
        with pytest.raises((AttributeError, TypeError)):
            stats.sent = 3  # type: ignore[misc]


async def _never_answered(endpoint: udpguard.Endpoint, addr: udpguard.Address) -> None:
    await endpoint.request(addr, b"x")


def test_partial_functions_serve_as_data_and_accept() -> None:
    async def main() -> None:
        async with Server(echo) as server, opened() as endpoint:
            data = functools.partial(lambda prefix, n: b"%s%d" % (prefix, n), b"n")
            accept = functools.partial(lambda wanted, reply: reply.data == wanted, b"n0")
            assert await endpoint.request(server.addr, data, accept=accept, timeout=2.0) == b"n0"

    in_jumping_time(main)
