"""Discovery on real sockets and in virtual time: whom it asks, how often, whose replies it gives, and when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import sys
import timeit
from collections.abc import AsyncIterator
from typing import Any

import loopback_kit
import pytest
from loopback_kit import assert_idle, cancelled, closed_port, opened, same_port, servers, turns, until
from typing_extensions import override

import udpguard
from udpguard import (
    Decision,
    DuplicateTransactionError,
    EndpointClosedError,
    InvalidAddressError,
    Limits,
    PeerUnreachableError,
    Ports,
    Reply,
    ReplyTimeoutError,
    Retry,
    TooManyPendingError,
    TransactionId,
    _discovery,
)
from udpguard._platform import routing
from udpguard.core.address import wire_of_source
from udpguard.testing import Answer, Server, Simulation, echo

ECHO = loopback_kit.echo
GROUP = "239.255.77.1"


def echo_twice(server: loopback_kit.Server, data: bytes, addr: Any) -> None:
    server.send(data, addr)
    server.send(data, addr)


async def all_of(discovery: udpguard.Discovery) -> list[Reply]:
    async with discovery as replies:
        return [reply async for reply in replies]


@contextlib.asynccontextmanager
async def member() -> AsyncIterator[loopback_kit.Server]:
    """A server that has joined a multicast group on the loopback interface."""
    async with loopback_kit.Server(ECHO, "0.0.0.0") as server:
        where = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
        server.sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, where)
        yield server


# ---------------------------------------------------------------------------------------------- in virtual time


def test_each_reply_as_it_comes_and_each_once_until_the_window_ends() -> None:
    came: list[tuple[float, str]] = []

    async def program() -> None:
        nonlocal came
        async with contextlib.AsyncExitStack() as stack:
            for i in (1, 2, 3):
                host = sim.host(f"192.0.2.{i}")
                host.join(GROUP)
                answers = [Answer(b"here", delay=i - 0.5, copies=2)]
                await stack.enter_async_context(Server(lambda _, a=answers: a, host, 1_900))  # type: ignore[misc]
            endpoint = await stack.enter_async_context(udpguard.open_endpoint())
            loop = asyncio.get_running_loop()
            begin = loop.time()
            async with endpoint.discover((GROUP, 1_900), b"who", window=2.0) as replies:
                came += [(round(loop.time() - begin, 3), reply.peer.host) async for reply in replies]
            assert round(loop.time() - begin, 3) == 2.0
            assert endpoint.statistics().duplicate == 2
            assert_idle(endpoint)
            await asyncio.sleep(1.0)
            assert endpoint.statistics().late == 2

    with Simulation(delay=0.0) as sim:
        sim.run(program())
    assert came == [(0.5, "192.0.2.1"), (1.5, "192.0.2.2")]


def test_it_is_sent_again_within_the_window_and_no_longer() -> None:
    asked: list[float] = []

    async def program() -> None:
        loop = asyncio.get_running_loop()

        def note(_: object) -> bytes:
            asked.append(round(loop.time() - begin, 3))
            return b"%d" % len(asked)

        async with Server(note, "192.0.2.1", 7) as server, udpguard.open_endpoint() as endpoint:
            begin = loop.time()
            retry = Retry(attempts=9, initial=1.0, jitter=0.0)
            async with endpoint.discover(server.address, b"who", window=8.0, retry=retry) as replies:
                got = [reply async for reply in replies]
            assert [(reply.data, reply.attempts) for reply in got] == [(b"1", 1), (b"2", 2), (b"3", 3), (b"4", 4)]
            assert [reply.rtt is None for reply in got] == [False, True, True, True]
            assert endpoint.statistics().retransmitted == 3

    with Simulation(delay=0.0) as sim:
        sim.run(program())
    assert asked == [0.0, 1.0, 3.0, 7.0]


def test_a_reply_that_lay_in_the_socket_counts_however_late_it_is_read() -> None:
    async def program() -> None:
        async with Server(echo, "192.0.2.1", 7) as server, udpguard.open_endpoint() as endpoint:
            async with endpoint.discover(server.address, b"who", window=1.0) as replies:
                await asyncio.sleep(0.15)  # it is on its way
                sim.loop.block(5.0)
                assert [reply.data async for reply in replies] == [b"who"]

    with Simulation(delay=0.1) as sim:
        sim.run(program())


# ------------------------------------------------------------------------------------------- whose replies count


async def test_replies_come_from_where_they_may_and_others_are_strangers() -> None:
    async with (
        same_port("127.0.1.2", "127.0.2.3", handler=ECHO) as (inside, outside),
        opened() as endpoint,
    ):
        asked = [inside.addr, outside.addr]
        got = await all_of(endpoint.discover(asked, b"who", reply_from="127.0.1.0/24", window=0.2))
        assert [reply.peer for reply in got] == [inside.addr]
        assert endpoint.statistics().unknown_peer == 1


@pytest.mark.parametrize("reply_from", ["peer", "host", "anywhere", ("127.0.0.2", 0), ["127.0.0.2", "peer"]])
async def test_every_form_of_reply_from(reply_from: Any) -> None:
    async with servers("127.0.0.2", "127.0.0.3", handler=ECHO) as two, opened() as endpoint:
        where: Any = two[0].addr if reply_from == ("127.0.0.2", 0) else reply_from
        got = await all_of(endpoint.discover([server.addr for server in two], b"who", reply_from=where, window=0.2))
        expected = two[:1] if reply_from == ("127.0.0.2", 0) else two
        assert {reply.peer for reply in got} == {server.addr for server in expected}


async def test_repeats_are_given_on_request() -> None:
    async with loopback_kit.Server(echo_twice) as server, opened() as endpoint:
        once = await all_of(endpoint.discover(server.addr, b"who", window=0.1))
        twice = await all_of(endpoint.discover(server.addr, b"who", window=0.1, repeats=True))
        assert [len(once), len(twice)] == [1, 2]
        assert endpoint.statistics().duplicate == 1


async def test_after_the_last_of_limit_it_ends_at_once() -> None:
    async with servers("127.0.0.2", "127.0.0.3", "127.0.0.4", handler=ECHO) as three, opened() as endpoint:
        addresses = [server.addr for server in three]
        got = await all_of(endpoint.discover(addresses, b"who", window=60.0, limit=2))
        assert len(got) == 2
        await until(lambda: endpoint.statistics().received == 3)
        stats = endpoint.statistics()
        assert (stats.matched, stats.duplicate) == (2, 1)


async def test_accept_judges_each_reply() -> None:
    def judge(reply: Reply) -> Decision | bool:
        if reply.data == b"raise":
            raise LookupError("not this")
        return Decision.PROVISIONAL if reply.data == b"wait" else reply.data == b"yes"

    async with loopback_kit.Server() as server, opened() as endpoint:
        async with endpoint.discover(server.addr, b"who", window=0.2, accept=judge) as replies:
            _, addr = await server.next()
            for data in (b"no", b"wait", b"raise", b"yes"):
                server.send(data, addr)
            assert [reply.data async for reply in replies] == [b"yes"]
        stats = endpoint.statistics()
        assert (stats.matched, stats.rejected, stats.hook_errors) == (2, 2, 1)


async def test_with_a_correlator_replies_need_the_key() -> None:
    async with loopback_kit.Server() as server, opened(correlate=TransactionId(0, 2)) as endpoint:
        async with endpoint.discover(server.addr, b"id?", window=0.2) as replies:
            _, addr = await server.next()
            server.send(b"no!", addr)
            server.send(b"id!", addr)
            with pytest.raises(DuplicateTransactionError):
                await all_of(endpoint.discover(server.addr, b"id?"))
            assert [reply.data async for reply in replies] == [b"id!"]
        assert endpoint.statistics().unknown_peer + endpoint.statistics().rejected == 1


async def test_an_id_is_picked_and_the_callers_own_put_back() -> None:
    async with servers("127.0.0.2", "127.0.0.3", handler=ECHO) as two, opened() as endpoint:
        client = endpoint.client(correlate=TransactionId(0, 2, assign=True))
        got = await all_of(client.discover([server.addr for server in two], b"\0\0who", window=5.0, limit=2))
        assert [reply.data for reply in got] == [b"\0\0who"] * 2
        sent = {data[:2] for server in two for data in server.data}
        assert len(sent) == 1
    async with loopback_kit.Server() as server, opened(correlate=TransactionId(0, 1, assign=True)) as endpoint:
        tasks = [asyncio.ensure_future(all_of(endpoint.discover(server.addr, b"?", window=60.0))) for _ in range(256)]
        await until(lambda: len(server.got) == 256)
        assert len(set(server.data)) == 256
        with pytest.raises(TooManyPendingError, match="transaction ids"):
            await all_of(endpoint.discover(server.addr, b"?"))
        await cancelled(*tasks)


# --------------------------------------------------------------------------------------- beside everything else


class WrongKey(TransactionId):
    @override
    def request_key(self, data: bytes) -> Any:
        return "no bytes"


class WrongStamp(TransactionId):
    @override
    def stamped(self, data: bytes, key: bytes) -> bytes:
        raise TypeError("no stamp")


@pytest.mark.parametrize("correlator", [WrongKey, WrongStamp])
async def test_a_mistaken_correlator_leaves_nothing_pending(correlator: type[TransactionId]) -> None:
    async with opened(correlate=correlator(0, 2, assign=True), limits=Limits(pending=1)) as endpoint:
        for _ in range(2):
            with pytest.raises(TypeError):
                await all_of(endpoint.discover(("127.0.0.1", 9), b"??who", window=0.1))
        assert_idle(endpoint)


async def test_what_comes_too_late_is_nobody_elses_answer() -> None:
    async with loopback_kit.Server() as server, opened() as endpoint:
        async with endpoint.discover(server.addr, b"who", window=0.05) as replies:
            assert [reply async for reply in replies] == []
        _, first = await server.next()
        task = asyncio.ensure_future(endpoint.request(server.addr, b"request"))
        _, second = await server.next()
        assert first != second
        assert second[1] == endpoint.local_addr.port, "the endpoint's own port is not soiled by it"
        server.send(b"too late", first)
        server.send(b"answer", second)
        assert await task == b"answer"


async def test_what_comes_late_to_it_is_no_answer_to_a_request_to_that_host() -> None:
    """The request is pending at the only spare port when it begins."""
    async with servers("127.0.0.2", "127.0.0.2") as (found, asked), opened(ports=Ports(spares=1)) as endpoint:
        with pytest.raises(ReplyTimeoutError):
            await endpoint.request(asked.addr, b"soils the first port", timeout=0.01)
        task = asyncio.ensure_future(endpoint.request(asked.addr, b"request", reply_from="host", timeout=5.0))
        await asked.next()
        _, other = await asked.next()
        async with endpoint.discover(found.addr, b"who", window=0.05):
            _, addr = await found.next()
            assert addr != other
        found.send(b"late", addr)
        asked.send(b"answer", other)
        assert await task == b"answer"


async def test_a_request_to_somebody_found_has_its_own_answer() -> None:
    async with loopback_kit.Server() as server, opened() as endpoint:
        async with endpoint.discover(server.addr, b"who", window=60.0) as replies:
            _, addr = await server.next()
            server.send(b"here", addr)
            reply = await anext(replies)
            task = asyncio.ensure_future(endpoint.request(reply.peer, b"what"))
            _, other = await server.next()
            server.send(b"and again", addr)
            server.send(b"this", other)
            assert await task == b"this"
            assert (await anext(replies)).data == b"and again"


async def test_on_a_fixed_port_too() -> None:
    async with (
        loopback_kit.Server() as server,
        opened(("127.0.0.1", 0), ports=Ports(spares=0, quarantine=0.05)) as endpoint,
    ):
        for _ in range(2):
            async with endpoint.discover(server.addr, b"who", window=5.0, limit=1) as replies:
                _, addr = await server.next()
                server.send(b"here", addr)
                assert [reply.data async for reply in replies] == [b"here"]


@pytest.mark.parametrize("reply_from", ["anywhere", "peer"])
async def test_one_that_would_have_anothers_answers_is_refused(reply_from: Any) -> None:
    """It has no spare port, and where it would listen the other hears all that comes."""
    async with (
        loopback_kit.Server(ECHO) as server,
        opened(("127.0.0.1", 0), ports=Ports(spares=0)) as endpoint,
    ):
        async with endpoint.discover(server.addr, b"1", reply_from=reply_from, window=60.0) as replies:
            with pytest.raises(TooManyPendingError, match="hears the same is open already"):
                await all_of(endpoint.discover(server.addr, b"2", reply_from=reply_from, window=0.1))
            assert (await anext(replies)).data == b"1"
        (reply,) = await all_of(endpoint.discover(server.addr, b"3", reply_from=reply_from, window=5.0, limit=1))
        assert reply.data == b"3"
    assert_idle(endpoint)


async def test_those_with_ids_share_a_port() -> None:
    ids = udpguard.TransactionId(0, 2, assign=True)
    async with (
        loopback_kit.Server(ECHO) as server,
        opened(("127.0.0.1", 0), ports=Ports(spares=0), correlate=ids) as endpoint,
    ):
        found = await asyncio.gather(
            *(all_of(endpoint.discover(server.addr, b"\0\0%d" % i, window=5.0, limit=1)) for i in range(3))
        )
        assert [[reply.data for reply in got] for got in found] == [[b"\0\0%d" % i] for i in range(3)]


async def test_another_port_of_a_pool_will_do() -> None:
    async with loopback_kit.Server(ECHO) as server, opened(ports=Ports(pool=4, spares=0)) as endpoint:
        found = await asyncio.gather(*(all_of(endpoint.discover(server.addr, b"%d" % i, window=0.3)) for i in range(4)))
        assert [[reply.data for reply in got] for got in found] == [[b"%d" % i] for i in range(4)]


async def test_as_many_at_once_as_there_are_ports() -> None:
    async with loopback_kit.Server(ECHO) as server, opened(ports=Ports(spares=2)) as endpoint:
        found = await asyncio.gather(
            *(all_of(endpoint.discover(server.addr, b"%d" % i, reply_from="peer", window=0.5)) for i in range(4)),
            return_exceptions=True,
        )
        refused = [one for one in found if isinstance(one, TooManyPendingError)]
        assert len(refused) == 1
        assert "let the endpoint have more ports with Ports(pool=…)" in str(refused[0])
        heard = [[reply.data for reply in one] for one in found if not isinstance(one, BaseException)]
        assert heard == [[b"%d" % i] for i, one in enumerate(found) if not isinstance(one, BaseException)]


async def test_both_families_at_once_twice_is_refused_with_what_to_do() -> None:
    """A spare port is of one family."""
    async with loopback_kit.Server(ECHO) as four, loopback_kit.Server(ECHO, "::1") as six, opened() as endpoint:
        async with endpoint.discover([four.addr, six.addr], b"1", window=60.0) as replies:
            with pytest.raises(TooManyPendingError, match="ask IPv4 and IPv6 addresses in a discovery each"):
                await all_of(endpoint.discover([four.addr, six.addr], b"2", window=0.1))
            assert {(await anext(replies)).data, (await anext(replies)).data} == {b"1"}
            for addr in (four.addr, six.addr):  # as it says
                (reply,) = await all_of(endpoint.discover(addr, b"3", window=5.0, limit=1))
                assert reply.data == b"3"


def test_an_icmp_message_costs_the_same_however_many_were_asked() -> None:
    """Each of them may cause one."""
    took: list[float] = []

    async def program() -> None:
        async with udpguard.open_endpoint() as endpoint:
            for count in (20, 4_000):
                addresses = [(f"192.0.{i >> 8}.{i & 255}", 7) for i in range(1, count + 1)]
                async with endpoint.discover(addresses, b"who", window=5.0) as replies:
                    call: Any = replies._call
                    last, port = call._targets[-1][0], call.entry.port
                    assert call.has_sent(last, b"who", port)
                    took.append(min(timeit.repeat(lambda: call.has_sent(last, b"who", port), number=20, repeat=5)))  # noqa: B023

    with Simulation(icmp=False) as sim:
        sim.run(program)
    assert took[1] < 20 * took[0]


async def test_it_is_read_in_its_own_loop_alone() -> None:
    async with loopback_kit.Server() as server, opened() as endpoint:
        async with endpoint.discover(server.addr, b"who", window=60.0) as replies:

            async def read() -> None:
                async with asyncio.timeout(5.0):
                    await anext(replies)

            with pytest.raises(RuntimeError, match="the event loop of another thread: open one here as well"):
                await asyncio.to_thread(asyncio.run, read())
        assert [reply async for reply in replies] == []
        endpoint.close()
        assert [reply async for reply in replies] == [], "it was over before"


async def test_an_id_whose_stamping_closes_the_endpoint_leaves_nothing() -> None:
    class Closing(TransactionId):
        @override
        def stamped(self, data: bytes, key: bytes) -> bytes:
            endpoint.close()
            return super().stamped(data, key)

    async with loopback_kit.Server() as server, opened() as endpoint:
        client = endpoint.client(correlate=Closing(0, 2, assign=True))
        with pytest.raises(EndpointClosedError, match="the endpoint was closed while this was pending"):
            await all_of(client.discover(server.addr, b"\0\0who", window=0.1))
        assert endpoint.statistics().pending == endpoint.statistics().waiting == 0


@pytest.mark.parametrize("mode", ["on", "auto"])
async def test_a_socket_filter_leaves_it_open(mode: Any) -> None:
    async with (
        servers("127.0.0.2", "127.0.0.3", handler=ECHO) as two,
        opened(kernel_filter=mode) as endpoint,
    ):
        for reply_from in ("anywhere", "127.0.0.0/8", "peer"):
            addresses = [server.addr for server in two]
            got = await all_of(endpoint.discover(addresses, b"who", reply_from=reply_from, window=5.0, limit=2))
            assert len(got) == 2


# -------------------------------------------------------------------------------- multicast, broadcast, interfaces


@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("interface", ["lo", "index", "127.0.0.1"])
async def test_ipv4_multicast_by_an_interface(monkeypatch: pytest.MonkeyPatch, interface: str, control: bool) -> None:
    monkeypatch.setattr(routing, "_HAS_CONTROL", control)
    by: str | int = socket.if_nametoindex("lo") if interface == "index" else interface
    async with member() as server, opened() as endpoint:
        got = await all_of(endpoint.discover((GROUP, server.port), b"who", interface=by, ttl=1, window=5.0, limit=1))
        assert [reply.data for reply in got] == [b"who"]
        sock: Any = endpoint.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF) == 0


@pytest.mark.parametrize("control", [True, False])
async def test_the_ttl_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, control: bool) -> None:
    monkeypatch.setattr(routing, "_HAS_CONTROL", control)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        sock.bind(("127.0.0.1", 0))
        async with opened() as endpoint:
            async with endpoint.discover(sock.getsockname(), b"who", ttl=17, window=60.0):
                await until(lambda: endpoint.statistics().sent == 1)
                _, ancillary, _, _ = sock.recvmsg(100, 100)
                assert [int.from_bytes(data, sys.byteorder) for _, kind, data in ancillary if kind == 2] == [17]
            await endpoint.send(sock.getsockname(), b"another")
            _, ancillary, _, _ = sock.recvmsg(100, 100)
            assert [int.from_bytes(data, sys.byteorder) for _, kind, data in ancillary if kind == 2] != [17]


def test_broadcast_in_a_simulation() -> None:
    async def program() -> None:
        async with (
            Server(lambda _: b"one", sim.host("192.0.2.1"), 9_999),
            Server(lambda _: b"two", sim.host("192.0.2.2"), 9_999),
            udpguard.open_endpoint(allow_broadcast=True) as endpoint,
        ):
            got = await all_of(endpoint.discover(("255.255.255.255", 9_999), b"who", window=1.0))
            assert {(reply.peer, reply.data) for reply in got} == {
                (("192.0.2.1", 9_999), b"one"),
                (("192.0.2.2", 9_999), b"two"),
            }

    with Simulation() as sim:
        sim.run(program())


# ------------------------------------------------------------------------------------------------ errors, ending


async def test_an_interface_by_an_address_that_is_not_this_machines() -> None:
    async with opened() as endpoint:
        with pytest.raises(udpguard.PeerUnreachableError, match=r"is interface='192\.0\.2\.1' an address of this"):
            await all_of(endpoint.discover((GROUP, 9), b"who", interface="192.0.2.1"))


async def test_misuse_is_told_at_once() -> None:
    async with opened() as endpoint:
        here = ("127.0.0.1", 9)
        for arguments, message in [
            ({"window": None}, "window must be a number"),
            ({"window": math.inf}, "window must be a number"),
            ({"window": 10**400}, "window must be a number"),
            ({"window": 0}, "window must be more than 0 seconds, not 0$"),
            ({"window": math.nan}, "window must be more than 0"),
            ({"limit": 0}, "limit must be"),
            ({"ttl": 0}, "ttl must be 1 to 255"),
            ({"interface": "no-such-0"}, "no interface 'no-such-0'; it has .*lo"),
            ({"interface": -1}, "index of 1 or more"),
            ({"reply_from": "somewhere"}, "reply_from"),
        ]:
            with pytest.raises(ValueError, match=message):
                endpoint.discover(here, b"who", **arguments)  # type: ignore[arg-type]
        for arguments in (
            {"window": "3"},
            {"window": True},
            {"ttl": "1"},
            {"interface": 1.5},
            {"accept": 1},
            {"retry": 3},
        ):
            with pytest.raises(TypeError):
                endpoint.discover(here, b"who", **arguments)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="encode it"):
            endpoint.discover(here, "text")  # type: ignore[arg-type]
        with pytest.raises(InvalidAddressError, match="no reply comes from 239"):
            await all_of(endpoint.discover((GROUP, 9), b"who", reply_from="peer"))
        with pytest.raises(InvalidAddressError, match="allow_broadcast"):
            await all_of(endpoint.discover(("255.255.255.255", 9), b"who"))
        with pytest.raises(InvalidAddressError, match="stands for no host"):
            await all_of(endpoint.discover(("0.0.0.0", 9), b"who"))
        with pytest.raises(ValueError, match="for IPv4 alone"):
            await all_of(endpoint.discover(("ff02::1%lo", 9), b"who", interface="127.0.0.1"))
        discovery = endpoint.discover(here, b"who", window=0.01)
        with pytest.raises(RuntimeError, match=r"async with endpoint\.discover"):
            await anext(discovery)
        assert await all_of(discovery) == []
        with pytest.raises(RuntimeError, match="begun already"):
            await all_of(discovery)
    with pytest.raises(EndpointClosedError):
        await all_of(endpoint.discover(here, b"who"))


@pytest.mark.parametrize("where", [(GROUP, 9), ("ff02::1%lo", 9), ("255.255.255.255", 9)])
async def test_the_error_of_a_request_to_many_names_it(where: Any) -> None:
    async with opened() as endpoint:
        with pytest.raises(InvalidAddressError, match=r"endpoint\.discover"):
            await endpoint.request(where, b"who")


async def test_nobody_can_be_asked() -> None:
    async with opened(("127.0.0.1", 0)) as endpoint:
        with pytest.raises(PeerUnreachableError):
            await all_of(endpoint.discover(("192.0.2.1", 9), b"who", window=5.0))
        with pytest.raises(InvalidAddressError, match="no IPv6 socket"):
            await all_of(endpoint.discover(("::1", 9), b"who", window=5.0))
        assert endpoint.statistics().send_errors == 1


async def test_one_that_can_t_be_asked_is_no_affair_of_the_others() -> None:
    async with loopback_kit.Server(ECHO) as server, opened(("127.0.0.1", 0)) as endpoint:
        addresses = [("192.0.2.1", 9), closed_port(), server.addr]
        got = await all_of(endpoint.discover(addresses, b"who", window=5.0, limit=1))
        assert [reply.peer for reply in got] == [server.addr]


async def test_leaving_and_being_cancelled_leave_nothing() -> None:
    async with loopback_kit.Server(ECHO) as server, opened() as endpoint:
        async with endpoint.discover(server.addr, b"who", window=60.0) as replies:
            async for _ in replies:
                break
        assert_idle(endpoint)
        task = asyncio.ensure_future(all_of(endpoint.discover(server.addr, b"who", window=60.0)))
        await turns()
        await cancelled(task)
        assert_idle(endpoint)


async def test_closing_the_endpoint_ends_it() -> None:
    async with loopback_kit.Server(ECHO) as server, opened() as endpoint:
        task = asyncio.ensure_future(all_of(endpoint.discover(server.addr, b"who", window=60.0)))
        await until(lambda: endpoint.statistics().matched)
        endpoint.close()
        with pytest.raises(EndpointClosedError):
            await task


async def test_it_counts_as_pending() -> None:
    async with loopback_kit.Server(ECHO) as server, opened(limits=Limits(pending=1)) as endpoint:
        async with endpoint.discover(server.addr, b"who", window=60.0):
            assert endpoint.statistics().pending == 1
            with pytest.raises(TooManyPendingError):
                await all_of(endpoint.discover(server.addr, b"who"))
            with pytest.raises(ReplyTimeoutError):
                await endpoint.request(server.addr, b"waits for room", timeout=0.02)


@pytest.mark.parametrize(("size", "count"), [(1 << 20, 16), (100, 40)])
async def test_a_flood_of_replies_is_bounded(monkeypatch: pytest.MonkeyPatch, size: int, count: int) -> None:
    """What is there is kept, and what was dropped is wanted when it comes again."""
    monkeypatch.setattr(_discovery, "_MOST_UNREAD", 40)
    peer = ("127.0.0.1", 9)
    async with opened() as endpoint:
        async with endpoint.discover(peer, b"who", window=60.0) as replies:
            call = replies._call
            assert call is not None
            flood = [(b"%8d" % i + bytes(size - 8), wire_of_source(*peer)) for i in range(60)]
            endpoint._guard.receive(flood, port=call.entry.port)
            assert (len(call.queue), replies.dropped) == (count, 60 - count)
            got = [await anext(replies) for _ in range(count)]
            assert [reply.data[:8] for reply in got] == [b"%8d" % i for i in range(count)]
            endpoint._guard.receive([flood[0], flood[count]], port=call.entry.port)
            assert (await anext(replies)).data == flood[count][0]
            assert endpoint.statistics().duplicate == 1


async def test_what_was_seen_is_bounded_too() -> None:
    peer = ("127.0.0.1", 9)
    async with opened() as endpoint:
        async with endpoint.discover(peer, b"who", window=60.0, accept=lambda reply: len(reply.data) < 7) as replies:
            call = replies._call
            assert call is not None
            for first in range(0, 150_000, 1_000):
                batch = [(b"%d" % i, wire_of_source(*peer)) for i in range(first, first + 1_000)]
                endpoint._guard.receive(batch, port=call.entry.port)
                call.clear()
            assert call._seen is not None
            assert len(call._seen) + len(call._old_seen) <= 65_536
            before = endpoint.statistics().duplicate
            endpoint._guard.receive([(b"149999", wire_of_source(*peer))], port=call.entry.port)
            assert endpoint.statistics().duplicate == before + 1


async def test_a_port_that_is_lost_ends_it() -> None:
    async with opened() as endpoint:
        async with endpoint.discover(("127.0.0.1", 9), b"who", window=60.0) as replies:
            task = asyncio.ensure_future(anext(replies))
            await turns()
            assert replies._call is not None
            channel: Any = endpoint._guard.channel_at(replies._call.entry.port, wire_of_source("127.0.0.1", 9))
            channel.abort()
            with pytest.raises(EndpointClosedError, match="was lost"):
                await task


def test_closing_the_endpoint_ends_one_that_waits_for_the_socket() -> None:
    async def program() -> None:
        endpoint = await udpguard.open_endpoint()
        sim.client.limit_sending(1, 0.001)
        await endpoint.send(("192.0.2.1", 7), b"fills the buffer")
        task = asyncio.ensure_future(all_of(endpoint.discover(("192.0.2.1", 7), b"who")))
        await asyncio.sleep(1.0)
        assert not task.done()
        endpoint.close()
        with pytest.raises(EndpointClosedError):
            await task
        await endpoint.wait_closed()

    with Simulation() as sim:
        sim.run(program())
