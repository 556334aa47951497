"""Part "import": what it costs to import udpguard, as a ratio to asyncio alone.

Each run is an interpreter of its own, from its start to its end, by turns, with bytecode that is compiled already. A
round's ratio is that of runs next to each other. `import udpguard` loads values and errors; what needs asyncio is
loaded when it is named, and the registry, ctypes and the system calls when the first endpoint opens. That shows in the
last line, whose peer is an event loop that runs and does nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench_part import Bench
from bench_tables import Run, aligned, median, ratio, shown

BASE: Final = "import asyncio"
IDLE: Final = "run a loop"
STATEMENTS: Final = {
    "pass": "pass",
    BASE: "import asyncio",
    "import udpguard": "import udpguard",
    "from udpguard import open_endpoint": "from udpguard import open_endpoint",
    "import udpguard.testing": "import udpguard.testing",
    IDLE: "import asyncio; asyncio.run(asyncio.sleep(0))",
    "open an endpoint": """
import asyncio, udpguard

async def main():
    async with udpguard.open_endpoint():
        pass

asyncio.run(main())
""",
}
PEERS: Final = {"open an endpoint": IDLE}
"""What each is compared with, if not with `BASE`."""
TIMES_A_ROUND: Final = 10


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Start an interpreter for each statement, by turns."""
    rounds = max(1, round(bench.extent.rounds * TIMES_A_ROUND * min(1.0, bench.extent.seconds)))
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as compiled:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = compiled
        for number in range(rounds + 1):
            bench.say(f"import: round {number} of {rounds}")
            for name, statement in STATEMENTS.items():
                run = _interpreter(statement, environment)
                if number:  # the first one compiles
                    runs.append({"contestant": name, "round": number, **run})
    return runs


def _interpreter(statement: str, environment: Mapping[str, str]) -> dict[str, Any]:
    began = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, "-c", statement], environment)
    _, status, usage = os.wait4(process, 0)
    wall = time.perf_counter() - began
    if status:
        return {"failed": f"it ended with status {os.waitstatus_to_exitcode(status)}"}
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime}


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Milliseconds of each, and the medians of the rounds' ratios."""
    found = []
    for name in STATEMENTS:
        mine, theirs = _of(runs, name), _of(runs, PEERS.get(name, BASE))
        failed = [run["failed"] for run in runs if run["contestant"] == name and "failed" in run]
        found.append(
            {
                "contestant": name,
                "wall": median(run["wall"] * 1e3 for run in mine),
                "cpu": median(run["cpu"] * 1e3 for run in mine),
                "peer": PEERS.get(name, BASE),
                "ratio": ratio(mine, theirs, lambda run: run["wall"]),
                "cpu_ratio": ratio(mine, theirs, lambda run: run["cpu"]),
                "trouble": f"failed: {failed[0]}" if failed else "",
            }
        )
    return found


def _of(runs: Sequence[Run], name: str) -> list[Run]:
    return [run for run in runs if run["contestant"] == name and "failed" not in run]


def table(lines: Sequence[Run], absent: Mapping[str, str]) -> str:
    """The summary, as text."""
    rows = [["a whole interpreter", "ms", "CPU ms", "ratio", "CPU ratio", "to", ""]]
    rows += [
        [
            line["contestant"],
            shown(line["wall"], 1),
            shown(line["cpu"], 1),
            shown(line["ratio"], 2),
            shown(line["cpu_ratio"], 2),
            line["peer"],
            line["trouble"],
        ]
        for line in lines
    ]
    return aligned(rows)
