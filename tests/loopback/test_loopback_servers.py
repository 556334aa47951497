"""Lists of servers, where a reply may come from, and retransmission."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from loopback_kit import (
    Names,
    Server,
    cancelled,
    closed_port,
    echo,
    in_jumping_time,
    opened,
    plain_socket,
    same_port,
    servers,
    turns,
    until,
)

import udpguard
from udpguard import AdaptiveRetry, Reply, Retry, RetryPolicy, TransactionId

UNREACHABLE = ("198.51.100.1", 9)
"""From an endpoint bound to 127.0.0.1 no datagram leaves for there."""


def ask(client: udpguard.Client, addr: Any, data: Any = b"x", **kwargs: Any) -> asyncio.Task[Reply]:
    kwargs.setdefault("timeout", 5.0)
    return asyncio.ensure_future(client.exchange(addr, data, **kwargs))


def now() -> float:
    return asyncio.get_running_loop().time()


# ------------------------------------------------------------------------------------------------ lists of servers


def test_without_a_schedule_the_next_server_is_tried_after_250_ms_and_each_once() -> None:
    async def main() -> None:
        async with Server() as a, Server() as b, Server(echo) as c, opened() as endpoint:
            began = now()
            reply = await ask(endpoint, [a.addr, b.addr, c.addr])
            assert now() - began == pytest.approx(0.5, abs=0.01)
            assert (reply.peer, reply.attempts) == (c.addr, 3)
            assert reply.rtt is not None
            assert (len(a.got), len(b.got)) == (1, 1)

    in_jumping_time(main)


def test_all_dead() -> None:
    async def main() -> None:
        async with Server() as a, Server() as b, opened() as endpoint:
            began = now()
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await ask(endpoint, [a.addr, b.addr, closed_port()], timeout=3.0)
            assert now() - began == pytest.approx(3.0, abs=0.01)
            assert caught.value.attempts == 3
            assert f"{a.addr[0]}:{a.port}, {b.addr[0]}:{b.port}" in str(caught.value)
            assert (len(a.got), len(b.got)) == (1, 1)

    in_jumping_time(main)


def test_with_a_schedule_the_attempts_try_the_servers_in_turn() -> None:
    async def main() -> None:
        async with Server() as a, Server() as b, Server() as c, opened() as endpoint:
            schedule = Retry(attempts=5, initial=1.0, multiplier=1.0, jitter=0.0)
            seen: list[tuple[float, str]] = []
            began = now()
            for name, server in (("a", a), ("b", b), ("c", c)):
                server.handler = lambda *_, name=name: seen.append((round(now() - began, 1), name))  # type: ignore[misc]
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await ask(endpoint, [a.addr, b.addr, c.addr], retry=schedule, timeout=udpguard.DEFAULT)
            assert seen == [(0.0, "a"), (1.0, "b"), (2.0, "c"), (3.0, "a"), (4.0, "b")]
            assert now() - began == pytest.approx(5.0, abs=0.01)
            assert caught.value.attempts == 5
            assert caught.value.peer == b.addr

    in_jumping_time(main)


def test_a_reply_of_a_server_tried_earlier_is_accepted() -> None:
    async def main() -> None:
        async with Server() as a, Server() as b, opened() as endpoint:
            task = ask(endpoint, [a.addr, b.addr])
            _, addr = await a.next()
            await b.next()
            a.send(b"from the first", addr)
            reply = await task
            assert (reply.data, reply.peer, reply.attempts) == (b"from the first", a.addr, 2)
            assert reply.rtt == pytest.approx(0.25, abs=0.01), "counted from the send to that server"
            b.send(b"from the second", addr)
            await until(lambda: endpoint.statistics().duplicate == 1)

    in_jumping_time(main)


async def test_a_reply_of_a_server_not_tried_yet_is_not_accepted() -> None:
    async with Server() as a, Server() as b, opened() as endpoint:
        task = ask(endpoint, [a.addr, b.addr], retry=Retry(attempts=2, initial=30.0))
        _, addr = await a.next()
        b.send(b"unasked", addr)
        await until(lambda: endpoint.statistics().unknown_peer == 1)
        assert not task.done()
        await cancelled(task)


async def test_no_route_moves_on_at_once() -> None:
    async with Server(echo) as server, opened(("127.0.0.1", 0)) as endpoint:
        reply = await ask(endpoint, [UNREACHABLE, server.addr], retry=Retry(attempts=2, initial=30.0))
        assert (reply.peer, reply.attempts) == (server.addr, 1)
        reply = await ask(endpoint, [UNREACHABLE, ("198.51.100.2", 9), server.addr])
        assert (reply.peer, reply.attempts) == (server.addr, 1)
        stats = endpoint.statistics()
        assert (stats.unreachable, stats.send_errors, stats.sent) == (0, 3, 2)


async def test_if_none_has_a_route_the_last_ones_error_is_raised() -> None:
    async with opened(("127.0.0.1", 0)) as endpoint:
        with pytest.raises(udpguard.PeerUnreachableError) as caught:
            await ask(endpoint, [UNREACHABLE, ("198.51.100.2", 9)])
        assert caught.value.peer == ("198.51.100.2", 9)
        assert endpoint.statistics().unreachable == 1


async def test_a_directed_broadcast_in_a_list_is_passed_over() -> None:
    async with Server(echo) as server, opened() as endpoint:
        assert (await ask(endpoint, [("127.255.255.255", 9), server.addr])).peer == server.addr


def test_where_the_others_have_no_route_the_reply_of_the_first_still_counts() -> None:
    async def main() -> None:
        async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
            task = ask(endpoint, [server.addr, UNREACHABLE])
            _, addr = await server.next()
            await asyncio.sleep(1.0)
            assert endpoint.statistics().send_errors == 1
            assert not task.done()
            server.send(b"y", addr)
            assert (await task).data == b"y"

    in_jumping_time(main)


async def test_a_busy_server_is_passed_over_for_the_time_being() -> None:
    async with Server() as busy, Server(echo) as free, opened() as endpoint:
        first = ask(endpoint, busy.addr, timeout=30.0)
        await busy.next()
        reply = await ask(endpoint, [busy.addr, free.addr])
        assert (reply.peer, reply.attempts) == (free.addr, 1)
        assert len(busy.got) == 1
        await cancelled(first)


async def test_where_all_are_busy_it_waits_for_the_first_that_is_free() -> None:
    async with Server() as a, Server() as b, opened() as endpoint:
        holders = [ask(endpoint, a.addr), ask(endpoint, b.addr)]
        _, addr = await a.next()
        await b.next()
        task = ask(endpoint, [a.addr, b.addr], b"either")
        await turns(3)
        assert endpoint.statistics().waiting == 1
        b.send(b"ok", addr)
        assert (await holders[1]).data == b"ok"
        assert (await b.next())[0] == b"either"
        b.send(b"ok", addr)
        assert (await task).peer == b.addr
        a.send(b"ok", addr)
        await holders[0]
        assert a.data == [b"x"]


async def test_a_list_takes_each_turn_when_it_tries_that_server() -> None:
    async with Server() as a, Server() as b, opened() as endpoint:
        task = ask(endpoint, [a.addr, b.addr], retry=Retry(attempts=2, initial=30.0), timeout=30.0)
        await a.next()
        other = ask(endpoint, b.addr, b"other")  # b was not tried yet: its turn is free
        _, addr = await b.next()
        b.send(b"y", addr)
        assert (await other).data == b"y"
        waits = ask(endpoint, a.addr, b"waits")
        await turns(3)
        assert endpoint.statistics().waiting == 1
        await cancelled(task, waits)


async def test_the_same_server_twice_in_a_list_is_one() -> None:
    async with Server() as a, opened() as endpoint:
        with pytest.raises(udpguard.ReplyTimeoutError) as caught:
            await ask(endpoint, [a.addr, ("::ffff:127.0.0.1", a.port), a.addr], timeout=0.6)
        assert caught.value.attempts == 1


async def test_an_empty_list_is_refused() -> None:
    async with opened() as endpoint:
        for empty in ([], ()):
            with pytest.raises(udpguard.InvalidAddressError):
                await endpoint.request(empty, b"x")  # type: ignore[arg-type]


async def test_a_list_may_be_a_tuple_of_addresses_and_hold_names(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(asyncio.get_running_loop(), monkeypatch, server=["127.0.0.1"])
    async with Server(echo) as server, opened() as endpoint:
        assert (await ask(endpoint, (server.addr, server.addr))).peer == server.addr
        assert (await ask(endpoint, [("server", server.port)])).peer == server.addr
        assert (await ask(endpoint, [("nobody", server.port), ("server", server.port)])).peer == server.addr
        assert (await ask(endpoint, [("nobody", server.port), server.addr])).peer == server.addr


async def test_a_literal_is_asked_while_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, slow=["127.0.0.2"])
    names.hold = asyncio.Event()
    async with Server(echo) as server, opened() as endpoint:
        assert (await ask(endpoint, [("slow", 9), server.addr])).peer == server.addr
        names.hold.set()
        await turns(3)


async def test_if_no_name_of_a_list_resolves_the_lookups_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    Names(asyncio.get_running_loop(), monkeypatch)
    async with opened() as endpoint:
        with pytest.raises(socket.gaierror):
            await ask(endpoint, [("nobody", 9), ("nowhere", 9)])


async def test_assigned_ids_for_each_server_of_a_list() -> None:
    async with Server() as a, Server() as b, opened(correlate=TransactionId(0, 2, assign=True)) as endpoint:
        task = ask(endpoint, [a.addr, b.addr], b"\0\0q", retry=Retry(attempts=2, initial=0.02, final_wait=5.0))
        data, addr = await a.next()
        other, _ = await b.next()
        b.send(data, addr) if data != other else None  # the other server's id is no key here
        a.send(data, addr)
        reply = await task
        assert (reply.data, reply.peer) == (b"\0\0q", a.addr)


# ------------------------------------------------------------------------------------------------ reply_from


async def test_reply_from_peer_wants_host_and_port() -> None:
    async with same_port("127.0.0.1", "127.0.0.2") as (server, other), Server() as neighbour, opened() as endpoint:
        task = ask(endpoint, server.addr)
        _, addr = await server.next()
        other.send(b"same port", addr)
        neighbour.send(b"same host", addr)
        server.send(b"right", addr)
        assert (await task).data == b"right"
        assert endpoint.statistics().unknown_peer == 2


async def test_reply_from_host_takes_any_port_of_it() -> None:
    async with Server() as server, Server() as port, Server(None, "127.0.0.2") as other, opened() as endpoint:
        task = ask(endpoint, server.addr, reply_from="host")
        _, addr = await server.next()
        other.send(b"other host", addr)
        port.send(b"tftp", addr)
        reply = await task
        assert (reply.data, reply.peer) == (b"tftp", port.addr)
        assert reply.rtt is not None


async def test_reply_from_an_address() -> None:
    async with Server() as server, Server(None, "127.0.0.2") as back, opened() as endpoint:
        for where in (back.addr, udpguard.Peer(*back.addr), [back.addr], (back.addr,)):
            task = ask(endpoint, server.addr, reply_from=where)
            _, addr = await server.next()
            server.send(b"from the front", addr)
            back.send(b"from the back", addr)
            assert (await task).peer == back.addr
            await turns(5)


NETWORKS: list[Any] = [
    "127.9.0.0/16",
    "127.9.1.0/24",
    ipaddress.ip_network("127.9.0.0/16"),
    "127.9.1.2",
    "127.9.1.2/32",
    ["10.0.0.0/8", "127.9.0.0/16"],
    ["peer", "127.9.0.0/16"],
    ["host", ipaddress.IPv4Network("127.9.1.0/30")],
    "::ffff:127.9.1.0/120",
    "0.0.0.0/0",
]


@pytest.mark.parametrize("where", NETWORKS, ids=repr)
async def test_reply_from_a_network(where: Any) -> None:
    async with servers("127.0.0.1", "127.9.1.2", "127.8.1.2") as (server, inside, out), opened() as endpoint:
        task = ask(endpoint, server.addr, reply_from=where)
        _, addr = await server.next()
        if where != "0.0.0.0/0":
            out.send(b"outside", addr)
        inside.send(b"inside", addr)
        assert (await task).peer == inside.addr
        assert endpoint.statistics().unknown_peer == (where != "0.0.0.0/0")


async def test_reply_from_an_ipv6_network() -> None:
    async with Server(None, "::1") as server, opened() as endpoint:
        for where in ("::/127", "::1/128", "::/0", ipaddress.ip_network("::/64"), "::1"):
            task = ask(endpoint, server.addr, reply_from=where)
            _, addr = await server.next()
            server.send(b"y", addr)
            assert (await task).data == b"y"


async def test_reply_from_anywhere_wants_a_correlator_or_accept() -> None:
    async with Server() as server, Server(None, "127.0.0.9") as other, opened() as endpoint:
        with pytest.raises(ValueError, match="anywhere"):
            await endpoint.request(server.addr, b"x", reply_from="anywhere")
        with pytest.raises(ValueError, match="anywhere"):
            await endpoint.request(server.addr, b"x", reply_from=["peer", "anywhere"])
        task = ask(endpoint, server.addr, reply_from="anywhere", accept=lambda reply: reply.data == b"magic")
        _, addr = await server.next()
        other.send(b"junk", addr)
        other.send(b"magic", addr)
        assert (await task).peer == other.addr
        keyed = endpoint.client(correlate=TransactionId(0, 2))
        task = ask(keyed, server.addr, b"ab", reply_from="anywhere")
        await server.next()
        other.send(b"cd", addr)
        other.send(b"ab", addr)
        assert (await task).peer == other.addr


@pytest.mark.parametrize(
    "where", ["", "somewhere", "127.0.0.1:53", "300.0.0.0/8", "127.0.0.1/8", [], 3.5, None, ["peer", "no"], b"peer"]
)
async def test_reply_from_that_makes_no_sense(where: Any) -> None:
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises((ValueError, TypeError)):
            await endpoint.request(server.addr, b"x", reply_from=where)
        with pytest.raises((ValueError, TypeError)):
            endpoint.expect(server.addr, reply_from=where)
        assert server.got == []


async def test_reply_from_a_name_is_refused() -> None:
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(udpguard.InvalidAddressError, match="resolve"):
            await endpoint.request(server.addr, b"x", reply_from=("localhost", 53))


async def test_overlapping_expectations_are_offered_a_datagram_the_most_specific_first_then_the_oldest() -> None:
    async with Server() as server, opened() as endpoint:
        wide = [("anywhere", "anywhere"), ("network", "127.0.0.0/8"), ("narrower", "127.0.0.0/24"), ("host", "host")]
        expectations = {name: endpoint.expect(("127.0.0.1", 9), reply_from=where, timeout=5.0) for name, where in wide}
        for name in ("older", "newer"):
            expectations[name] = endpoint.expect(server.addr, timeout=5.0)
        order = ["older", "newer", "host", "narrower", "network", "anywhere"]
        with plain_socket() as _:
            for name in order:
                server.send(name.encode(), ("127.0.0.1", endpoint.local_addr.port))
        for name in order:
            assert (await expectations[name]).data == name.encode()


# ------------------------------------------------------------------------------------------------ retransmission


def sends_at(schedule: RetryPolicy, **kwargs: Any) -> tuple[list[float], float, udpguard.ReplyTimeoutError]:
    """When a request that is never answered is sent, and when and how it ends; seconds from the call."""

    async def main() -> tuple[list[float], float, udpguard.ReplyTimeoutError]:
        times: list[float] = []
        async with Server(lambda *_: times.append(now())) as server, opened() as endpoint:
            began = now()
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await endpoint.request(server.addr, b"x", retry=schedule, **kwargs)
            ended = now() - began
            await until(lambda: len(times) == caught.value.attempts)
            stats = endpoint.statistics()
            assert (stats.sent, stats.retransmitted) == (len(times), len(times) - 1)
            return [time - began for time in times], ended, caught.value

    outcome: tuple[list[float], float, udpguard.ReplyTimeoutError] = in_jumping_time(main)
    return outcome


def near(*seconds: float) -> Any:
    return pytest.approx(list(seconds), abs=0.02)


def test_the_default_schedule() -> None:
    times, ended, error = sends_at(Retry(jitter=0.0))
    assert times == near(0, 1, 3, 7)
    assert ended == pytest.approx(15, abs=0.02)
    assert (error.attempts, error.timeout) == (4, pytest.approx(15))
    assert "(4 sent)" in str(error)


def test_jitter_varies_each_wait() -> None:
    times, _, _ = sends_at(Retry(attempts=8, initial=1.0, multiplier=1.0, jitter=0.5))
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert all(0.49 <= wait <= 1.52 for wait in waits)
    assert len({round(wait, 3) for wait in waits}) > 3


def test_a_maximum_a_final_wait_and_a_total() -> None:
    times, ended, _ = sends_at(Retry(attempts=5, initial=1.0, maximum=3.0, jitter=0.0, final_wait=0.5))
    assert times == near(0, 1, 3, 6, 9)
    assert ended == pytest.approx(9.5, abs=0.02)
    times, ended, error = sends_at(Retry(attempts=5, initial=1.0, jitter=0.0, total=4.0))
    assert times == near(0, 1, 3)
    assert ended == pytest.approx(4.0, abs=0.02)
    assert error.attempts == 3


def test_stuns_schedule_is_rfc_8489s() -> None:
    times, ended, _ = sends_at(Retry.stun())
    assert times == near(0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5)
    assert ended == pytest.approx(39.5, abs=0.02)


def test_coaps_schedule_is_rfc_7252s() -> None:
    times, ended, _ = sends_at(Retry.coap())
    assert len(times) == 5
    factor = times[1] / 2
    assert 0.99 <= factor <= 1.51
    assert times == near(*(factor * t for t in (0, 2, 6, 14, 30)))
    assert ended == pytest.approx(93, abs=0.02)


def test_radius_schedule_is_rfc_5080s() -> None:
    times, ended, _ = sends_at(Retry.radius())
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits == [pytest.approx(wait, rel=0.11) for wait in (2, 4, 8, 16)] or len(times) == 4
    assert ended == pytest.approx(30, abs=0.02)


def test_a_deadline_of_the_calls_cuts_the_schedule() -> None:
    times, ended, error = sends_at(Retry(jitter=0.0), timeout=2.0)
    assert times == near(0, 1)
    assert ended == pytest.approx(2.0, abs=0.02)
    assert error.timeout == 2.0


def test_a_deadline_longer_than_the_schedule_is_waited_for() -> None:
    times, ended, _ = sends_at(Retry(attempts=2, initial=1.0, jitter=0.0), timeout=20.0)
    assert times == near(0, 1)
    assert ended == pytest.approx(20.0, abs=0.02)


class Mine(RetryPolicy):
    """A schedule of one's own, which notes what it was told."""

    def __init__(self, waits: list[Any]) -> None:
        self.seconds = waits
        self.told: list[udpguard.PeerStatistics | None] = []

    def waits(self, peer: udpguard.PeerStatistics | None, random: Any) -> Iterable[float]:
        self.told.append(peer)
        assert 0 <= random() < 1
        return self.seconds


def test_a_policy_of_ones_own() -> None:
    policy = Mine([0.1, 5.0, 0.0, 2.0])
    times, ended, _ = sends_at(policy)
    assert times == near(0, 0.1, 5.1, 5.1)
    assert ended == pytest.approx(7.1, abs=0.02)
    assert len(policy.told) == 1


async def test_a_policy_is_told_of_the_peer() -> None:
    policy = Mine([1.0])
    async with Server(echo) as server, opened() as endpoint:
        await ask(endpoint, server.addr, retry=policy)
        await ask(endpoint, server.addr, retry=policy)
        told = policy.told[1]
        assert told is not None
        assert told.matched == 1
        assert told.srtt is not None


@pytest.mark.parametrize("waits", [[], [-1.0], [1.0, float("nan")], [0.1] * 1_001])
async def test_a_policy_that_gives_no_schedule_is_a_value_error(waits: list[float]) -> None:
    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(ValueError, match="wait"):
            await ask(endpoint, server.addr, retry=Mine(waits))
        assert server.got == []


async def test_a_policy_that_raises_raises_at_the_caller() -> None:
    class Broken(RetryPolicy):
        def waits(self, peer: Any, random: Any) -> Iterable[float]:
            raise ZeroDivisionError

    async with Server(echo) as server, opened() as endpoint:
        with pytest.raises(ZeroDivisionError):
            await ask(endpoint, server.addr, retry=Broken())


@pytest.mark.parametrize(
    "kwargs",
    [
        {"attempts": 0},
        {"initial": 0},
        {"initial": -1},
        {"multiplier": 0},
        {"maximum": 0},
        {"jitter": 1.0},
        {"jitter": -0.1},
        {"final_wait": -1},
        {"total": 0},
    ],
)
def test_a_retry_that_makes_no_schedule(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        Retry(**kwargs)


def test_a_reply_to_any_attempt_settles_the_request_and_stops_the_sending() -> None:
    async def main() -> None:
        for nth in range(1, 5):
            async with Server() as server, opened() as endpoint:

                def handler(server: Server, data: bytes, addr: Any) -> None:
                    if len(server.got) == nth:  # noqa: B023
                        server.send(b"y", addr)

                server.handler = handler
                reply = await ask(endpoint, server.addr, retry=Retry(jitter=0.0), timeout=None)
                assert reply.attempts == nth
                assert (reply.rtt is None) == (nth > 1), "Karn: retransmission makes it ambiguous"
                await asyncio.sleep(60)
                assert len(server.got) == nth
                assert endpoint.statistics().retransmitted == nth - 1

    in_jumping_time(main)


def test_adaptive_retry_begins_with_a_second_and_doubles() -> None:
    times, ended, _ = sends_at(AdaptiveRetry(attempts=4))
    assert times == near(0, 1, 3, 7)
    assert ended == pytest.approx(15, abs=0.02)


def test_adaptive_retry_takes_the_peers_own_rto() -> None:
    async def main() -> None:
        async with Server() as server, opened() as endpoint:

            async def answered_after(seconds: float) -> Reply:
                task = ask(endpoint, server.addr, timeout=30.0)
                _, addr = await server.next()
                await asyncio.sleep(seconds)
                server.send(b"y", addr)
                return await task

            first = await answered_after(2.0)
            assert first.rtt == pytest.approx(2.0, abs=0.02)
            known = endpoint.peer_statistics(server.addr)
            assert known is not None
            # RFC 6298 (2.2): SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 × RTTVAR
            assert (known.srtt, known.rttvar, known.rto) == (
                pytest.approx(2.0, abs=0.02),
                pytest.approx(1.0, abs=0.02),
                pytest.approx(6.0, abs=0.1),
            )
            await answered_after(2.0)
            known = endpoint.peer_statistics(server.addr)
            assert known is not None
            assert known.rto == pytest.approx(5.0, abs=0.1)  # RTTVAR = 3/4 × 1
            times: list[float] = []
            server.handler = lambda *_: times.append(now())
            began = now()
            with pytest.raises(udpguard.ReplyTimeoutError):
                await endpoint.request(server.addr, b"x", retry=AdaptiveRetry(attempts=3))
            assert [time - began for time in times] == [pytest.approx(at, abs=0.2) for at in (0, 5, 15)]
            assert now() - began == pytest.approx(35, abs=0.5)
            # 5.5 and 5.7: the back-off stays until the next sample.
            known = endpoint.peer_statistics(server.addr)
            assert known is not None
            assert known.backoff == 8, "three sends, and each met its expiry"
            server.handler = None
            server.got.clear()
            server._read = 0
            await answered_after(1.0)
            known = endpoint.peer_statistics(server.addr)
            assert known is not None
            assert known.backoff == 1

    in_jumping_time(main)


def test_adaptive_retrys_floor_can_be_lowered() -> None:
    async def main() -> None:
        async with Server(echo) as server, opened() as endpoint:
            for _ in range(20):
                await ask(endpoint, server.addr)
            server.handler = None
            times: list[float] = []
            server.handler = lambda *_: times.append(now())
            began = now()
            with pytest.raises(udpguard.ReplyTimeoutError):
                await endpoint.request(server.addr, b"x", retry=AdaptiveRetry(attempts=3, minimum=0.1))
            assert [time - began for time in times] == near(0, 0.1, 0.3)

    in_jumping_time(main)
