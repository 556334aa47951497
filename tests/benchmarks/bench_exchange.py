"""Part "exchange": throughput and CPU per exchange of every contestant, at 1, 64 and 1,000 in flight."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import bench_blocking
from bench_clients import Opener
from bench_contestants import BLOCKING, CONTESTANTS, LIMIT, REFERENCES, Contestant, loop_factory, named
from bench_part import Bench
from bench_sweep import Sweeper
from bench_tables import Run, aligned, cpu, is_clean, median, ratio, shown, throughput, trouble
from bench_work import TIMEOUT, Figures, Plan, work
from bench_workshop import ChildFailedError, Workshop, python_child

PEERS: Final = 1000
_SHORT: Final = {"stock": "asyncio", "uvloop": "uvloop", "c": "C"}


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Run all contestants in turn, round after round, so that a round's noise is shared by all."""
    runs: list[dict[str, Any]] = []
    workshop, extent = bench.workshop, bench.extent
    everybody = [each for each in bench.contestants if not each.part]
    for number, contestants in bench.turns(everybody, extent.rounds):
        for depth, contestant in itertools.product(extent.in_flight, contestants):
            bench.say(f"exchange: round {number} of {extent.rounds}, {depth:,} in flight, {contestant.title}")
            run: dict[str, Any] = {"contestant": contestant.name, "in_flight": depth, "round": number}
            plan = Plan(workshop.port, max(PEERS, depth), depth, max(extent.warm_up, depth), extent.seconds)
            try:
                run |= workshop.run(_command(workshop, contestant, plan), extent.seconds, contestant.environment)
            except ChildFailedError as error:
                run["failed"] = str(error)
            runs.append(run)
    return runs


def _command(workshop: Workshop, contestant: Contestant, plan: Plan) -> list[str]:
    if contestant is LIMIT:
        values = (plan.port, plan.peers, plan.in_flight, plan.warm_up, plan.seconds)
        return [*workshop.program("c_client"), *map(str, values)]
    return python_child("exchange", name=contestant.name, **dataclasses.asdict(plan))


# ------------------------------------------------------------------------------- in the contestant's process


def child(name: str, **values: Any) -> dict[str, Any]:
    """Do the work as one contestant."""
    contestant = named(name)
    plan = Plan(**values)
    if contestant is BLOCKING:
        return dataclasses.asdict(bench_blocking.work(plan))
    with asyncio.Runner(loop_factory=loop_factory(contestant)) as runner:
        if contestant.sweeps is not None:
            return dataclasses.asdict(runner.run(_sweep(contestant.sweeps, plan)))
        assert contestant.opens is not None
        return dataclasses.asdict(runner.run(_open_and_work(contestant.opens, plan)))


async def _sweep(sweeps: Sweeper, plan: Plan) -> Figures:
    return await sweeps(plan)


async def _open_and_work(opens: Opener, plan: Plan) -> Figures:
    async with opens(TIMEOUT) as client:
        return await work(client.ask, plan)


# ----------------------------------------------------------------------------------------------- what it says


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Medians and ratios of each contestant at each depth, of the runs without losses; and what was wrong."""
    found = []
    for depth in dict.fromkeys(run["in_flight"] for run in runs):
        clean = {each.name: [run for run in runs if _is(run, each, depth) and is_clean(run)] for each in CONTESTANTS}
        for contestant in CONTESTANTS:
            of_it = [run for run in runs if _is(run, contestant, depth)]
            if not of_it:
                continue
            line: dict[str, Any] = {
                "contestant": contestant.name,
                "in_flight": depth,
                "throughput": median(map(throughput, clean[contestant.name])),
                "cpu_us": median(map(cpu, clean[contestant.name])),
                "trouble": trouble(of_it),
            }
            for other in REFERENCES:
                line[f"throughput_vs_{other.name}"] = ratio(clean[contestant.name], clean[other.name], throughput)
                line[f"cpu_vs_{other.name}"] = ratio(clean[contestant.name], clean[other.name], cpu)
            found.append(line)
    return found


def _is(run: Run, contestant: Contestant, depth: int) -> bool:
    return bool(run["contestant"] == contestant.name and run["in_flight"] == depth)


def table(lines: Sequence[Run], absent: Mapping[str, str]) -> str:
    """The summary as text."""
    versus = [f"vs {_SHORT[each.name]}" for each in REFERENCES]
    parts = ["vs: times what asyncio by hand, uvloop by hand and the C client have, in the same round"]
    for depth in dict.fromkeys(line["in_flight"] for line in lines):
        rows = [["", "exchanges/s", *versus, "CPU µs", *versus, ""]]
        rows += [_row(line) for line in lines if line["in_flight"] == depth]
        rows += [[named(name).title, f"not here: {why}"] for name, why in absent.items() if not named(name).part]
        parts.append(f"{depth:,} in flight\n{aligned(rows)}")
    return "\n\n".join(parts)


def _row(line: Run) -> list[str]:
    return [
        named(line["contestant"]).title,
        shown(line["throughput"]),
        *(shown(line[f"throughput_vs_{each.name}"], 2) for each in REFERENCES),
        shown(line["cpu_us"], 1),
        *(shown(line[f"cpu_vs_{each.name}"], 2) for each in REFERENCES),
        line["trouble"],
    ]
