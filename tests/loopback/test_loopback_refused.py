"""Dead servers: the request that asked one is told at once, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from loopback_kit import (
    BlockingBackend,
    Names,
    Server,
    assert_idle,
    cancelled,
    closed_port,
    echo,
    opened,
    plain_socket,
    servers,
    stall,
    turns,
    until,
)

import udpguard
from udpguard import PeerRefusedError, ReplyTimeoutError, Retry, TransactionId
from udpguard._transport import UdpTransport
from udpguard.core.icmp import ICMP, NetworkError
from udpguard.core.options import Limits

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the error queue is Linux's"),
    pytest.mark.skipif(os.environ.get("UDPGUARD_BACKEND") == "portable", reason="the portable backend has none"),
]
as_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="forging ICMP takes a raw socket, and that takes root"
)

LONG = 30.0
"""The time-out of what must not time out: shorter than a test may take, so that it tells why it did."""
KEYED = TransactionId(0, 2)
ASSIGNED = TransactionId(0, 2, assign=True)
each_kind = pytest.mark.parametrize("correlate", [None, KEYED, ASSIGNED], ids=["keyless", "keyed", "assigned"])
each_host = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


@pytest.fixture
def wakeups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a socket of an endpoint that is opened from now on woke the loop."""
    woken = [0]
    real = UdpTransport._on_readable

    def on_readable(transport: UdpTransport) -> None:
        woken[0] += 1
        real(transport)

    monkeypatch.setattr(UdpTransport, "_on_readable", on_readable)
    return woken


async def refused(asked: Any, peer: Any = None) -> PeerRefusedError:
    with pytest.raises(PeerRefusedError) as caught:
        await asked
    assert peer is None or caught.value.peer == peer
    return caught.value


# ------------------------------------------------------------------------------------------- who is told


@each_host
@each_kind
async def test_a_closed_port_refuses_at_once(correlate: Any, host: str) -> None:
    async with opened(correlate=correlate) as endpoint:
        for verb in (endpoint.request, endpoint.exchange):
            dead = closed_port(host)
            error = await refused(verb(dead, b"01 question", timeout=LONG), dead)
            assert isinstance(error, ConnectionRefusedError)
            assert error.errno == errno.ECONNREFUSED
            assert str(error).startswith(f"{error.peer} refused: ")
            assert "is the server up" in str(error)
        stats = endpoint.statistics()
        assert (stats.refused, stats.timed_out, stats.unreachable, stats.send_errors) == (2, 0, 0, 0)


@each_host
@pytest.mark.parametrize(
    "kwargs",
    [
        {"retry": Retry(attempts=5, initial=50.0)},
        {"accept": lambda reply: True},
        {"reply_from": "host"},
        {"reply_from": ["peer", "192.0.2.0/24"]},
        {"reply_from": ("192.0.2.1", 7)},
        {"timeout": None},
    ],
    ids=["retried", "accept", "host", "network", "elsewhere", "for good"],
)
@each_kind
async def test_so_does_one_of_a_longer_request(correlate: Any, kwargs: dict[str, Any], host: str) -> None:
    async with opened(correlate=correlate, timeout=LONG) as endpoint:
        dead = closed_port(host)
        await refused(endpoint.request(dead, b"01 question", **kwargs), dead)
        assert endpoint.statistics().refused == 1


async def test_a_request_whose_data_differ() -> None:
    async with opened(correlate=KEYED) as endpoint:
        data = lambda attempt: b"%02d" % attempt  # noqa: E731
        await refused(endpoint.request(closed_port(), data, retry=Retry(attempts=9, initial=50.0)))


@pytest.mark.parametrize("size", [1, 511, 521, 1_300, 60_000])
@each_host
async def test_datagrams_of_any_size(size: int, host: str) -> None:
    async with opened() as endpoint:
        await refused(endpoint.request(closed_port(host), os.urandom(size), timeout=LONG))


async def test_a_datagram_of_no_bytes_has_no_quote_to_be_known_by() -> None:
    async with opened() as endpoint:
        with pytest.raises(ReplyTimeoutError, match="nothing listens on that port") as caught:
            await endpoint.request(closed_port(), b"", timeout=0.3)
        [said] = caught.value.icmp
        assert (said.peer, said.sender, said.count) == (caught.value.peer, "127.0.0.1", 1)


@each_host
async def test_both_families_of_a_socket_of_ones_own(host: str) -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    async with opened(sock=sock) as endpoint:
        dead = closed_port(host)
        await refused(endpoint.request(dead, b"question", timeout=LONG), dead)
        async with Server(echo, host) as server:
            assert await endpoint.request(server.addr, b"x", timeout=LONG) == b"x"


@each_host
@pytest.mark.parametrize("reply_from", ["peer", "host", "anywhere"])
async def test_an_expectation_whose_own_datagram_is_refused(host: str, reply_from: str) -> None:
    async with opened() as endpoint:
        dead = closed_port(host)
        async with endpoint.expect(dead, timeout=LONG, reply_from=reply_from) as expectation:
            await endpoint.send(dead, b"somebody else's")
            await asyncio.sleep(0.01)
            assert not expectation.done()
            await expectation.send(b"question")
            await refused(expectation, dead)
        ended = endpoint.expect(dead, timeout=LONG)
        ended.cancel()
        await ended.send(b"x")
        await turns(5)
        assert endpoint.statistics().refused == 1


async def test_one_that_nobody_awaits_makes_no_noise() -> None:
    async with opened() as endpoint:
        expectation = endpoint.expect(closed_port(), timeout=LONG)
        await expectation.send(b"x")
        await until(expectation.done)
        del expectation


@each_kind
async def test_each_of_many_at_once_is_told_its_own(correlate: Any) -> None:
    async with Server(echo) as server, opened(correlate=correlate) as endpoint:
        dead = [closed_port(f"127.0.{i % 5}.{1 + i}") for i in range(200)]
        asked = [endpoint.request(addr, b"%02d" % (i % 100), timeout=LONG) for i, addr in enumerate(dead)]
        live = asyncio.ensure_future(endpoint.request(server.addr, b"99", timeout=LONG))
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [outcome.peer for outcome in outcomes if isinstance(outcome, PeerRefusedError)] == dead
        assert await live == b"99"
        assert endpoint.statistics().refused == 200


async def test_many_in_flight_to_one_dead_peer() -> None:
    async with opened(correlate=KEYED) as endpoint:
        dead = closed_port()
        datas = [i.to_bytes(2, "big") + b"?" for i in range(1_000)]
        asked = [endpoint.request(dead, data, timeout=LONG) for data in datas]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        # Linux sends only so many ICMP messages a second (net.ipv4.icmp_msgs_per_sec), but not so on loopback.
        assert {type(outcome) for outcome in outcomes} == {PeerRefusedError}


async def test_those_who_wait_for_their_turn_are_refused_one_after_the_other() -> None:
    async with opened() as endpoint:
        dead = closed_port()
        asked = [endpoint.request(dead, b"%d" % i, timeout=LONG) for i in range(20)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [PeerRefusedError] * 20


async def test_a_question_that_waited_for_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    for correlate in (None, KEYED, ASSIGNED):
        async with opened(correlate=correlate, family=socket.AF_INET) as endpoint:
            backend = BlockingBackend(endpoint)
            backend.allowed = 1
            dead = [closed_port() for _ in range(5)]
            asked = [asyncio.ensure_future(endpoint.request(addr, b"01 question", timeout=LONG)) for addr in dead]
            await until(lambda b=backend: b.refused)
            backend.allowed = 1_000
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [PeerRefusedError] * 5


# ------------------------------------------------------------------------------------------- lists move on


@pytest.mark.parametrize("retry", [None, Retry(attempts=4, initial=50.0), Retry(attempts=1, initial=50.0)])
@each_kind
async def test_a_list_moves_on_at_once(correlate: Any, retry: Any) -> None:
    async with Server(echo) as server, opened(correlate=correlate) as endpoint:
        dead = [closed_port(), closed_port("::1"), closed_port("127.0.0.9")]
        reply = await endpoint.exchange([*dead, server.addr], b"01 question", retry=retry, timeout=LONG)
        assert (reply.data, reply.peer, reply.attempts) == (b"01 question", server.addr, 4)
        assert endpoint.statistics().refused == 0, "the request was not"


@pytest.mark.parametrize("retry", [None, Retry(attempts=8, initial=50.0)])
async def test_where_all_refuse_the_last_ones_error_is_raised(retry: Any) -> None:
    async with opened() as endpoint:
        dead = [closed_port(f"127.0.0.{1 + i}") for i in range(3)]
        await refused(endpoint.request(dead, b"question", retry=retry, timeout=LONG), dead[2])
        assert endpoint.statistics().refused == 1


async def test_one_that_refuses_is_not_asked_again() -> None:
    async with Server() as server, opened() as endpoint:
        dead = closed_port()
        task = asyncio.ensure_future(
            endpoint.request([dead, server.addr], b"x", retry=Retry(attempts=6, initial=0.01, multiplier=1.0))
        )
        await until(lambda: len(server.got) == 5)
        await cancelled(task)
        stats = endpoint.peer_statistics(dead)
        assert stats is not None
        assert stats.sent == 1


async def test_one_that_refuses_late_hurries_nobody() -> None:
    async with Server() as first, Server() as second, Server() as third, opened() as endpoint:
        task = asyncio.ensure_future(endpoint.request([first.addr, second.addr, third.addr], b"x", timeout=LONG))
        await second.next()
        guard = endpoint._guard
        step_at = guard.registry.timetable.next_due()
        wire = next(wire for wire in map(bytes, guard.registry._sources) if wire[:2] == first.port.to_bytes(2, "big"))
        guard.report([NetworkError(wire, b"x", errno.ECONNREFUSED, ICMP, 3, 3)])
        assert guard.registry.timetable.next_due() == step_at
        await turns(3)
        assert third.got == []
        second.send(b"y", second.got[0][1])
        assert await task == b"y"


async def test_the_others_may_answer_yet_and_the_time_out_tells_who_refused() -> None:
    async with Server() as server, opened() as endpoint:
        dead = closed_port()
        with pytest.raises(ReplyTimeoutError) as caught:
            await endpoint.request([server.addr, dead], b"x", timeout=1.0)
        assert f"127.0.0.1:{dead[1]} refused" in str(caught.value)
        assert caught.value.attempts == 2


async def test_a_name_with_dead_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, half=["::1", "127.0.0.1"], dead=["::1", "127.0.0.9"])
    async with Server(echo) as server, opened() as endpoint:
        for retry in (None, Retry(initial=50.0)):
            reply = await endpoint.exchange(("half", server.port), b"x", retry=retry, timeout=LONG)
            assert (reply.peer, reply.attempts) == (server.addr, 2)
            await refused(endpoint.request(("dead", server.port), b"x", retry=retry, timeout=LONG))
        # One that is looked up yet is waited for, and asked at once.
        names.hold = asyncio.Event()
        dead = closed_port("127.0.0.7")
        for retry in (None, Retry(initial=50.0)):
            names.hold.clear()
            task = asyncio.ensure_future(endpoint.exchange([dead, ("half", server.port)], b"x", retry=retry))
            await until(lambda: endpoint.statistics().pending)
            await turns(20)
            names.hold.set()
            assert (await task).peer == server.addr
        names.hold.clear()
        task = asyncio.ensure_future(endpoint.exchange([dead, ("nobody", server.port)], b"x"))
        await turns(20)
        names.hold.set()
        with pytest.raises(socket.gaierror):
            await task


# ------------------------------------------------------------------------------------------- nobody else pays


async def test_send_to_a_dead_port_ends_nothing_and_the_next_request_is_answered(wakeups: list[int]) -> None:
    async with Server(echo) as server, opened() as endpoint:
        dead = closed_port()
        for i in range(200):
            await endpoint.send(dead, b"x")
            assert await endpoint.request(server.addr, b"%d" % i, timeout=LONG) == b"%d" % i
        stats = endpoint.statistics()
        assert (stats.sent, stats.matched, stats.send_errors, stats.refused) == (400, 200, 0, 0)
        assert wakeups[0] <= 800


@each_kind
async def test_no_send_to_a_live_peer_is_lost_to_dead_ones(correlate: Any, wakeups: list[int]) -> None:
    """10,000 sends beside a hundred dead peers, one by one and together."""
    async with Server() as server, opened(correlate=correlate) as endpoint:
        dead = [closed_port(f"127.0.1.{1 + i}") for i in range(100)]
        stop = False

        async def ask(addr: Any) -> int:
            count = 0
            while not stop:
                await refused(endpoint.request(addr, b"01 question", timeout=LONG), addr)
                count += 1
                await asyncio.sleep(0.005)
            return count

        asking = [asyncio.ensure_future(ask(addr)) for addr in dead]
        for i in range(100):
            await asyncio.gather(*(endpoint.send(server.addr, b"%d" % (100 * i + k)) for k in range(100)))
            await until(lambda upto=100 * (i + 1): len(server.got) >= upto)  # type: ignore[misc]
        stop = True
        told = await asyncio.gather(*asking)
        assert server.data == [b"%d" % i for i in range(10_000)]
        stats = endpoint.statistics()
        assert stats.refused == sum(told) >= 100
        assert (stats.sent, stats.send_errors) == (10_000 + sum(told), 0)
        # The queue is drained, so nothing wakes the loop any more.
        before = wakeups[0]
        await asyncio.sleep(0.1)
        assert wakeups[0] - before <= 2


async def test_requests_to_live_peers_beside_dead_ones_are_all_answered() -> None:
    async with servers(*["127.0.0.1"] * 20, handler=echo) as many, opened() as endpoint:
        asked: list[Any] = []
        for round_ in range(20):
            for i, server in enumerate(many):
                asked.append(endpoint.request(closed_port(f"127.0.2.{1 + i}"), b"dead", timeout=LONG))
                asked.append(endpoint.request(server.addr, b"%d" % round_, timeout=LONG))
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[::2]] == [PeerRefusedError] * 400
        assert outcomes[1::2] == [b"%d" % round_ for round_ in range(20) for _ in many]


async def test_a_thousand_refusals_wake_the_loop_seldom_and_then_never(wakeups: list[int]) -> None:
    async with opened() as endpoint:
        for _ in range(10):
            asked = [endpoint.request(closed_port(f"127.0.3.{1 + i}"), b"x", timeout=LONG) for i in range(100)]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [PeerRefusedError] * 100
        assert wakeups[0] <= 1_000
        before = wakeups[0]
        await asyncio.sleep(0.1)
        assert wakeups[0] - before <= 2


async def test_errors_of_a_blocked_loop_come_before_time_outs() -> None:
    async with opened(correlate=KEYED, limits=Limits(pending=500)) as endpoint:
        dead = closed_port()
        asked = [asyncio.ensure_future(endpoint.request(dead, i.to_bytes(2, "big"), timeout=1.0)) for i in range(300)]
        await turns(1)
        for channel in endpoint._guard.channels:
            channel._watch.ignore_readable()  # type: ignore[attr-defined]
        await turns(2)
        stall(1.1)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {PeerRefusedError}


async def test_an_error_of_sending_is_its_own_callers_once() -> None:
    async with Server(echo) as server, opened(("127.0.0.1", 0)) as endpoint:
        pending = asyncio.ensure_future(endpoint.request(closed_port("127.0.0.8"), b"", timeout=0.2))
        await turns(3)
        with pytest.raises(udpguard.PeerUnreachableError):
            await endpoint.request(("192.0.2.1", 9), b"x", timeout=LONG)  # not from a loopback address
        assert await endpoint.request(server.addr, b"x", timeout=LONG) == b"x"
        with pytest.raises(ReplyTimeoutError):
            await pending
        stats = endpoint.statistics()
        assert (stats.unreachable, stats.refused, stats.timed_out) == (1, 0, 1)


async def test_one_that_is_queued_as_well_ends_nothing_else_and_wakes_nobody(wakeups: list[int]) -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("::1", 0))
    sock.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER = IPV6_PMTUDISC_DO: never in fragments
    async with Server(echo, "::1") as server, Server(host="::1") as silent, opened(sock=sock) as endpoint:
        pending = asyncio.ensure_future(endpoint.request(silent.addr, bytes(100), timeout=LONG))
        await silent.next()
        for asked in (endpoint.request(server.addr, bytes(65_527)), endpoint.send(silent.addr, bytes(65_527))):
            with pytest.raises(udpguard.DatagramTooLargeError):
                await asked
        before = wakeups[0]
        await asyncio.sleep(0.1)
        assert wakeups[0] - before <= 2
        assert await endpoint.request(server.addr, b"x", timeout=LONG) == b"x"
        assert not pending.done()
        await cancelled(pending)


async def test_an_error_that_the_user_has_met_himself_does_not_wake_the_loop_for_ever(wakeups: list[int]) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    async with Server(echo) as server, opened(sock=sock) as endpoint:
        dead = closed_port()
        sock.sendto(b"x", dead)
        with pytest.raises(ConnectionRefusedError):  # it is off the socket now, but in the queue
            sock.sendto(b"x", dead)
        await asyncio.sleep(0.1)
        assert 1 <= wakeups[0] <= 2
        assert await endpoint.request(server.addr, b"x", timeout=LONG) == b"x"


# ------------------------------------------------------------------------------------------- which request


async def test_a_message_about_an_earlier_request_is_not_credited_to_a_newer_one() -> None:
    async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
        guard = endpoint._guard
        for data, newer in ((b"first", b"second"), (b"longer question", b"longer")):
            task = asyncio.ensure_future(endpoint.request(server.addr, data, timeout=LONG))
            await server.next()
            wire = next(iter(guard.registry._sources))
            await cancelled(task)
            task = asyncio.ensure_future(endpoint.request(server.addr, newer, timeout=LONG))
            await server.next()
            assert isinstance(wire, bytes)
            guard.report([NetworkError(wire, data, errno.ECONNREFUSED, ICMP, 3, 3)])
            assert not task.done()
            server.send(b"answer", server.got[-1][1])
            assert await task == b"answer"


async def test_nor_to_one_that_has_not_left_yet() -> None:
    async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
        guard = endpoint._guard
        tasks = [asyncio.ensure_future(endpoint.request(server.addr, b"x", timeout=LONG))]
        await server.next()
        wire = next(iter(guard.registry._sources))
        assert isinstance(wire, bytes)
        await cancelled(*tasks)
        guard.outbox.turn_ends = 1e9  # the questions of this turn leave at its end
        task = asyncio.ensure_future(endpoint.request(server.addr, b"x", timeout=LONG))
        guard.loop.call_soon(guard.report, [NetworkError(wire, b"x", errno.ECONNREFUSED, ICMP, 3, 3)])  # type: ignore[union-attr]
        await server.next()
        assert not task.done()
        server.send(b"answer", server.got[-1][1])
        assert await task == b"answer"


async def test_a_late_answer_of_one_that_was_refused_is_late() -> None:
    async with opened(("127.0.0.1", 0)) as endpoint:
        dead = closed_port()
        await refused(endpoint.request(dead, b"x", timeout=LONG), dead)
        with plain_socket(*dead) as risen:
            risen.sendto(b"answer", endpoint.local_addr)
            await until(lambda: endpoint.statistics().late == 1)


async def test_after_a_refusal_a_server_that_came_up_is_asked() -> None:
    async with opened() as endpoint:
        dead = closed_port()
        await refused(endpoint.request(dead, b"x", timeout=LONG), dead)
        async with Server(echo, *dead) as server:
            assert await endpoint.request(server.addr, b"x", timeout=LONG) == b"x"


# ------------------------------------------------------------------------------------------- ports


async def test_who_refuses_owes_no_reply_so_nobody_waits_for_one() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    async with opened(sock=sock, ports=udpguard.Ports(quarantine=1_000.0)) as endpoint:
        dead = closed_port()
        for kwargs in ({}, {"retry": Retry(initial=50.0)}, {"reply_from": "host"}, {}):
            await refused(endpoint.request(dead, b"question", timeout=LONG, **kwargs), dead)
        assert not endpoint._guard.registry.soil.dirty


async def test_a_list_that_moved_on_owes_none_either() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    async with Server(echo) as server, opened(sock=sock, ports=udpguard.Ports(quarantine=1_000.0)) as endpoint:
        for _ in range(3):
            assert await endpoint.request([closed_port(), server.addr], b"question", timeout=LONG) == b"question"


@pytest.mark.parametrize("ports", [udpguard.Ports(pool=3), udpguard.Ports(rotate=True)], ids=["pool", "rotated"])
@each_kind
async def test_from_whichever_port_it_left(correlate: Any, ports: udpguard.Ports) -> None:
    async with opened(correlate=correlate, ports=ports) as endpoint:
        dead = closed_port()
        with plain_socket(*dead):
            for _ in range(2):
                with pytest.raises(ReplyTimeoutError):
                    await endpoint.request(dead, b"01 question", timeout=0.02)
        for i in range(4):
            await refused(endpoint.request(dead, b"%02d question" % i, timeout=LONG), dead)
        expectation = endpoint.expect(dead, timeout=LONG, transaction=None if correlate is None else b"01")
        await expectation.send(b"01 question")
        await refused(expectation, dead)


# ------------------------------------------------------------------------------------------- the end, and others


async def test_closing_with_errors_in_the_queue() -> None:
    endpoint = await udpguard.open_endpoint()
    tasks = [asyncio.ensure_future(endpoint.request(closed_port(), b"x", timeout=LONG)) for _ in range(50)]
    await asyncio.sleep(0)
    endpoint.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {udpguard.EndpointClosedError, PeerRefusedError}
    await endpoint.wait_closed()
    assert_idle(endpoint)
    await turns(5)


async def test_closing_in_the_middle_of_a_report() -> None:
    class Closing(udpguard.Correlator):
        def request_key(self, data: bytes) -> Any:
            if len(data) == 3:
                endpoint.close()
            return data

        def reply_key(self, data: bytes) -> Any:
            return data

    endpoint = await udpguard.open_endpoint(correlate=Closing())
    async with Server() as server:
        task = asyncio.ensure_future(endpoint.request(server.addr, b"question", timeout=LONG))
        await server.next()
        wire = next(wire for wire in endpoint._guard.registry._sources if isinstance(wire, bytes))
        errors = [NetworkError(wire, quote, errno.ECONNREFUSED, ICMP, 3, 3) for quote in (b"que", b"question")]
        endpoint._guard.report(errors)
        with pytest.raises(udpguard.EndpointClosedError):
            await task
    await endpoint.wait_closed()
    endpoint._guard.report(errors)


async def test_an_interrupt_in_request_key_is_raised() -> None:
    class Fatal(udpguard.Correlator):
        def request_key(self, data: bytes) -> Any:
            if len(data) == 3:
                raise SystemExit(3)
            return data

        def reply_key(self, data: bytes) -> Any:
            return data

    async with Server() as server, opened(correlate=Fatal()) as endpoint:
        task = asyncio.ensure_future(endpoint.request(server.addr, b"question", timeout=LONG))
        await server.next()
        wire = next(wire for wire in endpoint._guard.registry._sources if isinstance(wire, bytes))
        with pytest.raises(SystemExit):
            endpoint._guard.report([NetworkError(wire, b"que", errno.ECONNREFUSED, ICMP, 3, 3)])
        await cancelled(task)


async def test_a_bare_protocol_on_the_loops_own_transport_takes_no_harm() -> None:
    async with Server(echo) as server:
        loop = asyncio.get_running_loop()
        transport, guard = await loop.create_datagram_endpoint(udpguard.GuardProtocol, local_addr=("127.0.0.1", 0))
        for _ in range(20):
            transport.sendto(b"x", closed_port())
            reply = guard.expect(server.addr, timeout=LONG)
            transport.sendto(b"y", server.addr)
            assert (await reply).data == b"y"
        assert guard.statistics().refused == 0
        transport.close()
        await turns(3)


async def test_the_portable_backend_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDPGUARD_BACKEND", "portable")
    async with Server(echo) as server, opened() as endpoint:
        dead = asyncio.ensure_future(endpoint.request(closed_port(), b"x", timeout=0.2))
        assert await endpoint.request(server.addr, b"y", timeout=LONG) == b"y"
        with pytest.raises(ReplyTimeoutError):
            await dead


async def test_nothing_of_it_is_logged_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "udpguard")
    async with opened() as endpoint:
        for _ in range(20):
            await refused(endpoint.request(closed_port(), b"x", timeout=LONG))
    assert not [record for record in caplog.records if record.name == "udpguard" and record.levelname != "DEBUG"]


# ------------------------------------------------------------------------------------------- forgery


@contextlib.contextmanager
def forger() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        yield sock


def icmp(
    here: tuple[str, int], peer: tuple[str, int], quote: bytes, *, type_: int = 3, code: int = 3, mtu: int = 0
) -> bytes:
    """A message about a datagram that is said to have left from here for a peer."""
    udp = struct.pack("!HHHH", here[1], peer[1], 8 + len(quote), 0) + quote
    addresses = socket.inet_aton(here[0]) + socket.inet_aton(peer[0])
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + addresses
    body = struct.pack("!HH", 0, mtu) + ip + udp
    words = struct.pack("!BB", type_, code) + b"\0\0" + body
    total = sum(struct.unpack(f"!{(len(words) + 1) // 2}H", words + bytes(len(words) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBH", type_, code, ~total & 0xFFFF) + body


def messages_of(endpoint: udpguard.Endpoint) -> list[int]:
    """How many messages the endpoint is told of from now on."""
    count = [0]
    guard = endpoint._guard
    real = guard.report

    def report(errors: Any, port: int = 0) -> None:
        count[0] += len(errors)
        real(errors, port)

    guard.report = report  # type: ignore[method-assign]
    return count


@as_root
@each_kind
async def test_a_true_message_from_a_router_refuses_too(correlate: Any) -> None:
    async with Server() as server, opened(("127.0.0.1", 0), correlate=correlate) as endpoint:
        task = asyncio.ensure_future(endpoint.request(server.addr, b"01 question", timeout=LONG))
        sent, _ = await server.next()
        with forger() as sock:
            sock.bind(("127.0.0.254", 0))
            sock.sendto(icmp(endpoint.local_addr, server.addr, sent[:8]), ("127.0.0.1", 0))
        error = await refused(task, server.addr)
        assert "127.0.0.254" in str(error)


@as_root
@each_kind
async def test_forged_messages_kill_nothing_and_fill_nothing(correlate: Any, wakeups: list[int]) -> None:
    async with Server() as server, Server() as other, opened(("127.0.0.1", 0), correlate=correlate) as endpoint:
        here = endpoint.local_addr
        told = messages_of(endpoint)
        task = asyncio.ensure_future(endpoint.request(server.addr, b"01 question", timeout=LONG))
        sent, _ = await server.next()
        elses = asyncio.ensure_future(endpoint.request(other.addr, b"02 elses", timeout=LONG))
        others, _ = await other.next()
        forged = [
            icmp(here, server.addr, b""),
            icmp(here, server.addr, b"wrong quote"),
            icmp(here, server.addr, sent + b"!"),
            icmp(here, server.addr, others),
            icmp(here, closed_port("127.9.9.9"), sent),
            icmp(here, server.addr, sent, code=1),
            icmp(here, server.addr, sent, type_=11, code=0),
        ]
        before = resource.getrusage(resource.RUSAGE_SELF)
        with forger() as sock:
            for i in range(10_000):
                sock.sendto(forged[i % len(forged)], ("127.0.0.1", 0))
                if i % 100 == 99:
                    await until(lambda count=i + 1: told[0] >= count)  # type: ignore[misc]
        after = resource.getrusage(resource.RUSAGE_SELF)
        assert after.ru_utime - before.ru_utime < 5.0
        assert told[0] == 10_000
        assert not task.done()
        assert not elses.done()
        assert len(endpoint._guard.registry._hints) <= 8
        assert sum(len(channel._reports._kept) for channel in endpoint._guard.channels) == 0  # type: ignore[attr-defined]
        server.send(sent, here)
        other.send(others, here)
        assert (await task, await elses) == (b"01 question", b"02 elses")
        stats = endpoint.statistics()
        assert (stats.refused, stats.send_errors, stats.kernel_dropped) == (0, 0, 0)
        quiet = wakeups[0]
        await asyncio.sleep(0.1)
        assert wakeups[0] - quiet <= 2


@as_root
async def test_three_thousand_that_came_while_the_loop_was_blocked_cost_no_reply() -> None:
    async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
        here = endpoint.local_addr
        task = asyncio.ensure_future(endpoint.request(server.addr, b"question", timeout=LONG))
        await server.next()
        with forger() as sock:
            for _ in range(3_000):
                sock.sendto(icmp(here, server.addr, b"x" * 500), ("127.0.0.1", 0))
        await turns(30)
        server.send(b"answer", here)
        assert await task == b"answer"


@as_root
@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"code": 1}, "an ICMP message from 127.0.0.254 says that the host is unreachable"),
        ({"code": 4, "mtu": 1_280}, "the path carries no more than 1,280 bytes with their headers: send less at once"),
        ({"code": 13}, "a firewall forbids it"),
    ],
)
async def test_a_hint_is_told_in_the_time_out(message: dict[str, int], text: str) -> None:
    async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
        told = messages_of(endpoint)
        task = asyncio.ensure_future(endpoint.request(server.addr, b"question", timeout=1.0))
        await server.next()
        with forger() as sock:
            sock.bind(("127.0.0.254", 0))
            for _ in range(3):
                sock.sendto(icmp(endpoint.local_addr, server.addr, b"question", **message), ("127.0.0.1", 0))
                await until(lambda count=told[0]: told[0] > count)  # type: ignore[misc]
        with pytest.raises(ReplyTimeoutError) as caught:
            await task
        assert text in str(caught.value)
        [said] = caught.value.icmp
        assert (said.peer, said.sender, said.count) == (server.addr, "127.0.0.254", 3)
        assert said.mtu == message.get("mtu", 0)
        before = time.monotonic()
        with pytest.raises(ReplyTimeoutError) as caught:
            await endpoint.request(server.addr, b"question", timeout=0.05)
        assert caught.value.icmp == (), "what came before it is none of its"
        assert time.monotonic() > before


@as_root
async def test_what_is_pending_without_being_queued_costs_no_send() -> None:
    """Where the receive buffer is full an error is pending, and nothing in the queue tells of it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    async with Server() as server, opened(sock=sock) as endpoint:
        here = endpoint.local_addr
        await endpoint.send(server.addr, b"first")
        with plain_socket() as junk, forger() as raw:
            for _ in range(30_000):
                junk.sendto(b"x", here)
            for code in (1, 0, 3, 13, 4):
                raw.sendto(icmp(here, server.addr, b"first", code=code), ("127.0.0.1", 0))
                await_nothing = endpoint.send(server.addr, b"%d" % code)
                with contextlib.suppress(StopIteration):
                    await_nothing.send(None)
        await until(lambda: len(server.got) == 6)
        assert endpoint.statistics().send_errors == 0


async def test_a_refusal_of_what_left_while_the_next_attempt_waits_for_the_socket() -> None:
    def data(attempt: int) -> bytes:
        return b"%02d question" % attempt

    async with Server() as server, opened(correlate=udpguard.TransactionId(0, 2)) as endpoint:
        backend = BlockingBackend(endpoint)
        backend.allowed = 1
        retry = udpguard.Retry(attempts=3, initial=0.02, jitter=0.0)
        task = asyncio.ensure_future(endpoint.request(server.addr, data, retry=retry))
        await until(lambda: backend.refused)
        wire = next(wire for wire in endpoint._guard.registry._sources if isinstance(wire, bytes))
        endpoint._guard.report([NetworkError(wire, b"00 question", errno.ECONNREFUSED, ICMP, 3, 3)])
        with pytest.raises(udpguard.PeerRefusedError):
            await task
        backend.allowed = 1_000
        endpoint._guard.channels[0]._on_writable()
