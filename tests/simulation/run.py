"""Simulate a million exchanges over a network that does its worst, and judge each: one command, in some minutes.

    python tests/simulation/run.py                       # everything, on all processors
    python tests/simulation/run.py --scale 0.01          # a hundredth of the seeds
    python tests/simulation/run.py --minutes 5           # what can be done until then, of each part its share
    python tests/simulation/run.py --parts exchanges --modes 'own ids' --first-seed 500

Part "exchanges" runs simulations of 1,000 exchanges each (`simulation_program.py`): 30 % loss and 10 % duplication each
way, delays that reorder and reach 118 s for a round trip, cancellations, forgeries, ICMP (true and forged), lists of
servers, names, retransmission, `accept` functions, expectations, hooks that call back, small buffers, tight limits, a
blocked loop, and an end with things pending. An oracle knows what was truly sent. With transaction ids, the program's
own or assigned, and with rotated ports it finds no wrong delivery, one outcome for each exchange, nothing left over,
and at every step a verdict for each datagram. With spare ports it finds none but duplicates that the network makes of
an answer to a request which was sent once; these it counts.

Part "law" compares the share of requests that succeed with 1 - (1 - (1 - p)²)ⁿ. Part "odds" measures how often a
request without an id gets another one's answer (`simulation_experiments.py`).

The command prints tables, and writes JSON; its status is 0 where nothing was found that must not be. The same seed
gives the same simulation everywhere, so what it finds can be looked at again.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import simulation_experiments as experiments  # noqa: E402
from simulation_program import MODES, Result, simulate  # noqa: E402

PARTS: Final = ("exchanges", "law", "odds")
SEEDS: Final = {
    "own ids": 200,
    "assigned ids, 2 bytes": 150,
    "assigned ids, 4 bytes": 100,
    "three programs": 150,
    "no ids, rotated ports": 260,
    "no ids, spare ports": 150,
}
"""How many simulations of each mode make the whole."""
_LAW_SEEDS: Final = 10
# Of 24 cells one is beyond three by chance in every fifteenth run; beyond four, in every six-hundredth.
_MOST_SIGMA: Final = 4
_ODDS_SEEDS: Final = 5
_MOST_SHOWN: Final = 20
JSON_FORMAT: Final = 1


@dataclass(frozen=True)
class Unit:
    """What one process does at a time."""

    part: str
    which: str
    seed: str
    count: int


@dataclass
class Done:
    """What came of it."""

    unit: Unit
    cpu: float
    result: Result | experiments.Odds | int | str
    """A traceback where it raised."""


@dataclass
class Tally:
    """What came of the simulations of one mode."""

    simulations: int = 0
    exchanges: int = 0
    checks: int = 0
    datagrams: int = 0
    virtual_hours: float = 0.0
    cpu_seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    forged: Counter[str] = field(default_factory=Counter)
    statistics: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, done: Done, result: Result) -> None:
        """Add one simulation."""
        self.simulations += 1
        self.exchanges += result.exchanges
        self.checks += result.checks
        self.datagrams += result.statistics["sent"] + result.statistics["received"]
        self.virtual_hours += result.seconds / 3_600
        self.cpu_seconds += done.cpu
        self.outcomes.update(result.outcomes)
        self.wrong.update(result.wrong)
        self.forged.update(result.forged)
        self.statistics.update(result.statistics)
        self.violations += [f"seed {done.unit.seed}: {text}" for text in result.violations]


def work(unit: Unit) -> Done:
    """Do it."""
    began = time.process_time()
    try:
        result = _result(unit)
    except Exception:
        result = traceback.format_exc()
    return Done(unit, time.process_time() - began, result)


def _result(unit: Unit) -> Result | experiments.Odds | int:
    if unit.part == "exchanges":
        return simulate(unit.which, unit.seed, unit.count)
    if unit.part == "law":
        place, has_ids = unit.which.split()
        loss, attempts = experiments.LAW[int(place)]
        return experiments.successes(loss, attempts, unit.seed, unit.count, has_ids=has_ids == "True")
    policy, weather = map(int, unit.which.split())
    return experiments.odds(experiments.POLICIES[policy], experiments.WEATHERS[weather], unit.seed, unit.count)


def units(parts: Sequence[str], modes: Sequence[str], scale: float, first_seed: int, exchanges: int) -> list[Unit]:
    """All that is to be done, in such an order that each part and mode has its share whenever it is stopped."""

    def add(part: str, which: str, whole: int) -> None:
        count = max(1, round(whole * scale))
        found.extend((n / count, Unit(part, which, str(first_seed + n), exchanges)) for n in range(count))

    found: list[tuple[float, Unit]] = []
    for mode in modes if "exchanges" in parts else ():
        add("exchanges", mode, SEEDS[mode])
    for place, has_ids in product(range(len(experiments.LAW)), (True, False)) if "law" in parts else ():
        add("law", f"{place} {has_ids}", _LAW_SEEDS)
    cells = range(len(experiments.POLICIES)), range(len(experiments.WEATHERS))
    for policy, weather in product(*cells) if "odds" in parts else ():
        add("odds", f"{policy} {weather}", _ODDS_SEEDS)
    return [unit for _, unit in sorted(found, key=lambda one: one[0])]


def main() -> int:
    """The command; 0 if nothing was found, 1 if something was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--exchanges", type=int, default=1_000, help="of each simulation")
    parser.add_argument("--processes", type=int, default=None, help="as many as there are processors, unless given")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--json", type=Path, default=Path("simulation.json"), help="where to write the figures")
    options = parser.parse_args()
    began = time.monotonic()
    todo = units(options.parts, options.modes, options.scale, options.first_seed, options.exchanges)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        done = []
        for one in pool.imap_unordered(work, todo):
            done.append(one)
            if sys.stderr.isatty():
                print(f"\r{len(done)} of {len(todo)}", end="", file=sys.stderr)
            if time.monotonic() - began > 60 * options.minutes:
                break
    seconds = time.monotonic() - began
    document, violations = summary(done)
    document.update(simulations=len(done), of=len(todo), seconds=round(seconds, 1))
    options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(
        f"\n{document['in_all']:,} exchanges in {len(done):,} of {len(todo):,} simulations, {seconds:.0f} s;", end=" "
    )
    print(f"more in {options.json}")
    for text in violations[:_MOST_SHOWN]:
        print(text)
    print(f"{len(violations)} violations" if violations else "nothing found that must not be")
    return 1 if violations else 0


def summary(done: Sequence[Done]) -> tuple[dict[str, Any], list[str]]:
    """Print the tables; the JSON document, and what must not be."""
    violations = [f"{one.unit} raised:\n{one.result}" for one in done if isinstance(one.result, str)]
    done = [one for one in done if not isinstance(one.result, str)]
    document: dict[str, Any] = {"format": JSON_FORMAT, "in_all": sum(_exchanges(one) for one in done)}
    for part, show in (("exchanges", _show_exchanges), ("law", _show_law), ("odds", _show_odds)):
        of_part = [one for one in done if one.unit.part == part]
        if of_part:
            document[part] = show(of_part, violations)
    document["violations"] = violations
    return document, violations


def _exchanges(done: Done) -> int:
    if isinstance(done.result, Result):
        return done.result.exchanges
    return done.result.asked if isinstance(done.result, experiments.Odds) else done.unit.count


def _show_exchanges(done: Sequence[Done], violations: list[str]) -> dict[str, Any]:
    tallies = {mode: Tally() for mode in MODES}
    for one in done:
        assert isinstance(one.result, Result)
        tallies[one.unit.which].add(one, one.result)
    head = f"{'':24}{'seeds':>6}{'exchanges':>11}{'answered':>10}{'timed out':>10}{'other':>8}"
    print(f"\n{head}{'forged':>9}{'late, dup.':>11}{'wrong':>7}{'allowed':>8}{'checks':>11}")
    for mode, tally in tallies.items():
        if not tally.simulations:
            continue
        found = [f"{mode}, {text}" for text in tally.violations]
        violations += found
        answered, timed_out = tally.outcomes["answered"], tally.outcomes["timed out"]
        stray = tally.statistics["late"] + tally.statistics["duplicate"]
        allowed = tally.wrong["network's duplicate"] if MODES[mode].allows_duplicates else 0
        print(
            f"{mode:24}{tally.simulations:6,}{tally.exchanges:11,}{answered:10,}{timed_out:10,}"
            f"{tally.exchanges - answered - timed_out:8,}{tally.forged.total():9,}{stray:11,}"
            f"{tally.wrong.total() - allowed:7,}{allowed:8,}{tally.checks:11,}"
        )
    return {mode: vars(tally) for mode, tally in tallies.items() if tally.simulations}


def _show_law(done: Sequence[Done], violations: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    print(f"\n{'loss each way':>14}{'attempts':>9}{'ids':>5}{'asked':>8}{'answered':>10}{'law':>9}{'sigma':>7}")
    for which in dict.fromkeys(one.unit.which for one in done):
        fitting = [one for one in done if one.unit.which == which]
        place, has_ids = which.split()
        loss, attempts = experiments.LAW[int(place)]
        answered = sum(one.result for one in fitting if isinstance(one.result, int))
        asked = sum(one.unit.count for one in fitting)
        sigma = experiments.deviation(answered, asked, loss, attempts)
        rows.append(
            {"loss": loss, "attempts": attempts, "ids": has_ids == "True", "asked": asked, "answered": answered,
             "law": experiments.law(loss, attempts), "sigma": sigma}
        )  # fmt: skip
        if abs(sigma) > _MOST_SIGMA:
            violations.append(f"law: {answered} of {asked} with {attempts} attempts at {loss}: {sigma:.1f} sigma")
    rows.sort(key=lambda row: (row["loss"], row["attempts"], row["ids"]))
    for row in rows:
        print(
            f"{row['loss']:14.0%}{row['attempts']:9}{'yes' if row['ids'] else 'no':>5}{row['asked']:8,}"
            f"{row['answered'] / row['asked']:10.4f}{row['law']:9.4f}{row['sigma']:7.1f}"
        )
    return rows


def _show_odds(done: Sequence[Done], violations: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    print("\nof the answers delivered, how many are another request's:")
    names = "".join(f"{policy.name:>26}" for policy in experiments.POLICIES)
    print(f"{'loss':>5}{'duplication':>12}{'delays':>8}{'pause':>7}{names}")
    for place, weather in enumerate(experiments.WEATHERS):
        tail = "tail" if weather.tail else "short"
        line = f"{weather.loss:5.0%}{weather.duplicate:12.1%}{tail:>8}{weather.pause:5.0f} s"
        for number, policy in enumerate(experiments.POLICIES):
            fitting = [one for one in done if one.unit.which == f"{number} {place}"]
            answered, wrong = 0, Counter[str]()
            for one in fitting:
                assert isinstance(one.result, experiments.Odds)
                answered += one.result.answered
                wrong.update(one.result.wrong)
                violations += [f"odds, {policy.name}, {text}" for text in one.result.violations]
            rows.append(
                {"policy": policy.name, "loss": weather.loss, "duplicate": weather.duplicate, "tail": weather.tail,
                 "pause": weather.pause, "answered": answered, "wrong": dict(wrong)}
            )  # fmt: skip
            line += f"{f'{wrong.total():,} of {answered:,}':>26}"
        print(line)
    return rows


if __name__ == "__main__":
    sys.exit(main())
