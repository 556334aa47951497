"""What runs out, and what fails on this machine: one clear outcome for the one request concerned, and none for others.

The operating system's errors are injected below the transport, for one peer: all else goes out as always.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import socket
import tracemalloc
from typing import Any, NamedTuple

import pytest
from loopback_kit import Server, assert_sum, cancelled, echo, in_jumping_time, opened, servers, turns, until

import udpguard
from udpguard import Limits, Ports, Retry, TransactionId
from udpguard._host import Machine
from udpguard.core.address import peer_of, wire_of

KEYED = TransactionId(0, 2)
ASSIGNED = TransactionId(0, 2, assign=True)
ALIKE = pytest.mark.parametrize("correlate", [None, KEYED, ASSIGNED], ids=["keyless", "keyed", "assigned"])


class Fault(NamedTuple):
    """What the operating system says, and what the message must say besides."""

    number: int
    advice: str

    def __str__(self) -> str:
        return errno.errorcode[self.number]


FAULTS = [
    Fault(errno.ENETDOWN, "interface is down"),
    Fault(errno.EADDRNOTAVAIL, "no address to send from"),
    Fault(errno.EPERM, "firewall"),
    Fault(errno.EACCES, "firewall"),
    Fault(errno.ENETUNREACH, "route"),
    Fault(errno.EHOSTUNREACH, "route"),
    Fault(errno.EINVAL, "bound to"),
    Fault(errno.ENOMEM, "memory"),
    Fault(errno.EIO, "network"),
]
EACH = pytest.mark.parametrize("fault", FAULTS, ids=str)


class Faulty:
    """A backend that refuses what goes to some peers, as the operating system would, and sends the rest."""

    def __init__(self, endpoint: udpguard.Endpoint, *refused: tuple[Any, int]) -> None:
        self.channel: Any = endpoint._guard.channels[0]
        self._real = self.channel._backend
        self.channel._backend = self
        self.refuses = dict(refused)
        self.met = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, data: bytes, wire: bytes) -> bool:
        number = self.refuses.get(peer_of(wire))
        if number is not None:
            self.met += 1
            raise OSError(number, os.strerror(number))
        return bool(self._real.send(data, wire))

    def send_many(self, datas: list[bytes], wires: list[bytes]) -> int:
        fine = 0
        while fine < len(datas) and peer_of(wires[fine]) not in self.refuses:
            fine += 1
        return int(self._real.send_many(datas[:fine], wires[:fine])) if fine else 0


def ask(client: udpguard.Client, addr: Any, data: bytes = b"xx", **kwargs: Any) -> asyncio.Task[udpguard.Reply]:
    kwargs.setdefault("timeout", 5.0)
    return asyncio.ensure_future(client.exchange(addr, data, **kwargs))


def check(error: BaseException, fault: Fault, peer: tuple[str, int]) -> None:
    """One clear outcome: who, what, and what to do."""
    assert type(error) is udpguard.PeerUnreachableError
    assert (error.peer, error.errno, error.strerror) == (peer, fault.number, os.strerror(fault.number))
    assert isinstance(error.__cause__, OSError)
    message = str(error)
    assert message.startswith(f"could not send to {peer[0]}:{peer[1]}: {os.strerror(fault.number)}; ")
    assert fault.advice in message


# ------------------------------------------------------------------------------- the operating system will not send


WAYS: dict[str, dict[str, Any]] = {
    "short": {},
    "with a schedule": {"retry": Retry(attempts=3, initial=30.0), "timeout": udpguard.DEFAULT},
    "from anywhere on the host": {"reply_from": "host"},
    "with accept": {"accept": lambda reply: True},
    "data function": {"data": lambda attempt: b"x%d" % attempt},
}


@EACH
@pytest.mark.parametrize("way", WAYS)
async def test_a_request_that_cannot_be_sent_says_so_at_once(way: str, fault: Fault) -> None:
    async with servers("127.0.0.1", "127.0.0.1", handler=echo) as (bad, good), opened(("127.0.0.1", 0)) as endpoint:
        faulty = Faulty(endpoint, (bad.addr, fault.number))
        began = asyncio.get_running_loop().time()
        with pytest.raises(udpguard.PeerUnreachableError) as caught:
            await ask(endpoint, bad.addr, **WAYS[way])
        assert asyncio.get_running_loop().time() - began < 4.0, "no deadline was waited for"
        check(caught.value, fault, bad.addr)
        stats = endpoint.statistics()
        assert (stats.sent, stats.unreachable, stats.timed_out, stats.cancelled) == (0, 1, 0, 0)
        assert stats.send_errors >= 1
        assert (await ask(endpoint, good.addr)).data == b"xx"
        faulty.refuses.clear()
        assert (await ask(endpoint, bad.addr, **WAYS[way])).peer == bad.addr, "nothing is held against the peer"
        assert bad.data != []


@ALIKE
@EACH
async def test_the_others_of_its_batch_are_unharmed(fault: Fault, correlate: Any) -> None:
    async with (
        servers(*["127.0.0.1"] * 9, handler=echo) as nine,
        opened(("127.0.0.1", 0), correlate=correlate) as endpoint,
    ):
        Faulty(endpoint, (nine[0].addr, fault.number), (nine[4].addr, fault.number), (nine[8].addr, fault.number))
        tasks = [ask(endpoint, server.addr, b"%02d" % number) for number, server in enumerate(nine)]
        for number, got in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
            if number % 4:
                assert isinstance(got, udpguard.Reply)
                assert got.data == b"%02d" % number
            else:
                assert isinstance(got, BaseException)
                check(got, fault, nine[number].addr)
        stats = endpoint.statistics()
        assert (stats.sent, stats.matched, stats.unreachable, stats.send_errors) == (6, 6, 3, 3)


@EACH
async def test_a_list_of_servers_moves_on_at_once(fault: Fault) -> None:
    async with servers(*["127.0.0.1"] * 3, handler=echo) as three, opened(("127.0.0.1", 0)) as endpoint:
        addrs = [server.addr for server in three]
        faulty = Faulty(endpoint, (addrs[0], fault.number), (addrs[1], fault.number))
        for more in ({}, {"retry": Retry(attempts=2, initial=30.0)}):
            loop = asyncio.get_running_loop()
            began = loop.time()
            reply = await ask(endpoint, addrs, **more)
            assert (reply.peer, reply.attempts) == (addrs[2], 1)
            assert loop.time() - began < 2.0
        assert (endpoint.statistics().unreachable, endpoint.statistics().send_errors) == (0, 4)
        faulty.refuses[addrs[2]] = fault.number
        with pytest.raises(udpguard.PeerUnreachableError) as caught:
            await ask(endpoint, addrs)
        check(caught.value, fault, addrs[2])
        assert endpoint.statistics().unreachable == 1


@EACH
async def test_send_and_the_send_of_an_expectation_raise_it(fault: Fault) -> None:
    async with servers("127.0.0.1", "127.0.0.1", handler=echo) as (bad, good), opened(("127.0.0.1", 0)) as endpoint:
        faulty = Faulty(endpoint, (bad.addr, fault.number))
        expectation = endpoint.expect(bad.addr, timeout=5.0)
        for call in (expectation.send(b"x"), endpoint.send(bad.addr, b"x")):
            with pytest.raises(udpguard.PeerUnreachableError) as caught:
                await call
            check(caught.value, fault, bad.addr)
        stats = endpoint.statistics()
        assert (stats.sent, stats.send_errors, stats.pending) == (0, 2, 1), "it is expected all the same"
        await endpoint.send(good.addr, b"fine")
        faulty.refuses.clear()
        await expectation.send(b"again")
        assert (await expectation).data == b"again"
        assert endpoint.statistics().unreachable == 0, "no request ended"


async def test_a_send_that_waited_for_the_socket_counts_as_one_that_did_not() -> None:
    async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
        faulty = Faulty(endpoint, (server.addr, errno.ENOBUFS))
        sends = [asyncio.ensure_future(endpoint.send(server.addr, b"x")) for _ in range(3)]
        await turns()
        faulty.refuses[server.addr] = errno.ENETDOWN
        for error in await asyncio.gather(*sends, return_exceptions=True):
            assert isinstance(error, BaseException)
            check(error, FAULTS[0], server.addr)
        assert endpoint.statistics().send_errors == 3
        assert endpoint.statistics().unreachable == 0, "no request ended"


def test_an_interface_that_goes_down_between_two_sends_is_told_in_the_time_out() -> None:
    async def main() -> None:
        async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
            faulty = Faulty(endpoint)
            task = ask(endpoint, server.addr, retry=Retry(attempts=3, jitter=0.0), timeout=udpguard.DEFAULT)
            await server.next()
            faulty.refuses[server.addr] = errno.ENETDOWN
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await task
            assert caught.value.attempts == 1
            assert "the network interface is down" in str(caught.value)
            assert (endpoint.statistics().send_errors, endpoint.statistics().unreachable) == (2, 0)

    in_jumping_time(main)


def test_an_interface_that_comes_back_before_the_last_send_costs_nothing() -> None:
    async def main() -> None:
        async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
            faulty = Faulty(endpoint)
            task = ask(endpoint, server.addr, retry=Retry(attempts=3, jitter=0.0), timeout=udpguard.DEFAULT)
            await server.next()
            faulty.refuses[server.addr] = errno.ENETDOWN
            await asyncio.sleep(2.0)
            assert faulty.met == 1
            faulty.refuses.clear()
            server.handler = echo
            reply = await task
            assert (reply.data, reply.attempts, reply.rtt) == (b"xx", 2, None)

    in_jumping_time(main)


# ------------------------------------------------------------------------------------------------------- too large


@ALIKE
async def test_more_than_the_path_carries_fails_its_own_caller_alone(correlate: Any) -> None:
    async with (
        servers(*["127.0.0.1"] * 4, handler=echo) as four,
        opened(("127.0.0.1", 0), correlate=correlate) as endpoint,
    ):
        Faulty(endpoint, (four[1].addr, errno.EMSGSIZE))
        tasks = [ask(endpoint, server.addr, b"%02d" % number) for number, server in enumerate(four)]
        got = await asyncio.gather(*tasks, return_exceptions=True)
        failed = got.pop(1)
        assert [reply.data for reply in got] == [b"00", b"02", b"03"]  # type: ignore[union-attr]
        assert isinstance(failed, udpguard.DatagramTooLargeError)
        assert (failed.peer, failed.size, failed.limit) == (four[1].addr, 2, None)
        assert "send less" in str(failed)
        for call in (endpoint.send(four[1].addr, b"x"), endpoint.expect(four[1].addr, timeout=0.01).send(b"x")):
            with pytest.raises(udpguard.DatagramTooLargeError):
                await call
        await until(lambda: not endpoint.statistics().pending)
        assert (endpoint.statistics().send_errors, endpoint.statistics().unreachable) == (3, 0)


async def test_a_list_moves_on_from_a_path_that_is_too_narrow() -> None:
    async with servers("127.0.0.1", "127.0.0.1", handler=echo) as (narrow, wide), opened(("127.0.0.1", 0)) as endpoint:
        faulty = Faulty(endpoint, (narrow.addr, errno.EMSGSIZE))
        reply = await ask(endpoint, [narrow.addr, wide.addr])
        assert (reply.peer, reply.attempts) == (wide.addr, 1)
        faulty.refuses[wide.addr] = errno.EMSGSIZE
        with pytest.raises(udpguard.DatagramTooLargeError) as caught:
            await ask(endpoint, [narrow.addr, wide.addr])
        assert caught.value.peer == wide.addr


def test_a_path_that_has_become_narrow_costs_no_reply_to_what_left_before() -> None:
    async def main() -> None:
        local, keyed = ("127.0.0.1", 0), TransactionId(0, 1)  # without a key one would wait for the other's turn
        async with servers("127.0.0.1", "127.0.0.1") as (server, other), opened(local, correlate=keyed) as endpoint:
            faulty = Faulty(endpoint)
            tasks = [
                ask(endpoint, server.addr, b"1", retry=Retry(attempts=2, jitter=0.0, final_wait=9.0), timeout=9.0),
                ask(endpoint, [other.addr, server.addr], b"2", timeout=9.0),
            ]
            (_, here), (_, there) = await server.next(), await other.next()
            faulty.refuses[server.addr] = errno.EMSGSIZE
            await asyncio.sleep(3.0)
            assert faulty.met >= 2, "each tried, since the error may be another datagram's"
            assert not any(task.done() for task in tasks)
            server.send(b"1 late", here)
            other.send(b"2 later", there)
            assert [(await task).data for task in tasks] == [b"1 late", b"2 later"]
            faulty.refuses.clear()
            task = ask(
                endpoint, server.addr, retry=Retry(attempts=2, jitter=0.0, final_wait=1.0), timeout=udpguard.DEFAULT
            )
            await server.next()
            faulty.refuses[server.addr] = errno.EMSGSIZE
            with pytest.raises(udpguard.ReplyTimeoutError, match="more than the path carries"):
                await task

    in_jumping_time(main)


async def test_what_no_udp_datagram_holds_is_the_callers_fault_whatever_was_sent() -> None:
    async with servers("127.0.0.1", "127.0.0.1") as (one, two), opened(("127.0.0.1", 0)) as endpoint:
        with pytest.raises(udpguard.DatagramTooLargeError) as caught:
            await ask(endpoint, [one.addr, two.addr], bytes(65_508))
        assert caught.value.limit == 65_507
        retry = Retry(attempts=2, initial=0.01, final_wait=9.0)
        with pytest.raises(udpguard.DatagramTooLargeError):
            await ask(endpoint, one.addr, lambda attempt: bytes(65_508 * attempt), retry=retry)
        assert endpoint.statistics().send_errors == 0


# ------------------------------------------------------------------------------------------------------ no buffers


@ALIKE
async def test_without_buffers_all_wait_and_then_all_go(correlate: Any) -> None:
    async with (
        servers(*["127.0.0.1"] * 4, handler=echo) as four,
        opened(("127.0.0.1", 0), correlate=correlate) as endpoint,
    ):
        faulty = Faulty(endpoint, *[(server.addr, errno.ENOBUFS) for server in four])
        tasks = [ask(endpoint, server.addr, b"%02d" % number) for number, server in enumerate(four[:3])]
        tasks.append(ask(endpoint, [four[3].addr, four[0].addr], b"03", retry=Retry()))
        expectation = endpoint.expect(four[1].addr, timeout=5.0, reply_from=("127.0.0.9", 9))
        sends = [
            asyncio.ensure_future(expectation.send(b"s")),
            asyncio.ensure_future(endpoint.send(four[2].addr, b"s")),
        ]
        await until(lambda: faulty.met > 3)
        assert not any(task.done() for task in (*tasks, *sends))
        assert (endpoint.statistics().sent, endpoint.statistics().waiting) == (0, 6)
        faulty.refuses.clear()
        await asyncio.gather(*sends)
        assert [(await task).data for task in tasks] == [b"00", b"01", b"02", b"03"]
        stats = endpoint.statistics()
        assert (stats.sent, stats.send_errors, stats.unreachable, stats.retransmitted) == (6, 0, 0, 0)
        expectation.cancel()


async def test_a_request_that_never_gets_a_buffer_says_so() -> None:
    async with Server(echo) as server, opened(("127.0.0.1", 0)) as endpoint:
        faulty = Faulty(endpoint, (server.addr, errno.ENOBUFS))
        with pytest.raises(udpguard.ReplyTimeoutError, match="send buffer") as caught:
            await ask(endpoint, server.addr, timeout=0.05)
        assert caught.value.attempts == 0
        assert faulty.met < 60, "it is not asked for all the time"


# -------------------------------------------------------------------------------------------------- no descriptors


class Scarce(Machine):
    """A machine that gives so many sockets, and then no more until the test says so."""

    def __init__(self, count: int, number: int = errno.EMFILE) -> None:
        self.left = count
        self.number = number
        self.given: list[socket.socket] = []

    def bind(self, address: Any, family: int, *, allow_broadcast: bool) -> socket.socket:
        if not self.left:
            raise OSError(self.number, os.strerror(self.number))
        self.left -= 1
        self.given.append(super().bind(address, family, allow_broadcast=allow_broadcast))
        return self.given[-1]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
async def test_opening_without_descriptors_says_so_and_keeps_none(count: int, number: int) -> None:
    asyncio.get_running_loop().udpguard_host = host = Scarce(count, number)  # type: ignore[attr-defined]
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        await udpguard.open_endpoint(("127.0.0.1", 0), ports=Ports(pool=8))
    assert caught.value.errno == number
    await turns()
    assert [sock.fileno() for sock in host.given] == [-1] * count
    host.left = 8
    async with opened(("127.0.0.1", 0), ports=Ports(pool=8)), Server():
        pass


async def test_without_descriptors_for_a_spare_port_the_quarantine_serves(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "udpguard")
    asyncio.get_running_loop().udpguard_host = host = Scarce(1)  # type: ignore[attr-defined]
    ports = Ports(quarantine=1.0)  # the last question must leave before it is over
    async with Server() as server, Server(echo) as live, opened(("127.0.0.1", 0), ports=ports) as endpoint:
        # It is given no port, so that there may be spare ones.
        with pytest.raises(udpguard.ReplyTimeoutError):
            await ask(endpoint, server.addr, timeout=0.02)
        _, first = await server.next()
        task = ask(endpoint, server.addr, b"again")
        for _ in range(20):
            assert (await ask(endpoint, live.addr)).data == b"xx", "nobody else waits"
        assert (await server.next())[1] == first
        server.send(b"answer", first)
        assert (await task).data == b"answer"
        shown = [record for record in caplog.records if "spare" in record.getMessage()]
        assert 1 <= len(shown) <= 3
        assert all(record.levelno == logging.DEBUG for record in shown)
        with pytest.raises(udpguard.ReplyTimeoutError):
            await ask(endpoint, server.addr, timeout=0.02)
        host.left = 1
        await server.next()
        task = ask(endpoint, server.addr, b"once more")
        _, other = await server.next()
        assert other != first, "there is one again"
        server.send(b"answer", other)
        await task


# ---------------------------------------------------------------------------------------------- the registry is full


@pytest.mark.parametrize("way", ["short", "with a schedule"])
async def test_with_the_registry_full_requests_wait_and_expectations_are_refused(way: str) -> None:
    more = {"retry": Retry(attempts=2, initial=60.0)} if way != "short" else {}
    limits = Limits(pending=10)
    async with Server() as silent, Server(echo) as live, opened(correlate=KEYED, limits=limits) as endpoint:
        blocking = [ask(endpoint, silent.addr, b"%02d" % number, timeout=60, **more) for number in range(8)]
        expected = [endpoint.expect(silent.addr, timeout=60, transaction=b"%dx" % number) for number in range(2)]
        await turns()
        for attempt in range(3):
            with pytest.raises(udpguard.TooManyPendingError, match=r"Limits\(pending=…\)") as caught:
                endpoint.expect(live.addr, transaction=b"%02d" % attempt)
            assert caught.value.limit == 10
        waiting = [ask(endpoint, live.addr, b"%02d" % number, **more) for number in range(20)]
        hasty = ask(endpoint, live.addr, b"zz", timeout=0.05, **more)
        await endpoint.send(live.addr, b"a send takes no room")
        with pytest.raises(udpguard.ReplyTimeoutError, match="pending") as told:
            await hasty
        assert told.value.attempts == 0
        stats = endpoint.statistics()
        assert (stats.pending, stats.waiting, stats.timed_out) == (10, 20, 1)
        blocking[0].cancel()  # room for one, and each makes room for the next
        replies = await asyncio.gather(*waiting)
        assert [reply.data for reply in replies] == [b"%02d" % number for number in range(20)]
        assert [data for data in live.data if len(data) == 2] == [b"%02d" % number for number in range(20)]
        endpoint.expect(live.addr, transaction=b"ok").cancel()
        for expectation in expected:
            expectation.cancel()
        await cancelled(*blocking[1:])
        await asyncio.gather(blocking[0], return_exceptions=True)


async def test_a_peer_that_never_answers_takes_one_place_however_many_ask_it() -> None:
    async with Server() as silent, Server(echo) as live, opened(limits=Limits(pending=3)) as endpoint:
        blocking = [ask(endpoint, silent.addr, timeout=60) for _ in range(100)]
        await turns()
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (1, 99)
        assert (await ask(endpoint, live.addr)).data == b"xx"
        await cancelled(*blocking)


# -------------------------------------------------------------------------------------------------- logs and hooks


def strangers(count: int, datagram: bytes = b"junk") -> list[list[tuple[bytes, bytes]]]:
    """Batches of so many datagrams, each from an address of its own."""
    return [
        [(datagram, wire_of(bytes((10, high >> 8, high & 255, low)), 53, 0)) for low in range(64)]
        for high in range(count // 64)
    ]


async def test_a_million_strangers_write_no_log_and_fill_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    async with Server() as server, opened(("127.0.0.1", 0)) as endpoint:
        task = ask(endpoint, server.addr, timeout=30)
        _, addr = await server.next()
        batches = strangers(64_000)
        with caplog.at_level(logging.DEBUG):
            caplog.clear()
            guard = endpoint._guard
            guard.receive(batches[0])
            gc.collect()
            tracemalloc.start()
            for batch in batches:
                guard.receive(batch)
            gc.collect()
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            for _ in range(15):
                for batch in batches:
                    guard.receive(batch)
            assert caplog.records == []
        assert held < 256 * 1024
        server.send(b"y", addr)
        assert (await task).data == b"y"
        stats = endpoint.statistics()
        assert stats.unknown_peer == 64 + 16 * 64_000
        assert_sum(stats)


async def test_a_hook_that_always_fails_is_shown_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    def hook(_: udpguard.Unexpected) -> None:
        raise ZeroDivisionError("in the hook")

    async with Server(echo) as server, opened(("127.0.0.1", 0), on_unexpected=hook) as endpoint:
        with caplog.at_level(logging.INFO):
            for batch in strangers(10_000):
                endpoint._guard.receive(batch)
        assert [record.levelno for record in caplog.records if record.name == "udpguard"] == [logging.ERROR]
        stats = endpoint.statistics()
        assert stats.hook_errors == stats.unknown_peer == 10_000 // 64 * 64
        assert (await ask(endpoint, server.addr)).data == b"xx"


async def test_an_accept_that_always_fails_costs_its_own_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    def fails(reply: udpguard.Reply) -> bool:
        raise LookupError(f"no such thing: {reply.data[:4]!r}")

    async with servers("127.0.0.1", "127.0.0.1") as (server, other), opened(("127.0.0.1", 0)) as endpoint:
        with caplog.at_level(logging.DEBUG):
            mine, theirs = ask(endpoint, server.addr, accept=fails, timeout=2.0), ask(endpoint, other.addr)
            _, addr = await server.next()
            await other.next()
            wire = wire_of(bytes((127, 0, 0, 1)), server.port, 0)
            for _ in range(100):
                endpoint._guard.receive([(b"junk" + bytes(1_000), wire)] * 64)
            other.send(b"y", addr)
            assert (await theirs).data == b"y"
            with pytest.raises(udpguard.ReplyTimeoutError, match="no such thing") as caught:
                await mine
            assert [record for record in caplog.records if record.name == "udpguard"] == []
        assert sum(miss.count for miss in caught.value.near_misses) <= 512
        assert max(len(miss.data) for miss in caught.value.near_misses) <= 64
        assert (endpoint.statistics().hook_errors, endpoint.statistics().rejected) == (6_400, 6_400)
