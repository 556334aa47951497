"""The contestants that ask in bulk: sweeps of udpguard's, of the same questions that the others ask one by one."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeAlias

from bench_work import FILLER, TIMEOUT, Address, Figures, Plan, Stopwatch, peers_at

import udpguard

Sweeper: TypeAlias = Callable[[Plan], Awaitable[Figures]]
"""Does all of a plan's work."""


async def _sweep(plan: Plan, correlate: udpguard.Correlator | None) -> Figures:
    async with udpguard.open_endpoint(correlate=correlate) as endpoint:
        peers = peers_at(plan.port, plan.peers)
        for numbers in plan.halves():
            figures = await _span(endpoint, peers, plan, numbers)
            if figures.lost:
                return figures
        gc.collect()
        return await _span(endpoint, peers, plan, plan.enough(figures))


async def _span(endpoint: udpguard.Endpoint, peers: list[Address], plan: Plan, numbers: range) -> Figures:
    """Ask the questions of these numbers, timed."""
    figures = Figures()
    right = 0
    with Stopwatch(figures):
        requests = _questions(peers, numbers)
        async with endpoint.sweep(requests, in_flight=plan.in_flight, timeout=TIMEOUT) as sweep:
            async for _, data, _, reply, error in sweep:
                if reply is None:
                    assert error is not None
                    figures.lose(error)
                    break  # the run does not count any more
                if reply.data == data:
                    right += 1
                else:
                    figures.wrong += 1
        figures.right = right
    return figures


def _questions(peers: list[Address], numbers: range) -> Iterator[tuple[Address, bytes]]:
    for number, peer in zip(numbers, itertools.cycle(peers), strict=False):
        yield peer, number.to_bytes(8, "big") + FILLER


def keyless(plan: Plan) -> Awaitable[Figures]:
    """One endpoint, where the address alone ties a reply to its question."""
    return _sweep(plan, None)


def keyed(plan: Plan) -> Awaitable[Figures]:
    """One endpoint, and ids that the caller picks: the payload's number."""
    return _sweep(plan, udpguard.TransactionId(0, 8))


def assigned(plan: Plan) -> Awaitable[Figures]:
    """One endpoint, and ids that udpguard picks, as for DNS."""
    return _sweep(plan, udpguard.TransactionId(0, 2, assign=True))


KINDS: Final[dict[str, Sweeper]] = {"": keyless, "keyed": keyed, "assigned": assigned}
