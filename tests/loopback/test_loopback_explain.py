"""A time-out explains itself: its message, and the near misses in its fields."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from loopback_kit import Names, Server, cancelled, closed_port, echo, in_jumping_time, opened, same_port, until

import udpguard
from udpguard import Decision, Limits, NearMiss, Reason, TransactionId


def ask(client: udpguard.Client, server: Server, data: Any = b"x", **kwargs: Any) -> asyncio.Task[bytes]:
    kwargs.setdefault("timeout", 0.4)  # what a test sends meanwhile must have come by then
    return asyncio.ensure_future(client.request(server.addr, data, **kwargs))


async def timed_out(task: asyncio.Task[bytes]) -> udpguard.ReplyTimeoutError:
    with pytest.raises(udpguard.ReplyTimeoutError) as caught:
        await task
    error = caught.value
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.near_misses) == (str(error), error.near_misses)
    assert all(isinstance(miss, NearMiss) for miss in error.near_misses)
    return error


async def test_a_stranger_on_the_same_host_from_another_port() -> None:
    async with Server() as server, Server() as stranger, opened() as endpoint:
        task = ask(endpoint, server)
        _, addr = await server.next()
        for i in range(3):
            stranger.send(b"hello %d" % i, addr)
        error = await timed_out(task)
        assert tuple(error.near_misses) == (NearMiss(stranger.addr, Reason.UNKNOWN_PEER, 3, b"hello 2"),)  # type: ignore[arg-type]
        host, port = stranger.addr
        assert f"no reply from 127.0.0.1:{server.port} in 0.4 s (1 sent); 3 datagrams came from {host}:{port}" in str(
            error
        )
        assert f'reply_from=("{host}", {port})' in str(error)


async def test_what_the_message_advises_works() -> None:
    async with Server() as server, Server() as stranger, opened() as endpoint:
        task = ask(endpoint, server, reply_from=stranger.addr, timeout=5.0)
        _, addr = await server.next()
        stranger.send(b"y", addr)
        assert await task == b"y"


async def test_a_stranger_on_another_host_from_the_same_port() -> None:
    async with same_port("127.0.0.1", "127.0.0.2") as (server, other), opened() as endpoint:
        task = ask(endpoint, server)
        _, addr = await server.next()
        other.send(b"hello", addr)
        error = await timed_out(task)
        assert [(miss.peer, miss.reason, miss.count) for miss in error.near_misses] == [
            (other.addr, Reason.UNKNOWN_PEER, 1)
        ]
        assert f"1 datagram came from 127.0.0.2:{server.port} instead" in str(error)


async def test_strangers_that_share_neither_host_nor_port_are_no_near_misses() -> None:
    async with Server() as server, Server(None, "127.0.0.2") as stranger, opened() as endpoint:
        assert stranger.port != server.port
        task = ask(endpoint, server)
        _, addr = await server.next()
        stranger.send(b"hello", addr)
        error = await timed_out(task)
        assert tuple(error.near_misses) == ()
        assert "127.0.0.2" not in str(error)


async def test_strangers_of_before_the_request_are_no_near_misses() -> None:
    async with Server() as server, Server() as stranger, opened() as endpoint:
        stranger.send(b"before", ("127.0.0.1", endpoint.local_addr.port))
        await until(lambda: endpoint.statistics().unknown_peer)
        error = await timed_out(ask(endpoint, server))
        assert tuple(error.near_misses) == ()


async def test_the_data_of_a_near_miss_is_cut_short() -> None:
    async with Server() as server, Server() as stranger, opened() as endpoint:
        task = ask(endpoint, server)
        _, addr = await server.next()
        stranger.send(bytes(1_000), addr)
        error = await timed_out(task)
        assert 0 < len(error.near_misses[0].data) <= 64


async def test_a_wrong_key() -> None:
    async with Server() as server, opened(correlate=TransactionId(0, 2)) as endpoint:
        task = ask(endpoint, server, b"ab")
        _, addr = await server.next()
        server.send(b"cd", addr)
        server.send(b"ef", addr)
        error = await timed_out(task)
        assert tuple(error.near_misses) == (NearMiss(server.addr, Reason.REJECTED, 2, b"ef"),)  # type: ignore[arg-type]
        assert f"2 datagrams came from 127.0.0.1:{server.port}" in str(error)
        assert "transaction id" in str(error)


async def test_a_wrong_key_is_no_refusal_by_an_accept_that_never_saw_it() -> None:
    async with Server() as server, opened(correlate=TransactionId(0, 2)) as endpoint:
        task = ask(endpoint, server, b"aa?", accept=lambda reply: reply.data == b"aa!")
        _, addr = await server.next()
        server.send(b"bb!", addr)
        assert str(await timed_out(task)).endswith(
            "with another transaction id or none (the latest begins with 62 62 21): "
            "is it in bytes 0 to 1 of this protocol's replies?"
        )
        task = ask(endpoint, server, b"cc?", accept=lambda reply: reply.data == b"cc!")
        _, addr = await server.next()
        server.send(b"bb!", addr)
        server.send(b"cc.", addr)
        assert str(await timed_out(task)).endswith("and had another transaction id, or accept refused them")


async def test_a_refusal_by_accept() -> None:
    async with Server(echo) as server, opened() as endpoint:
        error = await timed_out(ask(endpoint, server, accept=lambda _: Decision.REFUSE))
        assert tuple(error.near_misses) == (NearMiss(server.addr, Reason.REJECTED, 1, b"x"),)  # type: ignore[arg-type]
        assert f"1 datagram came from 127.0.0.1:{server.port}" in str(error)
        assert "accept refused it" in str(error)


async def test_a_refusal_by_accept_that_raised_comes_first_and_is_quoted() -> None:
    def accept(_: udpguard.Reply) -> bool:
        raise ValueError("checksum 7 is wrong")

    async with Server(echo) as server, Server() as stranger, opened() as endpoint:
        task = ask(endpoint, server, accept=accept)
        _, addr = await server.next()
        for _ in range(5):
            stranger.send(b"stranger", addr)
        error = await timed_out(task)
        assert "ValueError: checksum 7 is wrong" in str(error)
        assert {miss.peer for miss in error.near_misses} == {server.addr, stranger.addr}, "the rest is in the fields"


async def test_another_requests_refusals_are_not_told() -> None:
    async with Server(echo) as server, Server() as silent, opened() as endpoint:
        refused = ask(endpoint, server, accept=lambda _: False)
        error = await timed_out(ask(endpoint, silent))
        assert all(miss.peer != server.addr or miss.reason is Reason.UNKNOWN_PEER for miss in error.near_misses)
        assert "accept" not in str(error)
        await timed_out(refused)


async def test_a_turn_it_never_got() -> None:
    async with Server() as server, opened() as endpoint:
        first = ask(endpoint, server, timeout=5.0)
        await server.next()
        error = await timed_out(ask(endpoint, server))
        assert error.attempts == 0
        assert "(never sent)" in str(error)
        assert "turn" in str(error)
        assert "correlate=" in str(error)
        await cancelled(first)


async def test_room_it_never_got() -> None:
    async with Server() as server, Server() as other, opened(limits=Limits(pending=1)) as endpoint:
        first = ask(endpoint, server, timeout=5.0)
        await server.next()
        error = await timed_out(ask(endpoint, other))
        assert error.attempts == 0
        assert "Limits(pending" in str(error)
        await cancelled(first)


async def test_a_quota_it_never_got() -> None:
    async with Server() as server, opened() as endpoint:
        client = endpoint.client(correlate=TransactionId(0, 2), in_flight_per_peer=1)
        first = ask(client, server, b"ab", timeout=5.0)
        await server.next()
        error = await timed_out(ask(client, server, b"cd"))
        assert "in_flight_per_peer" in str(error)
        await cancelled(first)


async def test_a_name_it_never_got(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, slow=["127.0.0.1"])
    names.hold = asyncio.Event()
    async with opened() as endpoint:
        error = await timed_out(asyncio.ensure_future(endpoint.request(("slow", 9), b"x", timeout=0.05)))
        assert error.peer is None
        assert "slow:9" in str(error)
        assert "looked up" in str(error)


async def test_silence() -> None:
    async with Server() as server, opened() as endpoint:
        error = await timed_out(ask(endpoint, server))
        assert "retry=udpguard.Retry()" in str(error)
        error = await timed_out(
            ask(endpoint, server, retry=udpguard.Retry(attempts=2, initial=0.02, final_wait=0.02), timeout=0.4)
        )
        assert "(2 sent)" in str(error)
        assert "firewall" in str(error)


@pytest.mark.parametrize("policy", [udpguard.Retry(), udpguard.AdaptiveRetry(), udpguard.Retry.stun()], ids=repr)
async def test_who_sends_again_is_not_told_to(policy: udpguard.RetryPolicy) -> None:
    """Its time was over before its schedule went on: to pass `retry`, as was advised, would change nothing."""
    async with Server() as server, opened() as endpoint:
        errors = [await timed_out(ask(endpoint, server, retry=policy))]
        questions = [(server.addr, b"x"), (server.addr, b"y", "a tag"), ([server.addr], b"z")]
        async with endpoint.sweep(questions, timeout=0.1, retry=policy) as sweep:
            errors += [
                outcome.error async for outcome in sweep if isinstance(outcome.error, udpguard.ReplyTimeoutError)
            ]
    assert len(errors) == 4
    for error in errors:
        assert "(1 sent); datagrams get lost: is the server up? if so, allow more time" in str(error)


async def test_who_sends_but_once_is_told_how_to_send_again() -> None:
    once = udpguard.Retry(attempts=1, final_wait=0.05)
    async with Server() as server, opened() as endpoint:
        errors = [await timed_out(ask(endpoint, server, retry=once, timeout=0.1))]
        async with endpoint.sweep([(server.addr, b"x")], timeout=0.05, retry=once) as sweep:
            errors += [
                outcome.error async for outcome in sweep if isinstance(outcome.error, udpguard.ReplyTimeoutError)
            ]
    assert len(errors) == 2
    assert all("pass retry=udpguard.Retry()" in str(error) for error in errors)


async def test_a_dead_port_is_silence_where_nothing_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDPGUARD_BACKEND", "portable")
    async with opened() as endpoint:
        error = await timed_out(asyncio.ensure_future(endpoint.request(closed_port(), b"x", timeout=0.05)))
        assert (error.attempts, error.icmp) == (1, ())


def test_other_addresses_of_the_name_that_were_not_tried_in_that_time() -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            Names(asyncio.get_running_loop(), monkeypatch, many=["127.0.0.2", "127.0.0.3", "127.0.0.4"])
            async with same_port("127.0.0.2", "127.0.0.3") as (server, _), opened() as endpoint:
                task = asyncio.ensure_future(endpoint.request(("many", server.port), b"x", timeout=0.4))
                error = await timed_out(task)
                assert error.attempts == 2
                assert f"127.0.0.4:{server.port}" in str(error)
                assert f"many:{server.port}" in str(error)

    in_jumping_time(main)


async def test_an_expectations_timeout_says_nothing_of_sending() -> None:
    async with Server() as server, Server() as stranger, opened() as endpoint:
        expectation = endpoint.expect(server.addr, timeout=0.4)
        stranger.send(b"hello", ("127.0.0.1", endpoint.local_addr.port))
        with pytest.raises(udpguard.ReplyTimeoutError) as caught:
            await expectation
        assert "sent" not in str(caught.value)
        assert [miss.peer for miss in caught.value.near_misses] == [stranger.addr]


async def test_many_strangers_are_bounded() -> None:
    async with Server() as server, opened() as endpoint:
        task = ask(endpoint, server, timeout=0.5)
        _, addr = await server.next()
        for _ in range(40):
            async with Server() as stranger:
                stranger.send(b"hello", addr)
        error = await timed_out(task)
        assert 0 < len(error.near_misses) <= 16
        assert len(str(error)) < 1_000


async def test_every_error_pickles_with_its_fields() -> None:
    async with Server() as server, opened(("127.0.0.1", 0), correlate=TransactionId(0, 2)) as endpoint:
        errors: list[BaseException] = []
        held = endpoint.expect(server.addr, transaction=b"ab")
        for use in (
            endpoint.request(("198.51.100.1", 9), b"x"),
            endpoint.request(("127.0.0.1", 0), b"x"),
            endpoint.request(server.addr, bytes(65_508)),
            endpoint.request(server.addr, b"ab"),
            endpoint.request(server.addr, b"cd", timeout=0.02),
        ):
            with pytest.raises(udpguard.UdpGuardError) as caught:
                await use
            errors.append(caught.value)
        held.cancel()
    with pytest.raises(udpguard.EndpointClosedError) as closed:
        await endpoint.request(("127.0.0.1", 9), b"x")
    errors.append(closed.value)
    assert len({type(error) for error in errors}) == 6
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        for field in ("peer", "errno", "strerror", "address", "size", "limit", "transaction", "timeout", "attempts"):
            assert getattr(again, field, None) == getattr(error, field, None), field
