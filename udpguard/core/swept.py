"""What the registry and the guard know of a sweep."""

from __future__ import annotations

from collections import deque

from udpguard.core.correlation import Book, Correlator
from udpguard.core.gate import Gate
from udpguard.core.outcome import Outcome
from udpguard.core.source import Details, Entry, SweptQuestion
from udpguard.core.verdict import Reply


class Bulk(Details):
    """What the registry and the guard know of a sweep.

    Args:
        correlator: Of the client that asks, or None.
        book: The book of its keys.
        timeout: Seconds in which a plain question is answered, unless it is sent again; infinite for no deadline.
        places: How many may be in flight at once.
    """

    __slots__ = ("book", "correlator", "gate", "outcomes", "seconds", "sends_again")

    def __init__(self, correlator: Correlator | None, book: Book, timeout: float, places: int) -> None:
        super().__init__(asks=True)
        self.correlator: Correlator | None = correlator
        self.book: Book = book
        self.seconds: float = timeout
        self.gate: Gate[Entry] = Gate(places)
        """Each question in flight has a place here."""
        self.sends_again: bool = False
        """Whether questions to which nothing comes are sent again, if there is time."""
        self.outcomes: deque[Outcome] = deque()
        """What was not read yet."""

    def done(self) -> bool:
        """Whether a question's caller has gone: never, since the sweep withdraws its questions itself."""
        return False

    def note_answered(self, count: int) -> None:
        """Take note that so many of its plain questions have an outcome now."""

    def answer(self, question: SweptQuestion, reply: Reply) -> None:
        """Take the answer to a plain question."""

    def fail(self, question: SweptQuestion, error: BaseException) -> None:
        """Take note of why a plain question has no answer."""

    def endpoint_closed(self, cause: BaseException | None) -> None:
        """Take note that nothing can be asked any more."""
