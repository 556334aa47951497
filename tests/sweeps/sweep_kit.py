"""What the tests of sweeps share: servers in virtual time, and a sweep that is read to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from at_rest import leftovers_of
from typing_extensions import override

import udpguard
from udpguard.testing import Simulation

Handler = Callable[["Server", bytes, Any], object]


def echo(server: Server, data: bytes, addr: Any) -> None:
    """Answer with the same bytes."""
    server.transport.sendto(data, addr)


def silent(server: Server, data: bytes, addr: Any) -> None:
    """Say nothing."""


class Server(asyncio.DatagramProtocol):
    """Hears all, and answers as the test says."""

    transport: asyncio.DatagramTransport

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.heard: list[tuple[float, bytes]] = []

    @override
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    @override
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.heard.append((asyncio.get_running_loop().time(), data))
        self.handler(self, data, addr)

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.heard]

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.heard]


async def serve(host: str = "192.0.2.1", handler: Handler = echo, port: int = 7) -> Server:
    """A server in the simulated network."""
    loop: Any = asyncio.get_running_loop()
    loop.network.host(host)
    _, server = await loop.create_datagram_endpoint(lambda: Server(handler), local_addr=(host, port))
    assert isinstance(server, Server)
    return server


async def swept(client: udpguard.Client, requests: Any, **more: Any) -> list[udpguard.Outcome]:
    """All the outcomes of a sweep, whose books must balance at the end."""
    async with client.sweep(requests, **more) as sweep:
        outcomes = [outcome async for outcome in sweep]
        progress = sweep.progress
    replied = sum(outcome.reply is not None for outcome in outcomes)
    assert (progress.asked, progress.answered) == (len(outcomes), replied)
    assert progress.failed == len(outcomes) - replied
    assert all((outcome.reply is None) != (outcome.error is None) for outcome in outcomes)
    return outcomes


async def cut_short(
    client: udpguard.Client, requests: Any, **more: Any
) -> tuple[list[udpguard.Outcome], BaseException | None]:
    """The outcomes of a sweep, and the error that ended it."""
    outcomes: list[udpguard.Outcome] = []
    try:
        async with client.sweep(requests, **more) as sweep:
            async for outcome in sweep:
                outcomes += [outcome]
    except (Exception, asyncio.CancelledError) as error:
        return outcomes, error
    return outcomes, None


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, Any]], seed: int = 0, **conditions: Any) -> Any:
    """Run a coroutine function in a simulated network."""
    with Simulation(seed, **conditions) as sim:
        return sim.run(main)


async def at_rest(endpoint: udpguard.Endpoint, *clients: udpguard.Client) -> list[str]:
    """What is left of a sweep when all deadlines and memories have passed."""
    await asyncio.sleep(1_000.0)
    return leftovers_of(endpoint, *clients)
