"""Part "drain": how long a client holds the loop when replies have piled up, and how fast it delivers them.

So many requests are sent at once, to a peer each. Then the loop is blocked until all replies lie in the socket, as
they do after any slow callback. When it runs again, another task that asks for every turn of the loop notes the
longest time it was kept waiting, until the last reply is delivered. That time includes what the callers' own tasks do
in the turn, which is the same for all: compare a reply with a payload.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench_contestants import Contestant, loop_factory, named
from bench_part import Bench
from bench_tables import Run, aligned, is_clean, median, shown, trouble
from bench_work import FILLER, TIMEOUT, Address, Ask, Figures, Stopwatch, peers_at
from bench_workshop import ChildFailedError, python_child

NAMES: Final = ("stock", "uvloop", "udpguard", "udpguard-uvloop")
# The server needs some 5 µs each.
_BLOCKED: Final = 0.05
_BLOCKED_EACH: Final = 10e-6
# Of each size in each process, the first uncounted.
_TIMES: Final = 3


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Run each contestant in turn."""
    runs: list[dict[str, Any]] = []
    extent = bench.extent
    for number, contestants in bench.turns(bench.of(NAMES), extent.few_rounds):
        for contestant in contestants:
            bench.say(f"drain: round {number} of {extent.few_rounds}, {contestant.title}")
            which: dict[str, Any] = {"contestant": contestant.name, "round": number}
            command = python_child("drain", name=contestant.name, port=bench.workshop.port, backlogs=extent.backlogs)
            try:
                found = bench.workshop.run(command, 10.0, contestant.environment)["drains"]
            except ChildFailedError as error:
                found = [{"backlog": backlog, "failed": str(error)} for backlog in extent.backlogs]
            runs += [which | each for each in found]
    return runs


# ------------------------------------------------------------------------------- in the contestant's process


@dataclasses.dataclass
class _Drain(Figures):
    """What came of one backlog.

    Attributes:
        backlog: Requests sent.
        waiting: Those not answered yet when the loop ran again.
        stall: The longest time another task was kept from running, in seconds.
    """

    backlog: int = 0
    waiting: int = 0
    stall: float = 0.0


def child(name: str, port: int, backlogs: Sequence[int]) -> dict[str, Any]:
    """Let each backlog pile up a few times."""
    with asyncio.Runner(loop_factory=loop_factory(named(name))) as runner:
        return {"drains": runner.run(_drain_all(named(name), port, backlogs))}


async def _drain_all(contestant: Contestant, port: int, backlogs: Sequence[int]) -> list[dict[str, Any]]:
    assert contestant.opens is not None
    found = []
    async with contestant.opens(TIMEOUT) as client:
        for backlog in backlogs:
            peers = peers_at(port, backlog)
            drains = [await _drain(client.ask, peers, time_ * backlog) for time_ in range(_TIMES)]
            found += [dataclasses.asdict(drain) for drain in drains[1:]]
    return found


async def _drain(ask: Ask, peers: Sequence[Address], first: int) -> _Drain:
    drain = _Drain(backlog=len(peers))
    tasks = [asyncio.create_task(_ask(ask, peer, number, drain)) for number, peer in enumerate(peers, first)]
    everybody = asyncio.gather(*tasks)
    stopwatch = Stopwatch(drain)
    before = 0.0

    def block() -> None:
        nonlocal before
        time.sleep(_BLOCKED + len(peers) * _BLOCKED_EACH)
        drain.waiting = len(peers) - drain.right - drain.wrong
        stopwatch.start()
        before = time.perf_counter()

    # The tasks run in this turn; what they hold back to send together goes out in the next, before anything is read.
    await asyncio.sleep(0)
    # uvloop may read the socket between this callback and this task, so the time is taken where the block ends.
    asyncio.get_running_loop().call_soon(block)
    await asyncio.sleep(0)
    while True:
        now = time.perf_counter()
        drain.stall = max(drain.stall, now - before)
        before = now
        if everybody.done():
            break
        await asyncio.sleep(0)
    stopwatch.stop()
    await everybody
    return drain


async def _ask(ask: Ask, peer: Address, number: int, drain: _Drain) -> None:
    data = number.to_bytes(8, "big") + FILLER
    try:
        reply = await ask(peer, data)
    except OSError as error:  # TimeoutError is one
        drain.lose(error)
        return
    if reply == data:
        drain.right += 1
    else:
        drain.wrong += 1


# ----------------------------------------------------------------------------------------------- what it says


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The medians for each contestant and backlog, of those without losses."""
    found = []
    for name, backlog in dict.fromkeys((run["contestant"], run["backlog"]) for run in runs):
        of_it = [run for run in runs if (run["contestant"], run["backlog"]) == (name, backlog)]
        clean = [run for run in of_it if is_clean(run)]
        found.append(
            {
                "contestant": name,
                "backlog": backlog,
                "waiting": median(run["waiting"] for run in clean),
                "stall_ms": median(run["stall"] * 1e3 for run in clean),
                "drained_per_second": median(run["waiting"] / run["wall"] for run in clean),
                "trouble": trouble(of_it),
            }
        )
    return found


def table(lines: Sequence[Run], absent: Mapping[str, str]) -> str:
    """The summary, as text."""
    rows = [["a blocked loop's backlog", "asked", "waiting", "longest stall, ms", "delivered/s", ""]]
    rows += [
        [
            named(line["contestant"]).title,
            f"{line['backlog']:,}",
            shown(line["waiting"]),
            shown(line["stall_ms"], 2),
            shown(line["drained_per_second"]),
            line["trouble"],
        ]
        for line in sorted(lines, key=lambda line: NAMES.index(line["contestant"]))
    ]
    rows += [[named(name).title, f"not here: {why}"] for name, why in absent.items() if name in NAMES]
    return aligned(rows)
