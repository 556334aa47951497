"""The work that every contestant does alike: who is asked, with what, and how it is timed and counted.

E exchanges go to 1,000 peers (127.x.y.z, one port) with I in flight: worker w of I asks peers w, w + I, w + 2I, …
round and round, one exchange after the other. A payload is 32 bytes: the number of the exchange in eight, which no
other exchange has, and a filler. Payloads are made inside the measured span, and each reply is compared with what was
asked. First comes a warm-up; the speed of its second half says how many exchanges fill the measured span. Where
something is lost, the run ends with that part of it, and is reported so: to wait for more time-outs would tell nothing.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import itertools
import math
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

Address: TypeAlias = tuple[str, int]
Ask: TypeAlias = Callable[[Address, bytes], Awaitable[bytes]]
"""What a contestant is to the worker: asks a peer, gives the reply, raises TimeoutError (or another OSError)."""

TIMEOUT: Final = 5.0
"""Seconds, of each request."""
RECEIVE_BUFFER: Final = 4 << 20
"""What every socket asks for, so that nobody loses for the buffer's sake: stock asyncio's default holds 256 replies."""
FILLER: Final = bytes(range(24))

_FIRST_PEER: Final = "127.1.0.1"


def peers_at(port: int, count: int, first: str = _FIRST_PEER) -> list[Address]:
    """The addresses of so many peers, from the first one up."""
    start = ipaddress.IPv4Address(first)
    return [(str(start + number), port) for number in range(count)]


@dataclass
class Figures:
    """What came of a span of work.

    Attributes:
        asked: Exchanges begun; each is right, wrong or lost.
        right: The reply was what had been asked.
        wrong: It was not.
        lost: There was none in time.
        wall: Seconds.
        cpu: Seconds of this process, user and system.
        max_rss: The most memory the process ever had, in KiB; None where that can't be told.
        error: What the first loss was.
    """

    asked: int = 0
    right: int = 0
    wrong: int = 0
    lost: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    max_rss: int | None = None
    error: str = ""

    def lose(self, error: BaseException) -> None:
        """Count a loss."""
        self.lost += 1
        self.error = self.error or f"{type(error).__name__}: {error}"


class Stopwatch:
    """Measures the wall and the CPU time of what is done inside it, or between `start` and `stop`."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Measure from here."""
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def stop(self) -> None:
        """Measure up to here, and add up what was asked."""
        self._figures.cpu = time.process_time() - self._cpu
        self._figures.wall = time.perf_counter() - self._wall
        self._figures.asked = self._figures.right + self._figures.wrong + self._figures.lost
        self._figures.max_rss = max_rss()


@dataclass(frozen=True)
class Plan:
    """How much is to be done.

    Attributes:
        port: The peers' port.
        peers: How many there are.
        in_flight: How many exchanges are in flight at once.
        warm_up: Exchanges of either half of the warm-up.
        seconds: What the measured span is to take, more or less.
    """

    port: int
    peers: int
    in_flight: int
    warm_up: int
    seconds: float

    def enough(self, second_half: Figures) -> range:
        """The numbers of the exchanges to be measured: as many for each worker."""
        speed = self.warm_up / second_half.wall
        start = 2 * self.warm_up
        return range(start, start + self.in_flight * math.ceil(self.seconds * speed / self.in_flight))

    def halves(self) -> tuple[range, range]:
        """The numbers of the exchanges of the warm-up."""
        return range(self.warm_up), range(self.warm_up, 2 * self.warm_up)


async def work(ask: Ask, plan: Plan) -> Figures:
    """Warm up, do the work, and say how it went; a loss in the warm-up ends it, since such a run does not count."""
    peers = peers_at(plan.port, plan.peers)
    for numbers in plan.halves():
        figures = await span(ask, peers, plan.in_flight, numbers)
        if figures.lost:
            return figures
    gc.collect()
    return await span(ask, peers, plan.in_flight, plan.enough(figures))


async def span(ask: Ask, peers: Sequence[Address], in_flight: int, numbers: range) -> Figures:
    """Do the exchanges of these numbers, timed."""
    figures = Figures()
    with Stopwatch(figures):
        async with asyncio.TaskGroup() as group:
            for first in range(in_flight):
                group.create_task(_worker(ask, peers[first::in_flight], numbers[first::in_flight], figures))
    return figures


async def _worker(ask: Ask, peers: Sequence[Address], numbers: range, figures: Figures) -> None:
    right = 0
    for number, peer in zip(numbers, itertools.cycle(peers), strict=False):
        data = number.to_bytes(8, "big") + FILLER
        try:
            reply = await ask(peer, data)
        except OSError as error:  # TimeoutError is one
            figures.lose(error)
            break  # the run does not count any more, and need not go on from time-out to time-out
        if reply == data:
            right += 1
        else:
            figures.wrong += 1
    figures.right += right


def max_rss() -> int | None:
    """The most memory this process ever had, in KiB; None where that can't be told.

    Linux keeps `ru_maxrss` over fork and exec, so that a child has at least its parent's; VmHWM is its own.
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return None
