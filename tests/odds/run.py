"""Measure what forgeries that guess have for chances, and how evenly ports and ids are drawn: the full figures.

    python tests/odds/run.py                     about eight minutes
    python tests/odds/run.py --scale 1 --tokens 200000

The client draws from the operating system's cryptographic source, as udpguard does; so no two runs are alike, and one
figure in a few hundred may be beyond three standard deviations.
"""

from __future__ import annotations

import argparse
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random, SystemRandom

from odds_draws import RANGE, assigned_ids, ports_of_a_pool, ports_of_a_range
from odds_kit import attack, chi_square_sigmas, odds_of_an_attack, tokens_believed
from test_odds_forgery import CASES

ATTACK = 8
"""Windows."""


def forgeries(scale: int, forger: Random) -> Iterator[str]:
    yield "| client | forgeries | believed: RFC 5452 | measured | off by | 8 windows: RFC 5452 | measured |"
    yield "|---|---|---|---|---|---|---|"
    for case in CASES:
        case = replace(case, windows=case.windows * scale)
        result = attack(case, secrets.randbits, forger)
        won, attacks = result.attacks_won(ATTACK)
        several = f"{odds_of_an_attack(case.odds, ATTACK):.4f} | {won / attacks:.4f}" if case.questions == 1 else "|"
        yield (
            f"| {case.name} | {case.windows * case.forgeries:,} | {case.windows * case.odds:,.0f} "
            f"| {result.believed:,} | {result.sigmas:+.2f} sigma | {several} |"
        )


def tokens(count: int, forger: Random) -> str:
    believed, true = tokens_believed(count, secrets.randbits, forger)
    return f"64-bit ids, 1,000 questions pending: {believed} of {count:,} forgeries believed, {true:,} true answers"


def evenness(draws: int) -> Iterator[str]:
    yield "| drawn | of | draws | chi-square off by |"
    yield "|---|---|---|---|"
    for pool in (4, 16, 64):
        yield _even(f"a port of Ports(pool={pool})", ports_of_a_pool(draws, pool, secrets.randbits), pool)
    cells = RANGE[1] - RANGE[0] + 1
    ports = [port - RANGE[0] for port in ports_of_a_range(draws, secrets.randbits)]
    yield _even(f"a port of Ports(range={RANGE})", ports, cells)
    for length in (1, 2):
        ids = assigned_ids(draws, length, secrets.randbits)
        yield _even(f"an id of {8 * length} bits", ids, 256**length)


def _even(name: str, numbers: list[int], cells: int) -> str:
    return f"| {name} | {cells:,} | {len(numbers):,} | {chi_square_sigmas(Counter(numbers), cells):+.2f} sigma |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=10, help="how many times as many windows as the tests have")
    parser.add_argument("--tokens", type=int, default=10_000_000, help="forgeries with guessed 64-bit ids")
    parser.add_argument("--draws", type=int, default=1_000_000, help="of ports and of ids")
    options = parser.parse_args()
    forger = SystemRandom()
    for line in forgeries(options.scale, forger):
        print(line, flush=True)
    print("\n" + tokens(options.tokens, Random(secrets.randbits(64))) + "\n", flush=True)
    for line in evenness(options.draws):
        print(line, flush=True)


if __name__ == "__main__":
    main()
