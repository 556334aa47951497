"""Sessions on real sockets: whose datagrams they get, what they drop, what ends them, and who goes before them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import tracemalloc
from typing import Any

import pytest
from at_rest import leftovers_of
from loopback_kit import Server, cancelled, closed_port, echo, opened, same_port, servers, turns, until

import udpguard
from udpguard import (
    Decision,
    EndpointClosedError,
    InvalidAddressError,
    Limits,
    PeerRefusedError,
    Ports,
    ReplyTimeoutError,
    Retry,
    TooManyPendingError,
    TransactionId,
)
from udpguard.core.address import wire_of_source

hears_icmp = pytest.mark.skipif(
    sys.platform != "linux" or os.environ.get("UDPGUARD_BACKEND") == "portable", reason="no error queue"
)


async def test_many_sessions_share_one_port_and_hear_their_own_peer_alone() -> None:
    async with servers(*[f"127.0.0.{i}" for i in range(2, 22)], handler=echo) as twenty, opened() as endpoint:
        sessions = [await endpoint.session(server.addr) for server in twenty]
        for i, session in enumerate(sessions):
            await session.send(b"%d" % i)
        assert [await session.receive() for session in sessions] == [b"%d" % i for i in range(20)]
        assert {addr[1] for server in twenty for _, addr in server.got} == {endpoint.local_addr.port}
        for session in sessions:
            session.close()


async def test_what_a_session_hears_is_neither_a_strangers_nor_anothers() -> None:
    async with servers("127.0.0.2", "127.0.0.3") as (peer, stranger), opened() as endpoint:
        async with endpoint.session(peer.addr) as session:
            await session.send(b"hello")
            _, addr = await peer.next()
            stranger.send(b"junk", addr)
            peer.send(b"1", addr)
            peer.send(b"2", addr)
            assert [await session.receive(), await session.receive()] == [b"1", b"2"]
        assert endpoint.statistics().unknown_peer == 1


async def test_an_empty_datagram_is_one() -> None:
    async with Server(echo) as server, opened() as endpoint, endpoint.session(server.addr) as session:
        await session.send(b"")
        assert await session.receive() == b""


@pytest.mark.parametrize(("drop", "kept"), [("oldest", [b"3", b"4", b"5"]), ("newest", [b"1", b"2", b"3"])])
async def test_a_full_queue_drops_and_counts(drop: Any, kept: list[bytes]) -> None:
    async with (
        Server() as server,
        opened() as endpoint,
        endpoint.session(server.addr, max_queue=3, drop=drop) as session,
    ):
        await session.send(b"?")
        _, addr = await server.next()
        for i in range(1, 6):
            server.send(b"%d" % i, addr)
        await until(lambda: session.statistics().received == 5)
        stats = session.statistics()
        assert (stats.dropped, stats.unread, stats.sent) == (2, 3, 1)
        assert [await session.receive() for _ in range(3)] == kept
        assert session.statistics().unread == 0


async def test_the_first_answers_port_becomes_the_peer() -> None:
    async with servers("127.0.0.2", "127.0.0.2", "127.0.0.2") as (well_known, transfer, other), opened() as endpoint:
        async with endpoint.session(well_known.addr, reply_from="host") as session:
            assert session.peer == well_known.addr
            await session.send(b"read")
            _, addr = await well_known.next()
            transfer.send(b"block 1", addr)
            other.send(b"not this", addr)
            assert await session.receive() == b"block 1"
            assert session.peer == transfer.addr
            await session.send(b"ack")
            assert (await transfer.next())[0] == b"ack"
            well_known.send(b"nor this", addr)
            transfer.send(b"block 2", addr)
            assert await session.receive() == b"block 2"
        stats = endpoint.statistics()
        assert (stats.unknown_peer, stats.matched) == (2, 2)


async def test_the_others_are_strangers_within_the_very_same_batch() -> None:
    async with servers("127.0.0.2", "127.0.0.2") as (one, two), opened() as endpoint:
        async with endpoint.session(one.addr, reply_from="host") as session:
            await session.send(b"read")
            _, addr = await one.next()
            two.send(b"a", addr)  # both lie in the socket before it is read
            one.send(b"b", addr)
            two.send(b"c", addr)
            assert [await session.receive(), await session.receive()] == [b"a", b"c"]
            assert endpoint.statistics().unknown_peer == 1


async def test_an_answer_to_a_request_fixes_the_peer_and_what_accept_refuses_does_not() -> None:
    def right(reply: udpguard.Reply) -> bool:
        return reply.data == b"right"

    async with servers("127.0.0.2", "127.0.0.2", "127.0.0.2") as (well_known, wrong, transfer), opened() as endpoint:
        async with endpoint.session(well_known.addr, reply_from="host") as session:
            task = asyncio.ensure_future(session.request(b"read", accept=right))
            _, addr = await well_known.next()
            wrong.send(b"wrong", addr)
            transfer.send(b"right", addr)
            assert await task == b"right"
            assert session.peer == transfer.addr
            wrong.send(b"wrong", addr)
            transfer.send(b"more", addr)
            assert await session.receive() == b"more"
        assert (endpoint.statistics().rejected, endpoint.statistics().duplicate) == (1, 1)


@pytest.mark.parametrize("what", ["session", "endpoint"])
async def test_an_accept_that_closes_the_session_chooses_no_peer(what: str) -> None:
    async with servers("127.0.0.2") as (well_known,), opened() as endpoint:
        session = await endpoint.session(well_known.addr, reply_from="host")

        def closes(reply: udpguard.Reply) -> bool:
            (session if what == "session" else endpoint).close()
            return True

        task = asyncio.ensure_future(session.request(b"read", accept=closes))
        await well_known.next()
        endpoint._guard.receive([(b"data", wire_of_source("127.0.0.2", 9))])
        with pytest.raises(EndpointClosedError):
            await task
        assert session.peer == well_known.addr
        assert endpoint.statistics().hook_errors == 0
        assert endpoint._guard.registry.expected() == []
        assert all(source.live == 0 for source in endpoint._guard.registry._sources.values())


async def test_nothing_comes_after_closing_though_it_was_read_before() -> None:
    async with servers("127.0.0.2", "127.0.0.3") as (peer, other), opened() as endpoint:
        session = await endpoint.session(peer.addr)

        def closes(reply: udpguard.Reply) -> bool:
            session.close()
            return True

        task = asyncio.ensure_future(endpoint.request(other.addr, b"?", accept=closes))
        await other.next()
        endpoint._guard.receive([(b"1", wire_of_source(*peer.addr)), (b"!", wire_of_source(*other.addr))])
        assert await task == b"!"
        with pytest.raises(EndpointClosedError):
            await session.receive()
        assert (session.statistics().received, session.statistics().unread) == (0, 0)


async def test_an_accept_that_gives_no_decision_chooses_no_peer() -> None:
    async with servers("127.0.0.2", "127.0.0.2") as (well_known, wrong), opened() as endpoint:
        async with endpoint.session(well_known.addr, reply_from="host") as session:
            task = asyncio.ensure_future(session.request(b"read", accept=lambda reply: 1, timeout=0.5))  # type: ignore[arg-type,return-value]
            _, addr = await well_known.next()
            wrong.send(b"wrong", addr)
            with pytest.raises(ReplyTimeoutError, match="accept returned 1"):
                await task
            assert session.peer == well_known.addr


async def test_requests_that_went_before_have_no_answer_from_another_port_than_the_peers() -> None:
    async with (
        servers("127.0.0.2", "127.0.0.2", "127.0.0.2") as (well_known, transfer, other),
        opened(correlate=TransactionId(0, 1)) as endpoint,
    ):
        async with endpoint.session(well_known.addr, reply_from="host") as session:
            tasks = [asyncio.ensure_future(session.request(data)) for data in (b"1", b"2")]
            for _ in tasks:
                _, addr = await well_known.next()
            transfer.send(b"1 first", addr)
            other.send(b"2 of another", addr)
            transfer.send(b"2 right", addr)
            assert await asyncio.gather(*tasks) == [b"1 first", b"2 right"]
            assert session.peer == transfer.addr


@hears_icmp
async def test_a_dead_peer_ends_receive_and_the_session_goes_on() -> None:
    async with opened() as endpoint, endpoint.session(closed_port()) as session:
        waiting = asyncio.ensure_future(session.receive(timeout=None))
        other = asyncio.ensure_future(session.receive(timeout=None))
        await turns()
        await session.send(b"hello")
        errors = await asyncio.gather(waiting, other, return_exceptions=True)
        assert [type(error) for error in errors] == [PeerRefusedError] * 2
        assert errors[0] is not errors[1], "each has one of their own"
        await session.send(b"again")
        await until(lambda: session.statistics().refused == 2)
        with pytest.raises(PeerRefusedError):  # the next one
            await session.receive(timeout=None)
        with pytest.raises(ReplyTimeoutError):  # and no other
            await session.receive(timeout=0.02)


@hears_icmp
async def test_a_refused_request_in_a_session_is_told_to_its_caller_alone() -> None:
    async with opened() as endpoint, endpoint.session(closed_port()) as session:
        with pytest.raises(PeerRefusedError):
            await session.request(b"hello")
        with pytest.raises(ReplyTimeoutError):
            await session.receive(timeout=0.02)


async def test_receive_times_out_with_a_reason() -> None:
    async with servers("127.0.0.2", "127.0.0.3") as (server, stranger), opened() as endpoint:
        async with endpoint.session(server.addr) as session:
            await session.send(b"hello")
            _, addr = await server.next()
            stranger.send(b"junk", addr)
            with pytest.raises(ReplyTimeoutError, match=r"nothing from 127\.0\.0\.2:\d+ in 0\.05 s \(1 sent") as caught:
                await session.receive(timeout=0.05)
            assert caught.value.timeout == 0.05
            assert caught.value.peer == server.addr


async def test_who_is_cancelled_loses_nothing_for_the_next() -> None:
    async with Server() as server, opened() as endpoint, endpoint.session(server.addr) as session:
        first = asyncio.ensure_future(session.receive(timeout=None))
        second = asyncio.ensure_future(session.receive(timeout=None))
        await turns()
        endpoint._guard.receive([(b"data", wire_of_source(*server.addr))])
        await cancelled(first)  # it was woken for the datagram, and has not run since
        assert await second == b"data"


async def test_iterating_ends_with_the_session() -> None:
    async with Server(echo) as server, opened() as endpoint, endpoint.session(server.addr) as session:
        await session.send(b"1")
        await session.send(b"2")
        got = []
        async for data in session:
            got.append(data)
            if len(got) == 2:
                asyncio.get_running_loop().call_soon(session.close)
        assert got == [b"1", b"2"]
        with pytest.raises(EndpointClosedError, match=r"session with .* was closed"):
            await session.receive()
        with pytest.raises(EndpointClosedError):
            await session.send(b"x")
        with pytest.raises(EndpointClosedError):
            await session.request(b"x")


async def test_iterating_ends_with_the_session_though_the_endpoint_is_closed_right_after_it() -> None:
    """As at the end of `async with endpoint, session`, before a task that iterates has run again."""
    async with Server() as server, opened() as endpoint:

        async def listen() -> str:
            async for _ in session:
                pass
            return "ended"

        session = await endpoint.session(server.addr)
        task = asyncio.ensure_future(listen())
        await turns()
        session.close()
        endpoint.close()
        assert await task == "ended"


async def test_closing_the_endpoint_ends_who_waits() -> None:
    async with Server() as server, opened() as endpoint:
        session = await endpoint.session(server.addr)

        async def listen() -> None:
            async for _ in session:
                pass

        tasks = [asyncio.ensure_future(listen()), asyncio.ensure_future(session.receive())]
        await turns()
        endpoint.close()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, EndpointClosedError)
        with pytest.raises(EndpointClosedError):
            await session.send(b"x")
        session.close()


async def test_closing_it_ends_its_requests() -> None:
    async with Server() as server, opened() as endpoint:
        async with endpoint.session(server.addr) as session:
            tasks = [asyncio.ensure_future(session.request(b"%d" % i, timeout=None, retry=Retry())) for i in (1, 2)]
            await server.next()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, EndpointClosedError)
            assert "session with" in str(outcome)
        assert endpoint.statistics().pending == endpoint.statistics().waiting == 0


async def test_a_port_that_is_lost_ends_the_session_that_has_it() -> None:
    async with Server() as server, opened() as endpoint:
        async with endpoint.session(server.addr) as first, endpoint.session(server.addr) as second:
            tasks = [asyncio.ensure_future(second.receive(timeout=None)), asyncio.ensure_future(second.request(b"x"))]
            await server.next()
            line = second._line
            assert line is not None
            channel: Any = endpoint._guard.channel_at(line.entry.port, line.wire)
            channel.abort()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, EndpointClosedError)
                assert "port that it listened at was lost" in str(outcome)
            assert second.is_closing()
            with pytest.raises(EndpointClosedError, match="was lost"):
                await second.send(b"x")
            await first.send(b"y")
            _, addr = await server.next()
            server.send(b"z", addr)
            assert await first.receive() == b"z"


async def test_an_error_told_to_all_is_not_told_again_for_one_who_was_cancelled() -> None:
    async with opened() as endpoint, endpoint.session(("127.0.0.1", 9)) as session:
        line = session._line
        assert line is not None
        waiting = [asyncio.ensure_future(session.receive(timeout=None)) for _ in range(3)]
        await turns()
        line.tell(PeerRefusedError("refused"))
        await cancelled(waiting[0])
        for task in waiting[1:]:
            with pytest.raises(PeerRefusedError):
                await task
        with pytest.raises(ReplyTimeoutError):
            await session.receive(timeout=0.01)
        waiting = [asyncio.ensure_future(session.receive(timeout=None)) for _ in range(2)]
        await turns()
        line.tell(PeerRefusedError("refused"))
        await cancelled(*waiting)
        with pytest.raises(PeerRefusedError):  # nobody has heard of that one
            await session.receive(timeout=None)


async def test_many_may_wait_and_each_gets_one() -> None:
    async with Server() as server, opened() as endpoint, endpoint.session(server.addr) as session:
        waiting = [asyncio.ensure_future(session.receive(timeout=None)) for _ in range(20)]
        late = asyncio.ensure_future(session.receive(timeout=0.01))
        with pytest.raises(ReplyTimeoutError):
            await late
        endpoint._guard.receive([(b"%d" % i, wire_of_source(*server.addr)) for i in range(20)])
        assert await asyncio.gather(*waiting) == [b"%d" % i for i in range(20)]


# ------------------------------------------------------------------------------- requests, and other sessions


@hears_icmp
async def test_of_two_that_sent_the_same_the_one_that_waits_for_an_answer_is_refused() -> None:
    async with opened() as endpoint, endpoint.session(closed_port()) as session:
        await session.send(b"hello")
        await until(lambda: session.statistics().refused == 1)
        with pytest.raises(PeerRefusedError):
            await session.request(b"hello", timeout=5.0)
        assert session.statistics().refused == 1


async def test_what_a_silent_session_heard_comes_to_nobody_else_when_it_is_over() -> None:
    """It never sent anything, but its peer may go on."""
    async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
        async with endpoint.session(server.addr) as session:
            server.send(b"news", endpoint.local_addr)
            assert await session.receive() == b"news"
        task = asyncio.ensure_future(endpoint.request(server.addr, b"?"))
        _, addr = await server.next()
        assert addr != endpoint.local_addr
        server.send(b"more news", endpoint.local_addr)
        server.send(b"answer", addr)
        assert await task == b"answer"


async def test_a_request_within_it_has_the_next_answer() -> None:
    async with Server(echo) as server, opened() as endpoint, endpoint.session(server.addr) as session:
        await session.send(b"first")
        assert await session.receive() == b"first"
        assert await session.request(b"second") == b"second"
        assert await session.request(b"third", retry=Retry(initial=5.0)) == b"third"
        assert {addr for _, addr in server.got} == {server.got[0][1]}
        assert session.statistics().received == 1


async def test_requests_with_ids_within_it_leave_the_rest_to_receive() -> None:
    async with Server() as server, opened(correlate=TransactionId(0, 2, assign=True)) as endpoint:
        async with endpoint.session(server.addr) as session:
            tasks = [asyncio.ensure_future(session.request(b"??%d" % i)) for i in range(3)]
            got = [await server.next() for _ in tasks]
            server.send(b"\0\0 by itself", got[0][1])
            for data, addr in reversed(got):
                server.send(data, addr)
            assert await asyncio.gather(*tasks) == [b"??0", b"??1", b"??2"]
            assert await session.receive() == b"\0\0 by itself"


async def test_a_request_to_the_same_peer_leaves_from_another_port() -> None:
    async with Server() as server, opened() as endpoint, endpoint.session(server.addr) as session:
        await session.send(b"session")
        _, own = await server.next()
        task = asyncio.ensure_future(endpoint.request(server.addr, b"request"))
        _, other = await server.next()
        assert other != own
        server.send(b"to the session", own)
        server.send(b"to the request", other)
        assert await task == b"to the request"
        assert await session.receive() == b"to the session"


async def test_on_a_fixed_port_the_request_goes_first() -> None:
    async with Server() as server, opened(("127.0.0.1", 0), ports=Ports(spares=0)) as endpoint:
        async with endpoint.session(server.addr) as session:
            task = asyncio.ensure_future(endpoint.request(server.addr, b"request"))
            _, addr = await server.next()
            server.send(b"1", addr)
            server.send(b"2", addr)
            assert await task == b"1"
            assert await session.receive() == b"2"


async def test_the_same_where_all_spare_ports_have_sessions() -> None:
    async with Server(echo) as server, opened(ports=Ports(spares=1)) as endpoint:
        async with endpoint.session(server.addr), endpoint.session(server.addr):
            assert await endpoint.request(server.addr, b"request", timeout=5.0) == b"request"


async def test_a_request_that_asked_the_peer_goes_first_wherever_its_answer_may_come_from() -> None:
    async with Server() as server, opened(("127.0.0.1", 0), ports=Ports(spares=0)) as endpoint:
        async with endpoint.session(server.addr) as session:
            task = asyncio.ensure_future(endpoint.request(server.addr, b"request", reply_from="127.0.0.0/8"))
            _, addr = await server.next()
            server.send(b"1", addr)
            server.send(b"2", addr)
            assert await task == b"1"
            assert await session.receive() == b"2"


async def test_a_wider_expectation_leaves_a_sessions_datagrams_alone() -> None:
    async with servers("127.0.0.2", "127.0.0.3") as (peer, other), opened() as endpoint:
        async with endpoint.session(peer.addr) as session:
            await session.send(b"?")
            _, addr = await peer.next()
            anybody = endpoint.expect(other.addr, reply_from="anywhere")
            peer.send(b"mine", addr)
            other.send(b"anybody's", addr)
            assert (await anybody).data == b"anybody's"
            assert await session.receive() == b"mine"


async def test_two_sessions_with_one_peer_have_a_port_each() -> None:
    async with Server() as server, opened() as endpoint:
        async with endpoint.session(server.addr) as one, endpoint.session(server.addr) as two:
            await one.send(b"one")
            await two.send(b"two")
            (_, first), (_, second) = await server.next(), await server.next()
            assert first != second
            server.send(b"2", second)
            server.send(b"1", first)
            assert (await one.receive(), await two.receive()) == (b"1", b"2")


async def test_and_no_more_than_there_are_ports() -> None:
    async with Server() as server, opened(("127.0.0.1", 0), ports=Ports(spares=0)) as endpoint:
        async with endpoint.session(server.addr):
            with pytest.raises(TooManyPendingError, match="open already"):
                await endpoint.session(server.addr)
        async with endpoint.session(server.addr):  # now that it has ended
            pass


async def test_after_a_session_its_late_datagrams_are_nobodys() -> None:
    async with Server() as server, opened() as endpoint:
        async with endpoint.session(server.addr) as session:
            await session.send(b"?")
            _, addr = await server.next()
        task = asyncio.ensure_future(endpoint.request(server.addr, b"request"))
        _, other = await server.next()
        server.send(b"late", addr)
        server.send(b"answer", other)
        assert await task == b"answer"
        stats = endpoint.statistics()
        assert (stats.matched, stats.late + stats.rejected) == (1, 1)


@pytest.mark.parametrize("reply_from", ["peer", "127.0.0.0/8"])
async def test_a_late_reply_to_a_request_that_was_pending_is_not_the_sessions(reply_from: str) -> None:
    async with Server() as server, opened() as endpoint:
        task = asyncio.ensure_future(endpoint.request(server.addr, b"request", timeout=0.1, reply_from=reply_from))
        _, addr = await server.next()
        async with endpoint.session(server.addr) as session:
            await session.send(b"session")
            _, other = await server.next()
            assert other != addr
            with pytest.raises(ReplyTimeoutError):
                await task
            server.send(b"late", addr)
            server.send(b"mine", other)
            assert await session.receive() == b"mine"


async def test_a_requests_late_reply_chooses_no_peer_for_a_session_with_its_host() -> None:
    async with servers("127.0.0.2", "127.0.0.2", "127.0.0.2") as (well_known, transfer, other), opened() as endpoint:
        task = asyncio.ensure_future(endpoint.request(other.addr, b"request", timeout=0.1))
        _, addr = await other.next()
        async with endpoint.session(well_known.addr, reply_from="host") as session:
            await session.send(b"read")
            _, own = await well_known.next()
            with pytest.raises(ReplyTimeoutError):
                await task
            other.send(b"late", addr)
            transfer.send(b"block", own)
            assert await session.receive() == b"block"
            assert session.peer == transfer.addr


async def test_what_comes_late_for_a_session_is_no_answer_to_a_request_to_its_host() -> None:
    async with servers("127.0.0.2", "127.0.0.2") as (peer, asked), opened() as endpoint:
        async with endpoint.session(peer.addr) as session:
            await session.send(b"?")
            _, addr = await peer.next()
            task = asyncio.ensure_future(endpoint.request(asked.addr, b"request", reply_from="host"))
            _, other = await asked.next()
        peer.send(b"late", addr)
        asked.send(b"answer", other)
        assert await task == b"answer"


async def test_a_late_reply_to_its_request_is_not_the_next_ones() -> None:
    async with Server() as server, opened() as endpoint, endpoint.session(server.addr) as session:
        with pytest.raises(ReplyTimeoutError):
            await session.request(b"first", timeout=0.02)
        _, addr = await server.next()
        task = asyncio.ensure_future(session.request(b"second", timeout=5.0))
        await turns()
        assert len(server.got) == 1, "it waits for the late reply"
        server.send(b"to the first", addr)
        await server.next()
        server.send(b"to the second", addr)
        assert await task == b"to the second"
        assert await session.receive() == b"to the first", "it came from the peer, and nobody else wants it"


async def test_a_provisional_answer_within_it() -> None:
    def judged(reply: udpguard.Reply) -> Decision:
        return Decision.PROVISIONAL if reply.data == b"wait" else Decision.ACCEPT

    async with Server() as server, opened() as endpoint, endpoint.session(server.addr) as session:
        task = asyncio.ensure_future(session.request(b"?", accept=judged))
        _, addr = await server.next()
        server.send(b"wait", addr)
        server.send(b"done", addr)
        assert await task == b"done"


# --------------------------------------------------------------------------------------- names, limits, misuse


async def test_sessions_count_as_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server() as server, opened(limits=Limits(pending=1)) as endpoint:
        async with endpoint.session(server.addr):
            assert endpoint.statistics().pending == 1
            with pytest.raises(TooManyPendingError):
                await endpoint.session(("127.0.0.2", 9))
        async with endpoint.session(("127.0.0.2", 9)):
            pass


async def test_by_name_and_by_ipv6() -> None:
    async with Server(echo) as server, opened(family=socket.AF_INET) as endpoint:
        async with endpoint.session(("localhost", server.port)) as session:
            assert session.peer == server.addr
            assert await session.request(b"x") == b"x"
    async with Server(echo, "::1") as server, opened() as endpoint, endpoint.session(server.addr) as session:
        await session.send(b"x")
        assert await session.receive() == b"x"


async def test_the_first_that_sends_tells_the_link_of_a_link_local_peer() -> None:
    here, there = wire_of_source("fe80::1", 7, 2), wire_of_source("fe80::1", 7, 3)
    async with opened() as endpoint:
        if endpoint._guard.channel6 is None:
            pytest.skip("no IPv6 here")
        async with endpoint.session(("fe80::1", 7)) as session:
            endpoint._guard.receive([(b"1", here), (b"2", there), (b"3", here)])
            assert [await session.receive(), await session.receive()] == [b"1", b"3"]
            assert session.peer == ("fe80::1%2", 7)
            with contextlib.suppress(udpguard.PeerUnreachableError):  # there is no such link
                await session.send(b"x")
        async with endpoint.session(("fe80::1", 8)) as session:
            nowhere = wire_of_source("fe80::1", 8)
            endpoint._guard.receive([(b"1", nowhere), (b"2", nowhere)], port=session._line.entry.port)  # type: ignore[union-attr]
            endpoint._guard.receive([(b"3", wire_of_source("fe80::1", 8, 3))], port=session._line.entry.port)  # type: ignore[union-attr]
            assert [await session.receive() for _ in range(3)] == [b"1", b"2", b"3"]
            assert session.peer == ("fe80::1", 8), "some transports tell no link"
        assert leftovers_of(endpoint) == []


async def test_misuse_is_told_at_once() -> None:
    async with opened() as endpoint:
        with pytest.raises(ValueError, match="reply_from must be"):
            endpoint.session(("127.0.0.1", 9), reply_from="anywhere")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="drop must be"):
            endpoint.session(("127.0.0.1", 9), drop="all")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_queue"):
            endpoint.session(("127.0.0.1", 9), max_queue=0)
        with pytest.raises(TypeError, match="max_queue"):
            endpoint.session(("127.0.0.1", 9), max_queue=None)  # type: ignore[arg-type]
        with pytest.raises(InvalidAddressError, match="port 70000"):
            endpoint.session(("127.0.0.1", 70_000))
        with pytest.raises(InvalidAddressError, match="discover"):
            await endpoint.session(("239.1.2.3", 9))
        closed = endpoint.session(("127.0.0.1", 9))
        assert closed.peer == ("127.0.0.1", 9)
        with pytest.raises(RuntimeError, match=r"async with endpoint\.session"):
            await closed.receive()
        async with closed as session:
            with pytest.raises(RuntimeError, match="opened already"):
                await closed
            with pytest.raises(TypeError, match="encode it"):
                await session.send("text")  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="more than 0"):
                await session.receive(timeout=0)
        session.close()  # twice is once
        assert session.is_closing()
        unresolved = endpoint.session(("localhost", 9))
        with pytest.raises(RuntimeError, match="not open"):
            _ = unresolved.peer
    with pytest.raises(EndpointClosedError):
        await endpoint.session(("127.0.0.1", 9))


async def test_a_thousand_take_no_more_memory_than_a_thousand_expectations() -> None:
    peers = [(f"127.0.{i // 250}.{i % 250 + 1}", 9) for i in range(1_000)]

    async def taken(sessions: bool) -> int:
        async with opened() as endpoint:
            tracemalloc.start()
            try:
                kept: list[Any] = [
                    await endpoint.session(peer) if sessions else endpoint.expect(peer, timeout=None) for peer in peers
                ]
                gc.collect()
                memory = tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
            for one in kept:
                one.close() if sessions else one.cancel()
            return memory

    await taken(sessions=True)  # what is cached
    assert await taken(sessions=True) < 1.2 * await taken(sessions=False)


async def test_a_sweep_beside_an_expectation_of_the_same_peer() -> None:
    async with Server() as server, opened() as endpoint:
        with endpoint.expect(server.addr) as expected:
            async with endpoint.sweep([(server.addr, b"question")]) as sweep:
                _, addr = await server.next()
                server.send(b"first", addr)
                server.send(b"second", addr)
                (outcome,) = [one async for one in sweep]
            assert (await expected).data == b"first"
            assert outcome.reply is not None
            assert outcome.reply.data == b"second"


async def test_a_session_keeps_its_endpoint() -> None:
    async with Server(echo) as server:
        endpoint = await udpguard.open_endpoint()
        session = await endpoint.client(timeout=1.0).session(server.addr)
        await session.send(b"x")
        assert await session.receive() == b"x"
        endpoint.close()
        await endpoint.wait_closed()


@pytest.mark.parametrize("mode", ["on", "auto"])
async def test_a_socket_filter_leaves_sessions_open(mode: Any) -> None:
    async with (
        same_port("127.0.0.2", "127.0.0.3", handler=echo) as (server, other),
        opened(kernel_filter=mode) as endpoint,
    ):
        async with endpoint.session(server.addr) as first, endpoint.session(server.addr) as second:
            for session in (first, second):
                await session.send(b"x")
                assert await session.receive() == b"x"
            async with endpoint.session(other.addr, reply_from="host") as third:
                await third.send(b"y")
                assert await third.receive() == b"y"
                assert await endpoint.request(other.addr, b"z") == b"z"


class Talkative(asyncio.DatagramProtocol):
    """Answers, and goes on talking."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)
        self.transport.sendto(b"news", addr)


async def test_what_a_peer_says_unasked_has_no_request_wait_whatever_others_did() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Talkative, local_addr=("127.0.0.1", 0))
    addr = transport.get_extra_info("sockname")
    async with servers("127.0.0.2") as (other,), opened(ports=udpguard.Ports(quarantine=60.0)) as endpoint:
        async with endpoint.session(other.addr) as ended:
            await ended.send(b"an answer to this may still come")
        async with endpoint.session(addr) as session:
            for question in (b"1", b"2", b"3"):
                assert await session.request(question, timeout=10.0) == question
                assert await session.receive(timeout=10.0) == b"news"
    transport.close()


async def test_a_request_that_waits_out_another_of_its_session_is_told_what_helps() -> None:
    """Not to let the endpoint choose its port, which it did: the session keeps to it."""
    async with Server() as server, opened() as endpoint, endpoint.session(server.addr) as session:
        with pytest.raises(udpguard.ReplyTimeoutError, match="1 sent"):
            await session.request(b"1", timeout=0.05)
        with pytest.raises(udpguard.ReplyTimeoutError, match=r"never sent.*of its session.*ask outside of the session"):
            await session.request(b"2", timeout=0.05)
        await server.next()
        task = asyncio.ensure_future(endpoint.request(server.addr, b"3"))
        _, addr = await server.next()
        server.send(b"outside", addr)
        assert await task == b"outside"


async def test_it_shows_whom_it_is_with() -> None:
    async with Server(echo) as server, opened() as endpoint:
        where = f"127.0.0.1:{server.port}"
        session = endpoint.session(server.addr)
        assert repr(session) == f"<udpguard.Session with {where} (not open)>"
        assert repr(endpoint.session(("localhost", 9))) == "<udpguard.Session with localhost:9 (not open)>"
        async with session:
            assert repr(session) == f"<udpguard.Session with {where}>"
        assert repr(session) == f"<udpguard.Session with {where} (closed)>"


async def test_one_that_was_opened_by_await_can_be_closed_by_a_block() -> None:
    async with Server(echo) as server, opened() as endpoint:
        session = await endpoint.session(server.addr)
        async with session as same:
            assert same is session
            await session.send(b"x")
            assert await session.receive() == b"x"
        assert session.is_closing()
        with pytest.raises(RuntimeError, match="opened already"):
            async with session:
                pass


class _Closing(udpguard.Correlator):
    """One whose requests call something."""

    def __init__(self) -> None:
        self.calls: Any = None

    def request_key(self, data: bytes) -> bytes:
        self.calls()
        return data

    def reply_key(self, data: bytes) -> bytes:
        return data


class _ClosingRetry(udpguard.RetryPolicy):
    def __init__(self, calls: Any) -> None:
        self._calls = calls

    def waits(self, peer: Any, random: Any) -> list[float]:
        self._calls()
        return [1.0]


@pytest.mark.parametrize("what", ["data", "correlator", "schedule"])
async def test_a_request_ends_though_the_session_is_closed_by_what_makes_it(what: str) -> None:
    correlator = _Closing()
    async with Server() as server, opened() as endpoint:
        client = endpoint.client(correlate=correlator) if what == "correlator" else endpoint
        session = await client.session(server.addr)
        correlator.calls = session.close

        def closes(attempt: int) -> bytes:
            session.close()
            return b"hello"

        with pytest.raises(EndpointClosedError, match=r"session with .* was closed"):
            async with asyncio.timeout(5.0):
                await session.request(
                    closes if what == "data" else b"hello",
                    timeout=None,
                    retry=_ClosingRetry(session.close) if what == "schedule" else None,
                )
        assert endpoint.statistics().pending == endpoint.statistics().waiting == 0


async def test_it_is_closed_in_its_own_thread_alone() -> None:
    """In another one nobody who waits would be told."""
    async with Server() as server, opened() as endpoint:
        async with endpoint.session(server.addr) as session, endpoint.discover(server.addr, b"who") as replies:
            for one, called in ((session, "session"), (replies, "discovery")):
                with pytest.raises(
                    RuntimeError, match=rf"close it there, with loop\.call_soon_threadsafe\({called}\.close\)"
                ):
                    await asyncio.to_thread(one.close)
            assert not session.is_closing()
        await asyncio.to_thread(session.close)  # it is closed already
        await asyncio.to_thread(replies.close)
        await asyncio.to_thread(endpoint.session(server.addr).close)


@pytest.mark.parametrize("what", ["session", "discovery"])
async def test_it_can_be_closed_while_its_name_is_being_looked_up(what: str) -> None:
    async with Server(echo) as server, opened() as endpoint:
        where = ("localhost", server.port)
        one: Any = endpoint.session(where) if what == "session" else endpoint.discover(where, b"who", window=0.1)

        async def enter() -> None:
            async with one:
                pass

        task = asyncio.ensure_future(enter())
        await turns(1)
        one.close()
        with pytest.raises(EndpointClosedError, match=f"the {what} was closed before it was open"):
            await task
        assert endpoint.statistics().pending == 0
        assert not server.got
        if what == "session":
            assert one.is_closing()
            assert repr(one) == f"<udpguard.Session with localhost:{server.port} (closed)>"
        else:
            assert repr(one).endswith("(over)>")


async def test_a_block_tells_that_the_endpoint_was_closed_since_it_was_opened() -> None:
    async with Server(echo) as server, opened() as endpoint:
        session = await endpoint.session(server.addr)
        endpoint.close()
        with pytest.raises(EndpointClosedError, match=r"the endpoint is closed: .*or open a new one"):
            async with session:
                pass
