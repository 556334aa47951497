"""What users are told of a sweep: what became of each question, and how far it has got."""

# Annotations are no strings here: `typing.NamedTuple` would compile each, which doubles the time that it takes.

from collections.abc import Callable, Sequence
from typing import NamedTuple

from udpguard._typing import Buffer
from udpguard.core.address import Address
from udpguard.core.verdict import Reply


class Outcome(NamedTuple):
    """What became of one question of a sweep: either `reply` or `error` is None.

    Attributes:
        addr: Whom it was for, as the caller wrote it.
        data: What was asked, as the caller gave it.
        tag: The third part of the caller's item; None where it had two.
        reply: The answer.
        error: Why there is none: what `exchange` would have raised.
    """

    addr: Address | Sequence[Address]
    data: Buffer | Callable[[int], bytes]
    tag: object
    reply: Reply | None
    error: Exception | None


class Progress(NamedTuple):
    """How far a sweep has got.

    Attributes:
        asked: Questions that were sent, or failed before that.
        answered: Those that have their reply.
        failed: Those that have none and never will.
        retransmitted: Datagrams that were sent again.
        elapsed: Seconds since it began; up to its end, once it has ended.
        rate: Outcomes a second, in that time.
    """

    asked: int
    answered: int
    failed: int
    retransmitted: int
    elapsed: float
    rate: float


Outcome.__module__ = Progress.__module__ = "udpguard"  # where users find them
