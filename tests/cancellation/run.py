"""The whole proof: each verb, each blow, each point.

    python tests/cancellation/run.py [--processes N] [--only TEXT]

Prints how many points were struck in how many scenarios, and what went wrong. The exit status is 1 if anything did.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from cancellation_engine import BLOWS, play  # noqa: E402 (found by the path)
from cancellation_scenarios import CASES  # noqa: E402

_MOST_SHOWN = 50


def strike_everywhere(number: int) -> tuple[int, list[str]]:
    """One blow at each point of one scenario: how many points, and what went wrong."""
    scenario, blow = CASES[number]
    wrong: list[str] = []
    points = play(scenario)
    for at in range(points):
        try:
            play(scenario, blow, at)
        except Exception as error:
            wrong.append(
                str(error) if isinstance(error, AssertionError) else f"{scenario.name}, {blow.name}, {at}: {error!r}"
            )
    return points, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="scenarios whose name has this")
    arguments = parser.parse_args()
    rows = [number for number, (scenario, _) in enumerate(CASES) if arguments.only in scenario.name]
    began = time.monotonic()
    with multiprocessing.Pool(arguments.processes) as pool:
        points = failures = 0
        for struck, wrong in pool.imap_unordered(strike_everywhere, rows):
            points += struck
            for text in wrong[: max(_MOST_SHOWN - failures, 0)]:
                print(text, end="\n\n", flush=True)
            failures += len(wrong)
    scenarios = len({CASES[number][0].name for number in rows})
    print(
        f"{scenarios} scenarios, {len(BLOWS)} blows: struck at {points:,} points "
        f"in {time.monotonic() - began:.0f} s; {failures} left something behind or harmed somebody"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
