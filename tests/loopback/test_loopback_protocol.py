"""GuardProtocol alone, under the loop's own datagram endpoint."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from loopback_kit import Server, assert_idle, echo, in_jumping_time, turns, until

import udpguard
from udpguard import GuardProtocol, Limits, Reason, Reply, TransactionId


class Opened:
    """A guard under the loop's own transport."""

    def __init__(self, host: str = "127.0.0.1", **kwargs: Any) -> None:
        self._host = host
        self._kwargs = kwargs

    async def __aenter__(self) -> tuple[asyncio.DatagramTransport, GuardProtocol]:
        loop = asyncio.get_running_loop()
        self._transport, self._guard = await loop.create_datagram_endpoint(
            lambda: GuardProtocol(**self._kwargs), local_addr=(self._host, 0)
        )
        return self._transport, self._guard

    async def __aexit__(self, *exc_info: object) -> None:
        self._transport.close()
        await turns(3)
        assert_idle(self._guard)


async def test_the_protocol_itself_is_a_factory() -> None:
    loop = asyncio.get_running_loop()
    transport, guard = await loop.create_datagram_endpoint(GuardProtocol, local_addr=("0.0.0.0", 0))
    assert isinstance(guard, asyncio.DatagramProtocol)
    async with Server(echo) as server:
        reply = guard.expect(server.addr, timeout=2.0)
        assert isinstance(reply, asyncio.Future)
        transport.sendto(b"hello", server.addr)
        assert await reply == Reply(b"hello", udpguard.Peer(*server.addr), None, 0)
    transport.close()
    await turns(3)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_families(host: str) -> None:
    async with Server(echo, host) as server, Opened(host) as (transport, guard):
        reply = guard.expect(server.addr, timeout=2.0)
        transport.sendto(b"hello", server.addr)
        assert (await reply).peer == server.addr


async def test_strangers_are_turned_away() -> None:
    told: list[udpguard.Unexpected] = []
    async with Server() as server, Server() as stranger, Opened(on_unexpected=told.append) as (transport, guard):
        reply = guard.expect(server.addr, timeout=5.0)
        transport.sendto(b"x", server.addr)
        _, addr = await server.next()
        stranger.send(b"forged", addr)
        await until(lambda: told)
        server.send(b"right", addr)
        assert (await reply).data == b"right"
        assert told == [udpguard.Unexpected(b"forged", udpguard.Peer(*stranger.addr), Reason.UNKNOWN_PEER)]
        stats = guard.statistics()
        assert (stats.received, stats.matched, stats.unknown_peer) == (2, 1, 1)


async def test_a_correlator() -> None:
    async with Server() as server, Opened(correlate=TransactionId(0, 2)) as (transport, guard):
        replies = [guard.expect(server.addr, transaction=b"%02d" % i, timeout=5.0) for i in range(10)]
        with pytest.raises(udpguard.DuplicateTransactionError):
            guard.expect(server.addr, transaction=b"03")
        transport.sendto(b"x", server.addr)
        _, addr = await server.next()
        for i in reversed(range(10)):
            server.send(b"%02d" % i, addr)
        assert [reply.data for reply in await asyncio.gather(*replies)] == [b"%02d" % i for i in range(10)]


async def test_limits() -> None:
    async with Opened(limits=Limits(pending=1)) as (_, guard):
        held = guard.expect(("127.0.0.1", 9))
        with pytest.raises(udpguard.TooManyPendingError):
            guard.expect(("127.0.0.1", 9))
        held.cancel()


async def test_accept_and_reply_from() -> None:
    async with Server() as server, Server() as other, Opened() as (transport, guard):
        reply = guard.expect(server.addr, reply_from="host", accept=lambda reply: reply.data == b"2", timeout=5.0)
        transport.sendto(b"x", server.addr)
        _, addr = await server.next()
        other.send(b"1", addr)
        other.send(b"2", addr)
        assert (await reply).peer == other.addr


async def test_it_times_out_and_explains() -> None:
    async with Server() as server, Server() as stranger, Opened() as (transport, guard):
        reply = guard.expect(server.addr, timeout=1.0)
        stranger.send(b"x", transport.get_extra_info("sockname"))
        with pytest.raises(udpguard.ReplyTimeoutError, match="reply_from"):
            await reply
        assert guard.statistics().timed_out == 1


def test_five_seconds_unless_given_and_none_for_never() -> None:
    async def main() -> None:
        async with Opened() as (_, guard):
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(udpguard.ReplyTimeoutError):
                await guard.expect(("127.0.0.1", 9))
            assert loop.time() - began == pytest.approx(5.0, abs=0.01)
            forever = guard.expect(("127.0.0.1", 9), timeout=None)
            await asyncio.sleep(100_000)
            assert not forever.done()
            forever.cancel()

    in_jumping_time(main)


async def test_cancelling_the_future_withdraws_the_expectation_at_once() -> None:
    async with Opened() as (_, guard):
        reply = guard.expect(("127.0.0.1", 9))
        assert guard.statistics().pending == 1
        reply.cancel()
        assert guard.statistics().pending == 0
        assert guard.statistics().cancelled == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(guard.expect(("127.0.0.1", 9)), 0.02)
        assert guard.statistics().pending == 0


async def test_a_future_never_awaited_makes_no_noise() -> None:
    async with Opened() as (_, guard):
        reply = guard.expect(("127.0.0.1", 9), timeout=0.01)
        await until(reply.done)


async def test_closing_the_transport_fails_what_is_pending() -> None:
    async with Opened() as (transport, guard):
        replies = [guard.expect(("127.0.0.1", 9)) for _ in range(3)]
        transport.close()
        errors = await asyncio.wait_for(asyncio.gather(*replies, return_exceptions=True), 5.0)
        assert [type(error) for error in errors] == [udpguard.EndpointClosedError] * 3
        assert len({id(error) for error in errors}) == 3
        with pytest.raises(udpguard.EndpointClosedError):
            guard.expect(("127.0.0.1", 9))
        assert guard.statistics().pending == 0


@pytest.mark.parametrize("addr", [("localhost", 9), ("127.0.0.1", 0), ("0.0.0.0", 9), ("224.0.0.1", 9), None, "x"])
async def test_bad_addresses(addr: Any) -> None:
    async with Opened() as (_, guard):
        with pytest.raises(udpguard.InvalidAddressError):
            guard.expect(addr)
        assert guard.statistics().pending == 0


def test_its_arguments_are_keyword_only_and_checked() -> None:
    with pytest.raises(TypeError):
        GuardProtocol(TransactionId(0, 2))  # type: ignore[misc]
    with pytest.raises(TypeError, match="correlate"):
        GuardProtocol(correlate=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="limits"):
        GuardProtocol(limits=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_unexpected"):
        GuardProtocol(on_unexpected=3)  # type: ignore[arg-type]


async def test_a_late_and_a_duplicate_reply() -> None:
    async with Server() as server, Opened() as (transport, guard):
        reply = guard.expect(server.addr, timeout=5.0)
        transport.sendto(b"x", server.addr)
        _, addr = await server.next()
        server.send(b"1", addr)
        server.send(b"1", addr)
        await reply
        await until(lambda: guard.statistics().duplicate == 1)
        guard.expect(server.addr).cancel()
        server.send(b"2", addr)
        await until(lambda: guard.statistics().late == 1)


async def test_an_error_of_the_socket_ends_nothing() -> None:
    async with Server(echo) as server, Opened() as (transport, guard):
        reply = guard.expect(server.addr, timeout=5.0)
        guard.error_received(ConnectionRefusedError(111, "Connection refused"))
        transport.sendto(b"x", server.addr)
        assert (await reply).data == b"x"


async def test_an_exception_in_the_hook_or_in_accept_does_not_reach_the_loop() -> None:
    def broken(_: object) -> bool:
        raise ZeroDivisionError

    async with Server(echo) as server, Server() as stranger, Opened(on_unexpected=broken) as (transport, guard):
        reply = guard.expect(server.addr, accept=broken, timeout=0.4)
        transport.sendto(b"x", server.addr)
        stranger.send(b"x", transport.get_extra_info("sockname"))
        with pytest.raises(udpguard.ReplyTimeoutError, match="ZeroDivisionError"):
            await reply
        await until(lambda: guard.statistics().hook_errors == 3)
