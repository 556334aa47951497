"""Ten million generated events through protocol, registry and what hostile bytes meet first.

    python tests/fuzzing/run.py [--events N] [--seed N] [--processes N]

Each seed is a world of its own, in virtual time: datagrams, network errors, timers and calls, and foreign code that
raises and calls back (`fuzz_world`, `fuzz_parts`). Nothing may be raised but what is documented, nothing logged, the
counts must agree at every step, and nothing may be left in the end. A case that goes wrong is cut down and saved in
`corpus`, where the suite plays it again. The exit status is 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from fuzz_cases import CORPUS, events_of, play, save, shrunk  # noqa: E402 (found by the path)
from fuzz_world import Failure  # noqa: E402

EVENTS = 10_000_000
_LENGTHS = (300, 1_500, 6_000, 20_000)
_PARTS_LENGTH = 20_000
# One seed in so many is for the parts, which are fast.
_PARTS_EVERY = 5


def one(seed: int) -> tuple[str, int, str]:
    """Play one seed: its kind, how many events there were, and what went wrong."""
    kind = "parts" if seed % _PARTS_EVERY == 0 else "world"
    length = _PARTS_LENGTH if kind == "parts" else _LENGTHS[seed % len(_LENGTHS)]
    try:
        return kind, play(kind, seed, iter(events_of(kind, seed, length))), ""
    except Failure as failure:
        events = shrunk(kind, seed, events_of(kind, seed, length)[: failure.index + 1])
        path = save(kind, seed, events, str(failure)[:200])
        return (
            kind,
            failure.index,
            f"seed {seed}: {failure}\n  {len(events)} events in {path.relative_to(CORPUS.parent)}",
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--seed", type=int, default=1, help="the first")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    began, counts, seeds, failures = time.monotonic(), Counter[str](), Counter[str](), 0

    def numbers() -> object:
        number = arguments.seed
        while counts.total() < arguments.events:
            yield number
            number += 1

    with multiprocessing.Pool(arguments.processes) as pool:
        waiting: list[object] = []
        for number in numbers():  # type: ignore[attr-defined]
            waiting.append(pool.apply_async(one, (number,)))
            if len(waiting) > 2 * arguments.processes:
                waiting, done = waiting[1:], waiting[0]
                kind, count, wrong = done.get()  # type: ignore[attr-defined]
                counts[kind] += count
                seeds[kind] += 1
                if wrong:
                    failures += 1
                    print(wrong, flush=True)
        pool.terminate()
    seconds = time.monotonic() - began
    print(
        f"{counts.total():,} events in {seconds:.0f} s ({counts.total() / seconds:,.0f}/s): "
        f"{counts['world']:,} in {seeds['world']:,} worlds, {counts['parts']:,} in the parts alone; "
        f"{failures} of the seeds went wrong"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
