"""What the tests of the testing kit share: protocols for the simulated wire."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from udpguard.testing import Simulation

LOOP = os.environ.get("UDPGUARD_TEST_LOOP", "asyncio")


class Echo(asyncio.DatagramProtocol):
    """Answers each datagram with itself."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class Collector(asyncio.DatagramProtocol):
    """Notes all that a transport tells, and when."""

    def __init__(self) -> None:
        self.got: list[tuple[float, bytes, Any]] = []
        self.errors: list[Exception] = []
        self.calls: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.calls.append("made")
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append((asyncio.get_running_loop().time(), data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    @property
    def data(self) -> list[bytes]:
        return [data for _, data, _ in self.got]


async def bound(host: str, port: int, protocol: Any = Echo, **more: Any) -> Any:
    """A datagram endpoint at an address; its protocol."""
    loop = asyncio.get_running_loop()
    loop.network.host(host) if not host.startswith("127.") else None  # type: ignore[attr-defined]
    _, made = await loop.create_datagram_endpoint(protocol, local_addr=(host, port), **more)
    return made


async def probe(family_host: str = "198.51.100.1", **more: Any) -> Any:
    """A collector at the client."""
    return await bound(family_host, 0, Collector, **more)


def simulated(main: Any, seed: Any = 0, **conditions: Any) -> Any:
    """Run a coroutine function in a simulation; what it returns, and the trace."""
    with Simulation(seed, **conditions) as sim:
        return sim.run(main), sim.trace


def really(main: Any) -> Any:
    """Run a coroutine function on the loop under test, with real sockets."""
    factory: Any = asyncio.SelectorEventLoop
    if LOOP == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(within(main(), 20.0))


async def within(coroutine: Any, seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await coroutine


async def until(holds: Callable[[], object]) -> None:
    """Wait until something is the case."""
    for _ in range(1_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("what should have happened did not")


def in_simulation(main: Any) -> Any:
    """Run a coroutine function in a simulation."""
    return simulated(main, "both", delay=0.001)[0]


everywhere = pytest.mark.parametrize("run", [really, in_simulation])
"""A test of what works on a real network and on a simulated one."""
