"""Part "junk": how many requests are answered in time, and how many a second, under a flood of junk.

A process of its own sends junk to the client's port from a strange address; it shares the server's CPU. The client
asks with 64 in flight and a deadline of 0.2 s. First comes a span that is not counted, in which the junk sets in. The
last run of each contestant has the fiercest flood go to a socket beside it that nobody reads: what that costs is the
machine's, and no client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench_contestants import Contestant, loop_factory, named
from bench_part import Bench
from bench_tables import Run, aligned, median, shown
from bench_work import FILLER, RECEIVE_BUFFER, Address, Ask, Figures, Plan, Stopwatch, peers_at
from bench_workshop import ChildFailedError, python_child

NAMES: Final = ("stock", "uvloop", "udpguard", "udpguard-uvloop")
IN_FLIGHT: Final = 64
PEERS: Final = 1000
DEADLINE: Final = 0.2
LEAD: Final = 0.3
"""Seconds from the client's start to the counted span."""
_SLACK: Final = 5.0
"""What that may take longer in a client that the junk has by the throat."""


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Run each contestant under each flood in turn."""
    runs: list[dict[str, Any]] = []
    extent = bench.extent
    floods = [(rate, "client") for rate in extent.junk] + [(max(extent.junk), "bystander")]
    for number, contestants in bench.turns(bench.of(NAMES), extent.few_rounds):
        for (rate, target), contestant in itertools.product(floods, contestants):
            bench.say(f"junk: round {number} of {extent.few_rounds}, {rate:,}/s to the {target}, {contestant.title}")
            run: dict[str, Any] = {"contestant": contestant.name, "rate": rate, "target": target, "round": number}
            try:
                run |= _flooded(bench, contestant, rate, target)
            except ChildFailedError as error:
                run["failed"] = str(error)
            runs.append(run)
    return runs


def _flooded(bench: Bench, contestant: Contestant, rate: int, target: str) -> dict[str, Any]:
    workshop, seconds = bench.workshop, bench.extent.seconds
    plan = Plan(workshop.port, PEERS, IN_FLIGHT, 0, seconds)
    command = python_child("junk", name=contestant.name, plan=dataclasses.asdict(plan))
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(workshop.started(command, workshop.processors.contestant, contestant.environment))
        ports = json.loads(workshop.first_line(client))
        if not rate:
            return workshop.result(client, LEAD + seconds)
        length = LEAD + seconds + _SLACK  # whose end it need not wait for: it is told
        sender = [*workshop.program("junk_sender"), *map(str, (ports[target], rate, length))]
        junk = stack.enter_context(workshop.started(sender, workshop.processors.server))
        workshop.first_line(junk)
        figures = workshop.result(client, length)
        sent = workshop.result(junk, 0.0)
    if sent["started"] > figures["started"] or sent["ended"] < figures["ended"]:
        raise ChildFailedError("the junk did not last as long as the measured span")
    return figures | {"junk_per_second": sent["sent"] / (sent["ended"] - sent["started"])}


# ------------------------------------------------------------------------------- in the contestant's process


@dataclass
class Tally(Figures):
    """What came of it, and how long each answer took."""

    delays: list[float] = field(default_factory=list)


def child(name: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Ask while it rains."""
    with asyncio.Runner(loop_factory=loop_factory(named(name))) as runner:
        return runner.run(_ask_in_the_rain(named(name), Plan(**plan)))


async def _ask_in_the_rain(contestant: Contestant, plan: Plan) -> dict[str, Any]:
    assert contestant.opens is not None
    peers = peers_at(plan.port, plan.peers)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bystander:
        bystander.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        bystander.bind(("0.0.0.0", 0))
        async with contestant.opens(DEADLINE) as client:
            print(json.dumps({"client": client.port, "bystander": bystander.getsockname()[1]}), flush=True)
            numbers = itertools.count()
            await ask_until(time.monotonic() + LEAD, client.ask, peers, plan.in_flight, numbers)
            started = time.monotonic()
            tally = await ask_until(started + plan.seconds, client.ask, peers, plan.in_flight, numbers)
            ended = time.monotonic()
    return in_figures(tally) | {"started": started, "ended": ended}


def in_figures(tally: Tally) -> dict[str, Any]:
    """A tally, with quantiles instead of the single delays."""
    cuts = statistics.quantiles(tally.delays, n=100) if len(tally.delays) > 1 else None
    return dataclasses.asdict(tally) | {
        "delays": None,
        "p50_ms": cuts[49] * 1e3 if cuts else None,
        "p99_ms": cuts[98] * 1e3 if cuts else None,
    }


async def ask_until(
    end: float, ask: Ask, peers: Sequence[Address], in_flight: int, numbers: itertools.count[int]
) -> Tally:
    """Ask peers in turn with so many in flight, until it is that late."""
    tally = Tally()
    with Stopwatch(tally):
        async with asyncio.TaskGroup() as group:
            for first in range(in_flight):
                group.create_task(_worker(end, ask, peers[first::in_flight], numbers, tally))
    return tally


async def _worker(end: float, ask: Ask, peers: Sequence[Address], numbers: itertools.count[int], tally: Tally) -> None:
    began = 0.0
    for peer in itertools.cycle(peers):
        if began > end:
            break
        began = time.monotonic()  # after the check: however short the span, everybody asks at least once
        data = next(numbers).to_bytes(8, "big") + FILLER
        try:
            reply = await ask(peer, data)
        except OSError as error:  # TimeoutError is one
            tally.lose(error)
            continue
        tally.delays.append(time.monotonic() - began)
        if reply == data:
            tally.right += 1
        else:
            tally.wrong += 1


# ----------------------------------------------------------------------------------------------- what it says


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The medians for each contestant and flood. Losses are what is measured here: all runs count."""
    found = []
    for name, rate, target in dict.fromkeys((run["contestant"], run["rate"], run["target"]) for run in runs):
        of_it = [run for run in runs if (run["contestant"], run["rate"], run["target"]) == (name, rate, target)]
        good = [run for run in of_it if "failed" not in run and run["asked"]]
        failed = [run["failed"] for run in of_it if "failed" in run]
        found.append(
            {
                "contestant": name,
                "rate": rate,
                "target": target,
                "junk_per_second": median(run["junk_per_second"] for run in good if "junk_per_second" in run),
                "answered": median(run["right"] / run["asked"] for run in good),
                "wrong": sum(run["wrong"] for run in good),
                "goodput": median(run["right"] / run["wall"] for run in good),
                "p50_ms": median(run["p50_ms"] for run in good if run["p50_ms"] is not None),
                "p99_ms": median(run["p99_ms"] for run in good if run["p99_ms"] is not None),
                "trouble": f"failed: {failed[0]}" if failed else "",
            }
        )
    return found


def table(lines: Sequence[Run], absent: Mapping[str, str]) -> str:
    """The summary, as text."""
    rows = [
        ["64 in flight, 0.2 s deadline", "junk/s", "sent/s", "answered", "right/s", "p50 ms", "p99 ms", "wrong", ""]
    ]
    rows += [
        [
            named(line["contestant"]).title,
            f"{line['rate']:,}" + (" aside" if line["target"] == "bystander" else ""),
            shown(line["junk_per_second"]),
            "-" if line["answered"] is None else f"{line['answered']:.3%}",
            shown(line["goodput"]),
            shown(line["p50_ms"], 2),
            shown(line["p99_ms"], 2),
            f"{line['wrong']:,}",
            line["trouble"],
        ]
        for line in sorted(lines, key=lambda line: (NAMES.index(line["contestant"]), line["target"] != "client"))
    ]
    rows += [[named(name).title, "not here", why] for name, why in absent.items() if name in NAMES]
    return aligned(rows)
