"""`accept` and `on_unexpected`: what they may return, raise, and call back into."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from loopback_kit import (
    SOON,
    Server,
    assert_sum,
    cancelled,
    echo,
    loop_factory,
    opened,
    stall,
    turns,
    until,
)

import udpguard
from udpguard import Decision, Reason, Reply, Retry, TransactionId, Unexpected


def ask(client: udpguard.Client, server: Server, data: bytes = b"x", **kwargs: Any) -> asyncio.Task[bytes]:
    kwargs.setdefault("timeout", 5.0)
    return asyncio.ensure_future(client.request(server.addr, data, **kwargs))


# ------------------------------------------------------------------------------------------------ what accept says


@pytest.mark.parametrize("yes", [True, Decision.ACCEPT])
@pytest.mark.parametrize("no", [False, Decision.REFUSE])
async def test_accept_and_refuse(yes: Any, no: Any) -> None:
    told: list[Unexpected] = []
    seen: list[Reply] = []

    def accept(reply: Reply) -> Any:
        seen.append(reply)
        return yes if reply.data == b"right" else no

    async with Server() as server, opened(on_unexpected=told.append) as endpoint:
        task = asyncio.ensure_future(endpoint.exchange(server.addr, b"x", accept=accept, timeout=5.0))
        _, addr = await server.next()
        for data in (b"wrong", b"wrong again", b"right"):
            server.send(data, addr)
        reply = await task
        assert reply.data == b"right"
        assert [one.data for one in seen] == [b"wrong", b"wrong again", b"right"]
        assert seen[2] == reply
        assert all(isinstance(one, Reply) and one.peer == server.addr and one.attempts == 1 for one in seen)
        assert [(one.data, one.reason) for one in told] == [
            (b"wrong", Reason.REJECTED),
            (b"wrong again", Reason.REJECTED),
        ]
        stats = endpoint.statistics()
        assert (stats.matched, stats.rejected, stats.hook_errors) == (1, 2, 0)


async def test_accept_is_asked_only_of_what_comes_from_the_right_place_with_the_right_key() -> None:
    seen: list[bytes] = []
    async with Server() as server, Server() as stranger, opened(correlate=TransactionId(0, 2)) as endpoint:
        task = ask(endpoint, server, b"ab", accept=lambda reply: seen.append(reply.data) or True)  # type: ignore[func-returns-value]
        _, addr = await server.next()
        stranger.send(b"ab stranger", addr)
        server.send(b"cd wrong key", addr)
        server.send(b"ab right", addr)
        assert await task == b"ab right"
        assert seen == [b"ab right"]


async def test_accept_sees_the_callers_own_id() -> None:
    seen: list[bytes] = []
    async with Server(echo) as server, opened(correlate=TransactionId(0, 2, assign=True)) as endpoint:
        reply = await ask(endpoint, server, b"\0\0q", accept=lambda reply: seen.append(reply.data) or True)  # type: ignore[func-returns-value]
        assert [reply] == seen == [b"\0\0q"]


async def test_provisional_stops_retransmission_and_keeps_listening() -> None:
    async with Server() as server, opened() as endpoint:
        schedule = Retry(attempts=10, initial=0.05, multiplier=1.0, jitter=0.0)
        task = asyncio.ensure_future(
            endpoint.exchange(
                server.addr,
                b"x",
                retry=schedule,
                timeout=5.0,
                accept=lambda reply: Decision.PROVISIONAL if reply.data == b"ack" else Decision.ACCEPT,
            )
        )
        await server.next()
        _, addr = await server.next()
        server.send(b"ack", addr)
        await until(lambda: endpoint.statistics().matched)
        sent = endpoint.statistics().sent
        await asyncio.sleep(0.2)  # four retransmissions' time
        assert endpoint.statistics().sent == sent
        assert endpoint.statistics().pending == 1
        server.send(b"ack", addr)
        server.send(b"answer", addr)
        reply = await task
        assert (reply.data, reply.attempts) == (b"answer", sent)
        assert endpoint.statistics().matched == 3
        assert endpoint.statistics().rejected == 0


async def test_a_timeout_after_a_provisional_reply_says_so() -> None:
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(udpguard.ReplyTimeoutError, match="acknowledged"):
            await endpoint.request(server.addr, b"x", timeout=0.3, accept=lambda _: Decision.PROVISIONAL)
        assert endpoint.statistics().matched == 1


async def test_provisional_in_an_expectation() -> None:
    async with Server(echo) as server, opened() as endpoint:
        expectation = endpoint.expect(
            server.addr, timeout=5.0, accept=lambda reply: Decision.PROVISIONAL if reply.data == b"1" else True
        )
        await expectation.send(b"1")
        await expectation.send(b"2")
        assert (await expectation).data == b"2"
        assert endpoint.statistics().matched == 2


@pytest.mark.parametrize("answer", [None, 0, 1, "yes", b"", object()])
async def test_what_is_neither_a_bool_nor_a_decision_is_a_refusal_that_the_timeout_names(answer: Any) -> None:
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(udpguard.ReplyTimeoutError, match="accept") as caught:
            await endpoint.request(server.addr, b"x", timeout=0.3, accept=lambda _: answer)
        assert "Decision" in str(caught.value)
        stats = endpoint.statistics()
        assert (stats.rejected, stats.hook_errors) == (1, 1)


async def test_an_exception_in_accept_is_a_refusal_and_is_quoted_in_the_timeout() -> None:
    def accept(reply: Reply) -> bool:
        if reply.data == b"good":
            return True
        raise KeyError("no such field")

    async with Server() as server, opened() as endpoint:
        task = ask(endpoint, server, accept=accept)
        _, addr = await server.next()
        server.send(b"bad", addr)
        server.send(b"good", addr)
        assert await task == b"good"
        task = ask(endpoint, server, accept=accept, timeout=0.5)
        await server.next()
        server.send(b"bad", addr)
        server.send(b"bad", addr)
        with pytest.raises(udpguard.ReplyTimeoutError, match="no such field") as caught:
            await task
        assert "KeyError" in str(caught.value)
        assert [(miss.peer, miss.reason, miss.count) for miss in caught.value.near_misses] == [
            (server.addr, Reason.REJECTED, 2)
        ]
        assert endpoint.statistics().hook_errors == 3


async def test_a_cancelled_error_or_a_stop_iteration_in_accept_is_an_exception_like_others() -> None:
    for error in (asyncio.CancelledError("mine"), StopIteration(1), GeneratorExit()):

        def accept(_: Reply) -> bool:
            raise error  # noqa: B023

        async with Server(echo) as server, opened() as endpoint:
            with pytest.raises(udpguard.ReplyTimeoutError, match=type(error).__name__):
                await endpoint.request(server.addr, b"x", timeout=0.3, accept=accept)


@pytest.mark.parametrize("accept", [3, "yes", True])
async def test_accept_must_be_a_function(accept: Any) -> None:
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(TypeError, match="accept"):
            await endpoint.request(server.addr, b"x", accept=accept)
        with pytest.raises(TypeError, match="accept"):
            endpoint.expect(server.addr, accept=accept)
        assert server.got == []


async def test_a_coroutine_function_is_no_accept() -> None:
    async def accept(_: Reply) -> bool:
        return True

    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(TypeError, match="coroutine"):
            await endpoint.request(server.addr, b"x", accept=accept)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ calling back


async def test_accept_that_cancels_its_own_request() -> None:
    for answer in (True, False, Decision.PROVISIONAL):
        tasks: list[asyncio.Task[bytes]] = []

        def accept(_: Reply) -> Any:
            tasks[0].cancel()  # noqa: B023
            return answer  # noqa: B023

        async with Server(echo) as server, opened() as endpoint:
            tasks.append(ask(endpoint, server, accept=accept))
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            assert endpoint.statistics().pending == 0
            assert await ask(endpoint, server, b"next") == b"next"


async def test_accept_that_cancels_its_own_expectation() -> None:
    for answer in (True, False, Decision.PROVISIONAL):
        held: list[udpguard.Expectation] = []

        def accept(_: Reply) -> Any:
            held[0].cancel()  # noqa: B023
            return answer  # noqa: B023

        async with Server(echo) as server, opened() as endpoint:
            held.append(endpoint.expect(server.addr, accept=accept))
            await held[0].send(b"x")
            await until(held[0].done)
            with pytest.raises(asyncio.CancelledError):
                await held[0]
            stats = endpoint.statistics()
            assert (stats.received, stats.matched, stats.late, stats.cancelled) == (1, 0, 1, 1)


@pytest.mark.parametrize("answer", [True, False, Decision.PROVISIONAL])
async def test_accept_that_cancels_the_others(answer: Any) -> None:
    others: list[udpguard.Expectation] = []

    def accept(_: Reply) -> Any:
        for other in others:
            other.cancel()
        return answer

    async with Server(echo) as server, opened() as endpoint:
        with endpoint.expect(server.addr, accept=accept) as mine:
            others += [endpoint.expect(server.addr) for _ in range(5)]
            for _ in range(3):
                await mine.send(b"x")
            await until(lambda: endpoint.statistics().received == 3)
            assert all(other.done() for other in others)
            assert mine.done() == (answer is True)


@pytest.mark.parametrize("answer", [True, False, Decision.PROVISIONAL])
async def test_accept_that_closes_the_endpoint(answer: Any) -> None:
    async with Server() as server, opened() as endpoint:

        def accept(_: Reply) -> Any:
            endpoint.close()
            return answer

        task = ask(endpoint, server, accept=accept)
        others = [ask(endpoint, server) for _ in range(3)]
        _, addr = await server.next()
        expectations = [endpoint.expect(server.addr) for _ in range(3)]
        for _ in range(10):
            server.send(b"y", addr)
        outcomes = await asyncio.gather(task, *others, *expectations, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(errors) >= 6
        assert all(isinstance(error, udpguard.EndpointClosedError) for error in errors)
        assert isinstance(outcomes[0], (bytes, udpguard.EndpointClosedError))


async def test_accept_that_asks_and_expects_in_its_turn() -> None:
    async with Server(echo) as server, Server(echo) as other, opened() as endpoint:
        inner: list[asyncio.Task[bytes]] = []
        expected: list[udpguard.Expectation] = []

        def accept(reply: Reply) -> bool:
            if len(inner) < 20:
                inner.append(ask(endpoint, server, b"inner"))
                inner.append(ask(endpoint, other, b"inner"))
                expected.append(endpoint.expect(("127.0.0.1", 9)))
            return True

        assert await ask(endpoint, server, accept=accept) == b"x"
        assert await asyncio.gather(*inner) == [b"inner"] * 2
        for expectation in expected:
            expectation.cancel()


async def test_accept_that_expects_the_same_peer_does_not_take_that_datagram_twice() -> None:
    async with Server(echo) as server, opened() as endpoint:
        held: list[udpguard.Expectation] = []

        def accept(reply: Reply) -> bool:
            held.append(endpoint.expect(server.addr, timeout=5.0))
            return False

        with endpoint.expect(server.addr, accept=accept) as first:
            await first.send(b"1")
            await until(lambda: endpoint.statistics().received)
            assert not held[0].done()
            assert endpoint.statistics().rejected == 1
        await held[0].send(b"2")
        assert (await held[0]).data == b"2"


async def test_statistics_in_accept_do_not_raise() -> None:
    async with Server(echo) as server, opened() as endpoint:
        seen: list[udpguard.Statistics] = []
        assert await ask(endpoint, server, accept=lambda _: seen.append(endpoint.statistics()) or True) == b"x"  # type: ignore[func-returns-value]
        assert seen[0].received == 1
        assert seen[0].matched == 0


async def test_accept_that_blocks_the_loop_only_costs_its_own_time() -> None:
    async with Server() as server, opened(correlate=TransactionId(0, 2)) as endpoint:
        slow = ask(endpoint, server, b"00", accept=lambda _: stall(0.6) or True, timeout=0.5)  # type: ignore[func-returns-value]
        quick = ask(endpoint, server, b"11", timeout=0.5)
        await until(lambda: len(server.got) == 2)
        for data, addr in server.got:
            server.send(data, addr)
        assert await slow == b"00"
        assert await quick == b"11"


class _Stop(KeyboardInterrupt):
    """An interrupt of the test's own."""


@pytest.mark.parametrize("kind", [_Stop, SystemExit])
def test_an_interrupt_in_accept_is_raised_and_loses_no_other_reply(kind: type[BaseException]) -> None:
    def accept(_: Reply) -> bool:
        raise kind

    async def main(state: dict[str, Any]) -> None:
        state["server"] = server = await Server().__aenter__()
        state["endpoint"] = endpoint = await udpguard.open_endpoint(correlate=TransactionId(0, 2))
        state["tasks"] = [
            ask(endpoint, server, b"%02d" % i, accept=accept if i == 1 else None, timeout=10.0) for i in range(4)
        ]
        await until(lambda: len(server.got) == 4)
        for data, addr in server.got:
            server.send(data, addr)
        await asyncio.sleep(10)

    async def after(state: dict[str, Any]) -> list[Any]:
        tasks = state["tasks"]
        async with asyncio.timeout(5.0):
            done = await asyncio.gather(tasks[0], *tasks[2:])
        assert not tasks[1].done()
        server, endpoint = state["server"], state["endpoint"]
        assert_sum(endpoint.statistics())
        await cancelled(tasks[1])
        server.handler = echo
        assert await ask(endpoint, server, b"zz") == b"zz"
        assert endpoint.statistics().pending == 0
        endpoint.close()
        await endpoint.wait_closed()
        await server.__aexit__()
        return done

    loop = loop_factory()()
    state: dict[str, Any] = {}
    try:
        first = loop.create_task(main(state))
        with pytest.raises(kind):
            loop.run_until_complete(first)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(first)
        assert loop.run_until_complete(after(state)) == [b"00", b"02", b"03"]
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_an_interrupt_in_accept_while_a_stall_is_caught_up_loses_no_deadline() -> None:
    """The timer itself reads the socket then; the deadlines after that must still be kept."""

    def accept(_: Reply) -> bool:
        raise _Stop

    async def main(state: dict[str, Any]) -> None:
        state["server"] = server = await Server().__aenter__()
        state["endpoint"] = endpoint = await udpguard.open_endpoint(correlate=TransactionId(0, 2))
        state["tasks"] = [
            ask(endpoint, server, b"00", accept=accept, timeout=0.5),
            ask(endpoint, server, b"11", timeout=0.8),
        ]
        await until(lambda: len(server.got) == 2)
        endpoint._guard.channels[0]._watch.ignore_readable()  # type: ignore[attr-defined]
        server.send(b"00", server.got[0][1])
        await asyncio.sleep(10)

    async def after(state: dict[str, Any]) -> None:
        done, late = await asyncio.wait(state["tasks"], timeout=SOON)
        await cancelled(*late)
        state["endpoint"].close()
        await state["endpoint"].wait_closed()
        await state["server"].__aexit__()
        assert not late, "its deadline is past"
        assert all(isinstance(task.exception(), udpguard.ReplyTimeoutError) for task in done)

    loop = loop_factory()()
    state: dict[str, Any] = {}
    try:
        first = loop.create_task(main(state))
        with pytest.raises(_Stop):
            loop.run_until_complete(first)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(first)
        loop.run_until_complete(after(state))
    finally:
        loop.close()


# ------------------------------------------------------------------------------------------------ on_unexpected


async def test_an_exception_in_the_hook_is_logged_counted_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def hook(_: Unexpected) -> None:
        raise ZeroDivisionError("in the hook")

    async with Server() as server, Server() as stranger, opened(on_unexpected=hook) as endpoint:
        task = ask(endpoint, server)
        _, addr = await server.next()
        with caplog.at_level(logging.DEBUG, "udpguard"):
            for _ in range(100):
                stranger.send(b"junk", addr)
            server.send(b"y", addr)
            assert await task == b"y"
            await until(lambda: endpoint.statistics().hook_errors == 100)
        shown = [record for record in caplog.records if record.name == "udpguard" and record.levelno > logging.DEBUG]
        assert len(shown) == 1, "what strangers send must not be able to fill the log"
        assert shown[0].exc_info is not None
        assert isinstance(shown[0].exc_info[1], ZeroDivisionError)


async def test_nothing_that_arrives_is_logged_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    async with Server(echo) as server, Server() as stranger, opened() as endpoint:
        with caplog.at_level(logging.DEBUG, "udpguard"):
            for _ in range(50):
                stranger.send(b"junk", ("127.0.0.1", endpoint.local_addr.port))
            assert await ask(endpoint, server) == b"x"
            await ask(endpoint, server, accept=lambda _: True)
            await until(lambda: endpoint.statistics().unknown_peer == 50)
        assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_the_hook_may_ask_cancel_and_close() -> None:
    async with Server(echo) as server, Server() as silent, Server() as stranger:
        tasks: list[asyncio.Task[bytes]] = []
        told: list[Unexpected] = []
        endpoint: udpguard.Endpoint

        def hook(unexpected: Unexpected) -> None:
            told.append(unexpected)
            if unexpected.data == b"ask":
                tasks.append(ask(endpoint, server, b"from the hook"))
                endpoint.expect(silent.addr).cancel()
            elif unexpected.data == b"cancel":
                waiting.cancel()
            elif unexpected.data == b"close":
                endpoint.close()

        async with opened(on_unexpected=hook) as endpoint:
            here = ("127.0.0.1", endpoint.local_addr.port)
            waiting = ask(endpoint, silent, timeout=30.0)
            await silent.next()
            stranger.send(b"ask", here)
            await until(lambda: tasks)
            assert await tasks[0] == b"from the hook"
            stranger.send(b"cancel", here)
            with pytest.raises(asyncio.CancelledError):
                await waiting
            last = ask(endpoint, silent, timeout=30.0)
            await silent.next()
            stranger.send(b"close", here)
            stranger.send(b"after", here)
            with pytest.raises(udpguard.EndpointClosedError):
                await last
        assert [one.data for one in told][:3] == [b"ask", b"cancel", b"close"]
        assert all(isinstance(one.peer, udpguard.Peer) and one.peer == stranger.addr for one in told)
        await turns()


async def test_what_is_unexpected_is_told_as_it_came() -> None:
    """With assigned ids too, the hook gets the datagram as it was on the wire."""
    told: list[Unexpected] = []
    async with (
        Server() as server,
        opened(on_unexpected=told.append, correlate=TransactionId(0, 2, assign=True)) as endpoint,
    ):
        task = ask(endpoint, server, b"\0\0q")
        data, addr = await server.next()
        server.send(data, addr)
        server.send(data, addr)
        assert await task == b"\0\0q"
        await until(lambda: told)
        assert told == [Unexpected(data, udpguard.Peer(*server.addr), Reason.DUPLICATE)]
