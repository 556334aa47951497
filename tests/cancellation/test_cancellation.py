"""Each verb is struck at each point: nothing is left of it, and nobody else is harmed.

`UDPGUARD_CANCELLATION=whole` strikes each blow at every point; else plain cancellation is tried at every point, and
the other blows at every ninth, not from the same one on.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from at_rest import leftovers_of
from cancellation_engine import BLOWS, Blow, Scenario, play
from cancellation_scenarios import CASES, SCENARIOS

import udpguard
from udpguard.testing import Network, VirtualLoop

WHOLE = os.environ.get("UDPGUARD_CANCELLATION") == "whole"
_SOME = 9


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_unharmed(scenario: Scenario) -> None:
    assert play(scenario) > 1


@pytest.mark.parametrize(("scenario", "blow"), CASES, ids=lambda one: one.name)
def test_struck_at_each_point(scenario: Scenario, blow: Blow) -> None:
    points = play(scenario)
    every = 1 if WHOLE or blow is BLOWS[0] else _SOME
    for at in range(zlib.crc32(f"{scenario.name}{blow.name}".encode()) % every, points, every):
        play(scenario, blow, at)


def test_no_two_scenarios_have_one_name() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


def interrupts(*_: object) -> bytes:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("opening", "asks"),
    [
        ({}, lambda endpoint: endpoint.request(("192.0.2.1", 7), b"x", accept=interrupts, timeout=1.0)),
        ({}, lambda endpoint: endpoint.request(("192.0.2.1", 7), interrupts, timeout=1.0)),
        ({"on_unexpected": interrupts}, lambda endpoint: endpoint.send(("192.0.2.1", 7), b"nobody expects the answer")),
    ],
    ids=["accept", "data", "on_unexpected"],
)
def test_ctrl_c_in_foreign_code(opening: dict[str, Any], asks: Callable[[udpguard.Endpoint], Any]) -> None:
    """It ends what runs the loop, wherever it is pressed; if that goes on, everything is as it should be."""

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    network = Network(trace=False, delay=0.02)
    loop = VirtualLoop(network)

    async def ask(told: list[Any]) -> None:
        with network.host("192.0.2.1"):
            await loop.create_datagram_endpoint(Echo, local_addr=("192.0.2.1", 7))
        endpoint = await udpguard.open_endpoint(**opening)
        keyed = endpoint.client(correlate=udpguard.TransactionId(0, 2))
        told += [endpoint, asyncio.ensure_future(keyed.request(("192.0.2.1", 7), b"other"))]
        told.append(asyncio.ensure_future(asks(endpoint)))
        await asyncio.sleep(10.0)

    told: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(ask(told))
    endpoint, other, victim = told
    loop.run_until_complete(asyncio.wait([victim, other], timeout=100.0))
    loop.run_until_complete(asyncio.sleep(200.0))
    assert other.result() == b"other"
    assert victim.done()
    victim.exception()
    assert leftovers_of(endpoint) == []
    endpoint.close()
    loop.run_until_complete(endpoint.wait_closed())
    loop.close()
