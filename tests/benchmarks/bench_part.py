"""What a part of the benchmark is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from bench_contestants import Contestant
from bench_tables import Run
from bench_workshop import Workshop

MOST_PENDING: Final = 1_000_000


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: Of the part "exchange"; the others, whose runs are longer or vary less, have `few_rounds`.
        seconds: What a measured span is to take.
        in_flight: How many exchanges are in flight in the part "exchange".
        warm_up: Exchanges of either half of a warm-up.
        pending: How many others are pending, in the part "pending".
        held: How many requests are pending, in the part "memory".
        junk: Datagrams a second, in the part "junk".
        backlogs: Replies that wait, in the part "drain".
        names: How many names are asked for, in the part "names".
    """

    rounds: int
    seconds: float
    in_flight: tuple[int, ...]
    warm_up: int
    pending: tuple[int, ...]
    held: tuple[int, ...]
    junk: tuple[int, ...]
    backlogs: tuple[int, ...]
    names: int

    @property
    def few_rounds(self) -> int:
        """Half the rounds, rounded up."""
        return (self.rounds + 1) // 2

    @classmethod
    def of(cls, *, quick: bool, rounds: int | None, in_flight: Sequence[int], scale: float) -> Extent:
        """The full extent or the quick one, scaled."""

        def scaled(*sizes: int) -> tuple[int, ...]:
            return tuple(dict.fromkeys(min(MOST_PENDING, max(1, round(size * scale))) for size in sizes))

        return cls(
            rounds=rounds or (1 if quick else 5),
            seconds=(0.3 if quick else 1.0) * scale,
            in_flight=tuple(in_flight),
            warm_up=max(1, round((1000 if quick else 2000) * scale)),
            pending=(1, *scaled(1_000, 10_000, 100_000, *([] if quick else [MOST_PENDING]))),
            held=scaled(10_000) if quick else scaled(1_000, 10_000, 100_000),
            junk=(0, *(scaled(100_000) if quick else scaled(50_000, 100_000, 250_000))),
            backlogs=scaled(1_000, 10_000) if quick else scaled(1_000, 2_000, 5_000, 10_000),
            names=scaled(50_000 if quick else 200_000)[0],
        )


@dataclass(frozen=True)
class Bench:
    """Where and with whom a part is measured.

    Attributes:
        workshop: Starts processes.
        contestants: Those who take part and are here.
        absent: Those who would take part but are not here, and what they lack.
        extent: How much is measured.
        say: Tells whoever watches how far it has got.
        massdns: Where massdns is; None: nobody said.
    """

    workshop: Workshop
    contestants: Sequence[Contestant]
    absent: Mapping[str, str]
    extent: Extent
    say: Callable[[str], None]
    massdns: str | None = None

    def of(self, names: Sequence[str]) -> list[Contestant]:
        """Those of these names who take part and are here."""
        return [each for each in self.contestants if each.name in names]

    def turns(self, contestants: Sequence[Contestant], rounds: int) -> Iterator[tuple[int, Sequence[Contestant]]]:
        """The rounds, from 1 on, each with who runs in which order: nobody is always first."""
        for number in range(rounds):
            first = number % len(contestants) if contestants else 0
            yield number + 1, (*contestants[first:], *contestants[:first])


class PartMissingError(Exception):
    """A part can't be measured here; the message says why."""


class Part(Protocol):
    """A part of the benchmark: a module with these functions, and a `child` that runs in a contestant's process."""

    def measure(self, bench: Bench) -> list[dict[str, Any]]:
        """Run everything; the figures of each single run, one that failed with `failed`.

        Raises:
            PartMissingError: It can't be measured here.
        """

    def summary(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """The medians and ratios."""

    def table(self, lines: Sequence[Run], absent: Mapping[str, str]) -> str:
        """The summary, as text."""
