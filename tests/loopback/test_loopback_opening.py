"""Opening an endpoint in all its ways, and closing it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from loopback_kit import Names, Server, assert_idle, cancelled, echo, loop_factory, opened, plain_socket, turns, until

import udpguard


def udp(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, port))
    return sock


async def test_an_awaited_endpoint_asks_and_is_closed_by_hand() -> None:
    async with Server(echo) as server:
        endpoint = await udpguard.open_endpoint()
        assert await endpoint.request(server.addr, b"hello", timeout=2.0) == b"hello"
        assert not endpoint.is_closing()
        endpoint.close()
        assert endpoint.is_closing()
        await endpoint.wait_closed()


async def test_async_with_closes_the_endpoint() -> None:
    async with Server(echo) as server:
        async with udpguard.open_endpoint() as endpoint:
            assert await endpoint.request(server.addr, b"hello", timeout=2.0) == b"hello"
        assert endpoint.is_closing()


async def test_an_awaited_endpoint_is_a_context_manager_too() -> None:
    endpoint = await udpguard.open_endpoint()
    async with endpoint as same:
        assert same is endpoint
    assert endpoint.is_closing()


async def test_async_with_closes_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError):
        async with udpguard.open_endpoint() as endpoint:
            raise ZeroDivisionError
    assert endpoint.is_closing()


async def test_an_endpoint_is_a_client() -> None:
    async with opened() as endpoint:
        assert isinstance(endpoint, udpguard.Client)
        assert isinstance(endpoint.client(), udpguard.Client)


async def test_by_default_there_is_a_socket_of_each_family_on_one_port() -> None:
    async with opened() as endpoint:
        hosts = [peer.host for peer in endpoint.local_addrs]
        assert hosts == ["0.0.0.0", "::"]
        assert len({peer.port for peer in endpoint.local_addrs}) == 1
        assert endpoint.local_addr == endpoint.local_addrs[0]
        assert isinstance(endpoint.local_addr, udpguard.Peer)
        assert endpoint.local_addr.port > 0


async def test_both_families_get_one_port_number_each_time() -> None:
    for _ in range(20):
        async with opened() as endpoint:
            assert len({peer.port for peer in endpoint.local_addrs}) == 1


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")])
async def test_a_family_alone(family: int, host: str) -> None:
    async with opened(family=family) as endpoint:
        assert [peer.host for peer in endpoint.local_addrs] == [host]


@pytest.mark.parametrize("family", [socket.AF_UNIX, 99, "inet"])
async def test_another_family_is_refused(family: Any) -> None:
    with pytest.raises(ValueError, match="family"):
        udpguard.open_endpoint(family=family)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
async def test_local_addr_binds_there_and_for_its_family_only(host: str) -> None:
    async with Server(echo, host) as server, opened((host, 0)) as endpoint:
        assert [peer.host for peer in endpoint.local_addrs] == [host]
        assert await endpoint.request(server.addr, b"x", timeout=2.0) == b"x"
        assert server.got[0][1][:2] == tuple(endpoint.local_addr)


async def test_local_addr_with_a_port() -> None:
    with plain_socket() as placeholder:
        port = placeholder.getsockname()[1]
    async with opened(("127.0.0.1", port)) as endpoint:
        assert endpoint.local_addr == ("127.0.0.1", port)


async def test_local_addr_may_be_a_peer_or_a_four_tuple() -> None:
    async with opened(udpguard.Peer("127.0.0.1", 0)) as endpoint:
        assert endpoint.local_addr.host == "127.0.0.1"
    async with opened(("::1", 0, 0, 0)) as endpoint:
        assert endpoint.local_addr.host == "::1"


async def test_local_addr_may_be_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, here=["127.0.0.3"])
    async with opened(("here", 0)) as endpoint:
        assert endpoint.local_addr.host == "127.0.0.3"
    assert names.asked == [("here", 0)]


async def test_local_addr_may_be_localhost() -> None:
    async with opened(("localhost", 0), family=socket.AF_INET) as endpoint:
        assert endpoint.local_addr.host == "127.0.0.1"


async def test_a_name_as_local_addr_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(asyncio.get_running_loop(), monkeypatch)
    with pytest.raises(socket.gaierror):
        await udpguard.open_endpoint(("nowhere", 0))


async def test_local_addr_that_is_taken_raises_oserror_that_names_it() -> None:
    with plain_socket() as taken:
        host, port = taken.getsockname()
        with pytest.raises(OSError, match=f"{host}:{port}"):
            await udpguard.open_endpoint((host, port))


async def test_local_addr_of_another_machine() -> None:
    with pytest.raises(OSError, match=r"198\.51\.100\.77"):
        await udpguard.open_endpoint(("198.51.100.77", 0))


@pytest.mark.parametrize(
    "addr", [("127.0.0.1", -1), ("127.0.0.1", 65_536), ("127.0.0.1", "0"), "127.0.0.1", ("a..b", 0), (1, 2), ()]
)
async def test_a_malformed_local_addr_is_refused_at_once(addr: Any) -> None:
    with pytest.raises(udpguard.InvalidAddressError):
        udpguard.open_endpoint(addr)


async def test_local_addr_of_another_family_than_given() -> None:
    with pytest.raises(udpguard.InvalidAddressError, match="family"):
        udpguard.open_endpoint(("127.0.0.1", 0), family=socket.AF_INET6)


# ----------------------------------------------------------------------------------- a socket of the user's


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_socket_of_the_users_serves_and_is_closed_with_the_endpoint(host: str) -> None:
    sock = udp(host)
    name = sock.getsockname()[:2]
    async with Server(echo, host) as server:
        async with opened(sock=sock) as endpoint:
            assert endpoint.local_addr == name
            assert await endpoint.request(server.addr, b"x", timeout=2.0) == b"x"
            assert sock.fileno() >= 0
        assert sock.fileno() == -1


async def test_a_dual_stack_socket_reaches_both_families() -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    async with Server(echo) as four, Server(echo, "::1") as six, opened(sock=sock) as endpoint:
        reply = await endpoint.exchange(four.addr, b"4", timeout=2.0)
        assert (reply.data, reply.peer) == (b"4", four.addr)
        assert await endpoint.request(six.addr, b"6", timeout=2.0) == b"6"
        assert await endpoint.request((f"::ffff:{four.addr[0]}", four.port), b"m", timeout=2.0) == b"m"


async def test_a_dual_stack_socket_reaches_names_of_either_family(monkeypatch: pytest.MonkeyPatch) -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    Names(asyncio.get_running_loop(), monkeypatch, four=["127.0.0.1"], six=["::1"])
    async with Server(echo) as four, Server(echo, "::1") as six, opened(sock=sock) as endpoint:
        assert await endpoint.request(("six", six.port), b"6", timeout=2.0) == b"6"
        assert await endpoint.request(("four", four.port), b"4", timeout=2.0) == b"4"
        assert await endpoint.resolve("four", four.port) == four.addr


async def test_sock_refuses_what_is_connected_unbound_tcp_closed_or_no_socket() -> None:
    with contextlib.closing(udp()) as connected:
        connected.connect(("127.0.0.1", 9))
        with pytest.raises(ValueError, match="connected"):
            udpguard.open_endpoint(sock=connected)
        assert connected.fileno() >= 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound, pytest.raises(ValueError, match="bind"):
        udpguard.open_endpoint(sock=unbound)
    with socket.socket() as tcp, pytest.raises(ValueError, match="UDP"):
        udpguard.open_endpoint(sock=tcp)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix, pytest.raises(ValueError, match="UDP"):
        udpguard.open_endpoint(sock=unix)
    closed = udp()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        udpguard.open_endpoint(sock=closed)
    with pytest.raises(TypeError):
        udpguard.open_endpoint(sock=3)  # type: ignore[arg-type]


async def test_sock_goes_with_neither_local_addr_nor_family() -> None:
    with contextlib.closing(udp()) as sock:
        with pytest.raises(ValueError, match="sock"):
            udpguard.open_endpoint(("127.0.0.1", 0), sock=sock)
        with pytest.raises(ValueError, match="sock"):
            udpguard.open_endpoint(sock=sock, family=socket.AF_INET)


async def test_a_socket_that_was_closed_or_connected_before_awaiting_is_refused_then() -> None:
    sock = udp()
    opener = udpguard.open_endpoint(sock=sock)
    sock.close()
    with pytest.raises(ValueError, match="closed"):
        await opener
    with contextlib.closing(udp()) as connected:
        opener = udpguard.open_endpoint(sock=connected)
        connected.connect(("127.0.0.1", 9))
        with pytest.raises(ValueError, match="connected"):
            await opener


async def test_a_blocking_socket_is_taken() -> None:
    sock = udp()
    sock.setblocking(True)
    async with Server(echo) as server, opened(sock=sock) as endpoint:
        assert await endpoint.request(server.addr, b"x", timeout=2.0) == b"x"


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "2"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"retry": 3}, TypeError),
        ({"correlate": (0, 2)}, TypeError),
        ({"correlate": udpguard.TransactionId}, TypeError),
        ({"limits": 5}, TypeError),
        ({"on_unexpected": 5}, TypeError),
    ],
)
async def test_wrong_arguments_are_refused_at_the_call(kwargs: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(kwargs))):
        udpguard.open_endpoint(**kwargs)


async def test_a_coroutine_function_is_no_hook() -> None:
    async def hook(_: udpguard.Unexpected) -> None: ...

    with pytest.raises(TypeError, match="on_unexpected"):
        udpguard.open_endpoint(on_unexpected=hook)


def test_limits_are_checked() -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="pending"):
            udpguard.Limits(pending=wrong)
        with pytest.raises(ValueError, match="in_flight_per_peer"):
            udpguard.Limits(in_flight_per_peer=wrong)
    with pytest.raises(TypeError):
        udpguard.Limits(pending="many")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        udpguard.Limits(pending=None)  # type: ignore[arg-type]


async def test_an_opener_opens_once() -> None:
    opener = udpguard.open_endpoint()
    endpoint = await opener
    with pytest.raises(RuntimeError, match="open_endpoint"):
        await opener
    with pytest.raises(RuntimeError, match="open_endpoint"):
        async with opener:
            pass
    assert not endpoint.is_closing()
    endpoint.close()
    await endpoint.wait_closed()


async def test_an_opener_that_is_never_used_makes_no_noise() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        udpguard.open_endpoint()
        gc.collect()


# ------------------------------------------------------------------------------------------------ closing


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112


def forget(holder: list[object]) -> None:
    holder.clear()
    gc.collect()


async def test_a_forgotten_endpoint_gives_a_resource_warning_of_our_own_and_closes_its_sockets() -> None:
    gc.collect()
    before = open_files()
    endpoint = await udpguard.open_endpoint()
    await turns()
    channels: list[Any] = list(endpoint._guard.channels)
    holder: list[object] = [endpoint]
    del endpoint
    # Where a loop does not bear errors in a socket's queue, there is an epoll object for each.
    assert open_files() in (before + 2, before + 4) or not before
    with pytest.warns(ResourceWarning, match=r"udpguard.*open_endpoint") as caught:
        forget(holder)
    assert len(caught) == 1
    assert all(channel.get_extra_info("socket").fileno() == -1 for channel in channels)
    await turns()
    assert open_files() == before


def test_an_endpoint_forgotten_with_its_loop_gives_the_same_warning() -> None:
    async def main() -> tuple[udpguard.Endpoint, socket.socket]:
        endpoint = await udpguard.open_endpoint(family=socket.AF_INET)
        await turns()
        channel: Any = endpoint._guard.channels[0]
        return endpoint, channel.get_extra_info("socket")

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        endpoint, sock = runner.run(main())
    holder: list[object] = [endpoint]
    del endpoint
    with pytest.warns(ResourceWarning, match="udpguard"):
        forget(holder)
    assert sock.fileno() == -1


async def test_a_forgotten_endpoint_closes_its_sockets_where_warnings_are_errors_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_value))
    endpoint = await udpguard.open_endpoint()
    await turns()
    socks: list[socket.socket] = [channel._sock for channel in endpoint._guard.channels]  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del endpoint
        gc.collect()
    left = [sock for sock in socks if sock.fileno() != -1]
    for sock in left:
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()
    assert [type(error) for error in raised] == [ResourceWarning]
    assert not left
    raised.clear()


async def test_a_client_keeps_its_endpoint_open() -> None:
    async with Server(echo) as server:
        client = (await udpguard.open_endpoint()).client()
        gc.collect()
        assert await client.request(server.addr, b"x", timeout=2.0) == b"x"
        holder: list[object] = [client]
        del client
        with pytest.warns(ResourceWarning, match="udpguard"):
            forget(holder)


async def test_a_running_request_keeps_its_endpoint_open() -> None:
    async with Server() as server:
        endpoint = await udpguard.open_endpoint()
        task = asyncio.ensure_future(endpoint.request(server.addr, b"x", timeout=5.0))
        _, addr = await server.next()
        held = [endpoint]
        del endpoint
        gc.collect()
        server.send(b"y", addr)
        assert await task == b"y"
        held[0].close()


async def test_use_after_close_raises_endpoint_closed() -> None:
    async with Server(echo) as server:
        async with udpguard.open_endpoint() as endpoint:
            client = endpoint.client(timeout=1.0)
            expectation = endpoint.expect(server.addr)
        for use in (
            lambda: endpoint.request(server.addr, b"x"),
            lambda: endpoint.exchange(server.addr, b"x"),
            lambda: endpoint.send(server.addr, b"x"),
            lambda: endpoint.resolve("localhost", 53),
            lambda: client.request(server.addr, b"x"),
            lambda: expectation.send(b"x"),
        ):
            with pytest.raises(udpguard.EndpointClosedError):
                await use()
        for ask in (endpoint, client):
            with pytest.raises(udpguard.EndpointClosedError):
                ask.expect(server.addr)
        assert server.got == []


async def test_what_is_pending_fails_each_with_an_error_of_its_own() -> None:
    async with Server() as server, Server() as other:
        endpoint = await udpguard.open_endpoint()
        tasks = [asyncio.ensure_future(endpoint.request(server.addr, b"%d" % i)) for i in range(3)]  # two of them wait
        tasks.append(asyncio.ensure_future(endpoint.client().exchange(other.addr, b"x", timeout=None)))
        expectation = endpoint.expect(server.addr)
        await server.next()
        await other.next()
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (3, 2)
        endpoint.close()
        errors = await asyncio.gather(*tasks, expectation, return_exceptions=True)
        assert [type(error) for error in errors] == [udpguard.EndpointClosedError] * 5
        assert len({id(error) for error in errors}) == 5
        await endpoint.wait_closed()
        assert_idle(endpoint)


async def test_closing_twice_and_waiting_twice_is_fine() -> None:
    endpoint = await udpguard.open_endpoint()
    await turns()
    endpoint.close()
    endpoint.close()
    await asyncio.gather(endpoint.wait_closed(), endpoint.wait_closed())
    await endpoint.wait_closed()
    endpoint.close()


async def test_wait_closed_waits_for_close() -> None:
    endpoint = await udpguard.open_endpoint()
    waiter = asyncio.ensure_future(endpoint.wait_closed())
    await turns(5)
    assert not waiter.done()
    endpoint.close()
    async with asyncio.timeout(5):
        await waiter


async def test_wait_closed_right_after_opening_waits_for_close_too() -> None:
    endpoint = await udpguard.open_endpoint()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await endpoint.wait_closed()
    endpoint.close()
    await endpoint.wait_closed()


async def test_a_cancelled_wait_closed_harms_nobody() -> None:
    endpoint = await udpguard.open_endpoint()
    await turns()
    first, second = (asyncio.ensure_future(endpoint.wait_closed()) for _ in range(2))
    await turns()
    await cancelled(first)
    endpoint.close()
    await second


async def test_after_wait_closed_the_port_is_free_again() -> None:
    endpoint = await udpguard.open_endpoint(("127.0.0.1", 0))
    host, port = endpoint.local_addr
    endpoint.close()
    await endpoint.wait_closed()
    with plain_socket(host, port):
        pass


async def test_statistics_can_be_asked_for_after_closing() -> None:
    async with Server(echo) as server:
        async with udpguard.open_endpoint() as endpoint:
            await endpoint.request(server.addr, b"x", timeout=2.0)
        stats = endpoint.statistics()
        assert (stats.sent, stats.received, stats.matched, stats.pending, stats.waiting) == (1, 1, 1, 0, 0)
        assert_idle(endpoint)


async def test_repr_says_where_it_is_bound_and_whether_it_is_closed() -> None:
    async with opened(("127.0.0.1", 0)) as endpoint:
        assert str(endpoint.local_addr) in repr(endpoint)
        assert "closed" not in repr(endpoint)
    assert "closed" in repr(endpoint)


def test_an_endpoint_in_a_second_loop_is_a_runtime_error() -> None:
    async def first() -> udpguard.Endpoint:
        endpoint = await udpguard.open_endpoint()
        await turns()
        return endpoint

    async def second(endpoint: udpguard.Endpoint) -> None:
        peer = ("127.0.0.1", 9)
        for use in (endpoint.request(peer, b"x"), endpoint.exchange(peer, b"x"), endpoint.send(peer, b"x")):
            with pytest.raises(RuntimeError, match="loop"):
                await use
        with pytest.raises(RuntimeError, match="loop"):
            await endpoint.resolve("localhost", 9)
        with pytest.raises(RuntimeError, match="loop"):
            endpoint.expect(peer)
        with pytest.raises(RuntimeError, match="loop"):
            endpoint.client().expect(peer)
        assert_idle(endpoint)

    one, two = asyncio.Runner(loop_factory=loop_factory()), asyncio.Runner(loop_factory=loop_factory())
    with one, two:
        endpoint = one.run(first())
        two.run(second(endpoint))

        async def close() -> None:
            endpoint.close()
            await endpoint.wait_closed()

        one.run(close())


def test_an_endpoint_whose_loop_is_gone_says_so_and_can_be_closed() -> None:
    async def first() -> udpguard.Endpoint:
        endpoint = await udpguard.open_endpoint()
        await turns()
        return endpoint

    async def second(endpoint: udpguard.Endpoint) -> None:
        with pytest.raises(RuntimeError, match="loop"):
            await endpoint.request(("127.0.0.1", 9), b"x")

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        endpoint = runner.run(first())
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(second(endpoint))
    endpoint.close()
    assert endpoint.is_closing()


def test_without_a_loop_opening_a_request_is_a_runtime_error() -> None:
    async def first() -> udpguard.Endpoint:
        return await udpguard.open_endpoint()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        endpoint = runner.run(first())
        with pytest.raises(RuntimeError):
            endpoint.expect(("127.0.0.1", 9))
        runner.get_loop().call_soon(endpoint.close)
        runner.run(endpoint.wait_closed())


async def test_a_cancelled_opening_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(asyncio.get_running_loop(), monkeypatch, here=["127.0.0.1"])
    names.hold = asyncio.Event()
    before = open_files()

    async def run() -> None:
        await udpguard.open_endpoint(("here", 0))

    task = asyncio.ensure_future(run())
    await until(lambda: names.asked)
    await cancelled(task)
    assert open_files() == before


async def test_allow_broadcast_is_asked_of_the_socket() -> None:
    sock = udp()
    async with opened(sock=sock, allow_broadcast=True):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
    sock = udp()
    async with opened(sock=sock):
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)


async def test_no_socket_lets_a_neighbour_share_its_port() -> None:
    async with opened(("127.0.0.1", 0)) as endpoint, contextlib.AsyncExitStack() as stack:
        thief = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError):
            thief.bind(tuple(endpoint.local_addr))
