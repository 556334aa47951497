"""A socket that takes no datagrams: who sends waits, in order, and nobody is lost or sent in vain."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from loopback_kit import BlockingBackend, Server, cancelled, echo, opened, turns, until

import udpguard
from udpguard import Retry, TransactionId

KEYED = TransactionId(0, 2)


def ask(client: udpguard.Client, server: Server, data: Any = b"x", **kwargs: Any) -> asyncio.Task[bytes]:
    kwargs.setdefault("timeout", 5.0)
    return asyncio.ensure_future(client.request(server.addr, data, **kwargs))


async def test_requests_wait_while_the_socket_is_blocked() -> None:
    async with Server(echo) as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        task = ask(endpoint, server)
        await turns(10)
        assert not task.done()
        assert (endpoint.statistics().sent, endpoint.statistics().waiting + endpoint.statistics().pending) == (0, 1)
        backend.allowed = 1
        assert await task == b"x"
        assert endpoint.statistics().sent == 1


async def test_sends_wait_while_the_socket_is_blocked() -> None:
    async with Server() as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        task = asyncio.ensure_future(endpoint.send(server.addr, b"x"))
        await turns(10)
        assert not task.done()
        assert endpoint.statistics().sent == 0
        backend.allowed = 1
        await task
        assert (await server.next())[0] == b"x"
        assert endpoint.statistics().sent == 1


async def test_sends_to_one_peer_keep_their_order() -> None:
    async with Server() as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        tasks = [asyncio.ensure_future(endpoint.send(server.addr, b"%d" % i)) for i in range(20)]
        for i in range(20):
            backend.allowed += 1
            await until(lambda i=i: len(server.got) == i + 1)  # type: ignore[misc]
            await turns(i % 5)
        await asyncio.gather(*tasks)
        assert server.data == [b"%d" % i for i in range(20)]


async def test_nobody_overtakes_who_waits_to_send() -> None:
    async with Server() as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        first = [asyncio.ensure_future(endpoint.send(server.addr, b"%d" % i)) for i in range(3)]
        await turns(5)
        backend.allowed = 100
        late = asyncio.ensure_future(endpoint.send(server.addr, b"late"))
        await asyncio.gather(*first, late)
        await until(lambda: len(server.got) == 4)
        assert server.data == [b"0", b"1", b"2", b"late"]


async def test_requests_with_a_key_to_one_peer_keep_their_order() -> None:
    async with Server(echo) as server, opened(correlate=KEYED) as endpoint:
        backend = BlockingBackend(endpoint)
        tasks = [ask(endpoint, server, b"%02d" % i) for i in range(20)]
        for i in range(20):
            backend.allowed += 1
            await until(lambda i=i: len(server.got) == i + 1)  # type: ignore[misc]
            await turns(i % 5)
        await asyncio.gather(*tasks)
        assert server.data == [b"%02d" % i for i in range(20)]


async def test_a_send_and_then_a_request_to_one_peer_keep_their_order() -> None:
    async with Server(echo) as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        send = asyncio.ensure_future(endpoint.send(server.addr, b"first"))
        await turns(2)
        task = ask(endpoint, server, b"second", accept=lambda reply: reply.data == b"second")
        await turns(5)
        backend.allowed = 2
        await send
        await task
        assert server.data == [b"first", b"second"]


async def test_a_request_and_then_a_send_to_one_peer_keep_their_order() -> None:
    async with Server(echo) as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        task = ask(endpoint, server, b"first", accept=lambda reply: reply.data == b"first")
        await turns(2)
        send = asyncio.ensure_future(endpoint.send(server.addr, b"second"))
        await turns(5)
        backend.allowed = 2
        await send
        await task
        await until(lambda: len(server.got) == 2)
        assert server.data == [b"first", b"second"]


async def test_a_cancelled_waiter_does_not_send() -> None:
    async with Server(echo) as server, opened(correlate=KEYED) as endpoint:
        backend = BlockingBackend(endpoint)
        requests = [ask(endpoint, server, b"r%d" % i) for i in range(3)]
        sends = [asyncio.ensure_future(endpoint.send(server.addr, b"s%d" % i)) for i in range(3)]
        await turns(5)
        await cancelled(requests[1], sends[0], sends[1])
        backend.allowed = 100
        await asyncio.gather(requests[0], requests[2], sends[2])
        await until(lambda: len(server.got) == 3)
        assert sorted(server.data) == [b"r0", b"r2", b"s2"]
        assert endpoint.statistics().sent == 3


async def test_a_waiter_cancelled_in_the_turn_in_which_the_socket_is_free_does_not_send() -> None:
    async with Server(echo) as server, opened(correlate=KEYED) as endpoint:
        backend = BlockingBackend(endpoint)
        one, two = ask(endpoint, server, b"01"), ask(endpoint, server, b"02")
        await turns(5)
        backend.allowed = 100
        one.cancel()
        assert await two == b"02"
        await cancelled(one)
        assert server.data == [b"02"]


async def test_closing_fails_all_who_wait_for_the_socket() -> None:
    async with Server() as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        tasks: list[asyncio.Future[Any]] = [ask(endpoint, server, b"%d" % i) for i in range(3)]
        tasks += [asyncio.ensure_future(endpoint.send(server.addr, b"s%d" % i)) for i in range(3)]
        await turns(5)
        endpoint.close()
        errors = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5.0)
        assert [type(error) for error in errors] == [udpguard.EndpointClosedError] * 6
        assert len({id(error) for error in errors}) == 6
        assert backend.sent == []
        await endpoint.wait_closed()


async def test_a_request_that_waits_for_the_socket_all_the_time_says_so() -> None:
    async with Server() as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        with pytest.raises(udpguard.ReplyTimeoutError, match="send buffer") as caught:
            await ask(endpoint, server, timeout=0.05)
        assert caught.value.attempts == 0
        backend.allowed = 10
        await turns(5)
        assert backend.sent == []


async def test_no_buffers_is_waited_out_by_requests_and_sends() -> None:
    async with Server(echo) as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        backend.allowed = 100
        backend.error = OSError(errno.ENOBUFS, "No buffer space available")
        task = ask(endpoint, server)
        send = asyncio.ensure_future(endpoint.send(server.addr, b"s"))
        await turns(5)
        assert not task.done()
        assert not send.done()
        backend.error = None
        await send
        await until(lambda: task.done() or len(server.got) == 2)
        await task
        assert endpoint.statistics().send_errors == 0


async def test_a_retransmission_waits_for_the_socket_too() -> None:
    async with Server() as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        backend.allowed = 1
        task = ask(endpoint, server, retry=Retry(attempts=2, initial=0.02, final_wait=5.0))
        await server.next()
        await until(lambda: backend.refused)
        server.send(b"y", server.got[0][1])
        assert await task == b"y"
        backend.allowed = 10
        await turns(10)
        assert len(server.got) == 1
        assert endpoint.statistics().retransmitted == 0


async def test_replies_are_read_while_sending_is_blocked() -> None:
    async with Server() as server, Server() as other, opened() as endpoint:
        task = ask(endpoint, server)
        _, addr = await server.next()
        backend = BlockingBackend(endpoint)
        blocked = ask(endpoint, other)
        await until(lambda: backend.refused)
        server.send(b"y", addr)
        assert await task == b"y"
        await cancelled(blocked)


async def test_an_error_of_the_kernel_hits_only_whom_it_concerns() -> None:
    async with Server(echo) as server, opened() as endpoint:
        backend = BlockingBackend(endpoint)
        one, two = ask(endpoint, server, b"1"), ask(endpoint.client(correlate=KEYED), server, b"22")
        await until(lambda: backend.refused)
        backend.error = OSError(errno.EPERM, "Operation not permitted")
        with pytest.raises(udpguard.PeerUnreachableError, match="firewall") as caught:
            await one
        assert caught.value.errno == errno.EPERM
        with pytest.raises(udpguard.PeerUnreachableError):
            await two
        backend.error = None
        backend.allowed = 100
        assert await ask(endpoint, server) == b"x"
        assert endpoint.statistics().send_errors == 2


async def test_a_full_send_buffer_for_real() -> None:
    """More than the send buffer holds at once, to a server that reads it all."""
    async with Server() as server, opened() as endpoint:
        payload = bytes(1_000)
        await asyncio.gather(*(endpoint.send(server.addr, payload) for _ in range(1_000)))
        assert endpoint.statistics().sent == 1_000
