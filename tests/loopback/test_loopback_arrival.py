"""When replies arrived, whatever the loop did meanwhile; and what the kernel dropped."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from loopback_kit import opened, plain_socket, servers, turns, until

import udpguard
from udpguard import Limits, TransactionId, _transport
from udpguard._platform import sockets

STAMPED = sys.platform == "linux" and os.environ.get("UDPGUARD_BACKEND") != "portable"
stamped = pytest.mark.skipif(not STAMPED, reason="only Linux's stamps tell when a datagram arrived")


class Answerer:
    """A server in a thread of its own: it answers while the event loop is blocked."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.bind(("127.0.0.1", 0))
        self.addr = self.sock.getsockname()
        self.late = threading.Event()
        """Until it is set, what begins with "late" is not answered."""
        self.answered = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while True:
            data, where = self.sock.recvfrom(2048)
            if data == b"end":
                return
            if data.startswith(b"late"):
                self.late.wait(10)
            self.sock.sendto(data, where)
            self.answered.release()

    def stop(self) -> None:
        self.late.set()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", self.addr)
        self.thread.join(10)
        self.sock.close()

    def block_until_answered(self, count: int) -> None:
        """Block the event loop, as careless code does, until so many answers lie in its socket."""
        for _ in range(count):
            assert self.answered.acquire(timeout=10)


def blocked(seconds: float) -> None:
    """What no coroutine should do."""
    time.sleep(seconds)


@pytest.fixture
def server() -> Iterator[Answerer]:
    answerer = Answerer()
    try:
        yield answerer
    finally:
        answerer.stop()


def ask(client: udpguard.Client, server: Answerer, data: bytes, timeout: float) -> asyncio.Task[udpguard.Reply]:
    return asyncio.ensure_future(client.exchange(server.addr, data, timeout=timeout))


async def test_a_blocked_loop_loses_no_reply_that_came_in_time(server: Answerer) -> None:
    async with opened(correlate=TransactionId(0, 2)) as endpoint:
        tasks = [ask(endpoint, server, b"%02d" % number, 1.0) for number in range(100)]
        await turns(3)
        server.block_until_answered(100)
        blocked(1.1)  # past all deadlines
        replies = await asyncio.gather(*tasks)
        assert [reply.data for reply in replies] == [b"%02d" % number for number in range(100)]
        stats = endpoint.statistics()
        assert (stats.matched, stats.timed_out, stats.late) == (100, 0, 0)


async def test_what_the_granted_buffer_holds_is_delivered_after_a_block(server: Answerer) -> None:
    # As an ordinary user may have it: 212,992 bytes hold 256 small datagrams.
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    async with udpguard.open_endpoint(sock=sock, correlate=TransactionId(0, 2)) as endpoint:
        tasks = [ask(endpoint, server, number.to_bytes(2, "big"), 1.0) for number in range(200)]
        await turns(6)
        server.block_until_answered(200)
        blocked(1.1)
        assert len(await asyncio.gather(*tasks)) == 200
        assert endpoint.statistics().kernel_dropped == 0


@stamped
async def test_a_reply_that_came_after_its_deadline_is_late_however_late_the_loop_gets_to_it(server: Answerer) -> None:
    async with opened(correlate=TransactionId(0, 5)) as endpoint:
        short = ask(endpoint, server, b"late1", 0.05)
        long = ask(endpoint, server, b"late2", 30.0)
        await turns(3)
        blocked(0.1)
        server.late.set()
        server.block_until_answered(2)
        with pytest.raises(udpguard.ReplyTimeoutError):
            await short
        assert (await long).data == b"late2"
        stats = endpoint.statistics()
        assert (stats.matched, stats.timed_out, stats.late) == (1, 1, 1)


def answer(sock: socket.socket) -> None:
    """Send back what came."""
    sock.sendto(*sock.recvfrom(2048))


async def test_what_came_late_to_one_socket_costs_no_reply_in_time_to_the_other() -> None:
    async with servers("::1", "127.0.0.1") as (six, four), opened() as endpoint:
        asyncio.get_running_loop().remove_reader(six.sock)
        task = asyncio.ensure_future(endpoint.request(six.addr, b"x", timeout=0.5))
        await turns(3)
        ours = ("127.0.0.1", endpoint.local_addr.port)
        four.send(b"stranger", ours)  # so that this socket is read first
        answer(six.sock)
        blocked(0.6)
        four.send(b"stranger", ours)
        assert await task == b"x"
        assert endpoint.statistics().timed_out == 0


async def test_a_reply_that_comes_while_another_socket_is_read_is_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with servers("127.0.0.1") as [server], opened(correlate=TransactionId(0, 1)) as endpoint:
        asyncio.get_running_loop().remove_reader(server.sock)
        _, second = endpoint._guard.channels
        catch_up = second.catch_up

        def takes_long() -> bool:
            monkeypatch.undo()
            answer(server.sock)  # to the first, which was read before
            blocked(0.45)
            return catch_up()

        monkeypatch.setattr(second, "catch_up", takes_long)
        ours = asyncio.ensure_future(endpoint.request(server.addr, b"1", timeout=0.6))
        with plain_socket() as silent, pytest.raises(udpguard.ReplyTimeoutError):
            await endpoint.request(silent.getsockname(), b"2", timeout=0.3)
        assert await ours == b"1"


@stamped
async def test_the_round_trip_ends_when_the_reply_arrives_not_when_the_loop_gets_to_it(server: Answerer) -> None:
    async with opened() as endpoint:
        asked = time.monotonic()
        task = ask(endpoint, server, b"x", 30.0)
        await turns(2)
        server.block_until_answered(1)
        answered = time.monotonic()
        blocked(0.5)
        reply = await task
        assert reply.rtt is not None
        # However long it took the server, half a second more passed until the loop got to it.
        assert 0.0 <= reply.rtt < answered - asked + 0.25


@stamped
@pytest.mark.parametrize("step", [-3600.0, 3600.0])
async def test_a_clock_that_is_set_spoils_no_round_trip(
    server: Answerer, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    real = time.time
    async with opened() as endpoint:
        began = time.monotonic()
        monkeypatch.setattr(time, "time", lambda: real() + step)
        reply = await endpoint.exchange(server.addr, b"x", timeout=30.0)
        longest = time.monotonic() - began
        assert reply.rtt is not None
        assert 0.0 <= reply.rtt <= longest


@stamped
async def test_a_clock_that_is_set_back_while_the_loop_is_blocked_costs_no_reply(
    server: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    async with opened() as endpoint:
        task = ask(endpoint, server, b"x", 0.5)
        await turns(2)
        server.block_until_answered(1)
        blocked(0.6)
        monkeypatch.setattr(time, "time", lambda: real() - 3600.0)
        assert (await task).data == b"x"


@stamped
@pytest.mark.parametrize(("option", "value"), [(35, 0), (29, 1)], ids=["off", "SO_TIMESTAMP"])
async def test_a_socket_whose_stamps_the_user_changes_spoils_no_other(
    server: Answerer, option: int, value: int
) -> None:
    async with opened() as spoiled, opened() as endpoint:
        sock: Any = spoiled._guard.channels[0].get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, option, value)
        for _ in range(3):
            assert (await spoiled.exchange(server.addr, b"x", timeout=30.0)).data == b"x"
            reply = await endpoint.exchange(server.addr, b"x", timeout=30.0)
            assert reply.rtt is not None
            assert reply.rtt > 0.0
        server.answered = threading.Semaphore(0)
        short = ask(endpoint, server, b"late", 0.05)
        await turns(3)
        blocked(0.1)
        server.late.set()
        server.block_until_answered(1)
        with pytest.raises(udpguard.ReplyTimeoutError):
            await short


async def test_an_endpoint_whose_socket_somebody_closed_leaves_its_number_to_others(
    server: Answerer,
) -> None:
    old = await udpguard.open_endpoint(("127.0.0.1", 0))
    sock: Any = old._guard.channels[0].get_extra_info("socket")
    loop = asyncio.get_running_loop()
    loop.remove_reader(sock.fileno())  # else the loop itself mixes the two up
    number = sock.fileno()
    sock.close()
    async with udpguard.open_endpoint(("127.0.0.1", 0)) as endpoint:
        assert endpoint._guard.channels[0].get_extra_info("socket").fileno() == number  # type: ignore[attr-defined]
        old.close()
        await old.wait_closed()
        assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"


async def test_others_have_their_turn_while_a_backlog_is_caught_up(
    server: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transport, "_DRAIN_SECONDS", -1.0)  # as if each batch took all the time there is
    async with opened(correlate=TransactionId(0, 8)) as endpoint:
        guard = endpoint._guard
        tasks = [ask(endpoint, server, b"late%04d" % number, 1.0) for number in range(300)]
        await until(lambda: endpoint.statistics().sent == 300)
        server.late.set()
        server.block_until_answered(300)
        blocked(1.1)
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        real = guard.receive

        def receive(batch: Any, ages: Any, port: int) -> None:
            seen.append(len(batch))
            loop.call_soon(seen.append, 0)
            real(batch, ages, port)

        guard.receive = receive  # type: ignore[method-assign]
        guard._on_timer()
        assert len(await asyncio.gather(*tasks)) == 300
        await turns(3)
        assert sum(seen) == 300
        assert max(seen) <= 64
        first = seen.index(0)
        assert 0 < first < len(seen) - 1
        assert any(seen[first:]), "somebody else had a turn before all was read"


async def test_one_wake_up_reads_so_many_and_no_more(server: Answerer) -> None:
    async with opened(correlate=TransactionId(0, 2), limits=Limits(pending=2000)) as endpoint:
        tasks = [ask(endpoint, server, number.to_bytes(2, "big"), 30.0) for number in range(1000)]
        channel: Any = endpoint._guard.channels[0]
        channel._watch.ignore_readable()
        await turns(20)
        server.block_until_answered(1000)
        channel._on_readable()
        assert 64 <= endpoint.statistics().received <= 256
        while endpoint.statistics().received < 1000:
            channel._on_readable()
        assert len(await asyncio.gather(*tasks)) == 1000


# ---------------------------------------------------------------------------------------------- what was dropped


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def flood(where: Any, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(bytes(100), where)


@linux
async def test_what_the_kernel_drops_is_counted_also_after_closing() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    flood(sock.getsockname(), 20_000)  # what was dropped before is nobody's here
    before = sockets.kernel_dropped(sock)
    assert before
    endpoint = await udpguard.open_endpoint(sock=sock)
    assert endpoint.statistics().kernel_dropped == 0
    await until(lambda: not select.select([sock], [], [], 0)[0])
    flood(endpoint.local_addr, 20_000)
    dropped = endpoint.statistics().kernel_dropped
    assert dropped > 0
    await until(lambda: endpoint.statistics().received + before + dropped == 40_000)
    endpoint.close()
    await endpoint.wait_closed()
    assert endpoint.statistics().kernel_dropped == dropped


@linux
async def test_the_protocol_counts_it_on_any_transport() -> None:
    loop = asyncio.get_running_loop()
    transport, guard = await loop.create_datagram_endpoint(udpguard.GuardProtocol, local_addr=("127.0.0.1", 0))
    flood(transport.get_extra_info("sockname"), 20_000)
    dropped = guard.statistics().kernel_dropped
    assert dropped > 0
    transport.close()
    await turns(3)
    assert guard.statistics().kernel_dropped == dropped


async def test_where_nobody_tells_none_were_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_SO_MEMINFO", 9999)
    async with opened() as endpoint:
        assert endpoint.statistics().kernel_dropped == 0
    monkeypatch.setattr(sys, "platform", "plan9")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert sockets.kernel_dropped(sock) is None


async def test_the_buffer_that_was_granted_is_told() -> None:
    async with opened() as endpoint:
        sock: Any = endpoint.get_extra_info("socket")
        assert endpoint.get_extra_info("receive_buffer") == sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert endpoint.get_extra_info("sockname") == tuple(endpoint.local_addr)
        assert endpoint.get_extra_info("nothing") is None
        assert endpoint.get_extra_info("nothing", 7) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="SO_RCVBUFFORCE is Linux's")
async def test_a_buffer_larger_than_what_is_granted_to_us_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 30)
    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)  # twice net.core.rmem_max
    try:
        sock.setsockopt(socket.SOL_SOCKET, 33, size)  # SO_RCVBUFFORCE
    except PermissionError:
        sock.close()
        pytest.skip("only who may administer the network can have more than the limit")
    monkeypatch.setattr(sockets, "_RECEIVE_BUFFER", 4 * size)
    async with opened(sock=sock) as endpoint:
        assert endpoint.get_extra_info("receive_buffer") == 2 * size
