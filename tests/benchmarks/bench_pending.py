"""Part "pending": what an exchange costs, and memory, against how many others are pending on the same endpoint.

In one process the others grow from 1 to 1,000,000, and at each size the same number of exchanges is timed, at 64 in
flight. The others are expectations that nothing will ever meet: with keys, from 4,000 addresses; without, from an
address each. What they hold is told by the growth of the resident memory: it includes what is the caller's, a future
and a key or an address each.

While they grow the garbage collector rests, and then all there is is frozen (`gc.freeze`), at every size alike. A full
collection walks every object of the program, and a million futures are some 10,000,000 of them: that is Python's cost
of having a million of anything.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench_contestants import loop_factory, named
from bench_part import Bench
from bench_tables import Run, aligned, cpu, is_clean, median, shown, trouble
from bench_work import TIMEOUT, Plan, peers_at, span
from bench_workshop import ChildFailedError, python_child

import udpguard

NAMES: Final = ("udpguard", "udpguard-keyed")
IN_FLIGHT: Final = 64
PEERS: Final = 1000
SILENT_PEERS: Final = 4000
FIRST_SILENT: Final = "127.64.0.1"
FOR_GOOD: Final = 3600.0
# Growing takes 10 to 20 µs each, which nobody waits for but this process's guard.
_GROWTH: Final = 60e-6


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Let the others grow in one process for each kind and round."""
    runs: list[dict[str, Any]] = []
    extent = bench.extent
    for number, contestants in bench.turns(bench.of(NAMES), extent.few_rounds):
        for contestant in contestants:
            bench.say(f"pending: round {number} of {extent.few_rounds}, {contestant.title}")
            plan = Plan(bench.workshop.port, PEERS, IN_FLIGHT, max(extent.warm_up, IN_FLIGHT), extent.seconds)
            command = python_child("pending", name=contestant.name, sizes=extent.pending, plan=dataclasses.asdict(plan))
            which: dict[str, Any] = {"contestant": contestant.name, "round": number}
            seconds = extent.seconds * 2 * len(extent.pending) + max(extent.pending) * _GROWTH
            try:
                points = bench.workshop.run(command, seconds, contestant.environment)["points"]
            except ChildFailedError as error:
                points = [{"pending": size, "failed": str(error)} for size in extent.pending]
            runs += [which | point for point in points]
    return runs


# ------------------------------------------------------------------------------- in the contestant's process

_kept: list[udpguard.Endpoint] = []
"""Never closed: a million pending need not be failed one by one when the process ends anyway."""


def child(name: str, sizes: Sequence[int], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Measure at each size."""
    runner = asyncio.Runner(loop_factory=loop_factory(named(name)))
    return {"points": runner.run(_grow(sizes, Plan(**plan), keyed=name == "udpguard-keyed"))}


async def _grow(sizes: Sequence[int], plan: Plan, *, keyed: bool) -> list[dict[str, Any]]:
    endpoint = await udpguard.open_endpoint(
        correlate=udpguard.TransactionId(0, 8) if keyed else None, limits=udpguard.Limits(pending=2_000_000)
    )
    _kept.append(endpoint)
    peers = peers_at(plan.port, plan.peers)
    ask = functools.partial(endpoint.request, timeout=TIMEOUT)
    halves = [await span(ask, peers, plan.in_flight, numbers) for numbers in plan.halves()]
    numbers = plan.enough(halves[1])
    warm_up = plan.halves()[0]
    points = []
    pending, before = 0, resident()
    for size in sizes:
        gc.disable()
        _expect(endpoint, pending, size, keyed=keyed)
        pending = size
        gc.freeze()
        gc.enable()
        memory = resident()
        await span(ask, peers, plan.in_flight, warm_up)
        figures = dataclasses.asdict(await span(ask, peers, plan.in_flight, numbers))
        growth = None if memory is None or before is None else memory - before
        points.append(figures | {"pending": endpoint.statistics().pending, "growth": growth})
    return points


def _expect(endpoint: udpguard.Endpoint, start: int, end: int, *, keyed: bool) -> None:
    """Expect what nobody will send."""
    port = endpoint.local_addr.port  # nothing there answers
    if not keyed:
        for addr in peers_at(port, end, FIRST_SILENT)[start:]:
            endpoint.expect(addr, timeout=FOR_GOOD)
        return
    silent = peers_at(port, SILENT_PEERS, FIRST_SILENT)
    for number in range(start, end):
        endpoint.expect(silent[number % SILENT_PEERS], timeout=FOR_GOOD, transaction=number.to_bytes(8, "big"))


def resident() -> int | None:
    """The resident memory of this process in bytes; None where that can't be told."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE") if statm.exists() else None


# ----------------------------------------------------------------------------------------------- what it says


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The medians for each kind and size, and the ratio to one other pending."""
    found = []
    for name, size in dict.fromkeys((run["contestant"], run["pending"]) for run in runs):
        of_it = [run for run in runs if (run["contestant"], run["pending"]) == (name, size)]
        clean = [run for run in of_it if is_clean(run)]
        alone = {
            run["round"]: run for run in runs if run["contestant"] == name and run["pending"] == 1 and is_clean(run)
        }
        growth = median(run["growth"] for run in clean if run["growth"] is not None)
        found.append(
            {
                "contestant": name,
                "pending": size,
                "cpu_us": median(map(cpu, clean)),
                "cpu_vs_1": median(cpu(run) / cpu(alone[run["round"]]) for run in clean if run["round"] in alone),
                # Of less, the resident memory is too coarse to tell.
                "resident_bytes_each": growth / size if growth is not None and size >= 10_000 else None,
                "trouble": trouble(of_it),
            }
        )
    return found


def table(lines: Sequence[Run], absent: Mapping[str, str]) -> str:
    """The summary, as text."""
    rows = [["64 in flight, and others pending", "pending", "CPU µs", "vs 1", "resident bytes each", ""]]
    rows += [
        [
            named(line["contestant"]).title,
            f"{line['pending']:,}",
            shown(line["cpu_us"], 1),
            shown(line["cpu_vs_1"], 2),
            shown(line["resident_bytes_each"]),
            line["trouble"],
        ]
        for line in lines
    ]
    return aligned(rows)
