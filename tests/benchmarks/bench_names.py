"""Part "names": how fast many names are asked of one name server, by sweeps, by requests, by massdns, and in C.

nsd from Debian's packages runs on the server's CPU, with a zone in which every name has an address. Everybody asks it
for the same names, from a file (`bench_questions.py`), with as many in flight; the depths are those of "exchange", but
for 1. Each answer is checked: it must repeat the question, have no error, and an answer in it. To read and to pack the
names is part of what is measured; to start is not.

- "udpguard's sweep" iterates over `endpoint.sweep()`, with ids that udpguard assigns, and asks again after half a
  second, like massdns;
- udpguard and asyncio and uvloop by hand have a task for each question in flight, which asks one after the other;
- massdns (`bench_massdns.py`) writes what it learns to /dev/null, as text: the others only check it;
- the C client keeps no table of what is pending, and makes its names up instead of reading them.

"The server" is the share of its CPU that nsd was busy for: near 100 %, the pace is the server's and not the client's,
and what tells them apart is the CPU for a name. What it takes for a name depends on who asks: less where many questions
come at once, so that it need not sleep and be woken in between.

nsd takes a receive buffer beyond the system's default only where root runs it (SO_RCVBUFFORCE). Anybody else's has room
for some 250 questions, and loses some of a thousand that come faster than it answers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

import bench_clients
import bench_massdns
from bench_contestants import LIMIT, MASSDNS, MASSDNS_DEFAULT, STOCK, UVLOOP, Contestant, loop_factory, named
from bench_nameserver import NameServer, find_nsd, name_server
from bench_part import Bench, PartMissingError
from bench_questions import is_answer, question, write_names
from bench_tables import Run, aligned, cpu, is_clean, median, ratio, shown, throughput, trouble
from bench_work import TIMEOUT, Address, Ask, Figures, Stopwatch
from bench_workshop import ChildFailedError, python_child

import udpguard

SWEEPS: Final = ("sweep-assigned", "sweep-uvloop-assigned")
NAMES: Final = (
    STOCK.name,
    UVLOOP.name,
    MASSDNS.name,
    MASSDNS_DEFAULT.name,
    LIMIT.name,
    "udpguard-assigned",
    "udpguard-uvloop-assigned",
    *SWEEPS,
)
REFERENCES: Final = (STOCK, MASSDNS, LIMIT)
_SHORT: Final = {"stock": "asyncio", "massdns": "massdns", "c": "C"}
_OPENS: Final = {STOCK.name: bench_clients.by_hand_with_ids, UVLOOP.name: bench_clients.by_hand_with_ids}
# As massdns has it: half a second, again and again.
RETRY: Final = udpguard.Retry(attempts=50, initial=0.5, multiplier=1.0, jitter=0.0)
# What the slowest takes for a name, in seconds.
_EACH: Final = 200e-6


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Run all contestants in turn.

    Raises:
        PartMissingError: nsd isn't installed.
    """
    program = find_nsd()
    if program is None:
        raise PartMissingError("nsd is not installed: apt-get install nsd")
    contestants = bench.of(NAMES)
    if not contestants:
        return []
    runs: list[dict[str, Any]] = []
    extent = bench.extent
    depths = [depth for depth in extent.in_flight if depth > 1] or extent.in_flight
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="udpguard-bench-")))
        server = stack.enter_context(name_server(bench.workshop, program, folder))
        write_names(folder / "names", extent.names, server.zone)
        field = Field(bench, server, folder / "names", extent.names, folder)
        for number, turns in bench.turns(contestants, extent.few_rounds):
            for depth, contestant in itertools.product(depths, turns):
                bench.say(f"names: round {number} of {extent.few_rounds}, {depth:,} in flight, {contestant.title}")
                which = {"contestant": contestant.name, "in_flight": depth, "round": number}
                runs.append(which | field.run(contestant, depth))
    return runs


@dataclasses.dataclass(frozen=True)
class Field:
    """A name server, a file of so many names, and a folder for what else is needed."""

    bench: Bench
    server: NameServer
    names: Path
    count: int
    folder: Path

    def run(self, contestant: Contestant, depth: int) -> dict[str, Any]:
        """Let one contestant ask for all names."""
        before = self.server.cpu()
        try:
            found, warmed = self._figures(contestant, depth)
        except ChildFailedError as error:
            return {"failed": str(error)}
        busy = self.server.cpu() - before
        return found | {"server_cpu": busy / (found["asked"] + warmed) if found["asked"] else 0.0}

    def _figures(self, contestant: Contestant, depth: int) -> tuple[dict[str, Any], int]:
        """What came of it, and how many more names were asked for beforehand."""
        workshop, extent, server = self.bench.workshop, self.bench.extent, self.server
        warm_up = max(extent.warm_up, depth)
        if contestant in (MASSDNS, MASSDNS_DEFAULT):
            return dataclasses.asdict(self._massdns(contestant).run(self.names, self.count, depth, self._patience)), 0
        if contestant is LIMIT:
            values = (server.port, 1, depth, warm_up, extent.seconds, server.zone)
            return workshop.run([*workshop.program("c_client"), *map(str, values)], extent.seconds), 2 * warm_up
        warm_up = min(warm_up, self.count)
        arguments = {"addr": (server.host, server.port), "names": str(self.names), "depth": depth, "warm_up": warm_up}
        command = python_child("names", name=contestant.name, **arguments)
        return workshop.run(command, self._patience, contestant.environment), warm_up

    @property
    def _patience(self) -> float:
        return self.count * _EACH

    def _massdns(self, contestant: Contestant) -> bench_massdns.Massdns:
        assert self.bench.massdns is not None
        buffers = contestant is MASSDNS
        return bench_massdns.Massdns(self.bench.workshop, self.bench.massdns, self.server, self.folder, buffers=buffers)


# ------------------------------------------------------------------------------- in the contestant's process


def child(name: str, addr: Sequence[Any], names: str, depth: int, warm_up: int) -> dict[str, Any]:
    """Ask for all names as one contestant."""
    contestant = named(name)
    host, port = addr
    with asyncio.Runner(loop_factory=loop_factory(contestant)) as runner:
        return dataclasses.asdict(runner.run(_work(contestant, (host, port), Path(names), depth, warm_up)))


async def _work(contestant: Contestant, addr: Address, names: Path, depth: int, warm_up: int) -> Figures:
    async with AsyncExitStack() as stack:
        if contestant.name in SWEEPS:
            endpoint = await stack.enter_async_context(open_for_names())

            async def span(limit: int | None) -> Figures:
                return await _sweep(endpoint, addr, names, depth, limit)

        else:
            opens = _OPENS.get(contestant.name, contestant.opens)
            assert opens is not None
            client = await stack.enter_async_context(opens(TIMEOUT))

            async def span(limit: int | None) -> Figures:
                return await _ask_all(client.ask, addr, names, depth, limit)

        figures = await span(warm_up)
        if figures.lost:
            return figures
        gc.collect()
        return await span(None)


def open_for_names() -> udpguard.EndpointOpener:
    """An endpoint as one who asks name servers opens it."""
    return udpguard.open_endpoint(correlate=udpguard.TransactionId(0, 2, assign=True))


async def _sweep(endpoint: udpguard.Endpoint, addr: Address, names: Path, depth: int, limit: int | None) -> Figures:
    figures = Figures()
    right = 0
    with Stopwatch(figures), names.open("rb") as lines:
        questions = ((addr, question(line)) for line in itertools.islice(lines, limit))
        async with endpoint.sweep(questions, in_flight=depth, timeout=TIMEOUT, retry=RETRY) as sweep:
            async for _, data, _, reply, error in sweep:
                if reply is None:
                    figures.lose(error)
                elif is_answer(data, reply.data):
                    right += 1
                else:
                    figures.wrong += 1
        figures.right = right
    return figures


async def _ask_all(ask: Ask, addr: Address, names: Path, depth: int, limit: int | None) -> Figures:
    figures = Figures()
    with Stopwatch(figures), names.open("rb") as lines:
        questions = (question(line) for line in itertools.islice(lines, limit))
        async with asyncio.TaskGroup() as group:
            for _ in range(depth):
                group.create_task(_worker(ask, addr, questions, figures))
    return figures


async def _worker(ask: Ask, addr: Address, questions: Iterator[bytes], figures: Figures) -> None:
    right = 0
    for data in questions:
        try:
            reply = await ask(addr, data)
        except OSError as error:  # TimeoutError is one
            figures.lose(error)
            break  # the run does not count any more
        if is_answer(data, reply):
            right += 1
        else:
            figures.wrong += 1
    figures.right += right


# ----------------------------------------------------------------------------------------------- what it says


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Medians and ratios of each contestant at each depth, of the runs without losses; and what was wrong."""
    found = []
    for depth, name in dict.fromkeys((run["in_flight"], run["contestant"]) for run in runs):
        at_depth = [run for run in runs if run["in_flight"] == depth]
        of_it = [run for run in at_depth if run["contestant"] == name]
        clean = [run for run in of_it if is_clean(run)]
        line: dict[str, Any] = {
            "contestant": name,
            "in_flight": depth,
            "throughput": median(map(throughput, clean)),
            "cpu_us": median(map(cpu, clean)),
            "server_us": median(run["server_cpu"] * 1e6 for run in clean),
            "server_busy": median(run["server_cpu"] * throughput(run) for run in clean),
            "trouble": trouble(of_it),
        }
        for other in REFERENCES:
            others = [run for run in at_depth if run["contestant"] == other.name and is_clean(run)]
            line[f"throughput_vs_{other.name}"] = ratio(clean, others, throughput)
            line[f"cpu_vs_{other.name}"] = ratio(clean, others, cpu)
        found.append(line)
    return found


def table(lines: Sequence[Run], absent: Mapping[str, str]) -> str:
    """The summary, as text."""
    versus = [f"vs {_SHORT[each.name]}" for each in REFERENCES]
    parts = [
        "names of one name server; vs: times what asyncio by hand, massdns and the C client have, in the same round"
    ]
    for depth in sorted({line["in_flight"] for line in lines}):
        rows = [["", "names/s", *versus, "CPU µs", *versus, "the server", ""]]
        here = {line["contestant"]: line for line in lines if line["in_flight"] == depth}
        rows += [_row(here[name]) for name in NAMES if name in here]
        rows += [[named(name).title, f"not here: {why}"] for name, why in absent.items() if name in NAMES]
        parts.append(f"{depth:,} in flight\n{aligned(rows)}")
    return "\n\n".join(parts)


def _row(line: Run) -> list[str]:
    busy = line["server_busy"]
    return [
        named(line["contestant"]).title,
        shown(line["throughput"]),
        *(shown(line[f"throughput_vs_{each.name}"], 2) for each in REFERENCES),
        shown(line["cpu_us"], 1),
        *(shown(line[f"cpu_vs_{each.name}"], 2) for each in REFERENCES),
        shown(None if busy is None else 100 * busy, 0, " %"),
        line["trouble"],
    ]
