"""Part "memory": what a pending request holds, beyond its caller's task and future.

So many tasks each await a `request()` to a socket that takes everything and answers nothing, with keys to 1,000
peers, or without to a peer each. `tracemalloc` counts what Python allocated from before the tasks were made, garbage
collected. The same number of tasks that each await a bare future, with the same address and payload in hand, is the
caller's part; the difference is ours. It varies by a few bytes from run to run, so one round is enough.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench_contestants import loop_factory, named
from bench_part import Bench
from bench_pending import FIRST_SILENT, FOR_GOOD
from bench_tables import Run, aligned, shown
from bench_work import FILLER, Address, peers_at
from bench_workshop import ChildFailedError, python_child

import udpguard

NAMES: Final = ("udpguard", "udpguard-keyed")
BARE: Final = "bare"
KEYED_PEERS: Final = 1000
_EACH: Final = 300e-6
# Sending takes a few turns of the loop where a socket's buffer is full.
_TURNS: Final = 10_000


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Measure each size: bare futures, and each kind of request."""
    runs: list[dict[str, Any]] = []
    contestants = bench.of(NAMES)
    for held in bench.extent.held if contestants else ():
        for name in (BARE, *(each.name for each in contestants)):
            bench.say(f"memory: {held:,} pending, {name}")
            run: dict[str, Any] = {"contestant": name, "pending": held, "round": 1}
            try:
                run |= bench.workshop.run(python_child("memory", name=name, held=held), held * _EACH)
            except ChildFailedError as error:
                run["failed"] = str(error)
            runs.append(run)
    return runs


# ------------------------------------------------------------------------------- in the contestant's process


def child(name: str, held: int) -> dict[str, Any]:
    """Hold so many, and count what they take."""
    contestant = named("udpguard" if name == BARE else name)
    with asyncio.Runner(loop_factory=loop_factory(contestant)) as runner:
        return runner.run(_hold(name, held))


async def _hold(name: str, held: int) -> dict[str, Any]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("0.0.0.0", 0))
        keyed = name == "udpguard-keyed"
        silent = peers_at(sink.getsockname()[1], KEYED_PEERS if keyed else held, FIRST_SILENT)
        questions = [(silent[n % len(silent)], n.to_bytes(8, "big") + FILLER) for n in range(held)]
        tasks: list[asyncio.Task[object] | None] = [None] * held
        correlate = udpguard.TransactionId(0, 8) if keyed else None
        async with udpguard.open_endpoint(correlate=correlate, limits=udpguard.Limits(pending=2 * held)) as endpoint:
            gc.collect()
            tracemalloc.start()
            try:
                for number, (addr, data) in enumerate(questions):
                    waiting = _bare(addr, data) if name == BARE else endpoint.request(addr, data, timeout=FOR_GOOD)
                    tasks[number] = asyncio.ensure_future(waiting)
                await _until_sent(endpoint, 0 if name == BARE else held)
                gc.collect()
                traced, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
                for task in tasks:
                    if task is not None:
                        task.cancel()
                await asyncio.gather(*filter(None, tasks), return_exceptions=True)
    return {"traced": traced}


async def _bare(addr: Address, data: bytes) -> None:
    """What a caller has in any case: a task, its coroutine, an address, a payload, a future."""
    await asyncio.get_running_loop().create_future()
    del addr, data


async def _until_sent(endpoint: udpguard.Endpoint, count: int) -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
        if endpoint.statistics().sent >= count:
            break
    else:
        raise RuntimeError(f"only {endpoint.statistics().sent} of {count} were sent")
    # What is kept for a turn of the loop only must not count.
    await asyncio.sleep(0.05)


# ----------------------------------------------------------------------------------------------- what it says


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Bytes of each request, in all and ours."""
    bare = {run["pending"]: run["traced"] for run in runs if run["contestant"] == BARE and "traced" in run}
    found = []
    for run in runs:
        if run["contestant"] == BARE:
            continue
        size, traced = run["pending"], run.get("traced")
        known = traced is not None and size in bare
        found.append(
            {
                "contestant": run["contestant"],
                "pending": size,
                "bytes_each": traced / size if known else None,
                "callers_bytes_each": bare[size] / size if known else None,
                "our_bytes_each": (traced - bare[size]) / size if known else None,
                "trouble": f"failed: {run['failed']}" if "failed" in run else "",
            }
        )
    return found


def table(lines: Sequence[Run], absent: Mapping[str, str]) -> str:
    """The summary, as text."""
    rows = [["requests pending", "pending", "bytes each", "the caller's task and future", "ours", ""]]
    rows += [
        [
            named(line["contestant"]).title,
            f"{line['pending']:,}",
            shown(line["bytes_each"]),
            shown(line["callers_bytes_each"]),
            shown(line["our_bytes_each"]),
            line["trouble"],
        ]
        for line in sorted(lines, key=lambda line: NAMES.index(line["contestant"]))
    ]
    return aligned(rows)
