"""Foreign code of every kind: what users hand in, and what goes wrong in it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from typing_extensions import override

import udpguard
from udpguard import Decision, Retry, TransactionId

if TYPE_CHECKING:
    from fuzz_world import World


class Foreign(Exception):
    """An error of a user's."""


class ForeignBase(BaseException):
    """One that is no Exception."""


class Words(udpguard.Correlator):
    """A correlator of a user's that works."""

    @override
    def request_key(self, data: bytes) -> object:
        return data[1:4] if len(data) > 3 else None

    @override
    def reply_key(self, data: bytes) -> object:
        return data[1:4] if len(data) > 3 else None


class Evil:
    """A key that is equal to others when it likes, and raises when it likes."""

    def __init__(self, number: int) -> None:
        self._number = number

    @override
    def __hash__(self) -> int:
        if self._number % 16 == 15:
            raise Foreign("no hash")
        return self._number % 4

    @override
    def __eq__(self, other: object) -> bool:
        if self._number % 8 == 7:
            raise Foreign("no comparison")
        return isinstance(other, Evil) and self._number % 5 == other._number % 5


class Hostile(udpguard.Correlator):
    """A correlator that raises, gives what can't be a key, and calls back."""

    def __init__(self, world: World) -> None:
        self._world = world

    @override
    def request_key(self, data: bytes) -> object:
        return self._key(data)

    @override
    def reply_key(self, data: bytes) -> object:
        return self._key(data)

    def _key(self, data: bytes) -> object:
        first = data[0] if data else 0
        choice = first % 12
        if choice == 0:
            raise Foreign("no key")
        if choice == 1:
            return [first]
        if choice == 2:
            return Evil(first)
        if choice == 3:
            return None
        if choice == 4:
            return math.nan
        if choice == 5:
            self._world.call_back(first)
        elif choice == 6 and first > 200:
            raise ForeignBase
        return data[:2]


class Odd(udpguard.RetryPolicy):
    """A schedule that makes no sense, or calls back."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number

    @property
    def has_no_end(self) -> bool:
        return self._number % 9 == 4

    @override
    def waits(self, peer: object, random: Callable[[], float]) -> Any:
        choice = self._number % 9
        if choice == 0:
            raise Foreign("no schedule")
        if choice == 1:
            self._world.call_back(self._number)
        return (
            [],
            [0.1, 0.1],
            [-1.0],
            [math.nan],
            [math.inf],
            ["soon"],
            [0.0, 0.0],
            [0.001] * 40,
            None,
        )[choice]


def is_endless(more: dict[str, Any]) -> bool:
    """Whether a request with these options may wait for ever: without a deadline, or with a schedule of no end."""
    retry = more.get("retry")
    return more.get("timeout", 0) is None or (isinstance(retry, Odd) and retry.has_no_end)


SCHEDULES = [
    None,
    Retry(attempts=3, initial=0.02, final_wait=0.02),
    Retry(attempts=2, initial=0.2, jitter=0.0),
    Retry(attempts=6, initial=0.01, multiplier=1.0, total=0.1),
    udpguard.AdaptiveRetry(attempts=2),
]


def correlator(world: World, number: int) -> udpguard.Correlator | None:
    """One of each kind."""
    kinds: list[Callable[[], udpguard.Correlator | None]] = [
        lambda: None,
        lambda: TransactionId(0, 2),
        lambda: TransactionId(0, 2, assign=True),
        lambda: TransactionId(0, 1, assign=True),
        lambda: TransactionId(4, 3, reply_offset=1),
        lambda: TransactionId(1, 8, reply_offset=2, assign=True),
        Words,
        lambda: Hostile(world),
    ]
    return kinds[number % len(kinds)]()


class Once:
    """What an `accept` of a user's does, the first times; then it accepts."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self.task: asyncio.Future[Any] | None = None

    def __call__(self, reply: udpguard.Reply) -> Any:
        self._number, choice = divmod(self._number, 16)
        if choice < 5:
            return choice < 3
        if choice == 5:
            return Decision.PROVISIONAL
        if choice == 8:
            return "yes"
        if choice in (6, 7, 9, 10):
            raise {6: Foreign, 7: ForeignBase, 9: KeyboardInterrupt, 10: asyncio.CancelledError}[choice]
        if choice == 11 and self.task is not None:
            self.task.cancel()
        else:
            self._world.call_back(self._number)
        return Decision.ACCEPT if choice % 2 else Decision.REFUSE


class Payload:
    """What a data function of a user's gives."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number

    def __call__(self, attempt: int) -> Any:
        self._number, choice = divmod(self._number, 12)
        if choice in (0, 4, 6):
            raise {0: Foreign("no data"), 4: ForeignBase(), 6: StopIteration()}[choice]
        if choice in (1, 2, 5):
            return {1: "text", 2: None, 5: b"x" * 70_000}[choice]
        if choice == 3:
            self._world.call_back(self._number)
        return bytes([attempt, choice, choice, choice, attempt])
