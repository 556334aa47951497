"""The bytes that a program sends, and the ids that it picks itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import simulation_wire as wire
from simulation_oracle import Asked

REMEMBERED: Final = 120.0
"""Seconds for which udpguard remembers what is over."""


class OwnIds:
    """The ids that a program picks itself: unique within what udpguard remembers, and as few as possible."""

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._used: deque[tuple[float, int]] = deque()

    def take(self, now: float) -> int:
        """One that was not used for 120 s."""
        if self._used and self._used[0][0] <= now:
            return self._used.popleft()[1]
        self._next += 1
        return self._next - 1

    def give_back(self, number: int, now: float) -> None:
        """It will be used again when no answer can come any more."""
        self._used.append((now + REMEMBERED + 0.001, number))


class Writer:
    """Gives the bytes of each send of one exchange, and notes what it wrote and when.

    Args:
        asked: The exchange.
        program: "x" picks its ids itself, "y2" and "y4" have them assigned, "z" has none.
        kind: What the question asks for.
        pool: Program x's ids for whom it asks.
        clock: Gives the time.
    """

    def __init__(
        self, asked: Asked, program: str, kind: bytes, pool: OwnIds | None, clock: Callable[[], float]
    ) -> None:
        self._asked = asked
        self._program = program
        self._kind = kind
        self._pool = pool
        self._clock = clock
        self._taken: list[int] = []

    def __call__(self, send: int) -> bytes:
        """The bytes of a send, the same however often udpguard asks for them."""
        asked = self._asked
        if send not in asked.ys:
            asked.xs[send], asked.ys[send] = self._own_id(), self._placeholder(send)
        if send != wire.ANY_SEND:
            asked.sends[send] = self._clock()
        return wire.question(asked.xs[send], asked.ys[send], self._kind, asked.number, send)

    def _own_id(self) -> bytes:
        if self._pool is None:
            return wire.NO_X
        if not self._taken or self._asked.distinct:
            self._taken.append(self._pool.take(self._clock()))
        return self._taken[-1].to_bytes(2, "big")

    def _placeholder(self, send: int) -> bytes:
        """What stands in the place of an assigned id; the reply must show it again."""
        ours = (self._asked.number * 7_919 + send).to_bytes(4, "big")
        if self._program == "y4":
            return ours
        return ours[2:] + wire.NO_Y[2:] if self._program == "y2" else wire.NO_Y

    def give_back(self) -> None:
        """The exchange is over."""
        if self._pool is not None:
            for number in self._taken:
                self._pool.give_back(number, self._clock())
