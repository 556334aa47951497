"""Servers for the tests of what others got wrong: on the simulated network, and on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

from udpguard.testing import Simulation


class Server(asyncio.DatagramProtocol):
    """A server of the test's: notes what comes, and answers as its handler says."""

    def __init__(self, handler: Callable[[Server, bytes, Any], object] | None = None) -> None:
        self.handler = handler
        self.got: list[bytes] = []
        self.asker: Any = None
        self.asked = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.addr = transport.get_extra_info("sockname")[:2]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append(data)
        self.asker = addr
        self.asked.set()
        if self.handler is not None:
            self.handler(self, data, addr)

    def send(self, data: bytes, addr: Any, *, after: float = 0.0) -> None:
        asyncio.get_running_loop().call_later(after, self.transport.sendto, data, addr)


def echo(server: Server, data: bytes, addr: Any) -> None:
    server.transport.sendto(data, addr)


async def serve(host: str, port: int = 161, handler: Any = echo) -> Server:
    """A server on a host of the simulated network."""
    loop = asyncio.get_running_loop()
    loop.network.host(host)  # type: ignore[attr-defined]
    _, server = await loop.create_datagram_endpoint(lambda: Server(handler), local_addr=(host, port))
    return server


@contextlib.asynccontextmanager
async def on_loopback(handler: Any = echo) -> AsyncIterator[Server]:
    """A server on the machine's own loopback."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Server(handler), local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
        await asyncio.sleep(0)


def nobody() -> tuple[str, int]:
    """Where nobody is on loopback, nor gets by chance: below the ports that systems give to whoever asks for none."""
    while True:
        port = 10_000 + secrets.randbelow(8_000)  # not `random`, whose seed other workers share
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", port))
            return "127.0.0.1", port


def simulated(main: Callable[[], Any], **conditions: Any) -> Any:
    """Run it in virtual time."""
    with Simulation(**conditions) as sim:
        return sim.run(main)
