"""What the caller of a sweep does: gives items, reads outcomes slowly or in part, leaves, closes, misuses it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest
from sweep_kit import at_rest, cut_short, echo, in_virtual_time, serve, silent, swept
from typing_extensions import override

import udpguard
from udpguard import Progress, Retry, RetryPolicy, TransactionId

A, B = "192.0.2.1", "192.0.2.2"
ASSIGNED = TransactionId(0, 2, assign=True)


class Numbers:
    """Items, and how many were taken."""

    def __init__(self, count: int | None = None, addr: Any = (A, 7), error: BaseException | None = None) -> None:
        self.count = count
        self.addr = addr
        self.error = error
        self.taken = 0
        self.closed = False

    def items(self) -> Iterator[tuple[Any, bytes, int]]:
        try:
            while self.count is None or self.taken < self.count:
                self.taken += 1
                yield self.addr, self.taken.to_bytes(4, "big"), self.taken
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    async def items_later(self, pause: float = 0.0) -> AsyncIterator[tuple[Any, bytes, int]]:
        try:
            for item in self.items():
                if pause:
                    await asyncio.sleep(pause)
                yield item
        finally:
            self.closed = True

    def feed(self, how: str) -> Any:
        return self.items() if how == "sync" else self.items_later(0.0005 if how == "slow" else 0.0)


FEEDS = ["sync", "async", "slow"]


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("in_flight", [1, 10, 100])
def test_while_the_caller_is_slow_nothing_is_asked(in_flight: int, feed: str) -> None:
    async def main() -> None:
        server = await serve(A)
        numbers = Numbers()
        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
            async with endpoint.sweep(numbers.feed(feed), in_flight=in_flight) as sweep:
                first = await anext(sweep)
                await asyncio.sleep(10.0)
                read = [first]
                for _ in range(20):
                    await asyncio.sleep(10.0)
                    taken = numbers.taken
                    await asyncio.sleep(10.0)
                    assert numbers.taken == taken
                    ahead = taken - len(read)
                    assert in_flight // 2 <= ahead
                    assert ahead <= 2 * in_flight + (0 if feed == "sync" else min(64, in_flight) + 1)
                    read += [await anext(sweep) for _ in range(in_flight)]
                progress = sweep.progress
                assert progress.asked - progress.answered <= in_flight
            assert numbers.closed
            assert len({outcome.tag for outcome in read}) == len(read)
            assert len(server.heard) <= numbers.taken
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("feed", FEEDS)
def test_many_tasks_may_read(feed: str) -> None:
    async def main() -> None:
        await serve(A)
        read: list[udpguard.Outcome] = []

        async def reads(sweep: udpguard.Sweep, pause: float) -> None:
            async for outcome in sweep:
                read.append(outcome)
                await asyncio.sleep(pause)

        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
            sweep = endpoint.sweep(Numbers(200).feed(feed), in_flight=10)
            async with sweep, asyncio.TaskGroup() as group:
                tasks = [group.create_task(reads(sweep, pause)) for pause in (0.0, 0.001, 0.01, 0.02)]
                await asyncio.sleep(0.03)
                tasks[1].cancel()
            assert len(read) >= 199
            assert len({outcome.tag for outcome in read}) == len(read)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("feed", FEEDS)
def test_leaving_withdraws_what_is_in_flight(feed: str) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await serve(A, silent)
        await serve(B)
        loop.network.name("server.example", A, delay=5.0)
        numbers = Numbers()
        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint, asyncio.timeout(None) as scope:
            async with endpoint.sweep(numbers.feed(feed), in_flight=50, retry=Retry(initial=0.1)) as sweep:
                await asyncio.sleep(0.3)
                asked = sweep.progress.asked
                assert asked == 50
                assert endpoint.statistics().pending == 50
            assert endpoint.statistics().pending == 0
            assert endpoint.statistics().cancelled == 50
            assert numbers.closed
            elapsed = sweep.progress
            await asyncio.sleep(1.0)
            assert sweep.progress == elapsed
            mixed: list[Any] = [(("server.example", 7), b"slow name"), ([(A, 7), (B, 7)], b"two"), ((A, 7), b"x" * 9)]
            async with endpoint.sweep(mixed) as sweep:
                await asyncio.sleep(0.1)
            assert endpoint.statistics().pending == endpoint.statistics().waiting == 0
            assert await endpoint.request((B, 7), b"as ever") == b"as ever"
            del scope
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("feed", FEEDS)
def test_break_and_an_error_of_the_callers_leave_nothing(feed: str) -> None:
    async def main() -> None:
        await serve(A)
        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
            numbers = Numbers()
            async with endpoint.sweep(numbers.feed(feed), in_flight=20) as sweep:
                async for outcome in sweep:
                    if outcome.tag == 100:
                        break
            assert numbers.closed
            numbers = Numbers()

            async def divide() -> None:
                async with endpoint.sweep(numbers.feed(feed), in_flight=20) as sweep:
                    async for outcome in sweep:
                        outcome.tag / (outcome.tag - 30)  # type: ignore[operator]

            with pytest.raises(ZeroDivisionError):
                await divide()
            assert numbers.closed
            assert endpoint.statistics().pending == 0
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("feed", FEEDS)
def test_what_the_iterable_raises_comes_last(feed: str) -> None:
    async def main() -> None:
        await serve(A, lambda server, data, addr: asyncio.get_running_loop().call_later(0.2, echo, server, data, addr))
        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
            numbers = Numbers(130, error=LookupError("no more"))
            outcomes, error = await cut_short(endpoint, numbers.feed(feed), in_flight=50)
            assert error is numbers.error
            assert sorted(outcome.tag for outcome in outcomes) == list(range(1, 131))  # type: ignore[type-var]
            assert all(outcome.reply is not None for outcome in outcomes)
            with pytest.raises(RuntimeError, match="StopIteration" if feed == "sync" else "Stop"):
                await swept(endpoint, Numbers(3, error=StopIteration("odd")).feed(feed))
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


class Odd:
    """An iterator that raises what ends iterations of the other kind."""

    def __iter__(self) -> Odd:
        return self

    def __next__(self) -> Any:
        raise StopAsyncIteration("odd")


class OddLater:
    def __aiter__(self) -> OddLater:
        return self

    async def __anext__(self) -> Any:
        raise asyncio.CancelledError("odd")


class Iterless:
    def __iter__(self) -> Any:
        raise LookupError("not now")


class AiterLess:
    def __aiter__(self) -> Any:
        raise LookupError("not now")


class AiterWrong:
    def __aiter__(self) -> Any:
        return 5


class Unhashable(str):
    __slots__ = ()

    @override
    def __hash__(self) -> int:
        raise LookupError("no hash")


def test_odd_addresses_fail_by_themselves() -> None:
    async def main() -> None:
        await serve(A)
        async with udpguard.open_endpoint() as endpoint:
            items = [((A, 7), b"1"), ((Unhashable(A), 7), b"2"), ((A, 7), b"3")]
            outcomes = sorted(await swept(endpoint, items), key=lambda outcome: outcome.data)
            assert [outcome.reply is not None for outcome in outcomes] == [True, False, True]
            assert isinstance(outcomes[1].error, LookupError)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


class Ending(RetryPolicy):
    """It ends the sweep, or closes the endpoint, when it is asked for the fifth schedule."""

    def __init__(self, what: str, then: type[Exception] | None) -> None:
        self.what = what
        self.then = then
        self.asked = 0
        self.sweep: udpguard.Sweep
        self.endpoint: udpguard.Endpoint

    @override
    def waits(self, peer: Any, random: Any) -> tuple[float, ...]:
        self.asked += 1
        if self.asked == 5 and self.what == "endpoint":
            self.endpoint.close()
        elif self.asked == 5:
            self.sweep._engine.end()
        if self.asked >= 5 and self.then is not None:
            raise self.then
        return (0.1, 0.1)


@pytest.mark.parametrize("key", [None, ASSIGNED])
@pytest.mark.parametrize("timeout", [None, 2.0])
@pytest.mark.parametrize("then", [None, LookupError])
@pytest.mark.parametrize("what", ["endpoint", "sweep"])
def test_a_policy_that_ends_it(what: str, then: type[Exception] | None, timeout: float | None, key: Any) -> None:
    async def main() -> None:
        await serve(A)
        endpoint = await udpguard.open_endpoint(correlate=key)
        policy = Ending(what, then)
        sweep = endpoint.sweep(Numbers(20).items(), in_flight=8, timeout=timeout, retry=policy)
        policy.sweep, policy.endpoint = sweep, endpoint
        outcomes = []
        with contextlib.suppress(udpguard.EndpointClosedError):
            async with sweep:
                outcomes += [outcome async for outcome in sweep]
        assert policy.asked >= 5
        assert sweep.progress.failed + sweep.progress.answered <= sweep.progress.asked
        assert len(outcomes) <= sweep.progress.asked
        assert sweep._engine.gate.free <= 8
        assert await at_rest(endpoint) == []
        endpoint.close()

    in_virtual_time(main)


@pytest.mark.parametrize("in_flight", [1, 100])
def test_an_iterable_that_takes_no_cancellation_is_left_all_the_same(in_flight: int) -> None:
    async def main() -> None:
        await serve(A)
        closed = []

        async def stubborn() -> AsyncIterator[Any]:
            try:
                while True:
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0.5)
                    yield (A, 7), b"again"
            finally:
                closed.append(True)

        async with udpguard.open_endpoint() as endpoint:
            async with endpoint.sweep(stubborn(), in_flight=in_flight) as sweep:
                assert (await anext(sweep)).reply is not None
            assert closed == [True]
            assert await at_rest(endpoint) == []

    in_virtual_time(lambda: asyncio.wait_for(main(), 5_000.0))


class Closing:
    """It closes the endpoint before it gives anything."""

    def __init__(self, endpoint: udpguard.Endpoint) -> None:
        self.endpoint = endpoint

    def __iter__(self) -> Any:
        self.endpoint.close()
        return Numbers(3).items()


class ClosingLater(Closing):
    __iter__ = None  # type: ignore[assignment]

    def __aiter__(self) -> Any:
        self.endpoint.close()
        return Numbers(3).items_later()


@pytest.mark.parametrize("kind", [Closing, ClosingLater])
def test_an_iterable_that_closes_the_endpoint_at_once(kind: type[Closing]) -> None:
    async def main() -> None:
        async with udpguard.open_endpoint() as endpoint:
            outcomes, error = await cut_short(endpoint, kind(endpoint))
            assert outcomes == []
            assert isinstance(error, udpguard.EndpointClosedError)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(main)


def test_who_looks_again_and_again_leaves_nothing_of_it() -> None:
    async def main() -> None:
        await serve(A, silent)
        async with udpguard.open_endpoint() as endpoint:
            async with endpoint.sweep(Numbers(1).items(), timeout=60.0) as sweep:
                for _ in range(20):
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(anext(sweep), 0.1)
                assert sweep._engine._waiters == []
                assert isinstance((await anext(sweep)).error, udpguard.ReplyTimeoutError)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_odd_iterables() -> None:
    async def main() -> None:
        async with udpguard.open_endpoint() as endpoint:
            with pytest.raises(RuntimeError, match="StopAsyncIteration"):
                await swept(endpoint, Odd())
            with pytest.raises(RuntimeError, match="CancelledError"):
                await swept(endpoint, OddLater())
            began = asyncio.get_running_loop().time()
            for odd, error in ((Iterless(), LookupError), (AiterLess(), LookupError), (AiterWrong(), TypeError)):
                with pytest.raises(error):
                    await asyncio.wait_for(swept(endpoint, odd), 5.0)
            assert asyncio.get_running_loop().time() == began
            for empty in ((), iter(()), Numbers(0).items(), Numbers(0).items_later(), {}):
                assert await swept(endpoint, empty) == []
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("wrong", [None, 5, "ab", b"ab", ("x",), ((A, 7), b"x", 1, 2), [(A, 7), b"x"]])
@pytest.mark.parametrize("feed", ["sync", "async"])
def test_an_item_that_is_none_is_the_callers_error(feed: str, wrong: Any) -> None:
    async def main() -> None:
        await serve(A)

        def items() -> Iterator[Any]:
            yield from Numbers(20).items()
            yield wrong
            yield from Numbers(20).items()

        async def items_later() -> AsyncIterator[Any]:
            for item in items():
                yield item

        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
            outcomes, error = await cut_short(endpoint, items() if feed == "sync" else items_later(), in_flight=5)
            assert isinstance(error, TypeError)
            assert "a sweep asks (addr, data)" in str(error)
            assert len(outcomes) >= 20
            assert all(outcome.reply is not None for outcome in outcomes)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_items_may_be_named_tuples() -> None:
    async def main() -> None:
        await serve(A)
        async with udpguard.open_endpoint() as endpoint:

            class Item(NamedTuple):
                addr: Any
                data: bytes
                tag: str

            (outcome,) = await swept(endpoint, [Item((A, 7), b"x", "tag")])
            assert outcome[:3] == ((A, 7), b"x", "tag")

    in_virtual_time(main)


@pytest.mark.parametrize("feed", FEEDS)
def test_closing_the_endpoint_ends_it(feed: str) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await serve(A, lambda server, data, addr: echo(server, data, addr) if data[3] % 2 else None)
        loop.network.name("server.example", A, delay=5.0)
        endpoint = await udpguard.open_endpoint(correlate=ASSIGNED)
        numbers = Numbers()
        sweep = endpoint.sweep(numbers.feed(feed), in_flight=20)
        async with sweep:
            await asyncio.sleep(0.5)
            endpoint.close()
            assert endpoint.is_closing()
            outcomes = [await anext(sweep) for _ in range(sweep.progress.asked)]
            with pytest.raises(udpguard.EndpointClosedError):
                await anext(sweep)
        assert numbers.closed
        closed = [outcome for outcome in outcomes if outcome.error is not None]
        assert closed
        assert all(isinstance(outcome.error, udpguard.EndpointClosedError) for outcome in closed)
        assert sweep.progress.asked == len(outcomes)
        await endpoint.wait_closed()
        with pytest.raises(udpguard.EndpointClosedError):
            await endpoint.sweep([]).__aenter__()
        assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("items", [[((A, 7), b"ab")], [(("server.example", 7), b"ab")], [([(A, 7)], b"ab")]])
def test_closing_fails_what_is_left_even_if_that_is_all(items: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await serve(A, silent)
        loop.network.name("server.example", A, delay=5.0)
        endpoint = await udpguard.open_endpoint()
        async with endpoint.sweep(items) as sweep:
            loop.call_later(0.1, endpoint.close)
            outcome = await anext(sweep)
            assert isinstance(outcome.error, udpguard.EndpointClosedError)
            with pytest.raises(udpguard.EndpointClosedError):
                await anext(sweep)
            with pytest.raises(StopAsyncIteration):
                await anext(sweep)
        await endpoint.wait_closed()
        endpoint = await udpguard.open_endpoint()
        async with endpoint.sweep([]) as sweep:
            assert [outcome async for outcome in sweep] == []
            endpoint.close()
            assert [outcome async for outcome in sweep] == []
        await endpoint.wait_closed()

    in_virtual_time(main)


class Closes(udpguard.Correlator):
    """Closes the endpoint where a question says so, and fails where another one does."""

    endpoint: udpguard.Endpoint

    def request_key(self, data: bytes) -> object:
        if data == b"close":
            self.endpoint.close()
        if data == b"raise":
            raise LookupError("no key")
        return data

    def reply_key(self, data: bytes) -> object:
        return data


class Compares(Closes):
    """Its keys close the endpoint when they are compared."""

    def request_key(self, data: bytes) -> object:
        return _Key(self)

    def reply_key(self, data: bytes) -> object:
        return None


class _Key:
    def __init__(self, owner: Closes) -> None:
        self.owner = owner

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        self.owner.endpoint.close()
        return False


def test_foreign_code_may_close_the_endpoint() -> None:
    async def main() -> None:
        await serve(A)
        closes, compares = Closes(), Compares()
        endpoint = closes.endpoint = await udpguard.open_endpoint(correlate=closes)
        outcomes = await swept(endpoint, [((A, 7), b"one"), ((A, 7), b"raise"), ((A, 7), b"two")])
        assert sorted(str(outcome.error) for outcome in outcomes) == ["None", "None", "no key"]
        told = await cut_short(endpoint, [((A, 7), b"one"), ((A, 7), b"close"), ((A, 7), b"two")])
        assert _closed(*told) == 3
        await endpoint.wait_closed()
        endpoint = compares.endpoint = await udpguard.open_endpoint(correlate=compares)
        assert _closed(*await cut_short(endpoint, [((A, 7), b"one"), ((A, 7), b"two")])) == 2
        await endpoint.wait_closed()
        endpoint = await udpguard.open_endpoint()

        def items() -> Iterator[Any]:
            yield (A, 7), b"one"
            endpoint.close()
            yield (A, 7), b"two"

        assert _closed(*await cut_short(endpoint, items())) == 2
        await endpoint.wait_closed()

    in_virtual_time(main)


def _closed(outcomes: list[udpguard.Outcome], error: BaseException | None) -> int:
    """How many items were failed by the end of the endpoint, which ended the sweep."""
    assert isinstance(error, udpguard.EndpointClosedError)
    assert all(isinstance(outcome.error, udpguard.EndpointClosedError) for outcome in outcomes)
    return len(outcomes)


def test_an_iterable_may_use_the_endpoint() -> None:
    async def main() -> None:
        await serve(A)
        tasks: list[asyncio.Task[bytes]] = []
        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:

            def items() -> Iterator[Any]:
                for number in range(30):
                    tasks.append(asyncio.ensure_future(endpoint.request((A, 7), b"ab%d" % number)))
                    endpoint.expect((B, 7), timeout=0.1)
                    yield (A, 7), b"cd%d" % number

            outcomes = await swept(endpoint, items(), in_flight=4)
            assert all(outcome.reply is not None and outcome.reply.data == outcome.data for outcome in outcomes)
            assert await asyncio.gather(*tasks) == [b"ab%d" % number for number in range(30)]
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_sweeps_go_on_beside_each_other() -> None:
    """And their clients': each has its own outcomes."""

    async def main() -> None:
        for host in (A, B):
            await serve(host)
        async with udpguard.open_endpoint() as endpoint:
            clients = [
                endpoint.client(correlate=ASSIGNED), endpoint.client(correlate=TransactionId(0, 4)), endpoint
            ]  # fmt: skip
            hosts = [(A, 7), (A, 7), (B, 7)]
            many = await asyncio.gather(
                *(
                    swept(client, Numbers(200, host).items(), in_flight=30)
                    for client, host in zip(clients, hosts, strict=True)
                )
            )
            for outcomes in many:
                assert sorted(outcome.tag for outcome in outcomes) == list(range(1, 201))  # type: ignore[type-var]
                assert all(outcome.reply is not None and outcome.reply.data == outcome.data for outcome in outcomes)
            assert await at_rest(endpoint, *clients[:2]) == []

    in_virtual_time(main)


def test_one_that_was_left_is_over_though_the_endpoint_was_closed_before() -> None:
    async def main() -> None:
        async with udpguard.open_endpoint() as endpoint:
            async with endpoint.sweep([(("192.0.2.1", 0), b"x")] * 3) as sweep:
                await anext(sweep)
                endpoint.close()
            with pytest.raises(RuntimeError, match="is over"):
                await anext(sweep)

    in_virtual_time(main)


def test_misuse_shows_the_right_line() -> None:
    async def main() -> None:
        async with udpguard.open_endpoint() as endpoint:
            sweep = endpoint.sweep([])
            assert sweep.progress == Progress(0, 0, 0, 0, 0.0, 0.0)
            with pytest.raises(RuntimeError, match=r"async with endpoint\.sweep"):
                await anext(sweep)
            async with sweep:
                with pytest.raises(RuntimeError, match="runs once"):
                    await sweep.__aenter__()
            with pytest.raises(RuntimeError, match="runs once"):
                async with sweep:
                    pass
            with pytest.raises(RuntimeError, match="is over"):
                await anext(sweep)
            wrong: list[tuple[type[Exception], dict[str, Any]]] = [
                (TypeError, {"requests": 5}), (TypeError, {"requests": None}),
                (ValueError, {"in_flight": 0}), (TypeError, {"in_flight": 1.5}), (TypeError, {"in_flight": None}),
                (ValueError, {"rate": 0}), (ValueError, {"rate": -1.0}), (ValueError, {"rate": float("nan")}),
                (ValueError, {"rate": float("inf")}), (TypeError, {"rate": "fast"}), (TypeError, {"rate": True}),
                (ValueError, {"timeout": 0}), (TypeError, {"timeout": "1"}), (TypeError, {"retry": 3}),
                (ValueError, {"reply_from": "nowhere"}), (ValueError, {"reply_from": "anywhere"}),
                (TypeError, {"accept": 5}),
            ]  # fmt: skip
            for kind, arguments in wrong:
                with pytest.raises(kind):
                    endpoint.sweep(**{"requests": [], **arguments})

    in_virtual_time(main)


def test_progress_tells_how_far_it_has_got() -> None:
    async def main() -> None:
        await serve(A)
        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
            requests = [*Numbers(30).items(), ((B, 7), b"x"), (None, b"x")]
            async with endpoint.sweep(requests, timeout=1.0, retry=Retry(attempts=2, initial=0.25)) as sweep:
                await asyncio.sleep(0.01)
                assert sweep.progress[:4] == (32, 0, 1, 0)
                await asyncio.sleep(0.09)
                assert sweep.progress[:4] == (32, 30, 1, 0)
                assert sweep.progress.elapsed == pytest.approx(0.1)
                assert sweep.progress.rate == pytest.approx(310.0)
                await asyncio.sleep(2.0)
                assert sweep.progress[:4] == (32, 30, 2, 1)
                assert sweep.progress.elapsed == pytest.approx(1.0, abs=0.01)

    in_virtual_time(main)


def test_what_is_over_is_forgotten_at_once() -> None:
    """Nothing of an exchange waits for the garbage collector."""

    async def main() -> None:
        await serve(A)
        kinds = ("SweptQuestion", "Outcome", "SweptExchange", "Ticket", "Engine", "Again")

        def alive() -> dict[str, int]:
            names = [type(one).__name__ for one in gc.get_objects()]
            return {kind: names.count(kind) for kind in kinds if kind in names}

        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
            gc.collect()
            gc.disable()
            try:
                most = 0
                async with endpoint.sweep(Numbers(5_000).items(), in_flight=50) as sweep:
                    async for outcome in sweep:
                        if outcome.tag % 500 == 0:  # type: ignore[operator]
                            most = max(most, alive()["SweptQuestion"])
                assert most <= 50 * 5 + 128
                del outcome, sweep
                endpoint.sweep([((A, 7), b"")])
                await asyncio.sleep(100.0)
                assert alive() == {}
            finally:
                gc.enable()

    in_virtual_time(main)
