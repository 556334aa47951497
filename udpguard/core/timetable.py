"""When what is pending is due: deadlines and retransmissions, for one timer to serve them all.

Deadlines with the same time-out fall due in the order in which their requests were made, so each time-out in use has a
lane, a queue that needs no sorting: both ends are O(1). What does not fit (a request that was entered after others
that were made later, the seventeenth time-out in use) and all retransmissions go to a heap. What ends early stays where
it is until it comes to the front or the dead outnumber the living, then they are swept out: amortised, O(1) as well.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

_LANES: Final = 16
_FEW: Final = 64


class Dated(Protocol):
    """What has a deadline, so many seconds after it began."""

    began: float
    timeout: float
    ended: bool
    ticket: int
    """Of its latest deadline; only what is movable needs it."""

    @property
    def deadline(self) -> float:
        """When it ends."""
        ...


class Stepping(Protocol):
    """What has something to do at a time; math.inf for nothing."""

    step_at: float


D = TypeVar("D", bound=Dated)
S = TypeVar("S", bound=Stepping)


class Timetable(Generic[D, S]):
    """Deadlines and steps, and which of them are due. All times are in seconds on one clock."""

    __slots__ = ("_bound", "_dead", "_dead_steps", "_odd", "_order", "_steps", "lanes")

    def __init__(self) -> None:
        self.lanes: dict[float, deque[D]] = {}
        """The deadlines by time-out, each queue in order."""
        self._odd: list[tuple[float, int, D, bool]] = []
        self._steps: list[tuple[float, int, S]] = []
        self._order = count()
        self._dead = 0
        self._bound = _FEW
        """How many dead are looked at no closer."""
        self._dead_steps = 0

    def __len__(self) -> int:
        """How many places are taken, by the living and the dead."""
        return self._size() + len(self._steps)

    def _size(self) -> int:
        return sum(map(len, self.lanes.values())) + len(self._odd)

    def add(self, item: D, *, movable: bool = False) -> None:
        """Enter a deadline, one that may be moved later on or not."""
        if movable:
            item.ticket = next(self._order)
            heapq.heappush(self._odd, (item.deadline, item.ticket, item, True))
            return
        lane = self.lanes.get(item.timeout)
        if lane is None and len(self.lanes) < _LANES:
            lane = self.lanes[item.timeout] = deque()
        if lane is None or (lane and lane[-1].began > item.began):
            heapq.heappush(self._odd, (item.deadline, next(self._order), item, False))
        else:
            lane.append(item)

    def move(self, item: D, timeout: float) -> None:
        """Change a movable deadline to so many seconds from its beginning."""
        item.timeout = timeout
        self.add(item, movable=True)
        self.drop()

    def drop(self, count: int = 1) -> None:
        """Take note that the owners of so many deadlines have ended before them."""
        self._dead += count
        if self._dead > self._bound:
            if self._dead * 2 > self._size():
                self._sweep()
            self._bound = max(_FEW, self._size() // 2)

    def add_step(self, item: S, when: float) -> None:
        """Enter a step, in place of the one that was entered before."""
        self.drop_step(item)
        if when == math.inf:
            return
        item.step_at = when
        heapq.heappush(self._steps, (when, next(self._order), item))

    def drop_step(self, item: S) -> None:
        """Take a step back."""
        if item.step_at == math.inf:
            return
        item.step_at = math.inf
        self._dead_steps += 1
        if self._dead_steps > _FEW and self._dead_steps * 2 > len(self._steps):
            self._steps = [entry for entry in self._steps if entry[2].step_at == entry[0]]
            heapq.heapify(self._steps)
            self._dead_steps = 0

    def next_due(self) -> float:
        """When the next thing falls due, a deadline or a step; math.inf for never."""
        while self._steps and self._steps[0][2].step_at != self._steps[0][0]:
            heapq.heappop(self._steps)
            self._dead_steps -= 1
        return min(self.next_deadline(), self._steps[0][0] if self._steps else math.inf)

    def next_deadline(self) -> float:
        """When the next of those that have not ended reaches its deadline; math.inf for never."""
        self._bound = _FEW  # much may be gone since it was set
        when = math.inf
        for timeout, lane in list(self.lanes.items()):
            while lane and lane[0].ended:
                lane.popleft()
                self._dead -= 1
            if not lane:
                del self.lanes[timeout]
            elif lane[0].deadline < when:
                when = lane[0].deadline
        while self._odd and _is_stale(self._odd[0]):
            heapq.heappop(self._odd)
            self._dead -= 1
        return min(when, self._odd[0][0] if self._odd else math.inf)

    def expired(self, now: float) -> list[D]:
        """Take out what has reached its deadline and has not ended; the earliest first."""
        due: list[D] = []
        for lane in self.lanes.values():
            while lane and (lane[0].ended or lane[0].deadline <= now):
                self._take(lane.popleft(), due)
        while self._odd and (self._odd[0][0] <= now or _is_stale(self._odd[0])):
            stale = _is_stale(self._odd[0])
            self._take(heapq.heappop(self._odd)[2], due, stale=stale)
        due.sort(key=lambda item: item.deadline)
        return due

    def steps(self, now: float) -> list[S]:
        """Take out the steps that are due, the earliest first."""
        due: list[S] = []
        while self._steps and self._steps[0][0] <= now:
            when, _, item = heapq.heappop(self._steps)
            if item.step_at == when:
                item.step_at = math.inf
                due.append(item)
            else:
                self._dead_steps -= 1
        return due

    def clear(self) -> None:
        """Forget everything."""
        self.lanes.clear()
        self._odd.clear()
        self._steps.clear()
        self._dead = self._dead_steps = 0

    def _take(self, item: D, due: list[D], *, stale: bool = False) -> None:
        if item.ended or stale:
            self._dead -= 1
        else:
            due.append(item)

    def _sweep(self) -> None:
        for timeout, lane in list(self.lanes.items()):
            living = deque([item for item in lane if not item.ended])
            if living:
                self.lanes[timeout] = living
            else:
                del self.lanes[timeout]
        self._odd = [entry for entry in self._odd if not _is_stale(entry)]
        heapq.heapify(self._odd)
        self._dead = 0


def _is_stale(entry: tuple[float, int, Dated, bool]) -> bool:
    """Whether the deadline's owner has ended, or the deadline was moved."""
    return entry[2].ended or (entry[3] and entry[2].ticket != entry[1])
