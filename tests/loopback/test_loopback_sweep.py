"""Sweeps over real sockets; `tests/sweeps` has what needs none."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from loopback_kit import SOON, BlockingBackend, Crowd, Server, closed_port, echo, opened, plain_socket, stall, until

import udpguard
from udpguard import Limits, Ports, Retry, TransactionId

KEYS = {"keyless": None, "keyed": TransactionId(0, 4), "assigned": TransactionId(0, 2, assign=True)}
linux_crowd = pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127/8")
linux = pytest.mark.skipif(
    sys.platform != "linux" or os.environ.get("UDPGUARD_BACKEND") == "portable", reason="Linux's fast path alone"
)


def numbered(count: int, hosts: list[str], port: int) -> Iterator[tuple[Any, bytes, int]]:
    for number, host in zip(range(count), itertools.cycle(hosts), strict=False):
        yield (host, port), number.to_bytes(4, "big") + b" question", number


def crowd_of(count: int) -> list[str]:
    return [f"127.5.{number // 250}.{number % 250 + 1}" for number in range(count)]


async def read(endpoint: udpguard.Client, requests: Any, **more: Any) -> list[udpguard.Outcome]:
    async with asyncio.timeout(SOON), endpoint.sweep(requests, **more) as sweep:
        return [outcome async for outcome in sweep]


def assert_all_answered(outcomes: list[udpguard.Outcome], count: int) -> None:
    assert sorted(outcome.tag for outcome in outcomes) == list(range(count))  # type: ignore[type-var]
    for outcome in outcomes:
        assert outcome.error is None, outcome
        assert outcome.reply is not None
        assert outcome.reply.data == outcome.data
        assert outcome.reply.peer == outcome.addr
        assert outcome.reply.rtt is not None
        assert 0 <= outcome.reply.rtt < SOON


@pytest.mark.parametrize("pool", [1, 4])
@pytest.mark.parametrize("key", KEYS)
@linux_crowd
async def test_many_servers(key: str, pool: int) -> None:
    with Crowd() as crowd:
        async with opened(correlate=KEYS[key], ports=Ports(pool=pool), timeout=SOON) as endpoint:
            outcomes = await read(endpoint, numbered(2_000, crowd_of(300), crowd.port), in_flight=100)
            assert_all_answered(outcomes, 2_000)
            assert endpoint.statistics().sent == 2_000


@pytest.mark.parametrize("key", ["keyed", "assigned"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_many_questions_for_one_server(host: str, key: str) -> None:
    async with Server(echo, host) as server, opened(correlate=KEYS[key], timeout=SOON) as endpoint:
        outcomes = await read(endpoint, numbered(2_000, [host], server.port), in_flight=50)
        assert_all_answered(outcomes, 2_000)


async def test_from_an_asynchronous_iterable() -> None:
    async def later(items: Any) -> AsyncIterator[Any]:
        for number, item in enumerate(items):
            if number % 50 == 0:
                await asyncio.sleep(0)
            yield item

    async with Server(echo) as server, opened(correlate=KEYS["assigned"], timeout=SOON) as endpoint:
        outcomes = await read(endpoint, later(numbered(500, ["127.0.0.1"], server.port)), in_flight=20)
        assert_all_answered(outcomes, 500)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("mode", ["on", "auto"])
@linux_crowd
async def test_the_socket_filter_lets_a_sweeps_answers_in(mode: Any, key: str) -> None:
    """Also while a flood rages, and to peers that were never asked before."""
    with Crowd() as crowd, plain_socket() as flooder:
        async with opened(correlate=KEYS[key], kernel_filter=mode, timeout=SOON) as endpoint:
            stop = threading.Event()

            def flood() -> None:
                while not stop.is_set():
                    for _ in range(50):
                        flooder.sendto(b"junk", ("127.0.0.1", endpoint.local_addr.port))
                    stop.wait(0.001)

            thread = threading.Thread(target=flood)
            thread.start()
            try:
                retry = Retry(attempts=10, initial=0.2)
                outcomes = await read(endpoint, numbered(3_000, crowd_of(1_500), crowd.port), in_flight=60, retry=retry)
            finally:
                stop.set()
                thread.join()
            assert sorted(outcome.tag for outcome in outcomes if outcome.reply) == list(range(3_000))  # type: ignore[type-var]


@linux
async def test_a_dead_server_is_told_at_once_and_costs_the_others_nothing() -> None:
    dead = closed_port()
    async with Server(echo) as server, opened(correlate=KEYS["assigned"], timeout=SOON) as endpoint:
        items = list(numbered(400, ["127.0.0.1"], server.port))
        items[::10] = [(dead, data, tag) for _, data, tag in items[::10]]
        outcomes = await read(endpoint, items, in_flight=20)
        refused = sorted(outcome.tag for outcome in outcomes if isinstance(outcome.error, udpguard.PeerRefusedError))  # type: ignore[type-var]
        assert refused == list(range(0, 400, 10))
        assert sum(outcome.reply is not None for outcome in outcomes) == 360


async def test_where_the_socket_takes_nothing_for_a_while() -> None:
    async with Server(echo) as server, opened(correlate=KEYS["assigned"], timeout=SOON) as endpoint:
        backend = BlockingBackend(endpoint)
        backend.allowed = 3
        sweep = endpoint.sweep(numbered(40, ["127.0.0.1"], server.port), in_flight=10, retry=Retry(initial=5.0))
        async with asyncio.timeout(SOON), sweep:
            await until(lambda: len(server.got) >= 3)
            assert backend.refused
            backend.allowed = 1_000
            outcomes = [outcome async for outcome in sweep]
        assert sorted(outcome.tag for outcome in outcomes if outcome.reply) == list(range(40))  # type: ignore[type-var]


async def test_what_the_system_refuses_fails_its_own_item() -> None:
    async with Server(echo) as server, opened(correlate=KEYS["assigned"], timeout=SOON) as endpoint:
        backend = BlockingBackend(endpoint)
        backend.error = OSError(101, "Network is unreachable")
        outcomes = await read(endpoint, numbered(3, ["127.0.0.1"], server.port))
        assert [type(outcome.error) for outcome in outcomes] == [udpguard.PeerUnreachableError] * 3
        assert endpoint.statistics().unreachable == 3
        backend.error, backend.allowed = None, 100
        assert_all_answered(await read(endpoint, numbered(3, ["127.0.0.1"], server.port)), 3)


@linux_crowd
async def test_a_blocked_loop_loses_no_answer() -> None:
    """What has come before the deadline is in time, however late it is read."""
    with Crowd() as crowd:
        async with opened(correlate=KEYS["assigned"]) as endpoint:
            sweep = endpoint.sweep(numbered(60, ["127.0.0.1"], crowd.port), timeout=1.0)
            async with sweep:
                await until(lambda: endpoint.statistics().sent)
                stall(1.1)
                assert_all_answered([outcome async for outcome in sweep], 60)


async def test_the_rate_is_never_exceeded() -> None:
    async with Server(echo) as server, opened(correlate=KEYS["assigned"], timeout=SOON) as endpoint:
        began = time.monotonic()
        outcomes = await read(endpoint, numbered(600, ["127.0.0.1"], server.port), rate=2_000)
        assert time.monotonic() - began >= (600 - 4) / 2_000
        assert_all_answered(outcomes, 600)


async def test_small_limits() -> None:
    limits = Limits(pending=7)
    async with Server(echo) as server, opened(correlate=KEYS["assigned"], limits=limits, timeout=SOON) as endpoint:
        assert_all_answered(await read(endpoint, numbered(300, ["127.0.0.1"], server.port)), 300)


async def test_requests_go_on_beside_a_sweep() -> None:
    async with Server(echo) as server, opened(correlate=KEYS["assigned"], timeout=SOON) as endpoint:

        async def ask() -> None:
            for number in range(200):
                data = b"ab request %d" % number
                assert await endpoint.request(server.addr, data) == data

        outcomes, *_ = await asyncio.gather(
            read(endpoint, numbered(2_000, ["127.0.0.1"], server.port), in_flight=30), *(ask() for _ in range(5))
        )
        assert_all_answered(outcomes, 2_000)


@pytest.mark.parametrize("addr", [None, "127.0.0.1", ["127.0.0.1", 7], ("127.0.0.1", 7.0), 7, ()])
async def test_whatever_comes_first_is_no_address_but_an_outcome(addr: Any) -> None:
    async with Server(echo) as server, opened(correlate=TransactionId(0, 4)) as endpoint:
        outcomes = await read(endpoint, [(addr, b"0000"), (addr, b"0001"), (server.addr, b"0002"), (addr, b"0003")])
        assert sum(isinstance(outcome.error, udpguard.InvalidAddressError) for outcome in outcomes) == 3
        assert [outcome.reply.data for outcome in outcomes if outcome.reply is not None] == [b"0002"]


async def test_a_mistake_of_ours_ends_it_and_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def breaks(*_: object) -> None:
        raise ArithmeticError("not foreseen")

    async with Server() as server, opened() as endpoint:
        async with endpoint.sweep([(server.addr, b"x")] * 3, in_flight=1) as sweep:
            waiting = asyncio.ensure_future(anext(sweep))
            await server.next()
            monkeypatch.setattr("udpguard._sweep.ask_many", breaks)
            server.send(b"y", server.got[0][1])
            assert (await waiting).reply is not None
            with pytest.raises(ArithmeticError):
                await anext(sweep)
        assert told


async def test_it_shows_how_far_it_has_got() -> None:
    async with Server(echo) as server, opened(correlate=KEYS["keyed"]) as endpoint:
        sweep = endpoint.sweep(numbered(3, ["127.0.0.1"], server.port))
        assert repr(sweep) == "<udpguard.Sweep: 0 asked, 0 answered, 0 failed>"
        async with sweep:
            assert len([outcome async for outcome in sweep]) == 3
        assert repr(sweep) == "<udpguard.Sweep: 3 asked, 3 answered, 0 failed>"
