"""Late and duplicate replies without transaction ids: spare ports, rotation, quarantine; the pool; the range."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest
from loopback_kit import (
    Server,
    cancelled,
    closed_port,
    echo,
    free_range,
    in_jumping_time,
    opened,
    servers,
    turns,
    until,
)

import udpguard
from udpguard import Limits, Ports, Reason, ReplyTimeoutError, Retry, TransactionId
from udpguard._ports import reserved_ports


def asked(endpoint: udpguard.Endpoint, server: Server, data: bytes, **kwargs: Any) -> asyncio.Task[bytes]:
    return asyncio.ensure_future(endpoint.request(server.addr, data, **kwargs))


def spares(endpoint: udpguard.Endpoint) -> int:
    return len(endpoint._guard.registry.spares)


async def timed_out(endpoint: udpguard.Endpoint, server: Server, data: bytes, **kwargs: Any) -> Any:
    """Ask in vain; where the question came from."""
    with pytest.raises(ReplyTimeoutError):
        await endpoint.request(server.addr, data, timeout=0.02, **kwargs)
    return (await server.next())[1]


# ------------------------------------------------------------------------------------------------------ spares


async def test_the_late_reply_to_a_request_that_timed_out_is_not_the_next_one_s() -> None:
    told: list[udpguard.Unexpected] = []
    async with Server() as server, opened(on_unexpected=told.append) as endpoint:
        first = await timed_out(endpoint, server, b"first")
        second = asked(endpoint, server, b"second")
        _, addr = await server.next()
        assert addr != first
        server.send(b"to the first", first)
        await until(lambda: told)
        assert [u.reason for u in told] == [Reason.REJECTED], "it came to another of our ports"
        server.send(b"to the second", addr)
        assert await second == b"to the second"
        server.send(b"to the first, again", first)
        await until(lambda: len(told) == 2)
        assert told[1].reason is Reason.LATE, "nothing is pending there any more"
        assert spares(endpoint) == 1


async def test_a_spare_port_serves_many_peers_at_once() -> None:
    async with servers("127.0.0.1", "127.0.0.2", "127.0.0.3") as three, opened() as endpoint:
        for server in three:
            await timed_out(endpoint, server, b"x")
        tasks = [asked(endpoint, server, b"y") for server in three]
        ports = set()
        for server in three:
            _, addr = await server.next()
            ports.add(addr[1])
            server.send(b"z", addr)
        assert await asyncio.gather(*tasks) == [b"z"] * 3
        assert (len(ports), spares(endpoint)) == (1, 1)


@pytest.mark.parametrize("how", ["cancelled", "sent twice", "answered twice"])
async def test_what_else_soils_a_port(how: str) -> None:
    told: list[udpguard.Unexpected] = []
    async with Server() as server, opened(on_unexpected=told.append) as endpoint:
        retry = Retry(attempts=2, initial=0.01, final_wait=5.0) if how == "sent twice" else None
        first = asked(endpoint, server, b"first", retry=retry)
        _, source = await server.next()
        if how == "cancelled":
            await cancelled(first)
        else:
            if how == "sent twice":
                await server.next()
            server.send(b"ok", source)
            assert await first == b"ok"
        if how == "answered twice":
            server.send(b"ok", source)
            await until(lambda: told)
            assert told[0].reason is Reason.DUPLICATE
        second = asked(endpoint, server, b"second")
        _, addr = await server.next()
        assert addr != source
        server.send(b"ok", addr)
        assert await second == b"ok"


async def test_an_exchange_that_went_well_soils_nothing() -> None:
    async with Server(echo) as server, opened() as endpoint:
        for _ in range(3):
            await endpoint.request(server.addr, b"x")
        assert len({addr for _, addr in server.got}) == 1
        assert spares(endpoint) == 0


async def test_keyed_requests_stay_where_they_are() -> None:
    async with Server() as server, opened(correlate=TransactionId(0, 1)) as endpoint:
        first = await timed_out(endpoint, server, b"1")
        second = asked(endpoint, server, b"2")
        _, addr = await server.next()
        assert addr == first
        server.send(b"1 late", addr)
        server.send(b"2", addr)
        assert await second == b"2"
        assert endpoint.statistics().late == 1


async def test_retransmissions_leave_from_the_port_of_their_request() -> None:
    async with Server() as server, opened() as endpoint:
        await timed_out(endpoint, server, b"x")
        task = asked(endpoint, server, b"y", retry=Retry(attempts=3, initial=0.01, final_wait=5.0))
        sources = {(await server.next())[1] for _ in range(3)}
        assert len(sources) == 1
        server.send(b"z", sources.pop())
        assert await task == b"z"


def test_soil_is_forgotten_after_two_minutes_and_idle_spares_are_closed() -> None:
    async def main() -> None:
        async with Server() as server, opened() as endpoint:
            first = await timed_out(endpoint, server, b"1")
            await timed_out(endpoint, server, b"2")
            assert spares(endpoint) == 1
            await asyncio.sleep(121.0)
            third = await timed_out(endpoint, server, b"3")
            assert third == first, "by now nothing comes to it any more"
            await asyncio.sleep(180.0)
            assert spares(endpoint) == 0
            assert len(endpoint._guard.channels) == 2

    in_jumping_time(main)


async def test_an_idle_spare_is_replaced_when_all_are_soiled() -> None:
    async with Server() as server, opened(ports=Ports(spares=2)) as endpoint:
        sources = [await timed_out(endpoint, server, b"%d" % number) for number in range(6)]
        assert len(set(sources)) == 6
        assert spares(endpoint) == 2


async def keep_the_spare(endpoint: udpguard.Endpoint, one: Server, two: Server) -> tuple[asyncio.Task[bytes], Any]:
    """Have the first server's request use the only spare port, which is soiled for the second, as the own port is."""
    for server in (one, two):
        await timed_out(endpoint, server, b"x")
    task = asked(endpoint, one, b"y")
    _, addr = await one.next()
    assert await timed_out(endpoint, two, b"x") == addr
    return task, addr


async def test_with_every_spare_in_use_a_request_waits_until_one_is_idle() -> None:
    async with servers("127.0.0.1", "127.0.0.2") as (one, two), opened(ports=Ports(spares=1)) as endpoint:
        first, addr = await keep_the_spare(endpoint, one, two)
        second, third = asked(endpoint, two, b"y"), asked(endpoint, two, b"z")
        await turns(5)
        assert endpoint.statistics().waiting == 2
        assert len(two.got) == 2
        await cancelled(second)
        one.send(b"ok", addr)
        assert await first == b"ok"
        data, addr = await two.next()
        assert data == b"z"
        two.send(b"ok", addr)
        assert await third == b"ok"


async def test_waiting_for_a_port_ends_with_a_time_out_that_says_so() -> None:
    async with servers("127.0.0.1", "127.0.0.2") as (one, two), opened(ports=Ports(spares=1)) as endpoint:
        first, _ = await keep_the_spare(endpoint, one, two)
        with pytest.raises(ReplyTimeoutError, match=r"waited for a local port .* raise Ports\(spares=…\)"):
            await endpoint.request(two.addr, b"y", timeout=0.02)
        await cancelled(first)


async def test_a_wide_request_needs_a_port_that_nobody_soiled() -> None:
    async with servers("127.0.0.1", "127.0.0.2") as (one, two), opened() as endpoint:
        first = await timed_out(endpoint, one, b"x")
        task = asked(endpoint, two, b"y", reply_from=["peer", "127.0.0.0/8"])
        _, addr = await two.next()
        assert addr != first
        one.send(b"late", first)
        two.send(b"ok", addr)
        assert await task == b"ok"


async def test_a_list_of_servers_uses_a_clean_port_for_each() -> None:
    async with servers("127.0.0.1", "127.0.0.2") as (one, two), opened() as endpoint:
        soiled = await timed_out(endpoint, one, b"x")
        retry = Retry(attempts=2, initial=0.01, final_wait=5.0)
        task = asyncio.ensure_future(endpoint.request([one.addr, two.addr], b"y", retry=retry))
        _, first = await one.next()
        _, second = await two.next()
        assert first != soiled
        one.send(b"late", soiled)
        one.send(b"from the first", first)
        assert await task == b"from the first", "a reply from any address tried settles it, at the port that asked"
        assert second == soiled, "which is clean for that peer"


async def test_spares_over_ipv6() -> None:
    async with Server(host="::1") as server, opened() as endpoint:
        first = await timed_out(endpoint, server, b"x")
        task = asked(endpoint, server, b"y")
        _, addr = await server.next()
        assert addr != first
        server.send(b"ok", addr)
        assert await task == b"ok"


async def test_spares_are_bound_where_the_endpoint_is() -> None:
    async with Server() as server, opened(("127.0.0.5", 0)) as endpoint:
        first = await timed_out(endpoint, server, b"x")
        second = await timed_out(endpoint, server, b"y")
        assert (first[0], second[0]) == ("127.0.0.5", "127.0.0.5")
        assert first != second


async def test_without_a_socket_to_be_had_the_quarantine_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server() as server, opened(ports=Ports(quarantine=0.05)) as endpoint:
        first = await timed_out(endpoint, server, b"x")

        def none_left(*_: object, **__: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr("udpguard._platform.sockets.bound_socket", none_left)
        task = asked(endpoint, server, b"y")
        _, addr = await server.next()
        assert addr == first
        server.send(b"ok", addr)
        assert await task == b"ok"


async def test_a_closed_endpoint_leaves_no_port_open() -> None:
    async with Server() as server, opened() as endpoint:
        await timed_out(endpoint, server, b"x")
        source = await timed_out(endpoint, server, b"y")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(source)


async def test_a_spare_whose_socket_breaks_does_not_take_the_endpoint_with_it() -> None:
    async with Server() as server, opened() as endpoint:
        await timed_out(endpoint, server, b"x")
        await timed_out(endpoint, server, b"y")
        (channel,) = endpoint._guard.keeper._channels.values()  # type: ignore[union-attr]
        channel.abort()
        await turns()
        assert not endpoint.is_closing()
        assert spares(endpoint) == 0
        await timed_out(endpoint, server, b"z")


# -------------------------------------------------------------------------------------------------- quarantine


@pytest.fixture
def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


async def test_on_a_fixed_port_the_next_request_waits_for_the_late_reply(bound: socket.socket) -> None:
    async with Server() as server, opened(sock=bound, ports=Ports(quarantine=30.0)) as endpoint:
        addr = await timed_out(endpoint, server, b"first")
        second, third = asked(endpoint, server, b"second"), asked(endpoint, server, b"third")
        await turns(5)
        assert endpoint.statistics().waiting == 2
        server.send(b"to the first", addr)
        assert (await server.next())[0] == b"second"
        assert endpoint.statistics().late == 1
        server.send(b"to the second", addr)
        assert await second == b"to the second"
        await server.next()
        server.send(b"to the third", addr)
        assert await third == b"to the third"


@pytest.mark.parametrize("reply_from", ["peer", "host", "127.0.0.0/8"])
@pytest.mark.parametrize("earlier", ["peer", "host", "127.0.0.0/8"])
async def test_under_whatever_name_it_is_expected(earlier: Any, reply_from: Any, bound: socket.socket) -> None:
    async with Server() as server, opened(sock=bound, ports=Ports(quarantine=30.0)) as endpoint:
        addr = await timed_out(endpoint, server, b"first", reply_from=earlier)
        second = asked(endpoint, server, b"second", reply_from=reply_from)
        await turns(5)
        assert endpoint.statistics().waiting == 1
        server.send(b"to the first", addr)
        async with asyncio.timeout(5.0):
            assert (await server.next())[0] == b"second"
        server.send(b"to the second", addr)
        assert await second == b"to the second"


async def test_or_for_that_of_another_port_of_the_host(bound: socket.socket) -> None:
    hosts = servers("127.0.0.1", "127.0.0.1")
    async with hosts as (one, other), opened(sock=bound, ports=Ports(quarantine=30.0)) as endpoint:
        addr = await timed_out(endpoint, one, b"first")
        second = asked(endpoint, other, b"second", reply_from="host")
        await turns(5)
        assert endpoint.statistics().waiting == 1
        one.send(b"to the first", addr)
        async with asyncio.timeout(5.0):
            assert (await other.next())[0] == b"second"
        other.send(b"to the second", addr)
        assert await second == b"to the second"


def test_or_until_the_quarantine_is_over() -> None:
    async def main() -> None:
        async with Server() as server, opened(closed_port(), ports=Ports(quarantine=5.0)) as endpoint:
            loop = asyncio.get_running_loop()
            addr = await timed_out(endpoint, server, b"first")
            began = loop.time()
            second = asked(endpoint, server, b"second", timeout=60.0)
            await server.next()
            assert 4.9 < loop.time() - began < 5.1, "after the last send"
            server.send(b"ok", addr)
            assert await second == b"ok"

    in_jumping_time(main)


async def test_with_no_quarantine_it_goes_at_once(bound: socket.socket) -> None:
    async with Server() as server, opened(sock=bound, ports=Ports(quarantine=0)) as endpoint:
        addr = await timed_out(endpoint, server, b"first")
        second = asked(endpoint, server, b"second")
        assert (await server.next()) == (b"second", addr)
        server.send(b"ok", addr)
        assert await second == b"ok"


async def test_after_as_many_late_replies_as_were_sent(bound: socket.socket) -> None:
    async with Server() as server, opened(sock=bound, ports=Ports(quarantine=30.0)) as endpoint:
        retry = Retry(attempts=2, initial=0.01, final_wait=0.5)
        with pytest.raises(ReplyTimeoutError):
            await endpoint.request(server.addr, b"first", retry=retry)
        _, addr = await server.next()
        await server.next()
        second = asked(endpoint, server, b"second")
        server.send(b"late", addr)
        await until(lambda: endpoint.statistics().late == 1)
        await turns(5)
        assert endpoint.statistics().waiting == 1
        server.send(b"late again", addr)
        assert (await server.next())[0] == b"second"
        server.send(b"ok", addr)
        assert await second == b"ok"


async def test_an_answer_to_each_attempt_ends_the_quarantine(bound: socket.socket) -> None:
    async with Server() as server, opened(sock=bound, ports=Ports(quarantine=30.0)) as endpoint:
        retry = Retry(attempts=2, initial=0.01, final_wait=5.0)
        first = asked(endpoint, server, b"first", retry=retry)
        await server.next()
        _, addr = await server.next()
        server.send(b"to the first attempt", addr)
        assert await first == b"to the first attempt"
        second = asked(endpoint, server, b"second")
        await turns(5)
        assert endpoint.statistics().waiting == 1
        server.send(b"to the second attempt", addr)
        assert (await server.next())[0] == b"second"
        assert endpoint.statistics().duplicate == 1
        server.send(b"ok", addr)
        assert await second == b"ok"


async def test_the_late_answer_of_another_server_of_a_list_ends_its_quarantine(bound: socket.socket) -> None:
    async with (
        servers("127.0.0.1", "127.0.0.2") as (one, two),
        opened(sock=bound, ports=Ports(quarantine=30.0)) as endpoint,
    ):
        first = asyncio.ensure_future(endpoint.request([one.addr, two.addr], b"first", retry=Retry(2, initial=0.01)))
        _, addr = await one.next()
        await two.next()
        two.send(b"ok", addr)
        assert await first == b"ok"
        second = asked(endpoint, one, b"second")
        await turns(5)
        assert endpoint.statistics().waiting == 1
        one.send(b"late", addr)
        assert (await one.next())[0] == b"second"
        await cancelled(second)


async def test_the_quarantine_of_one_peer_is_no_other_s_affair(bound: socket.socket) -> None:
    async with (
        servers("127.0.0.1", "127.0.0.2") as (one, two),
        opened(sock=bound, ports=Ports(quarantine=30)) as endpoint,
    ):
        await timed_out(endpoint, one, b"x")
        with pytest.raises(ReplyTimeoutError, match="waited all the time for the late reply to an earlier request"):
            await endpoint.request(one.addr, b"y", timeout=0.02)
        task = asked(endpoint, two, b"z")
        _, addr = await two.next()
        two.send(b"ok", addr)
        assert await task == b"ok"


async def test_of_a_list_the_server_in_quarantine_is_passed_over(bound: socket.socket) -> None:
    async with (
        servers("127.0.0.1", "127.0.0.2") as (one, two),
        opened(sock=bound, ports=Ports(quarantine=30)) as endpoint,
    ):
        await timed_out(endpoint, one, b"x")
        task = asyncio.ensure_future(endpoint.request([one.addr, two.addr], b"y"))
        _, addr = await two.next()
        two.send(b"ok", addr)
        assert await task == b"ok"
        assert len(one.got) == 1


@pytest.mark.parametrize(
    "ports", [Ports(pool=2), Ports(rotate=True), Ports(range=(1024, 65_535))], ids=["pool", "rotate", "range"]
)
async def test_a_fixed_port_can_t_change(ports: Ports, bound: socket.socket) -> None:
    with pytest.raises(ValueError, match="sock means one port and no other"):
        udpguard.open_endpoint(sock=bound, ports=ports)
    with pytest.raises(ValueError, match="a port in local_addr means one port"):
        udpguard.open_endpoint(("127.0.0.1", 5000), ports=ports)
    with pytest.raises(ValueError, match="a port in local_addr means one port"):
        udpguard.open_endpoint(("localhost", 5000), ports=ports)
    bound.close()


def test_ports_are_checked() -> None:
    with pytest.raises(TypeError, match=r"ports must be a udpguard\.Ports"):
        udpguard.open_endpoint(ports=8)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- rotation


async def test_rotation_changes_the_port_after_every_keyless_exchange() -> None:
    async with Server(echo) as server, opened(ports=Ports(rotate=True)) as endpoint:
        for number in range(30):
            assert await endpoint.request(server.addr, b"%d" % number) == b"%d" % number
        assert len({addr for _, addr in server.got}) == 30
        assert spares(endpoint) <= 8


async def test_under_rotation_what_the_network_doubles_reaches_nobody() -> None:
    def twice(server: Server, data: bytes, addr: Any) -> None:
        server.send(data, addr)
        server.send(data, addr)

    async with Server(twice) as server, opened(ports=Ports(rotate=True)) as endpoint:
        for number in range(100):
            assert await endpoint.request(server.addr, b"%d" % number) == b"%d" % number


# -------------------------------------------------------------------------------------------- the pool, the range


@pytest.mark.parametrize("correlate", [None, TransactionId(0, 2), TransactionId(0, 2, assign=True)])
async def test_requests_leave_from_a_random_port_of_the_pool(correlate: TransactionId | None) -> None:
    async with Server(echo) as server, opened(ports=Ports(pool=4), correlate=correlate) as endpoint:
        assert len(endpoint.local_addrs) in (4, 8)
        for number in range(100):
            assert await endpoint.request(server.addr, b"%03d" % number) == b"%03d" % number
        used = [addr[1] for _, addr in server.got]
        assert set(used) == {peer.port for peer in endpoint.local_addrs if ":" not in peer.host}
        assert used != sorted(used)


async def test_a_reply_counts_only_at_the_port_that_asked() -> None:
    told: list[udpguard.Unexpected] = []
    async with (
        Server() as server,
        opened(ports=Ports(pool=3), correlate=TransactionId(0, 2), on_unexpected=told.append) as e,
    ):
        task = asked(e, server, b"id")
        _, addr = await server.next()
        others = [peer.port for peer in e.local_addrs if ":" not in peer.host and peer.port != addr[1]]
        for port in others:
            server.send(b"id forged", (addr[0], port))
        await until(lambda: len(told) == 2)
        assert {u.reason for u in told} == {Reason.REJECTED}
        server.send(b"id right", addr)
        assert await task == b"id right"


async def test_an_expectation_sends_from_the_port_that_listens() -> None:
    async with Server(echo) as server, opened(ports=Ports(pool=4)) as endpoint:
        for _ in range(10):
            async with endpoint.expect(server.addr) as expectation:
                await expectation.send(b"x")
                assert (await expectation).data == b"x"


async def test_the_range_is_kept_to() -> None:
    async with Server(echo) as server, opened(ports=Ports(pool=3, range=(40_000, 49_999), rotate=True)) as endpoint:
        for _ in range(10):
            await endpoint.request(server.addr, b"x")
        ports = [addr[1] for _, addr in server.got] + [peer.port for peer in endpoint.local_addrs]
        assert all(40_000 <= port <= 49_999 for port in ports)


async def test_both_families_have_the_same_port_of_the_range() -> None:
    async with opened(ports=Ports(range=(40_000, 49_999))) as endpoint:
        assert len({peer.port for peer in endpoint.local_addrs}) == 1


async def test_a_range_that_is_just_large_enough_is_used_up() -> None:
    for _ in range(3):
        first, last = free_range(48)
        async with opened(ports=Ports(pool=48, spares=0, range=(first, last))) as endpoint:
            ports = [peer.port for peer in endpoint.local_addrs if ":" not in peer.host]
            assert sorted(ports) == list(range(first, last + 1))
            assert ports != sorted(ports)


async def test_of_a_range_every_clean_port_is_used_before_one_is_used_again() -> None:
    ports = Ports(spares=1, rotate=True, range=free_range(201))
    async with Server(echo) as server, opened(("127.0.0.1", 0), ports=ports) as endpoint:
        for _ in range(190):  # somebody may have taken a few meanwhile
            await endpoint.request(server.addr, b"x", timeout=5.0)
        used = [addr[1] for _, addr in server.got]
        assert len(set(used)) == len(used)
        for _ in range(20):
            await endpoint.request(server.addr, b"x", timeout=5.0)


async def test_a_range_that_is_taken_says_so() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await udpguard.open_endpoint(("127.0.0.1", 0), ports=Ports(spares=0, range=(port, port)))


def test_reserved_ports_are_left_alone(tmp_path: Any) -> None:
    path = tmp_path / "ip_local_reserved_ports"
    path.write_text("8080,9000-9002\n")
    assert reserved_ports(path) == {8080, 9000, 9001, 9002}
    path.write_text("\n")
    assert reserved_ports(path) == frozenset()
    assert reserved_ports(tmp_path / "none") == frozenset()
    path.write_text("what?")
    assert reserved_ports(path) == frozenset()


async def test_where_all_are_reserved_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udpguard._ports.reserved_ports", lambda _: frozenset(range(5000, 5010)))
    with pytest.raises(OSError, match=r"every port tried .* is reserved"):
        await udpguard.open_endpoint(family=socket.AF_INET, ports=Ports(range=(5000, 5009)))


# -------------------------------------------------------------------------------------------------- near misses


async def test_too_many_wrong_ids_end_a_request() -> None:
    limits = Limits(near_misses=5)
    async with Server() as server, opened(correlate=TransactionId(0, 2), limits=limits) as endpoint:
        task, other = asked(endpoint, server, b"id"), asked(endpoint, server, b"xx")
        _, addr = await server.next()
        await server.next()
        for number in range(5):
            server.send(b"%02d forged" % number, addr)
        await until(lambda: endpoint.statistics().rejected == 5)
        server.send(b"xx", addr)
        assert await other == b"xx", "as many are allowed"
        server.send(b"99 forged", addr)
        with pytest.raises(
            udpguard.ForgerySuspectedError, match=r"more than 5 datagrams with a wrong transaction id"
        ) as e:
            await task
        assert (e.value.peer, e.value.limit) == (server.addr, 5)
        assert sum(miss.count for miss in e.value.near_misses) == 6
        server.send(b"id", addr)
        await until(lambda: endpoint.statistics().late == 1)
        assert endpoint.statistics().suspected == 1
        again = asked(endpoint, server, b"ok")
        await server.next()
        server.send(b"ok", addr)
        assert await again == b"ok", "nobody's server is blamed"


async def test_strangers_and_keyless_requests_never_count() -> None:
    limits = Limits(near_misses=0)
    keys = TransactionId(0, 2)
    async with (
        servers("127.0.0.1", "127.0.0.2") as (server, stranger),
        opened(correlate=keys, limits=limits) as endpoint,
    ):
        keyed, keyless = asked(endpoint, server, b"id"), asked(endpoint, server, b"")
        _, addr = await server.next()
        await server.next()
        for _ in range(10):
            stranger.send(b"?? forged", addr)
        await until(lambda: endpoint.statistics().unknown_peer == 10)
        server.send(b"id", addr)
        assert await keyed == b"id"
        server.send(b"?? another id", addr)
        await until(lambda: endpoint.statistics().rejected == 1)
        server.send(b"", addr)
        assert await keyless == b""


async def test_wrong_ids_end_requests_that_are_retransmitted_or_go_to_several() -> None:
    limits = Limits(near_misses=1)
    keys = TransactionId(0, 2, assign=True)
    async with servers("127.0.0.1", "127.0.0.2") as (one, two), opened(correlate=keys, limits=limits) as endpoint:
        retry = Retry(attempts=2, initial=0.01, final_wait=5.0)
        task = asyncio.ensure_future(endpoint.request([one.addr, two.addr], b"id", retry=retry))
        data, addr = await one.next()
        await two.next()
        wrong = bytes([data[0] ^ 1, data[1]])
        one.send(wrong, addr)
        two.send(wrong, addr)
        two.send(bytes([data[0] ^ 2, data[1]]), addr)
        with pytest.raises(udpguard.ForgerySuspectedError):
            await task
