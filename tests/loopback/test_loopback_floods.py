"""Floods, and the socket filter against them: every answer comes in, and it comes and goes by itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import pytest
from bpf_machine import packet, verdict
from loopback_kit import (
    Crowd,
    Server,
    assert_sum,
    cancelled,
    echo,
    opened,
    plain_socket,
    same_port,
    servers,
    stall,
    turns,
    until,
)

import udpguard
from udpguard import _screens
from udpguard._platform.bpf import PASS
from udpguard.core import flood

HAS_FILTER = sys.platform == "linux" and os.environ.get("UDPGUARD_BACKEND") != "portable"
filtered = pytest.mark.skipif(not HAS_FILTER, reason="the socket filter is Linux's, and none of the portable backend")

if sys.platform == "linux":
    from udpguard._platform.linux_filter import LinuxFilter, has_filter


def is_filtered(endpoint: udpguard.Endpoint) -> bool:
    found = endpoint.get_extra_info("kernel_filter")
    assert isinstance(found, bool)
    return found


def dropped(endpoint: udpguard.Endpoint) -> int:
    return endpoint.statistics().kernel_dropped


@pytest.fixture
def small_floods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred strangers are a flood, which is over after a tenth of a second: machines are slow, tests are not."""
    monkeypatch.setattr(flood, "_FLOOD", 2_000.0)
    monkeypatch.setattr(flood, "_SPAN", 0.1)
    monkeypatch.setattr(flood, "_QUIET", 500.0)
    monkeypatch.setattr(flood, "_SHORTEST_PATIENCE", 0.1)
    monkeypatch.setattr(_screens, "_SAMPLE", 32)
    monkeypatch.setattr(_screens, "_LOOK", 0.02)


class Stranger:
    """Sends junk to an endpoint from a strange address."""

    def __init__(self, endpoint: udpguard.Endpoint, host: str = "127.200.0.1") -> None:
        self.endpoint = endpoint
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.sent = 0

    @property
    def target(self) -> tuple[str, int]:
        port = next(
            local.port
            for local in self.endpoint.local_addrs
            if (":" in local.host) or self.sock.family == socket.AF_INET
        )
        return ("::1" if self.sock.family == socket.AF_INET6 else "127.0.0.1", port)

    def junk(self, count: int = 1) -> None:
        """Send so many at once."""
        for _ in range(count):
            self.sock.sendto(b"junk", self.target)
        self.sent += count

    async def flood(self, count: int) -> None:
        """Send so many, as they are taken, a few at a time."""
        while count > 0:
            come = self._come() + (some := min(count, 50))
            self.junk(some)
            await until(lambda come=come: self._come() >= come)  # type: ignore[misc]
            count -= some

    def _come(self) -> int:
        stats = self.endpoint.statistics()
        return stats.received + stats.kernel_dropped

    def is_let_in(self) -> bool:
        """Whether one more would be; what the kernel drops it counts at once, on loopback."""
        before = dropped(self.endpoint)
        self.junk()
        return dropped(self.endpoint) == before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()


async def flooded(endpoint: udpguard.Endpoint, stranger: Stranger) -> None:
    """Flood it until it has a filter."""
    for _ in range(100):
        await stranger.flood(200)
        if is_filtered(endpoint):
            return
    raise AssertionError("the flood was not noticed")


# -------------------------------------------------------------------------------------------------- always on


@filtered
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_on_it_keeps_strangers_out_from_the_beginning(host: str) -> None:
    async with Server(echo, host) as server, opened(kernel_filter="on") as endpoint:
        with Stranger(endpoint, "127.200.0.1" if host == "127.0.0.1" else "::1") as stranger:
            assert is_filtered(endpoint)
            assert not stranger.is_let_in()
            for i in range(100):
                assert await endpoint.request(server.addr, b"%d" % i, timeout=5.0) == b"%d" % i
                assert not stranger.is_let_in()
            stats = endpoint.statistics()
            assert (stats.received, stats.unknown_peer) == (100, 0)
            assert stats.kernel_dropped == stranger.sent


@filtered
@pytest.mark.parametrize("verb", ["request", "exchange", "expect"])
@pytest.mark.parametrize(
    ("reply_from", "answers_from", "strangers"),
    [
        ("peer", "peer", ["127.0.0.1", "127.0.0.2"]),
        ("host", "host", ["127.0.0.2"]),
        ("127.0.0.2", "other", ["127.0.0.3"]),
        ("127.0.0.0/30", "other", ["127.0.0.4"]),
        (["peer", "127.0.0.2"], "other", ["127.0.0.3"]),
        ("other port", "host", ["127.0.0.2"]),
        ("anywhere", "other", []),
        (["peer", "::1"], "other family", ["127.0.0.2"]),
    ],
    ids=["peer", "host", "address", "network", "list", "exact", "anywhere", "other-family"],
)
async def test_on_every_reply_from_stays_open(verb: str, reply_from: Any, answers_from: str, strangers: Any) -> None:
    async with (
        servers("127.0.0.1", "127.0.0.1", "127.0.0.2", "::1") as (asked, same_host, other, six),
        opened(kernel_filter="on") as endpoint,
    ):
        answering = {"peer": asked, "host": same_host, "other": other, "other family": six}[answers_from]

        def answer(server: Server, data: bytes, addr: Any) -> None:
            host = "::1" if answering is six else addr[0]
            port = endpoint.local_addrs[-1].port if answering is six else addr[1]
            with contextlib.ExitStack() as stack:
                for stranger in strangers:
                    stack.enter_context(plain_socket(stranger)).sendto(b"forged", addr)
            answering.send(b"answer to " + data, (host, port))

        asked.handler = answer
        where = same_host.addr if reply_from == "other port" else reply_from
        for i in range(3):
            if verb == "expect":
                with endpoint.expect(asked.addr, timeout=5.0, reply_from=where) as expectation:
                    await expectation.send(b"%d" % i)
                    data = (await expectation).data
            else:
                reply = await getattr(endpoint, verb)(
                    asked.addr, b"%d" % i, timeout=5.0, reply_from=where, accept=lambda reply: reply.data != b"forged"
                )
                data = reply if verb == "request" else reply.data
            assert data == b"answer to %d" % i
        stats = endpoint.statistics()
        assert stats.matched == 3
        if strangers:
            assert is_filtered(endpoint)
            assert (stats.unknown_peer, stats.rejected) == (0, 0)
            assert stats.kernel_dropped == 3 * len(strangers)


@filtered
async def test_on_it_is_away_only_while_something_is_expected_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_screens, "_OPEN_AGAIN", 0.0)
    async with Server(echo) as server, opened(kernel_filter="on") as endpoint:
        with Stranger(endpoint) as stranger:
            for _ in range(3):
                assert not stranger.is_let_in()
                with endpoint.expect(("127.0.0.9", 9), reply_from="anywhere", timeout=None):
                    assert stranger.is_let_in()
                    assert not is_filtered(endpoint)
                    await endpoint.send(server.addr, b"x")
                    await endpoint.request(server.addr, b"y")
                assert await endpoint.request(server.addr, b"z") == b"z"
                assert is_filtered(endpoint)
            await turns()


@filtered
async def test_on_ten_thousand_exchanges_with_ever_new_peers_lose_none() -> None:
    """While strangers send. Each peer is asked once or a few times, by several ways, up to 200 at once."""
    rng = random.Random(10)
    with Crowd() as crowd:
        async with opened(kernel_filter="on", timeout=10.0) as endpoint:
            keyed = endpoint.client(correlate=udpguard.TransactionId(0, 2, assign=True))
            with contextlib.ExitStack() as stack:
                strangers = [stack.enter_context(Stranger(endpoint, f"127.200.0.{i + 1}")) for i in range(50)]
                numbers = iter(range(10_000))
                ways: list[dict[str, Any]] = [  # each with hosts of its own: without keys they would mix
                    {},
                    {"reply_from": "host"},
                    {"retry": udpguard.Retry(attempts=2, initial=5.0)},
                    {"reply_from": ["peer", ("127.0.0.99", 99)]},
                ]

                async def worker() -> None:
                    for i in numbers:
                        data = i.to_bytes(4, "big")
                        client = keyed if i % 5 == 4 else endpoint
                        way = 0 if i % 7 else rng.randrange(len(ways))
                        host = f"127.{10 * way + 10 + i % 5}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
                        if i % 50 == 0:
                            rng.choice(strangers).junk(10)
                        assert await client.request((host, crowd.port), data, **ways[way]) == data

                async with asyncio.TaskGroup() as group:
                    for _ in range(200):
                        group.create_task(worker())
                stats = endpoint.statistics()
                assert (stats.matched, stats.timed_out) == (10_000, 0)
                assert is_filtered(endpoint)
                assert stats.kernel_dropped + stats.unknown_peer == sum(one.sent for one in strangers) == 2_000
                assert stats.unknown_peer < 1_000  # up to 8,000 peers are in, and then every sixth stranger


@filtered
async def test_on_a_thousand_peers_in_rotation_load_it_once_each() -> None:
    with Crowd() as crowd:
        async with opened(kernel_filter="on", timeout=10.0) as endpoint:
            loads = count_loads(endpoint)
            peers = [(f"127.3.{i // 250}.{i % 250 + 1}", crowd.port) for i in range(1_000)]
            for turn in range(3):
                for begin in range(0, 1_000, 50):
                    some = peers[begin : begin + 50]
                    assert await asyncio.gather(*[endpoint.request(peer, b"x") for peer in some]) == [b"x"] * 50
                assert 20 <= loads[0] <= 30, (turn, loads)  # one for fifty new peers; on a busy machine a few more


def count_loads(endpoint: udpguard.Endpoint) -> list[int]:
    loads = [0]
    for screen in endpoint._guard.screens._screens.values():
        real: Any = screen.filter
        assert isinstance(real, LinuxFilter)

        def load(program: bytearray, real: Any = real, load: Any = real._load) -> None:
            loads[0] += 1
            load(program)

        real._load = load  # type: ignore[method-assign]
    return loads


class Spied:
    """A backend that looks at what it sends: the program that is loaded, run by the rules, must let the answer in."""

    def __init__(self, channel: Any) -> None:
        self._real = channel._backend
        self._fd = channel.get_extra_info("socket").fileno()
        self.receive, self.ages = self._real.receive, self._real.ages
        channel._backend = self

    loaded: dict[int, bytes] = {}
    checked = 0

    def _check(self, wire: bytes) -> None:
        program = self.loaded.get(self._fd)
        if program is not None:
            host = wire[2:] if len(wire) == 6 else wire[6:22]
            assert verdict(program, *packet(host, int.from_bytes(wire[:2], "big"))) == PASS
            Spied.checked += 1

    def send(self, data: bytes, wire: bytes) -> bool:
        self._check(wire)
        return bool(self._real.send(data, wire))

    def send_many(self, datas: list[bytes], wires: list[bytes]) -> int:
        for wire in wires:
            self._check(wire)
        return int(self._real.send_many(datas, wires))


@pytest.fixture
def spying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know which program each socket has."""
    real_set, real_detach = LinuxFilter._set, LinuxFilter.detach

    def set_(self: LinuxFilter, program: bytearray) -> None:
        real_set(self, program)
        Spied.loaded[self._sock.fileno()] = bytes(program)

    def detach(self: LinuxFilter) -> None:
        Spied.loaded.pop(self._sock.fileno(), None)
        real_detach(self)

    monkeypatch.setattr(LinuxFilter, "_set", set_)
    monkeypatch.setattr(LinuxFilter, "detach", detach)
    monkeypatch.setattr(Spied, "loaded", {})
    monkeypatch.setattr(Spied, "checked", 0)


@filtered
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.usefixtures("small_floods", "spying")
async def test_nothing_leaves_before_its_answer_can_come_in(mode: Any) -> None:
    rng = random.Random(4)
    ways: list[dict[str, Any]] = [{}, {"retry": udpguard.Retry()}, {"reply_from": "host"}]
    with Crowd() as crowd:
        async with Server(echo, "::1") as six, opened(kernel_filter=mode, timeout=10.0) as endpoint:
            for channel in endpoint._guard.channels:
                Spied(channel)
            with Stranger(endpoint) as stranger:

                async def ask(i: int) -> None:
                    way = rng.randrange(3)
                    addr = (f"127.{way + 10}.0.{rng.randrange(1, 255)}", crowd.port)
                    if i % 20 == 7:
                        way, addr = 0, six.addr
                    assert await endpoint.request(addr, b"%d" % i, **ways[way]) == b"%d" % i

                for begin in range(0, 1_500, 30):
                    if begin % 300 == 0 and mode == "auto":
                        await flooded(endpoint, stranger)
                    await asyncio.gather(*[ask(i) for i in range(begin, begin + 30)])
            assert Spied.checked >= (1_500 if mode == "on" else 1)


@filtered
async def test_on_with_a_socket_of_the_users_that_hears_both_families() -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    async with (
        servers("127.0.0.1", "::1", handler=echo) as both,
        same_port("127.0.0.2", "127.0.0.3", handler=echo) as (two, three),
        opened(sock=sock, kernel_filter="on") as endpoint,
    ):
        with Stranger(endpoint) as four, Stranger(endpoint, "::1") as six:
            for _ in range(3):
                for server in (*both, two):
                    assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"
                assert await endpoint.request(three.addr, b"x", timeout=5.0, reply_from="127.0.0.0/8") == b"x"
                assert await endpoint.request(("::ffff:127.0.0.1", both[0].port), b"x", timeout=5.0) == b"x"
            # The network stays in for a while.
            assert not six.is_let_in()
            assert four.is_let_in()
            endpoint._guard.screens._screens[endpoint._guard.channels[0]].refresh()
            assert not four.is_let_in()
            await until(lambda: endpoint.statistics().duplicate == 1)


# ------------------------------------------------------------------------------------------------- by itself


@filtered
@pytest.mark.usefixtures("small_floods")
async def test_auto_it_comes_with_a_flood_and_goes_after_it() -> None:
    async with Server(echo) as server, opened() as endpoint:
        with Stranger(endpoint) as stranger:
            assert not is_filtered(endpoint)
            for _ in range(2):
                await flooded(endpoint, stranger)
                assert not stranger.is_let_in()
                seen = endpoint.statistics().unknown_peer
                await stranger.flood(500)
                assert endpoint.statistics().unknown_peer == seen
                assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"
                await until(lambda: not is_filtered(endpoint))
                assert endpoint._guard.outbox.screened is False
                await until(lambda: endpoint._guard.screens._timer is None)
                assert stranger.is_let_in()
                assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"
            await until(lambda: (s := endpoint.statistics()).unknown_peer + s.kernel_dropped == stranger.sent)
            assert_sum(endpoint.statistics())


@filtered
@pytest.mark.usefixtures("small_floods")
async def test_auto_what_is_pending_when_it_comes_is_answered() -> None:
    """Whatever it waits for, and whoever it is to come from."""
    async with servers("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "::1") as many:
        one, two, three, four, five, six = many
        async with opened(timeout=30.0) as endpoint:
            dns = endpoint.client(correlate=udpguard.TransactionId(0, 2, assign=True))
            with Stranger(endpoint) as stranger:
                tasks = [
                    asyncio.ensure_future(endpoint.request(one.addr, b"..plain")),
                    asyncio.ensure_future(dns.request(one.addr, b"..keyed")),
                    asyncio.ensure_future(endpoint.request(two.addr, b"..host", reply_from="host")),
                    asyncio.ensure_future(endpoint.request(three.addr, b"..net", reply_from="127.0.0.0/29")),
                    asyncio.ensure_future(endpoint.request(four.addr, b"..retry", retry=udpguard.Retry(initial=20))),
                    asyncio.ensure_future(endpoint.request(six.addr, b"..six")),
                    asyncio.ensure_future(endpoint.request(one.addr, b"..in turn")),
                ]
                expectation = endpoint.expect(five.addr)
                await until(lambda: len(one.got) == 2 and all(s.got for s in (two, three, four, six)))
                await flooded(endpoint, stranger)
                await expectation.send(b"..expected")
                await until(lambda: five.got)
                assert is_filtered(endpoint)
                assert not stranger.is_let_in()
                for server in many:
                    server.handler = echo
                    for data, addr in list(server.got):
                        server.send(data, addr)
                answers = await asyncio.gather(*tasks)
                assert sorted(answer[2:] for answer in answers) == sorted(
                    [b"plain", b"keyed", b"host", b"net", b"retry", b"six", b"in turn"]
                )
                assert (await expectation).data == b"..expected"
                await turns()


@filtered
@pytest.mark.usefixtures("small_floods")
async def test_auto_who_is_asked_under_it_answers_and_who_was_asked_lately_may_go_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood, "_SHORTEST_PATIENCE", 60.0)
    caplog.set_level(logging.DEBUG, "udpguard")
    with Crowd() as crowd:
        async with opened(timeout=10.0) as endpoint:
            with Stranger(endpoint) as stranger:
                await flooded(endpoint, stranger)
                loads = count_loads(endpoint)
                for turn in range(3):
                    for i in range(100):
                        assert await endpoint.request((f"127.3.0.{i + 1}", crowd.port), b"x") == b"x"
                        stranger.junk()
                    assert loads[0] == 100, turn
    assert len([r for r in caplog.records if "socket filter lets" in r.getMessage()]) == 1


@filtered
@pytest.mark.usefixtures("small_floods")
async def test_auto_a_former_peer_that_floods_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_screens, "_REFRESH", 0.0)
    monkeypatch.setattr("udpguard.core.memory.REMEMBERED", -1.0)  # else it counts as a duplicate for two minutes
    async with Server(echo) as server, opened() as endpoint:
        with Stranger(endpoint) as stranger, Stranger(endpoint, "127.0.0.7") as former:
            await flooded(endpoint, stranger)
            with endpoint.expect(former.sock.getsockname(), timeout=None):
                assert former.is_let_in()
                await until(lambda: endpoint.statistics().matched == 1)
            assert former.is_let_in()
            for _ in range(100):
                former.junk(50)
                stranger.junk(50)  # so that it does not go
                await turns()
                if not former.is_let_in():
                    break
            else:
                raise AssertionError("it is still let in")
            assert is_filtered(endpoint)
            assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"
            await turns(10)


@filtered
@pytest.mark.usefixtures("small_floods")
async def test_auto_only_the_socket_that_is_flooded_is_filtered() -> None:
    async with opened() as endpoint:
        with Stranger(endpoint, "::1") as six, Stranger(endpoint) as four:
            await flooded(endpoint, six)
            assert not six.is_let_in()
            assert four.is_let_in()
            await until(lambda: endpoint.statistics().unknown_peer > 0)


@filtered
@pytest.mark.usefixtures("small_floods")
async def test_closing_under_a_flood_leaves_nothing_behind() -> None:
    async with Server() as server, opened() as endpoint:
        with Stranger(endpoint) as stranger:
            await flooded(endpoint, stranger)
            task = asyncio.ensure_future(endpoint.request(server.addr, b"x"))
            await server.next()
            endpoint.close()
            with pytest.raises(udpguard.EndpointClosedError):
                await task
            assert endpoint._guard.screens._timer is None
        await endpoint.wait_closed()
        assert dropped(endpoint) > 0


# --------------------------------------------------------------------------------------- where it can't be had


@contextlib.contextmanager
def refusing(monkeypatch: pytest.MonkeyPatch, error: int) -> Iterator[list[int]]:
    """The kernel refuses every program, until the test has had enough of that."""
    refused = [0]

    def set_(self: LinuxFilter, program: bytearray) -> None:
        refused[0] += 1
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(LinuxFilter, "_set", set_)
        yield refused


@filtered
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EPERM])
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.usefixtures("small_floods")
async def test_what_the_kernel_refuses_is_done_without_and_tried_again_later(
    mode: Any, error: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "udpguard")
    async with Server(echo) as server:
        with contextlib.ExitStack() as patches:
            refused = patches.enter_context(refusing(monkeypatch, error))
            async with opened(kernel_filter=mode) as endpoint:
                stranger = patches.enter_context(Stranger(endpoint))
                for i in range(10):
                    await stranger.flood(200)
                    assert await endpoint.request(server.addr, b"%d" % i, timeout=5.0) == b"%d" % i
                assert not is_filtered(endpoint)
                lines = [r for r in caplog.records if "no socket filter for a while" in r.getMessage()]
                assert 1 <= len(lines) <= 4  # of either socket, and perhaps a second has passed
                assert refused[0] <= 8
                assert all(record.levelno == logging.DEBUG for record in lines)
                patches.close()
                with Stranger(endpoint) as stranger:
                    guard = endpoint._guard
                    clock = guard.clock
                    monkeypatch.setattr(guard, "clock", lambda: clock() + 120.0)
                    if mode == "auto":
                        await flooded(endpoint, stranger)
                    assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"
                    assert is_filtered(endpoint)


@filtered
async def test_one_that_can_not_be_extended_goes_before_the_question_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    async with servers("127.0.0.1", "127.0.0.2", handler=echo) as (one, two), opened(kernel_filter="on") as endpoint:
        assert await endpoint.request(one.addr, b"x", timeout=5.0) == b"x"
        assert is_filtered(endpoint)
        with refusing(monkeypatch, errno.ENOMEM):
            assert await endpoint.request(two.addr, b"x", timeout=5.0) == b"x"
            with Stranger(endpoint) as stranger:
                assert stranger.is_let_in()
                await until(lambda: endpoint.statistics().unknown_peer == 1)


@filtered
@pytest.mark.usefixtures("small_floods")
async def test_a_filter_of_the_users_own_stays() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    LinuxFilter(sock).attach([b"\x00\x35\x7f\x00\x00\x09"])
    async with Server(echo) as server, opened(sock=sock, kernel_filter="on") as endpoint:
        with Stranger(endpoint) as stranger:
            assert not stranger.is_let_in()
        with pytest.raises(udpguard.ReplyTimeoutError):
            await endpoint.request(server.addr, b"x", timeout=0.1)
        assert not is_filtered(endpoint)
        assert has_filter(sock)


@pytest.mark.parametrize("mode", ["always", "", None, True, "ON"])
def test_what_is_no_mode_is_refused_at_once(mode: Any) -> None:
    with pytest.raises(ValueError, match="kernel_filter must be 'auto', 'on' or 'off'"):
        udpguard.open_endpoint(kernel_filter=mode)


@pytest.mark.usefixtures("small_floods")
async def test_off_it_never_comes() -> None:
    async with Server(echo) as server, opened(kernel_filter="off") as endpoint:
        with Stranger(endpoint) as stranger:
            await stranger.flood(2_000)
            assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"
            assert not is_filtered(endpoint)
            stats = endpoint.statistics()
            assert stats.unknown_peer + stats.kernel_dropped == 2_000


@pytest.mark.skipif(sys.platform == "win32", reason="it is the backend there anyway")
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.usefixtures("small_floods")
async def test_the_portable_backend_does_without(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDPGUARD_BACKEND", "portable")
    async with Server(echo) as server, opened(kernel_filter=mode) as endpoint:
        with Stranger(endpoint) as stranger:
            await stranger.flood(2_000)
            assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"
            assert not is_filtered(endpoint)
            assert endpoint._guard.outbox.screened is False


@contextlib.asynccontextmanager
async def bare() -> AsyncIterator[tuple[asyncio.DatagramTransport, udpguard.GuardProtocol]]:
    loop = asyncio.get_running_loop()
    transport, guard = await loop.create_datagram_endpoint(udpguard.GuardProtocol, local_addr=("127.0.0.1", 0))
    try:
        yield transport, guard
    finally:
        transport.close()
        await turns()


@pytest.mark.usefixtures("small_floods")
async def test_a_bare_protocol_filters_nothing() -> None:
    async with bare() as (transport, guard), Server(echo) as server:
        here = transport.get_extra_info("sockname")
        with plain_socket("127.0.0.1") as stranger:
            for i in range(1_000):
                stranger.sendto(b"junk", here)
                if i % 50 == 49:
                    await until(lambda i=i: guard.statistics().received == i + 1)  # type: ignore[misc]
        assert guard.statistics().unknown_peer == 1_000
        reply = guard.expect(server.addr, timeout=5.0)
        transport.sendto(b"x", server.addr)
        assert (await reply).data == b"x"
        if sys.platform == "linux":
            with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as same:
                assert not has_filter(same)


@filtered
@pytest.mark.usefixtures("small_floods")
async def test_requests_that_are_cancelled_or_time_out_under_it_leave_it_right() -> None:
    async with Server() as silent, Server(echo) as server, opened(kernel_filter="on") as endpoint:
        for _ in range(20):
            tasks = [asyncio.ensure_future(endpoint.request(silent.addr, b"x", timeout=60.0)) for _ in range(3)]
            await turns()
            await cancelled(*tasks)
            with pytest.raises(udpguard.ReplyTimeoutError):
                await endpoint.request(silent.addr, b"x", timeout=0.002)
            assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"
        assert is_filtered(endpoint)


@filtered
async def test_names_and_lists_and_addresses_that_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with same_port("127.0.0.1", "127.0.0.2") as (dead, alive), opened(kernel_filter="on") as endpoint:
        alive.handler = echo
        both = [dead.addr, alive.addr]
        assert await endpoint.request(both, b"x", timeout=5.0) == b"x"
        assert await endpoint.request(both, b"x", retry=udpguard.Retry(initial=0.05, attempts=5)) == b"x"
        assert await endpoint.request([("localhost", alive.port), alive.addr], b"y", timeout=5.0) == b"y"
        dead.handler = echo
        assert await endpoint.request(("localhost", dead.port), b"x", timeout=5.0) == b"x"
        assert is_filtered(endpoint)


@filtered
@pytest.mark.parametrize(
    "way", [{}, {"retry": udpguard.Retry()}, {"reply_from": "host"}], ids=["plain", "retry", "host"]
)
async def test_many_new_peers_of_one_turn_load_it_once(way: dict[str, Any]) -> None:
    with Crowd() as crowd:
        async with opened(kernel_filter="on", timeout=10.0) as endpoint:
            loads = count_loads(endpoint)
            for turn in range(10):
                asks = [endpoint.request((f"127.4.{turn}.{i + 1}", crowd.port), b"x", **way) for i in range(50)]
                assert await asyncio.gather(*asks) == [b"x"] * 50
            assert 10 <= loads[0] <= 15
            assert is_filtered(endpoint)


@filtered
async def test_many_expectations_of_one_turn_load_it_a_few_times() -> None:
    with Crowd() as crowd:
        async with opened(kernel_filter="on", timeout=10.0) as endpoint:
            loads = count_loads(endpoint)
            for turn in range(5):
                expectations = [endpoint.expect((f"127.4.{turn}.{i + 1}", crowd.port)) for i in range(100)]
                for expectation in expectations:
                    await expectation.send(b"x")
                assert [(await expectation).data for expectation in expectations] == [b"x"] * 100
                await turns()
                assert is_filtered(endpoint)
            assert loads[0] <= 2 * 5 * 6  # of either socket


@filtered
async def test_one_that_waits_to_be_let_in_can_be_cancelled_and_time_out() -> None:
    silent = servers("127.0.0.2", "127.0.0.3", "127.0.0.4")
    async with silent as (two, three, four), opened(kernel_filter="on") as endpoint:
        for _ in range(3):
            task = asyncio.ensure_future(endpoint.request(two.addr, b"x", retry=udpguard.Retry()))
            await asyncio.sleep(0)
            await cancelled(task)
        task = asyncio.ensure_future(endpoint.request(three.addr, b"x", retry=udpguard.Retry()))
        await asyncio.sleep(0)
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (0, 1)
        await turns()
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (1, 0)
        await cancelled(task)
        task = asyncio.ensure_future(endpoint.request(four.addr, b"x", retry=udpguard.Retry()))
        await asyncio.sleep(0)
        endpoint.close()
        with pytest.raises(udpguard.EndpointClosedError):
            await task


@filtered
@pytest.mark.parametrize(
    "ports", [udpguard.Ports(rotate=True), udpguard.Ports(pool=4)], ids=["a spare for each", "one of a pool"]
)
async def test_each_port_has_a_filter_of_its_own(ports: udpguard.Ports) -> None:
    with Crowd() as crowd:
        async with opened(kernel_filter="on", timeout=10.0, ports=ports) as endpoint:
            for i in range(200):
                assert await endpoint.request((f"127.4.0.{i % 100 + 1}", crowd.port), b"%d" % i) == b"%d" % i
            asks = [endpoint.request((f"127.4.1.{i + 1}", crowd.port), b"x", reply_from="host") for i in range(100)]
            assert await asyncio.gather(*asks) == [b"x"] * 100
            filtered_ports = [s for s in endpoint._guard.screens._screens.values() if s.filter.attached]
            assert len(filtered_ports) >= 3  # of either family, and at least one more


@filtered
@pytest.mark.usefixtures("small_floods")
async def test_auto_it_is_not_forgotten_while_it_steps_aside() -> None:
    async with servers("127.0.0.1", "127.0.0.2", handler=echo) as (one, two), opened() as endpoint:
        with Stranger(endpoint) as stranger:
            await flooded(endpoint, stranger)
            await asyncio.sleep(0)
            stall(0.05)  # so that it is looked in the next turn whether the flood is over
            await asyncio.sleep(0)
            expected = [endpoint.expect(("127.0.1.1", 1 + i), timeout=None) for i in range(8)]
            await turns()
            for server in (one, two):
                assert await endpoint.request(server.addr, b"x", timeout=2.0) == b"x"
            for expectation in expected:
                expectation.cancel()
            await until(lambda: not is_filtered(endpoint))


@filtered
async def test_on_the_filters_of_sockets_that_are_closed_are_forgotten() -> None:
    ports = udpguard.Ports(rotate=True, spares=2)
    async with Server(echo) as server, opened(("127.0.0.1", 0), kernel_filter="on", ports=ports) as endpoint:
        for _ in range(20):
            assert await endpoint.request(server.addr, b"x", timeout=5.0) == b"x"
        screens = endpoint._guard.screens._screens
        assert len(screens) == len(endpoint._guard.channels) == 3
        assert is_filtered(endpoint)
        endpoint.close()
        assert not is_filtered(endpoint)
