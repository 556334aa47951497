"""Servers, loops and endpoints for the loopback tests: a test decides what is answered, when, and from where."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

import udpguard

LOOP = os.environ.get("UDPGUARD_TEST_LOOP", "asyncio")
SOON = 10.0
"""Seconds after which a test gives up on what should have happened long before."""

Handler = Callable[["Server", bytes, Any], object]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the loops under test, for tests that run their own."""
    if LOOP == "uvloop":
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return asyncio.SelectorEventLoop


def echo(server: Server, data: bytes, addr: Any) -> None:
    """Answer with the same bytes."""
    server.send(data, addr)


class Server:
    """A UDP socket of the test's. It notes what comes, and answers with its handler, or when the test says so."""

    def __init__(
        self, handler: Handler | None = None, host: str = "127.0.0.1", port: int = 0, *, broadcast: bool = False
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if family == socket.AF_INET6:
                self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if broadcast:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self.sock.setblocking(False)
            self.sock.bind((host, port))
        except BaseException:
            self.sock.close()
            raise
        self.handler = handler
        self.got: list[tuple[bytes, Any]] = []
        self._arrived = asyncio.Event()
        self._read = 0

    @property
    def addr(self) -> tuple[str, int]:
        host, port = self.sock.getsockname()[:2]
        return (host, port)

    @property
    def port(self) -> int:
        port: int = self.sock.getsockname()[1]
        return port

    @property
    def data(self) -> list[bytes]:
        """The payloads that came until now."""
        return [data for data, _ in self.got]

    def send(self, data: bytes, addr: Any) -> None:
        """Send from here."""
        self.sock.sendto(data, addr)

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, addr = self.sock.recvfrom(65_535)
                self.got.append((data, addr))
                self._arrived.set()
                if self.handler is not None:
                    self.handler(self, data, addr)

    async def next(self) -> tuple[bytes, Any]:
        """The next datagram that this was not yet called for."""
        async with asyncio.timeout(SOON):
            while len(self.got) <= self._read:
                self._arrived.clear()
                await self._arrived.wait()
        self._read += 1
        return self.got[self._read - 1]

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self.sock.fileno(), self._on_readable)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self.sock.close()


@contextlib.asynccontextmanager
async def servers(*hosts: str, handler: Handler | None = None, port: int = 0) -> AsyncIterator[list[Server]]:
    """A server at each of these hosts."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Server(handler, host, port)) for host in hosts]


@contextlib.asynccontextmanager
async def same_port(*hosts: str, handler: Handler | None = None) -> AsyncIterator[list[Server]]:
    """A server at each of these hosts, all at one port number."""
    async with contextlib.AsyncExitStack() as stack:
        yield await _same_port(stack, hosts, handler)


async def _same_port(stack: contextlib.AsyncExitStack, hosts: tuple[str, ...], handler: Handler | None) -> list[Server]:
    for _ in range(100):
        made = [Server(handler, hosts[0])]
        try:
            made += [Server(handler, host, made[0].port) for host in hosts[1:]]
        except OSError:
            for server in made:
                server.sock.close()
            continue
        return [await stack.enter_async_context(server) for server in made]
    raise AssertionError("no port is free at all of these hosts")


def closed_port(host: str = "127.0.0.1") -> tuple[str, int]:
    """An address that nobody listens at, nor gets by chance: it is none of those that the system gives away.

    Nor any of those that tests of other workers bind at all addresses, be it for a moment: `free_range` begins where
    these end, and real servers listen above that.
    """
    while True:
        port = 10_000 + secrets.randbelow(8_000)  # not `random`, whose seed other workers share
        with (
            contextlib.closing(
                socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            ) as sock,
            contextlib.suppress(OSError),
        ):
            sock.bind((host, port))
            return (host, port)


def free_range(count: int) -> tuple[int, int]:
    """So many ports in a row that are free now, and that the system gives to nobody."""
    while True:
        first = 18_000 + secrets.randbelow(2_000 - count)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("", port))
            return first, first + count - 1


@contextlib.asynccontextmanager
async def opened(*args: Any, **kwargs: Any) -> AsyncIterator[udpguard.Endpoint]:
    """An endpoint that must have nothing pending at the end of the test, and whose books must balance."""
    async with udpguard.open_endpoint(*args, **kwargs) as endpoint:
        yield endpoint
        if not endpoint.is_closing():
            assert_idle(endpoint)
    assert endpoint.is_closing()
    assert_idle(endpoint)


def assert_idle(endpoint: udpguard.Endpoint | udpguard.GuardProtocol) -> None:
    """Nothing is pending, nobody waits, and each datagram had one verdict."""
    stats = endpoint.statistics()
    assert (stats.pending, stats.waiting) == (0, 0)
    assert_sum(stats)


def assert_sum(stats: udpguard.Statistics) -> None:
    """Each datagram had one verdict."""
    verdicts = stats.matched + stats.duplicate + stats.late + stats.rejected + stats.unknown_peer
    assert stats.received == verdicts, stats


async def turns(count: int = 3) -> None:
    """Let the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something is the case."""
    stop = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < stop, "what should have happened did not"
        await asyncio.sleep(0.001)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and see that it is cancellation they end with."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, asyncio.CancelledError), outcome


class Names:
    """Names of the test's own for a loop's `getaddrinfo`; a name can be held until the test lets it go."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: Any, **names: list[str] | Exception) -> None:
        self._names = names
        self.asked: list[tuple[str, int]] = []
        self.families: list[int] = []
        self.hold: asyncio.Event | None = None
        monkeypatch.setattr(loop, "getaddrinfo", self._getaddrinfo)

    async def _getaddrinfo(
        self, host: str, port: int, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        self.asked.append((host, port))
        self.families.append(family)
        if self.hold is not None:
            await self.hold.wait()
        answer = self._names.get(
            host.partition(".")[0], socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        )
        if isinstance(answer, Exception):
            raise answer
        found: list[Any] = []
        for literal in answer:
            six = ":" in literal
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if six else socket.AF_INET):
                sockaddr = (literal, port, 0, 0) if six else (literal, port)
                found.append((socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM, 17, "", sockaddr))
        if not found:
            raise socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")
        return found


# ------------------------------------------------------------------------------------------------ scripted time


class _JumpingSelector(selectors.DefaultSelector):
    """Where a loop would wait and the network is quiet, its clock jumps instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        # What was sent over loopback has arrived by now, or does within a moment.
        events = super().select(0.002 if timeout is None or timeout > 0 else 0)
        if not events and timeout is not None and timeout > 0:
            self.now += timeout
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that spends no time waiting: real sockets, scripted time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def in_jumping_time(main: Callable[[], Any]) -> Any:
    """Run a coroutine function in a loop that spends no time waiting."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main())


def stall(seconds: float) -> None:
    """Block the event loop."""
    time.sleep(seconds)


# ------------------------------------------------------------------------------------------------ backends


class BlockingBackend:
    """A backend that sends through another, but only as often as the test allows."""

    def __init__(self, endpoint: udpguard.Endpoint) -> None:
        self.channel: Any = endpoint._guard.channels[0]
        self._real = self.channel._backend
        self.allowed = 0
        self.refused = 0
        self.sent: list[bytes] = []
        self.error: OSError | None = None
        self.ages = self._real.ages
        self.channel._backend = self

    def receive(self, most: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = self._real.receive(most)
        return found

    def send(self, data: bytes, wire: bytes) -> bool:
        if self.error is not None:
            raise self.error
        if self.allowed <= 0:
            self.refused += 1
            return False
        self.allowed -= 1
        self.sent.append(data)
        return bool(self._real.send(data, wire))

    def send_many(self, datas: list[bytes], wires: list[bytes]) -> int:
        """As often as the test allows, and no further: the next one learns why."""
        done = 0
        for data, wire in zip(datas, wires, strict=True):
            if self.error is not None or self.allowed <= 0:
                break
            done += self.send(data, wire)
        return done


# --------------------------------------------------------------------------------------- one server, many addresses

_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)


class Crowd:
    """An echo server at every address of 127/8: it answers from the address that was asked. It runs in a thread."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self.sock.bind(("0.0.0.0", 0))
        self.port: int = self.sock.getsockname()[1]
        self.asked = 0
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            data, control, _, addr = self.sock.recvmsg(65_535, 256)
            if data == b"STOP" and addr == self._stopper:
                return
            self.asked += 1
            _, kind, info = control[0]
            assert kind == _IP_PKTINFO
            index, _, asked_at = struct.unpack("i4s4s", info)
            del index
            answer_from = struct.pack("i4s4s", 0, asked_at, bytes(4))
            self.sock.sendmsg([data], [(socket.IPPROTO_IP, _IP_PKTINFO, answer_from)], 0, addr)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
            stopper.bind(("127.0.0.1", 0))
            self._stopper = stopper.getsockname()
            while self._thread.is_alive():
                stopper.sendto(b"STOP", ("127.0.0.1", self.port))
                self._thread.join(0.1)
        self.sock.close()


@contextlib.contextmanager
def plain_socket(host: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    """A UDP socket that only sends."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))
        yield sock
