"""The contestants that await: each as its own documentation has it, or as people write it by hand.

Each is a context manager that opens a client and gives how to ask with it, and the local port where there is one.
What a contestant needs is imported where it is opened: it need not be installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, TypeAlias, cast

from bench_work import RECEIVE_BUFFER, Address, Ask
from typing_extensions import override

import udpguard


class Client(NamedTuple):
    """An open client: how to ask with it, and its port (0: it has none of its own)."""

    ask: Ask
    port: int


Opener: TypeAlias = Callable[[float], AbstractAsyncContextManager[Client]]
"""Opens a client; the argument is the time-out of its requests, in seconds."""


# ------------------------------------------------------------------------------------------------- by hand


class HandWritten(asyncio.DatagramProtocol):
    """What people write today: a dictionary of futures by address."""

    transport: asyncio.DatagramTransport

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.pending: dict[Address, asyncio.Future[bytes]] = {}

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    @override
    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        future = self.pending.get(cast("Address", addr))
        if future is not None and not future.done():
            future.set_result(data)

    async def ask(self, addr: Address, data: bytes) -> bytes:
        """Send a question, and wait for the next datagram from there."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.pending[addr] = future
        try:
            self.transport.sendto(data, addr)
            async with asyncio.timeout(self.timeout):
                return await future
        finally:
            self.pending.pop(addr, None)


class HandWrittenWithIds(asyncio.DatagramProtocol):
    """The same for name servers: a dictionary of futures by address and id, which is the next one that is free."""

    transport: asyncio.DatagramTransport

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.pending: dict[tuple[Address, bytes], asyncio.Future[bytes]] = {}
        self.last = 0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    @override
    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        future = self.pending.get((cast("Address", addr), data[:2]))
        if future is not None and not future.done():
            future.set_result(data)

    async def ask(self, addr: Address, data: bytes) -> bytes:
        """Send a question with an id of its own, and wait for the answer with that id."""
        key = self._next_key(addr)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.pending[key] = future
        try:
            self.transport.sendto(key[1] + data[2:], addr)
            async with asyncio.timeout(self.timeout):
                return await future
        finally:
            del self.pending[key]

    def _next_key(self, addr: Address) -> tuple[Address, bytes]:
        while True:
            self.last = (self.last + 1) & 0xFFFF
            key = addr, self.last.to_bytes(2, "big")
            if key not in self.pending:
                return key


@contextlib.asynccontextmanager
async def _by_hand(
    timeout: float, protocol: Callable[[float], HandWritten | HandWrittenWithIds]
) -> AsyncIterator[Client]:
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_datagram_endpoint(
        lambda: protocol(timeout), local_addr=("0.0.0.0", 0), family=socket.AF_INET
    )
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    try:
        yield Client(client.ask, transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


def by_hand(timeout: float) -> AbstractAsyncContextManager[Client]:
    """One socket, written by hand."""
    return _by_hand(timeout, HandWritten)


def by_hand_with_ids(timeout: float) -> AbstractAsyncContextManager[Client]:
    """One socket, written by hand to ask a name server many things at once."""
    return _by_hand(timeout, HandWrittenWithIds)


# ------------------------------------------------------------------------------------------- other libraries


@contextlib.asynccontextmanager
async def asyncio_dgram(timeout: float) -> AsyncIterator[Client]:
    """A connected stream for each request, as in asyncio-dgram's README."""
    import asyncio_dgram

    async def ask(addr: Address, data: bytes) -> bytes:
        async with asyncio.timeout(timeout):
            stream = await asyncio_dgram.connect(addr)
            try:
                await stream.send(data)
                reply, _ = await stream.recv()
            finally:
                stream.close()
        return reply

    yield Client(ask, 0)


@contextlib.asynccontextmanager
async def anyio(timeout: float) -> AsyncIterator[Client]:
    """A connected socket for each request, as in anyio's documentation ("Using sockets and streams")."""
    from anyio import create_connected_udp_socket, fail_after

    async def ask(addr: Address, data: bytes) -> bytes:
        with fail_after(timeout):
            async with await create_connected_udp_socket(remote_host=addr[0], remote_port=addr[1]) as udp:
                await udp.send(data)
                return await udp.receive()

    yield Client(ask, 0)


@contextlib.asynccontextmanager
async def asyncudp(timeout: float) -> AsyncIterator[Client]:
    """A connected socket for each request, as in asyncudp's README."""
    from asyncudp import create_socket  # type: ignore[import-untyped]

    async def ask(addr: Address, data: bytes) -> bytes:
        async with asyncio.timeout(timeout):
            sock = await create_socket(remote_addr=addr)
            try:
                sock.sendto(data)
                reply, _ = await sock.recvfrom()
            finally:
                sock.close()
        return cast("bytes", reply)

    yield Client(ask, 0)


# ------------------------------------------------------------------------------------------------- udpguard


@contextlib.asynccontextmanager
async def _udpguard(timeout: float, correlate: udpguard.Correlator | None) -> AsyncIterator[Client]:
    async with udpguard.open_endpoint(correlate=correlate) as endpoint:
        # A partial, because another coroutine around each request would be no part of what is measured.
        yield Client(functools.partial(endpoint.request, timeout=timeout), endpoint.local_addr.port)


def keyless(timeout: float) -> AbstractAsyncContextManager[Client]:
    """One endpoint, where the address alone ties a reply to its request."""
    return _udpguard(timeout, None)


def keyed(timeout: float) -> AbstractAsyncContextManager[Client]:
    """One endpoint, and ids that the caller picks: the payload's number."""
    return _udpguard(timeout, udpguard.TransactionId(0, 8))


def assigned(timeout: float) -> AbstractAsyncContextManager[Client]:
    """One endpoint, and ids that udpguard picks, as for DNS."""
    return _udpguard(timeout, udpguard.TransactionId(0, 2, assign=True))
