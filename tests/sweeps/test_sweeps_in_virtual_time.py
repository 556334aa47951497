"""Sweeps in a simulated network: what is asked when, and what becomes of each item."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sweep_kit import Server, at_rest, echo, in_virtual_time, serve, silent, swept
from typing_extensions import override

import udpguard
from udpguard import AdaptiveRetry, Limits, Ports, Retry, RetryPolicy, TransactionId

A, B = "192.0.2.1", "192.0.2.2"
ASSIGNED = TransactionId(0, 2, assign=True)
KEYS = {"keyless": None, "keyed": TransactionId(0, 4), "assigned": ASSIGNED, "foreign": None}


class Word(udpguard.Correlator):
    """A correlator of a user's."""

    @override
    def request_key(self, data: bytes) -> object:
        return data[:4]

    @override
    def reply_key(self, data: bytes) -> object:
        return data[:4]


KEYS["foreign"] = Word()


def numbered(count: int, addr: Any = (A, 7), begin: int = 0) -> Iterator[tuple[Any, bytes, int]]:
    for number in range(begin, begin + count):
        yield addr, number.to_bytes(4, "big") + b" question", number


@pytest.mark.parametrize("feed", ["list", "generator", "async"])
@pytest.mark.parametrize("in_flight", [1, 3, 64, 1000])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("pool", [1, 3])
def test_every_item_has_its_own_answer(pool: int, key: str, in_flight: int, feed: str) -> None:
    async def main() -> None:
        servers = [await serve(host) for host in (A, B, "2001:db8::1")]
        items = [
            ((host, 7), number.to_bytes(4, "big") + b" question", number)
            for number, host in zip(range(300), itertools.cycle([A, B, "2001:db8::1"]), strict=False)
        ]

        async def one_by_one() -> AsyncIterator[Any]:
            for number, item in enumerate(items):
                if number % 7 == 0:
                    await asyncio.sleep(0.001)
                yield item

        requests = {"list": items, "generator": (item for item in items), "async": one_by_one()}[feed]
        async with udpguard.open_endpoint(correlate=KEYS[key], ports=Ports(pool=pool)) as endpoint:
            outcomes = await swept(endpoint, requests, in_flight=in_flight)
            assert sorted(outcome[:3] for outcome in outcomes) == sorted(items)
            for outcome in outcomes:
                assert outcome.reply is not None
                assert outcome.reply.data == outcome.data
                assert outcome.reply.peer == outcome.addr
                assert outcome.reply.attempts == 1
                assert outcome.reply.rtt == pytest.approx(0.02)
            assert sum(len(server.heard) for server in servers) == len(items)
            statistics = endpoint.statistics()
            assert (statistics.sent, statistics.matched) == (300, 300)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_the_clock_starts_when_a_question_is_first_sent() -> None:
    async def main() -> None:
        await serve(A, silent)
        async with udpguard.open_endpoint() as endpoint:
            began = asyncio.get_running_loop().time()
            ends = []
            async with endpoint.sweep(numbered(4), timeout=1.5) as sweep:
                async for outcome in sweep:
                    ends.append(asyncio.get_running_loop().time() - began)
                    assert isinstance(outcome.error, udpguard.ReplyTimeoutError)
                    assert (outcome.error.timeout, outcome.error.attempts, outcome.error.peer) == (1.5, 1, (A, 7))
            assert ends == pytest.approx([1.5, 3.0, 4.5, 6.0], abs=0.002)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_a_silent_server_holds_up_nobody_else() -> None:
    """Not while fewer than `in_flight` of its items wait for its turn."""

    async def main() -> None:
        await serve(A, silent)
        await serve(B)
        items = [
            item for pair in zip(numbered(9), numbered(9, (B, 7), 100), strict=True) for item in pair
        ] + [*numbered(50, (B, 7), 200)]  # fmt: skip
        async with udpguard.open_endpoint() as endpoint:
            loop = asyncio.get_running_loop()
            began = loop.time()
            last: dict[str, float] = {}
            async with endpoint.sweep(items, timeout=1.0, in_flight=10) as sweep:
                async for outcome in sweep:
                    last[outcome.addr[0]] = loop.time() - began  # type: ignore[index]
            assert last[B] < 1.5
            assert last[A] == pytest.approx(9.0, abs=0.01)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


# ----------------------------------------------------------------------------------------------- retransmission


class Twice(RetryPolicy):
    @override
    def waits(self, peer: Any, random: Any) -> tuple[float, ...]:
        return (0.3, 0.4)


POLICIES = {
    "fixed": (Retry(attempts=3, initial=0.5, jitter=0.0), [0, 0.5, 1.5], 3.5),
    "final wait": (Retry(attempts=3, initial=0.5, jitter=0.0, final_wait=0.25), [0, 0.5, 1.5], 1.75),
    "total": (Retry(attempts=3, initial=0.5, jitter=0.0, total=2.0), [0, 0.5, 1.5], 2.0),
    "once": (Retry(attempts=1, initial=0.5, jitter=0.0), [0], 0.5),
    "stun": (Retry.stun(), [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5], 39.5),
    "adaptive": (AdaptiveRetry(attempts=3), [0, 1.0, 3.0], 7.0),
    "of one's own": (Twice(), [0, 0.3], 0.7),
}


@pytest.mark.parametrize("timeout", [None, 1.2])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("policy", POLICIES)
def test_unanswered_questions_are_sent_again_as_the_schedule_says(policy: str, key: str, timeout: float | None) -> None:
    schedule, times, end = POLICIES[policy]
    if timeout is not None:
        times, end = [at for at in times if at < timeout], timeout

    async def main() -> None:
        server = await serve(A, silent)
        loop = asyncio.get_running_loop()
        async with udpguard.open_endpoint(correlate=KEYS[key]) as endpoint:
            began = loop.time()
            more = {} if timeout is None else {"timeout": timeout}
            (outcome,) = await swept(endpoint, numbered(1), retry=schedule, **more)
            assert loop.time() - began == pytest.approx(end, abs=0.002)
            assert [at - began - 0.01 for at in server.times] == pytest.approx(times, abs=0.002)
            assert len(set(server.data)) == 1
            assert isinstance(outcome.error, udpguard.ReplyTimeoutError)
            assert outcome.error.attempts == len(times)
            assert outcome.error.timeout == pytest.approx(end)
            statistics = endpoint.statistics()
            assert (statistics.sent, statistics.retransmitted) == (len(times), len(times) - 1)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("key", KEYS)
def test_an_answer_to_any_attempt_settles_it(key: str) -> None:
    async def main() -> None:
        heard = Counter[bytes]()

        def third(server: Server, data: bytes, addr: Any) -> None:
            heard[data] += 1
            if heard[data] == 3:
                server.transport.sendto(data, addr)

        hosts = [f"192.0.2.{number}" for number in range(1, 41)]
        for host in hosts:
            await serve(host, third)
        async with udpguard.open_endpoint(correlate=KEYS[key]) as endpoint:
            items = [((host, 7), number.to_bytes(4, "big") + b" what", number) for number, host in enumerate(hosts)]
            async with endpoint.sweep(items, retry=Retry(attempts=4, initial=0.5)) as sweep:
                outcomes = [outcome async for outcome in sweep]
                assert sweep.progress.retransmitted == 80
            assert {outcome.tag for outcome in outcomes} == set(range(40))
            for outcome in outcomes:
                assert outcome.reply is not None
                assert outcome.reply[1:] == (outcome.addr, None, 3)
                assert outcome.reply.data == outcome.data
            assert endpoint.peer_statistics((A, 7)).srtt is None  # type: ignore[union-attr]
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_each_wait_has_its_own_jitter() -> None:
    async def main() -> None:
        servers = [await serve(f"192.0.2.{number}", silent) for number in range(1, 30)]
        async with udpguard.open_endpoint() as endpoint:
            items = [((f"192.0.2.{number}", 7), b"x") for number in range(1, 30)]
            await swept(endpoint, items, retry=Retry(attempts=3, initial=1.0, jitter=0.2))
        waits = [after - before for server in servers for before, after in itertools.pairwise(server.times)]
        firsts, seconds = waits[::2], waits[1::2]
        for nominal, drawn in ((1.0, firsts), (2.0, seconds)):
            assert len({round(wait, 6) for wait in drawn}) == len(drawn)
            assert min(drawn) < nominal * 0.9 < nominal * 1.1 < max(drawn)
            assert nominal * 0.8 <= min(drawn) <= max(drawn) <= nominal * 1.2

    in_virtual_time(main)


def test_an_adaptive_schedule_follows_each_peer() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        near, far = await serve(A), await serve(B)
        loop.network.link(loop.network.client, B, delay=0.2)
        policy = AdaptiveRetry(attempts=2, minimum=0.05)
        async with udpguard.open_endpoint() as endpoint:
            await swept(endpoint, [((host, 7), b"x") for host in (A, B) for _ in range(20)], retry=policy)
            near.handler = far.handler = silent
            near.heard.clear(), far.heard.clear()
            await swept(endpoint, [((host, 7), b"x") for host in (A, B)], retry=policy)
        assert near.times[1] - near.times[0] == pytest.approx(0.05, abs=0.01)
        assert 0.4 <= far.times[1] - far.times[0] < 0.6

    in_virtual_time(main)


class Broken(RetryPolicy):
    def __init__(self, *waits: Any) -> None:
        self._waits = waits

    @override
    def waits(self, peer: Any, random: Any) -> Any:
        if not self._waits:
            raise LookupError("no idea")
        return self._waits


@pytest.mark.parametrize(
    ("policy", "error"), [(Broken(), LookupError), (Broken(-1.0), ValueError), (Broken(0.0), ValueError)]
)
@pytest.mark.parametrize("host", [A, "a.example"])
def test_a_schedule_that_is_none_fails_its_item(host: str, policy: RetryPolicy, error: type[Exception]) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        server = await serve(A)
        loop.network.name("a.example", A)
        async with udpguard.open_endpoint() as endpoint:
            outcomes = await swept(endpoint, [((host, 7), b"x")] * 3, retry=policy)
            assert [type(outcome.error) for outcome in outcomes] == [error] * 3
            assert not server.heard
            assert await endpoint.request((A, 7), b"y") == b"y"
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("seed", range(3))
def test_through_loss_each_item_has_one_outcome(key: str, seed: int) -> None:
    async def main() -> None:
        hosts = [f"192.0.2.{number}" for number in range(1, 21)]
        for host in hosts:
            await serve(host)
        items = [
            ((host, 7), number.to_bytes(4, "big") + b" what", number)
            for number, host in zip(range(1_000), itertools.cycle(hosts), strict=False)
        ]
        async with udpguard.open_endpoint(correlate=KEYS[key]) as endpoint:
            outcomes = await swept(endpoint, items, retry=Retry(attempts=6, initial=0.2), in_flight=100)
            assert sorted(outcome.tag for outcome in outcomes) == list(range(1_000))  # type: ignore[type-var]
            for outcome in outcomes:
                if outcome.reply is not None:
                    assert outcome.reply.data == outcome.data
            assert sum(outcome.reply is not None for outcome in outcomes) > 950
            assert await at_rest(endpoint) == []

    # What has no key, and is not asked from a port of its own, may take what the network duplicates for its own.
    in_virtual_time(main, seed, loss=0.3, duplicate=0.0 if key == "keyless" else 0.1, reorder=0.2)


# ---------------------------------------------------------------------------------------------------------- the rate


@pytest.mark.parametrize("in_flight", [20, 1_000])
@pytest.mark.parametrize("rate", [50, 500, 1_500, 10_000, 50_000])
def test_the_rate_is_kept_and_never_exceeded(rate: int, in_flight: int) -> None:
    """With retransmissions, and items that go the long way; in bursts of a millisecond's worth at the most."""
    count = max(60, min(rate, 2_000))

    async def main() -> list[float]:
        left: list[float] = []

        def note(server: Server, data: bytes, addr: Any) -> None:
            left.append(asyncio.get_running_loop().time())
            if data[3] % 4:
                server.transport.sendto(data, addr)

        hosts = [f"192.0.2.{number}" for number in range(1, 41)]
        for host in hosts:
            await serve(host, note)
        items = [
            ([(host, 7)] if number % 5 == 0 else (host, 7), number.to_bytes(4, "big"), number)
            for number, host in zip(range(count), itertools.cycle(hosts), strict=False)
        ]
        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
            retry = Retry(attempts=2, initial=0.05, final_wait=0.2)
            outcomes = await swept(endpoint, items, rate=rate, retry=retry, in_flight=in_flight)
            assert len(outcomes) == count
            assert endpoint.statistics().retransmitted > 0
            assert await at_rest(endpoint) == []
        return left

    left = in_virtual_time(main, delay=0.01)
    burst = max(1, rate // 1_000)
    assert max(Counter(round(at, 9) for at in left).values()) <= burst
    for span in (10, 40, 200, len(left) - 1):
        assert all((span - burst) / rate <= left[at + span] - left[at] + 1e-6 for at in range(0, len(left) - span, 7))
    if in_flight == 1_000:
        asked = len(left) / rate
        assert left[-1] - left[0] <= max(asked * 1.02, asked + 0.002) + 0.06  # the last are sent again a while later


# --------------------------------------------------------------------------------------------------- in the way


def test_while_all_ids_are_in_use_items_wait() -> None:
    async def main() -> None:
        server = await serve(A)
        loop: Any = asyncio.get_running_loop()
        async with udpguard.open_endpoint(correlate=TransactionId(0, 1, assign=True)) as endpoint:
            began = loop.time()
            outcomes = await swept(endpoint, numbered(1_000), in_flight=1_000, timeout=1.0)
            assert all(outcome.reply is not None and outcome.reply.data == outcome.data for outcome in outcomes)
            assert max(Counter(server.times).values()) <= 256
            assert loop.time() - began < 0.2
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_few_may_be_pending() -> None:
    async def main() -> None:
        for host in (A, B):
            await serve(host)
        async with udpguard.open_endpoint(correlate=ASSIGNED, limits=Limits(pending=5)) as endpoint:
            items = [*numbered(40), *numbered(40, (B, 7), 40)]
            outcomes = await swept(endpoint, items, in_flight=30)
            assert sorted(outcome.tag for outcome in outcomes if outcome.reply) == list(range(80))  # type: ignore[type-var]
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_few_may_be_in_flight_to_one_peer() -> None:
    async def main() -> None:
        server = await serve(A)
        async with udpguard.open_endpoint(correlate=ASSIGNED, limits=Limits(in_flight_per_peer=3)) as endpoint:
            outcomes = await swept(endpoint, numbered(30), in_flight=10)
            assert all(outcome.reply is not None for outcome in outcomes)
            assert max(Counter(round(at, 6) for at in server.times).values()) == 3
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("key", ["keyless", "assigned"])
def test_while_the_socket_is_busy_items_wait(key: str) -> None:
    async def main() -> None:
        hosts = [f"192.0.2.{number}" for number in range(1, 31)]
        for host in hosts:
            await serve(host)
        loop: Any = asyncio.get_running_loop()
        loop.network.client.limit_sending(2, 50.0)
        items = [((host, 7), number.to_bytes(4, "big"), number) for number, host in enumerate(hosts * 2)]
        async with udpguard.open_endpoint(correlate=KEYS[key]) as endpoint:
            retry = Retry(attempts=3, initial=0.3, jitter=0.0)
            outcomes = await swept(endpoint, items, in_flight=20, retry=retry)
            assert sorted(outcome.tag for outcome in outcomes if outcome.reply) == list(range(60))  # type: ignore[type-var]
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_whatever_a_request_takes_an_item_takes() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await serve(A)
        await serve(B, silent)
        await serve("192.0.2.3", lambda server, data, addr: elsewhere.transport.sendto(data, addr))
        elsewhere = await serve("192.0.2.3", port=8)
        loop.network.name("server.example", A, delay=0.05)
        asked: list[int] = []

        def made(attempt: int) -> bytes:
            asked.append(attempt)
            return b"made %d" % attempt

        items: list[Any] = [
            (("server.example", 7), b"a name", "name"),
            (("nowhere.example", 7), b"none", "no name"),
            ([(B, 7), (A, 7)], b"servers", "list"),
            ((A, 7), made, "function"),
            ((A, 7), bytearray(b"buffer"), "buffer"),
            ((A, 7, 0, 0), b"a long tuple", "long"),
            (udpguard.Peer(A, 7), b"a peer", "peer"),
        ]  # fmt: skip
        async with udpguard.open_endpoint(timeout=2.0) as endpoint:
            outcomes = {outcome.tag: outcome for outcome in await swept(endpoint, items)}
            assert isinstance(outcomes.pop("no name").error, socket.gaierror)
            told = {tag: outcome.reply.data for tag, outcome in outcomes.items() if outcome.reply is not None}
            assert told == {
                "name": b"a name", "list": b"servers", "function": b"made 0", "buffer": b"buffer", "peer": b"a peer",
                "long": b"a long tuple",
            }  # fmt: skip
            assert set(asked) == {0}
            (outcome,) = await swept(endpoint, [(("192.0.2.3", 7), b"moved")], reply_from="host")
            assert outcome.reply is not None
            assert outcome.reply.peer == ("192.0.2.3", 8)
            (refused,) = await swept(endpoint, [((A, 7), b"refused")], accept=lambda reply: False)
            assert "accept refused" in str(refused.error)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_what_makes_no_sense_fails_by_itself() -> None:
    async def main() -> None:
        await serve(A)
        wrong: list[Any] = [
            (("192.0.2.1", 70_000), b"x"), (("192.0.2.1", "7"), b"x"), ("192.0.2.1:7", b"x"), (None, b"x"), ([], b"x"),
            (("239.0.0.1", 7), b"x"), (("255.255.255.255", 7), b"x"), (("0.0.0.0", 7), b"x"), ((A, True), b"x"),
            ((A, 7), "text"), ((A, 7), None), ((A, 7), bytes(65_508)), ({}, {}), ((A, [7]), b"x"), (([A], 7), b"x"),
        ]  # fmt: skip
        items = [item for each, right in zip(wrong, numbered(99), strict=False) for item in (each, right)]
        async with udpguard.open_endpoint() as endpoint:
            outcomes = await swept(endpoint, items, in_flight=3)
            right = [outcome for outcome in outcomes if outcome.reply is not None]
            assert [outcome.tag for outcome in right] == list(range(len(wrong)))
            failed = [outcome for outcome in outcomes if outcome.error is not None]
            assert [outcome[:2] for outcome in failed] == wrong
            for outcome in failed:
                assert isinstance(outcome.error, (udpguard.UdpGuardError, TypeError)), outcome
            assert endpoint.statistics().sent == len(wrong)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_two_items_with_one_key() -> None:
    async def main() -> None:
        await serve(A)
        async with udpguard.open_endpoint(correlate=TransactionId(0, 2)) as endpoint:
            outcomes = await swept(endpoint, [((A, 7), b"ab one"), ((A, 7), b"ab two"), ((A, 7), b"cd")])
            errors = {outcome.data: type(outcome.error) for outcome in outcomes if outcome.error}
            assert errors == {b"ab two": udpguard.DuplicateTransactionError}
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_a_dead_server_is_told_at_once() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.network.host(A)
        await serve(B)
        async with udpguard.open_endpoint(correlate=ASSIGNED) as endpoint:
            items = [*numbered(20), *numbered(20, (B, 7), 20)]
            began = loop.time()
            outcomes = await swept(endpoint, items, timeout=5.0, retry=Retry(initial=0.01))
            assert loop.time() - began < 0.2
            refused = [outcome.tag for outcome in outcomes if isinstance(outcome.error, udpguard.PeerRefusedError)]
            assert sorted(refused) == list(range(20))  # type: ignore[type-var]
            assert endpoint.statistics().refused == 20
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_what_looks_forged_ends_the_item() -> None:
    async def main() -> None:
        def forge(server: Server, data: bytes, addr: Any) -> None:
            for number in range(5):
                server.transport.sendto(bytes([data[0] ^ (number + 1), data[1]]) + data[2:], addr)

        await serve(A, forge)
        async with udpguard.open_endpoint(correlate=ASSIGNED, limits=Limits(near_misses=3)) as endpoint:
            (outcome,) = await swept(endpoint, numbered(1))
            assert isinstance(outcome.error, udpguard.ForgerySuspectedError)
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


def test_late_answers_reach_nobody() -> None:
    """Keyless items to a peer whose old answers may still come leave from other ports."""

    async def main() -> None:
        def late(server: Server, data: bytes, addr: Any) -> None:
            asyncio.get_running_loop().call_later(0.25, server.transport.sendto, data, addr)

        for number in range(1, 11):
            await serve(f"192.0.2.{number}", late)
        items = [((f"192.0.2.{number % 10 + 1}", 7), number.to_bytes(4, "big"), number) for number in range(60)]
        async with udpguard.open_endpoint() as endpoint:
            outcomes = await swept(endpoint, items, timeout=0.2, in_flight=20)
            assert all(outcome.error is not None for outcome in outcomes)
            outcomes = await swept(endpoint, items, timeout=1.0, in_flight=20)
            assert all(outcome.reply is not None and outcome.reply.data == outcome.data for outcome in outcomes)
            assert endpoint.statistics().late + endpoint.statistics().rejected == 60
            assert await at_rest(endpoint) == []

    in_virtual_time(main)


@pytest.mark.parametrize("retry", [None, Retry(attempts=2, initial=0.3, jitter=0.0)])
def test_silence_is_explained_as_ever(retry: Retry | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way to say it says the same as the long one."""

    async def main() -> None:
        for port in (7, 8, 9):
            await serve(A, silent, port)
        async with udpguard.open_endpoint() as endpoint:
            more: dict[str, Any] = {"timeout": 0.25} if retry is None else {"retry": retry}
            (short,) = await swept(endpoint, [((A, 7), b"x")], **more)
            with pytest.raises(udpguard.ReplyTimeoutError) as asked:
                await endpoint.request((A, 8), b"x", **more)
            monkeypatch.setattr(endpoint._guard.registry, "is_quiet", lambda *_: False)
            (long,) = await swept(endpoint, [((A, 9), b"x")], **more)
            told = [
                str(error).replace(":8 ", ":7 ").replace(":9 ", ":7 ")
                for error in (short.error, asked.value, long.error)
            ]
            assert len(set(told)) == 1, told
            fields = [
                (round(error.timeout, 6), error.attempts, error.near_misses, error.icmp, error.peer[0])
                for error in (short.error, asked.value, long.error)
            ]  # type: ignore[union-attr]
            assert len(set(fields)) == 1, fields

    in_virtual_time(main)


def test_strangers_are_told_of_a_sweeps_time_outs_too() -> None:
    async def main() -> None:
        other = await serve(B)
        await serve(A, lambda server, data, addr: other.transport.sendto(data, addr))
        async with udpguard.open_endpoint() as endpoint:
            (outcome,) = await swept(endpoint, [((A, 7), b"x")], timeout=0.5)
            assert "1 datagram came from 192.0.2.2:7 instead" in str(outcome.error)
            (outcome,) = await swept(endpoint, [((A, 7), b"x")], retry=Retry(attempts=2, initial=0.1))
            assert "2 datagrams came from 192.0.2.2:7 instead" in str(outcome.error)

    in_virtual_time(main)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_ends_though_the_rate_allows_nothing_when_the_items_do(count: int) -> None:
    async def slowly() -> AsyncIterator[Any]:
        for item in numbered(count):
            yield item
            await asyncio.sleep(0.001)  # the last answer is read, and its end heard of, before one more could be sent

    async def main() -> None:
        await serve(A)
        async with udpguard.open_endpoint(correlate=TransactionId(0, 4)) as endpoint:
            assert len(await swept(endpoint, slowly(), rate=5.0, in_flight=1)) == count
            await at_rest(endpoint)

    in_virtual_time(main)


def test_who_has_its_turn_when_the_rate_allows_nothing_is_asked_in_the_end() -> None:
    async def items() -> AsyncIterator[Any]:
        for item in (((A, 7), b"1"), ((B, 7), b"2"), ((B, 7), b"3")):
            yield item

    async def main() -> None:
        await serve(A, handler=lambda server, data, addr: None if data == b"held" else echo(server, data, addr))
        await serve(B)
        async with udpguard.open_endpoint(("198.51.100.1", 0), ports=Ports(spares=0, quarantine=0)) as endpoint:
            holds = asyncio.ensure_future(endpoint.request((A, 7), b"held", timeout=0.3))
            await asyncio.sleep(0)
            # The turn with A comes when all others have their answers, and the rate allows the next at 0.4 s.
            outcomes = await swept(endpoint, items(), rate=5.0, timeout=1.0)
            assert [outcome.data for outcome in outcomes] == [b"2", b"3", b"1"]
            assert all(outcome.reply is not None for outcome in outcomes)
            with pytest.raises(udpguard.ReplyTimeoutError):
                await holds
            await at_rest(endpoint)

    in_virtual_time(main)
