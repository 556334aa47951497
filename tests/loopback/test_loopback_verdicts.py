"""Every datagram gets one verdict: matched, duplicate, late, rejected or unknown_peer."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from loopback_kit import Server, assert_sum, cancelled, echo, opened, same_port, turns, until

import udpguard
from udpguard import Reason, TransactionId, Unexpected

KEYED = TransactionId(0, 2)


class Told:
    """What the hook was told."""

    def __init__(self) -> None:
        self.all: list[Unexpected] = []

    def __call__(self, unexpected: Unexpected) -> None:
        self.all.append(unexpected)

    async def next(self) -> Unexpected:
        await until(lambda: self.all)
        return self.all.pop(0)


def ask(client: udpguard.Client, server: Server, data: Any = b"x", **kwargs: Any) -> asyncio.Task[bytes]:
    kwargs.setdefault("timeout", 5.0)
    return asyncio.ensure_future(client.request(server.addr, data, **kwargs))


async def test_matched() -> None:
    told = Told()
    async with Server(echo) as server, opened(on_unexpected=told) as endpoint:
        await ask(endpoint, server)
        stats = endpoint.statistics()
        assert (stats.received, stats.matched) == (1, 1)
        assert told.all == []


@pytest.mark.parametrize("correlate", [None, KEYED])
async def test_duplicate(correlate: udpguard.Correlator | None) -> None:
    told = Told()
    async with Server() as server, opened(on_unexpected=told, correlate=correlate) as endpoint:
        task = ask(endpoint, server, b"ab")
        _, addr = await server.next()
        server.send(b"ab once", addr)
        server.send(b"ab twice", addr)
        assert await task == b"ab once"
        assert await told.next() == Unexpected(b"ab twice", udpguard.Peer(*server.addr), Reason.DUPLICATE)
        assert endpoint.statistics().duplicate == 1


@pytest.mark.parametrize("correlate", [None, KEYED])
@pytest.mark.parametrize("end", ["timeout", "cancelled"])
async def test_late(correlate: udpguard.Correlator | None, end: str) -> None:
    told = Told()
    async with Server() as server, opened(on_unexpected=told, correlate=correlate) as endpoint:
        task = ask(endpoint, server, b"ab", timeout=0.02 if end == "timeout" else 5.0)
        _, addr = await server.next()
        if end == "timeout":
            with pytest.raises(udpguard.ReplyTimeoutError):
                await task
        else:
            await cancelled(task)
        server.send(b"ab", addr)
        assert await told.next() == Unexpected(b"ab", udpguard.Peer(*server.addr), Reason.LATE)
        assert endpoint.statistics().late == 1


async def test_late_for_an_expectation_that_was_withdrawn() -> None:
    told = Told()
    async with Server(echo) as server, opened(on_unexpected=told) as endpoint:
        with endpoint.expect(server.addr) as expectation:
            await expectation.send(b"x")
        assert (await told.next()).reason is Reason.LATE


async def test_rejected_for_a_wrong_key_a_missing_key_and_by_accept() -> None:
    told = Told()
    async with Server() as server, opened(on_unexpected=told, correlate=KEYED) as endpoint:
        task = ask(endpoint, server, b"ab", accept=lambda reply: reply.data == b"ab right")
        _, addr = await server.next()
        for data in (b"cd wrong", b"c", b"ab wrong"):
            server.send(data, addr)
            assert await told.next() == Unexpected(data, udpguard.Peer(*server.addr), Reason.REJECTED)
        assert endpoint.statistics().rejected == 3
        server.send(b"ab right", addr)
        assert await task == b"ab right"


async def test_unknown_peer() -> None:
    told = Told()
    async with same_port("127.0.0.1", "127.0.0.2") as (server, other), opened(on_unexpected=told) as endpoint:
        task = ask(endpoint, server)
        _, addr = await server.next()
        async with Server() as neighbour:
            for stranger in (other, neighbour):
                stranger.send(b"x", addr)
                assert await told.next() == Unexpected(b"x", udpguard.Peer(*stranger.addr), Reason.UNKNOWN_PEER)
        assert endpoint.statistics().unknown_peer == 2
        server.send(b"y", addr)
        assert await task == b"y"


async def test_a_late_reply_with_a_key_is_never_credited_to_the_newer_request() -> None:
    told = Told()
    async with Server() as server, opened(on_unexpected=told, correlate=KEYED) as endpoint:
        old = ask(endpoint, server, b"01", timeout=0.02)
        _, addr = await server.next()
        with pytest.raises(udpguard.ReplyTimeoutError):
            await old
        new = ask(endpoint, server, b"02")
        await server.next()
        server.send(b"01 too late", addr)
        assert (await told.next()).reason is Reason.LATE
        assert not new.done()
        server.send(b"02 in time", addr)
        assert await new == b"02 in time"
        server.send(b"01 again", addr)
        assert (await told.next()).reason is Reason.LATE
        server.send(b"02 again", addr)
        assert (await told.next()).reason is Reason.DUPLICATE


async def test_a_late_reply_with_an_assigned_id_is_never_credited_to_the_newer_request() -> None:
    told = Told()
    async with Server() as server, opened(on_unexpected=told, correlate=TransactionId(0, 2, assign=True)) as endpoint:
        old = ask(endpoint, server, b"\0\0old", timeout=0.02)
        late, addr = await server.next()
        with pytest.raises(udpguard.ReplyTimeoutError):
            await old
        new = ask(endpoint, server, b"\0\0new")
        data, _ = await server.next()
        assert data[:2] != late[:2]
        server.send(late, addr)
        assert await told.next() == Unexpected(late, udpguard.Peer(*server.addr), Reason.LATE)
        server.send(data, addr)
        assert await new == b"\0\0new"


async def test_an_identical_key_asked_again_takes_the_reply() -> None:
    """The caller's own id, used again: then the old reply cannot be told from the new one, and is delivered."""
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        with pytest.raises(udpguard.ReplyTimeoutError):
            await ask(endpoint, server, b"01", timeout=0.02)
        again = ask(endpoint, server, b"01")
        await server.next()
        _, addr = await server.next()
        server.send(b"01", addr)
        assert await again == b"01"


async def test_precedence_late_by_key_comes_before_a_keyless_match() -> None:
    told = Told()
    async with Server() as server, opened(on_unexpected=told) as endpoint:
        keyed = endpoint.client(correlate=KEYED)
        old = ask(keyed, server, b"01")
        _, addr = await server.next()
        await cancelled(old)
        keyless = ask(endpoint, server, b"plain")
        await server.next()
        server.send(b"01 late", addr)
        assert (await told.next()).reason is Reason.LATE
        assert not keyless.done()
        server.send(b"..other", addr)
        assert await keyless == b"..other"


async def test_precedence_matched_by_key_comes_before_matched_without() -> None:
    async with Server() as server, opened() as endpoint:
        keyless = ask(endpoint, server, b"plain")
        keyed = ask(endpoint.client(correlate=KEYED), server, b"01")
        await server.next()
        _, addr = await server.next()
        server.send(b"01", addr)
        assert await keyed == b"01"
        assert not keyless.done()
        server.send(b"plain", addr)
        assert await keyless == b"plain"


async def test_precedence_rejected_comes_before_late_without_a_key() -> None:
    told = Told()
    async with Server() as server, opened(on_unexpected=told) as endpoint:
        await cancelled(await _begun(endpoint, server))
        keyed = ask(endpoint.client(correlate=KEYED), server, b"01")
        await until(lambda: len(server.got) == 2)
        addr = server.got[0][1]
        server.send(b"no key of this request", addr)
        assert (await told.next()).reason is Reason.REJECTED
        server.send(b"01", addr)
        await keyed
        server.send(b"no key of this request", addr)
        assert (await told.next()).reason is Reason.LATE


async def _begun(endpoint: udpguard.Endpoint, server: Server) -> asyncio.Task[bytes]:
    task = ask(endpoint, server)
    await until(lambda: server.got)
    return task


async def test_what_comes_to_one_who_waits_for_a_turn_is_not_its_answer() -> None:
    async with Server() as server, opened() as endpoint:
        first, second = ask(endpoint, server, b"1"), ask(endpoint, server, b"2")
        _, addr = await server.next()
        for _ in range(3):
            server.send(b"to the first", addr)
        assert await first == b"to the first"
        # Both others were read in the same drain, or come before the second was answered.
        await server.next()
        await until(lambda: endpoint.statistics().received == 3)
        await cancelled(second)


async def test_a_datagram_that_comes_before_the_question_is_no_answer() -> None:
    told = Told()
    async with Server() as server, opened(on_unexpected=told) as endpoint:
        server.send(b"before", ("127.0.0.1", endpoint.local_addr.port))
        task = ask(endpoint, server)
        await until(lambda: told.all or task.done())
        # It lay in the socket before the request was sent: whether it is read first is the loop's affair.
        if told.all:
            assert told.all[0].reason is Reason.UNKNOWN_PEER
        await server.next()
        server.send(b"after", server.got[0][1])
        assert await task in (b"after", b"before")


async def test_the_sum_law_holds_at_every_moment() -> None:
    dice = random.Random(11)
    endpoint: udpguard.Endpoint
    told: list[Unexpected] = []

    def hook(unexpected: Unexpected) -> None:
        told.append(unexpected)
        assert_sum(endpoint.statistics())

    def noisy(server: Server, data: bytes, addr: Any) -> None:
        for _ in range(dice.randrange(4)):
            server.send(data if dice.random() < 0.7 else b"??", addr)
        assert_sum(endpoint.statistics())

    async with Server(noisy) as a, Server(noisy) as b, Server() as stranger, opened(on_unexpected=hook) as endpoint:
        keyed = endpoint.client(correlate=TransactionId(0, 2, assign=True))
        tasks = []
        for i in range(200):
            client = dice.choice((endpoint, keyed))
            accept = dice.choice((None, lambda reply: reply.data != b"??"))
            tasks.append(ask(client, dice.choice((a, b)), b"\0\0%d" % i, timeout=0.1, accept=accept))
            stranger.send(b"junk", ("127.0.0.1", endpoint.local_addr.port))
            if dice.random() < 0.2:
                dice.choice(tasks).cancel()
            await asyncio.sleep(0)
            assert_sum(endpoint.statistics())
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: endpoint.statistics().unknown_peer >= 200)
        await turns(5)
        stats = endpoint.statistics()
        assert_sum(stats)
        assert stats.duplicate
        assert stats.rejected
        counted = {
            Reason.DUPLICATE: stats.duplicate,
            Reason.LATE: stats.late,
            Reason.REJECTED: stats.rejected,
            Reason.UNKNOWN_PEER: stats.unknown_peer,
        }
        for reason, count in counted.items():
            assert sum(one.reason is reason for one in told) == count


async def test_nothing_unmatched_causes_anything_to_be_sent() -> None:
    async with Server() as stranger, Server() as server, opened() as endpoint:
        await cancelled(await _begun(endpoint, server))
        sent = endpoint.statistics().sent
        for _ in range(50):
            stranger.send(b"junk", ("127.0.0.1", endpoint.local_addr.port))
            server.send(b"late", ("127.0.0.1", endpoint.local_addr.port))
        await until(lambda: endpoint.statistics().received == 100)
        await turns(5)
        assert endpoint.statistics().sent == sent
        assert stranger.got == []
