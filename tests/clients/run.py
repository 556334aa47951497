"""A million exchanges of clients that share an endpoint: does any get another's reply?

    python tests/clients/run.py [--exchanges N] [--processes N]

Clients with three kinds of keys and one without (`clients_crossing`), in as many simulations with seeds of their own as
it takes. Prints how many exchanges there were of each, and how many crossed; the exit status is 1 if any did.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from clients_crossing import Outcome, cross

EXCHANGES = 1_000_000
_EACH = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exchanges", type=int, default=EXCHANGES)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    began, answered, timed_out, crossed, verdicts = time.monotonic(), Counter[str](), 0, 0, Counter[str]()
    with multiprocessing.Pool(arguments.processes) as pool:
        outcomes = pool.imap_unordered(partial(_cross, _EACH), range(-(-arguments.exchanges // _EACH)))
        for outcome in outcomes:
            answered.update(outcome.answered)
            timed_out += outcome.timed_out
            crossed += len(outcome.crossed)
            for text in outcome.crossed[:5]:
                print(text, flush=True)
            for name in ("sent", "received", "matched", "duplicate", "late", "rejected", "unknown_peer"):
                verdicts[name] += getattr(outcome.statistics, name)
    seconds = time.monotonic() - began
    total = answered.total() + timed_out
    print(f"{total:,} exchanges in {seconds:.0f} s ({total / seconds:,.0f}/s): {crossed} cross-deliveries")
    print(
        ", ".join(f"{name} {count:,}" for name, count in sorted(answered.items())), f"answered; {timed_out} timed out"
    )
    print("datagrams:", ", ".join(f"{name} {count:,}" for name, count in verdicts.items()))
    return 1 if crossed else 0


def _cross(exchanges: int, seed: int) -> Outcome:
    return cross(seed, exchanges)


if __name__ == "__main__":
    sys.exit(main())
