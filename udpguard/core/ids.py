"""The transaction ids that udpguard picks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Final

from udpguard.core.address import Token
from udpguard.core.correlation import Slot, TransactionId
from udpguard.core.gate import Gate

if TYPE_CHECKING:
    from udpguard.core.source import Entry

RandomBits = Callable[[int], int]
"""Gives an integer of that many unpredictable bits, such as `secrets.randbits`."""

# Eight failures in a row mean that about half of the ids were used lately (1 in 256 at exactly half).
_TRIES: Final = 8
_LARGEST_QUEUE: Final = 16
LATELY: Final = 120.0


class IdPool:
    """The ids picked for one peer: unpredictable, not in use, and not lately used; else the least lately used.

    While few of them are lately used a random draw finds a free one at once, and the pool keeps nothing. For a peer
    that is asked so much that draws begin to fail, it becomes a queue: the others in random order first, then the
    used ones in random order, and each at the end again when it comes free.

    Args:
        token: The peer.
        book: The number of the book the ids belong to.
        correlator: Says how long an id is, and where it stands in a reply.
        random_bits: Where the randomness comes from.
    """

    __slots__ = ("_bits", "_book", "_random_bits", "_token", "correlator", "gate", "length", "queue", "taken_at")

    def __init__(self, token: Token, book: int, correlator: TransactionId, random_bits: RandomBits) -> None:
        self.correlator: TransactionId = correlator
        self._token = token
        self._book = book
        self.length: int = correlator.length
        self._bits = correlator.length * 8
        self._random_bits = random_bits
        self.queue: deque[Slot] | None = None
        """The slots in the order in which their ids are to be used, once draws have begun to fail."""
        self.taken_at: float = 0.0
        """When one was taken last: a queue is good for `LATELY` after that."""
        self.gate: Gate[Entry] = Gate(1 << self._bits)
        """Has a place for each id: who needs one that is in use waits there."""

    def take(
        self, pending: Container[Slot], lately: Container[Slot], now: float, others: Sequence[Token] = ()
    ) -> Slot | None:
        """A slot whose key is an id to use; None where callers' own ids, or other peers', leave none.

        Args:
            pending: The slots in use now.
            lately: Those used a short while ago.
            now: The time in seconds.
            others: Further sources that the reply may come from, where the id must be free as well.
        """
        if self.queue is not None and now - self.taken_at > LATELY:
            self.queue = None
        slot: Slot | None = None
        if self.queue is None:
            slot = self._drawn(pending, lately, others)
        if slot is None and self._bits <= _LARGEST_QUEUE:
            if self.queue is None:
                self.queue = self._fill(lately)
                self.taken_at = now
            slot = self._oldest(self.queue, pending, others)
        if slot is not None:
            self.taken_at = now
        return slot

    def _drawn(self, pending: Container[Slot], lately: Container[Slot], others: Sequence[Token]) -> Slot | None:
        # Of 2**24 or more ids at least 15 in 16 can be used again: there a failure is the dice's.
        for _ in range(_TRIES if self._bits <= _LARGEST_QUEUE else 1_000):
            slot = self._slot(self._key(self._random_bits(self._bits)))
            if slot not in lately and slot not in pending and not _is_used(slot, others, pending):
                return slot
        return None

    @property
    def is_idle(self) -> bool:
        """Whether no id is in use, or about to be."""
        return self.gate.free == 1 << self._bits

    def _key(self, number: int) -> bytes:
        return number.to_bytes(self.length, "big")

    def _slot(self, key: bytes) -> Slot:
        return (self._token, self._book, key)

    def _oldest(self, queue: deque[Slot], pending: Container[Slot], others: Sequence[Token]) -> Slot | None:
        """The one at the front that is free; it goes to the end, like those that are in use."""
        for _ in range(len(queue)):
            slot = queue[0]
            queue.rotate(-1)
            if slot not in pending and not (others and _is_used(slot, others, pending)):
                return slot
        return None

    def _fill(self, lately: Container[Slot]) -> deque[Slot]:
        fresh: list[Slot] = []
        used: list[Slot] = []
        for slot in map(self._slot, map(self._key, range(1 << self._bits))):
            (used if slot in lately else fresh).append(slot)
        self._shuffle(fresh)
        self._shuffle(used)
        return deque(fresh + used)

    def _shuffle(self, slots: list[Slot]) -> None:
        """Fisher and Yates', with one large draw instead of many small ones (the bias is below 2**-32)."""
        step = 6
        pot = self._random_bits(8 * step * len(slots) or 1).to_bytes(step * len(slots) + 1, "little")
        for i in range(len(slots) - 1, 0, -1):
            j = int.from_bytes(pot[i * step : (i + 1) * step], "little") % (i + 1)
            slots[i], slots[j] = slots[j], slots[i]


def _is_used(slot: Slot, others: Sequence[Token], pending: Container[Slot]) -> bool:
    """Whether the key is in use with one of these, too."""
    return any((token, slot[1], slot[2]) in pending for token in others)
