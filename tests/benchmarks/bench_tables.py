"""Medians, ratios and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]


def trouble(runs: Iterable[Run]) -> str:
    """What is wrong with some of the runs; empty where every exchange of each was answered, and answered right."""
    runs = list(runs)
    bad = [run for run in runs if not is_clean(run)]
    if not bad:
        return ""
    failed = [run["failed"] for run in bad if "failed" in run]
    if failed:
        return f"failed: {failed[0]}"
    counts = {kind: sum(run[kind] for run in bad) for kind in ("lost", "wrong")}
    said = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count) or "nothing asked"
    return f"{said} of {sum(run['asked'] for run in bad):,} (in {len(bad)} of {len(runs)} runs)"


def is_clean(run: Run) -> bool:
    """Whether every exchange was answered, and answered right."""
    return "failed" not in run and run["asked"] > 0 and run["right"] == run["asked"]


def throughput(run: Run) -> float:
    """Exchanges a second."""
    return float(run["right"] / run["wall"])


def cpu(run: Run) -> float:
    """CPU microseconds an exchange."""
    return float(run["cpu"] / run["right"] * 1e6)


def median(values: Iterable[float]) -> float | None:
    """The median; None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def ratio(runs: Sequence[Run], others: Sequence[Run], what: Any) -> float | None:
    """The median of the rounds' ratios: what disturbs a round disturbs both."""
    by_round = {run["round"]: run for run in others}
    return median(what(run) / what(by_round[run["round"]]) for run in runs if run["round"] in by_round)


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows as text: the first columns to the left, the others to the right; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("-" * len(lines[0]))
    return "\n".join(lines)


def shown(value: float | None, digits: int = 0, unit: str = "") -> str:
    """A number for people; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}{unit}"
