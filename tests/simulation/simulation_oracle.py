"""The oracle: it knows what was truly sent, and judges each outcome.

It is told of each exchange when that begins and when it ends, of each datagram that was not delivered, and looks at the
counters at every step.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import simulation_wire as wire

import udpguard
from udpguard.core.statistics import Counters

_MOST_TOLD: Final = 20
_EPSILON: Final = 1e-6

# How an exchange can end.
ANSWERED: Final = "answered"
TIMED_OUT: Final = "timed out"
CANCELLED: Final = "cancelled"
CLOSED: Final = "closed"
SUSPECTED: Final = "suspected"
REFUSED: Final = "refused"
TOO_MANY: Final = "too many"
NEVER_ASKED: Final = "never asked"


class Asked:
    """What the oracle knows of one exchange."""

    __slots__ = (
        "alive",
        "attempts",
        "began",
        "cancelled",
        "distinct",
        "duplicate_at",
        "ended",
        "has_key",
        "number",
        "outcome",
        "overtaken",
        "peers",
        "read_late",
        "sends",
        "started",
        "xs",
        "ys",
    )

    def __init__(self, number: int, peers: frozenset[str], began: float, *, has_key: bool, alive: bool) -> None:
        self.number = number
        self.peers = peers
        """The hosts whose answer may be taken."""
        self.began = began
        self.has_key = has_key
        self.alive = alive
        """Whether none of those who are asked is dead."""
        self.distinct = False
        """Whether each send has a key of its own."""
        self.xs: dict[int, bytes] = {}
        self.ys: dict[int, bytes] = {}
        """The ids that the program wrote into each send."""
        self.sends: dict[int, float] = {}
        """When each left, where the program was asked for its bytes."""
        self.attempts = 0
        """How many were sent, as the reply says."""
        self.started = False
        self.cancelled = False
        """Whether the program cancelled it."""
        self.overtaken = False
        """Whether it had ended for udpguard when the program cancelled it, in the same turn of the loop."""
        self.duplicate_at: float | None = None
        """When a duplicate of its answer was first seen as such."""
        self.read_late = False
        """Whether the program may read its answer later than it came."""
        self.outcome: str | None = None
        self.ended = 0.0


class Oracle:
    """Judges the exchanges of one simulation.

    Args:
        clock: Gives the time.
        blocks: Whether the loop is blocked at times, so that replies are read later than they arrive.
        allows_duplicates: Whether the port policy may deliver a duplicate that the network made of the answer to an
            exchange which was sent once and answered.
        may_be_wrong: Whether wrong deliveries are merely measured.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        blocks: bool = False,
        allows_duplicates: bool = False,
        may_be_wrong: bool = False,
    ) -> None:
        self._clock = clock
        self._blocks = blocks
        self._allows_duplicates = allows_duplicates
        self._may_be_wrong = may_be_wrong
        self.asked: list[Asked] = []
        self.outcomes: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        """Wrong deliveries, by what was delivered."""
        self.signs_of_life = 0
        self.violations: list[str] = []
        self.checks = 0
        self.counters: Counters | None = None
        self._cancelled = 0
        """As many as udpguard had counted when the latest was cancelled."""
        self.closing = False
        self.is_tight = False
        """Whether there may be too many pending for one more expectation."""

    def begin(self, peers: frozenset[str], *, has_key: bool, alive: bool = True) -> Asked:
        """Take note of an exchange that is about to begin."""
        asked = Asked(len(self.asked), peers, self._clock(), has_key=has_key, alive=alive)
        self.asked.append(asked)
        return asked

    def violation(self, text: str) -> None:
        """Take note of something that must not be."""
        if len(self.violations) < _MOST_TOLD:
            self.violations.append(f"at {self._clock():.6f} s: {text}")

    # ---------------------------------------------------------------------------------------------- outcomes

    def answered(self, asked: Asked, result: bytes | udpguard.Reply) -> None:
        """Judge what was delivered."""
        self._end(asked, ANSWERED)
        data = result if isinstance(result, bytes) else result.data
        answer = wire.read(data)
        if isinstance(result, udpguard.Reply):
            asked.attempts = result.attempts
        if answer.number != asked.number or answer.mark != wire.TRUE:
            self._wrong(asked, answer, result)
            return
        if (answer.x, answer.y) != (asked.xs[answer.send], asked.ys[answer.send]):
            self.violation(f"exchange {asked.number} got {answer}, with another id than the program wrote")
        if isinstance(result, udpguard.Reply):
            self._check_reply(asked, answer, result)

    def _check_reply(self, asked: Asked, answer: wire.Answer, reply: udpguard.Reply) -> None:
        if reply.peer.host not in asked.peers:
            self.violation(f"exchange {asked.number} has a reply from {reply.peer}, who was not asked")
        if answer.send == wire.ANY_SEND:
            return
        if answer.send >= reply.attempts:
            self.violation(f"exchange {asked.number} was sent {reply.attempts} times, and send {answer.send} answered")
        passed = self._clock() - asked.sends[answer.send]
        if reply.rtt is None:
            if asked.distinct or reply.attempts == 1:
                self.violation(f"exchange {asked.number} has no round-trip time, though it is known which send it was")
        elif not 0 <= reply.rtt <= passed + _EPSILON or (
            not self._blocks and not asked.read_late and reply.rtt < passed - _EPSILON
        ):
            self.violation(f"exchange {asked.number} took {passed} s, not {reply.rtt}")

    def _wrong(self, asked: Asked, answer: wire.Answer, result: bytes | udpguard.Reply) -> None:
        if answer.mark == wire.FORGED:
            kind = "forged"
        elif answer.mark == wire.TOLD:
            # Where each port has its old replies or sessions, the next session shares one with a request to its host.
            kind = "of a session"
        elif answer.number == asked.number:
            kind = "not the answer"
        else:
            kind = self._kind(asked, self.asked[answer.number], result)
        self.wrong[kind] += 1
        if self._may_be_wrong or (self._allows_duplicates and kind in ("network's duplicate", "of a session")):
            return
        other = self.asked[answer.number]
        self.violation(
            f"exchange {asked.number} with {set(asked.peers)}, begun at {asked.began:.6f} s, got {answer}: {kind}; "
            f"that one began at {other.began:.6f} s and {other.outcome} at {other.ended:.6f} s"
        )

    def _kind(self, asked: Asked, other: Asked, result: bytes | udpguard.Reply) -> str:
        """What another exchange's answer is to this one.

        Only of an exchange that was sent once and answered may more come to a port that is as clean as any.
        """
        # What a dead one of a list refused is owed no answer.
        most = 1 if other.alive else 2
        if other.outcome != ANSWERED and not other.overtaken:
            return "late"
        if not 1 <= other.attempts <= most:
            return "retransmission's"
        sent = min(asked.sends.values(), default=None)
        if sent is None and isinstance(result, udpguard.Reply) and result.rtt is not None:
            sent = self._clock() - result.rtt
        if other.duplicate_at is not None and other.duplicate_at < (asked.began if sent is None else sent):
            return "duplicate seen before"
        return "network's duplicate"

    def failed(self, asked: Asked, error: BaseException) -> None:
        """Judge an error."""
        if isinstance(error, udpguard.ReplyTimeoutError):
            self._end(asked, TIMED_OUT)
        elif isinstance(error, udpguard.ForgerySuspectedError):
            self._end(asked, SUSPECTED)
        elif isinstance(error, udpguard.PeerRefusedError):
            self._end(asked, REFUSED)
            if asked.alive:
                self.violation(f"exchange {asked.number} was refused, though all it asked are alive: {error}")
        elif isinstance(error, udpguard.EndpointClosedError) and self.closing:
            self._end(asked, CLOSED)
        elif isinstance(error, udpguard.TooManyPendingError) and self.is_tight:
            self._end(asked, TOO_MANY)
        elif isinstance(error, asyncio.CancelledError) and asked.cancelled:
            self._note_cancelled(asked)
            self._end(asked, CANCELLED)
        else:
            self._end(asked, type(error).__name__)
            self.violation(f"exchange {asked.number} ended with {error!r}")

    def never_asked(self, asked: Asked) -> None:
        """Take note of a question that a sweep had taken, and did not ask before the endpoint was closed."""
        self._end(asked, NEVER_ASKED)

    def withdrawn(self, asked: Asked) -> None:
        """Take note of a question of a sweep that was left before anybody read what came of it."""
        assert self.counters is not None
        asked.cancelled = asked.overtaken = True  # perhaps it was answered, and nobody has seen it
        asked.attempts = max(1, len(asked.sends))
        self._cancelled = self.counters.cancelled
        self._end(asked, CANCELLED)

    def _note_cancelled(self, asked: Asked) -> None:
        assert self.counters is not None
        asked.overtaken = self.counters.cancelled == self._cancelled
        asked.attempts = max(1, len(asked.sends))
        self._cancelled = self.counters.cancelled

    def _end(self, asked: Asked, outcome: str) -> None:
        if asked.outcome is not None:
            self.violation(f"exchange {asked.number} {asked.outcome}, and then {outcome}")
        asked.outcome = outcome
        asked.ended = self._clock()
        self.outcomes[outcome] += 1
        self.check()

    # ----------------------------------------------------------------------------------------- at every step

    def unexpected(self, datagram: udpguard.Unexpected) -> None:
        """Take note of a datagram that was not delivered."""
        self.check()
        if datagram.reason is udpguard.Reason.DUPLICATE and datagram.data[6:7] == wire.TRUE:
            of = self.asked[wire.number_of(datagram.data)]
            if of.duplicate_at is None:
                of.duplicate_at = self._clock()

    def check(self) -> None:
        """See that each datagram that came in has its one verdict."""
        c = self.counters
        if c is None:
            return
        self.checks += 1
        if c.received != c.matched + c.duplicate + c.late + c.rejected + c.unknown_peer:
            self.violation(f"the verdicts do not add up to what was received: {c.snapshot()}")

    def finish(self, listened: int = 0) -> None:
        """See that each exchange had one outcome, and that udpguard has counted each once.

        So many datagrams went to those who go on listening, or ended them.
        """
        for asked in self.asked:
            if asked.outcome is None:
                self.violation(f"exchange {asked.number} has no outcome")
        c = self.counters
        assert c is not None
        counted = c.matched - listened - self.signs_of_life + c.timed_out + c.cancelled + c.suspected
        counted += c.refused + self.outcomes[CLOSED] + self.outcomes[TOO_MANY] + self.outcomes[NEVER_ASKED]
        if counted != len(self.asked):
            self.violation(f"{len(self.asked)} exchanges were begun, and {counted} ended: {c.snapshot()}")
        self.check()
