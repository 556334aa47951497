"""Who may go now: turns, and other things of which there are only so many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Gate(Generic[T]):
    """So many places, first come, first served.

    A place that is given back goes straight to the first who waits, so that nobody can slip in between; the caller
    learns who that is, and must see to it that the place is used or given back.

    Args:
        places: How many may be inside at once.
    """

    __slots__ = ("free", "queue")

    def __init__(self, places: int) -> None:
        self.free: int = places
        self.queue: OrderedDict[T, None] | None = None

    def enter(self) -> bool:
        """Take a place, where one is free; nobody waits then."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True

    def wait(self, who: T, *, first: bool = False) -> None:
        """Stand at the end of the queue, or go back to its front."""
        if self.queue is None:
            self.queue = OrderedDict()
        self.queue[who] = None
        if first:
            self.queue.move_to_end(who, last=False)

    def give_up(self, who: T) -> None:
        """Leave the queue; no harm if one does not stand in it."""
        if self.queue is not None:
            self.queue.pop(who, None)

    def leave(self) -> T | None:
        """Give a place back; who has it now, if anybody waited."""
        if self.queue:
            return self.queue.popitem(last=False)[0]
        self.free += 1
        return None

    def first(self) -> T | None:
        """Take the first out of the queue without a place; None where nobody waits."""
        return self.queue.popitem(last=False)[0] if self.queue else None

    @property
    def has_queue(self) -> bool:
        """Whether anybody waits."""
        return bool(self.queue)
