"""The questions of a sweep that need more than a plain one does: they go the long way, or are sent again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from udpguard._exchange import Data, EndedError, Exchange, Target
from udpguard._outbox import Held
from udpguard._typing import override
from udpguard.core.address import Sources, Wire
from udpguard.core.gate import Gate
from udpguard.core.source import Accept, Details, Entry, Sent, SweptQuestion
from udpguard.core.verdict import Reply

if TYPE_CHECKING:
    from udpguard._seams import Channel
    from udpguard._sweep import Engine


class Ticket:
    """What stands for the caller's future where an exchange belongs to a sweep.

    Args:
        engine: The sweep's.
        addr: Whom it is for, as the caller wrote it.
        data: What is asked, as the caller gave it.
        tag: The third part of the caller's item.
    """

    __slots__ = ("_engine", "addr", "data", "tag", "was_sent")

    def __init__(self, engine: Engine, addr: object, data: object, tag: object) -> None:
        self._engine = engine
        self.addr: object = addr
        self.data: object = data
        self.tag: object = tag
        self.was_sent: bool = False

    def done(self) -> bool:
        """Whether its caller has gone: never, since the sweep withdraws its exchanges itself."""
        return False

    def set_result(self, reply: Reply) -> None:
        """Take the answer."""
        self._engine.note_outcome(self, reply, None)

    def set_exception(self, error: BaseException) -> None:
        """Take why there is none."""
        self._engine.note_outcome(self, None, error)

    def exception(self) -> None:
        """Nobody needs to be told that the error was seen."""


class SweptExchange(Exchange):
    """An exchange of a sweep: its time begins when it is first sent, and it needs a place in the sweep for that.

    Args:
        engine: The sweep's.
        ticket: Its item.
        data: What it sends.
        sources: Where its answer may come from.
        accept: Judges the answer.
    """

    __slots__ = ("_engine", "_ticket")

    def __init__(self, engine: Engine, ticket: Ticket, data: Data, sources: Sources, accept: Accept | None) -> None:
        context = engine.context
        super().__init__(
            context.guard,
            context.correlator,
            context.book,
            data,
            sources,
            accept=accept,
            quota=context.quota,
            policy=engine.policy,
        )
        self._engine = engine
        self._ticket = ticket

    @override
    def _rooms(self) -> tuple[Gate[Entry], ...]:
        return (self._engine.gate, *super()._rooms())

    @override
    def _has_socket(self) -> bool:
        return super()._has_socket() and self._may_leave()

    def _may_leave(self) -> bool:
        """Whether the sweep's rate allows one more now; else it waits until it does."""
        if self._engine.may_leave():
            return True
        self._wait_at(self._engine.paced)
        self._engine.set_timer()  # perhaps nothing else happens to the sweep meanwhile
        return False

    @override
    def _transmit(self, target: Target, payload: bytes) -> None:
        before = self.attempts
        if not before and self.adapts:
            self._waits = self._engine.schedule(target.peer)
            if self._entry.ended:
                raise EndedError
        super()._transmit(target, payload)
        if self.attempts == before:
            return
        self._engine.note_sent(self._ticket)
        if not before:
            self._begin_to_count()

    def _begin_to_count(self) -> None:
        entry, guard = self._entry, self._guard
        assert entry.sent_at is not None
        entry.began = entry.sent_at
        entry.timeout = self._engine.seconds if self._policy is None or self._engine.has_timeout else sum(self._waits)
        if entry.timeout != math.inf:
            guard.registry.timetable.add(entry)
            guard.due_at(entry.deadline)


class Again(Held):
    """A plain question that is sent again, since no answer came to it.

    Args:
        engine: The sweep's.
        channel: What it leaves through.
        data: Its payload, with its id.
        wire: Its peer.
        question: It was sent once.
        waits: The seconds after each attempt.
    """

    __slots__ = ("_engine", "_waits")

    def __init__(
        self, engine: Engine, channel: Channel, data: bytes, wire: Wire, question: SweptQuestion, waits: Sequence[float]
    ) -> None:
        first, held = question.sent_at, question.more
        super().__init__(engine.context.guard, channel, data, wire, question)
        self._engine = engine
        self._waits = waits
        if isinstance(held, Held):  # the socket was busy when it was first sent
            for name in Details.__slots__:
                setattr(self, name, getattr(held, name))
            self._original = held._original
            question.more = self
        else:
            assert question.source is not None
            assert first is not None
            question.sent_at = first
            self.attempts = 1
            self.asked.append(question.source)
            self.sends[question.slots()[0]] = Sent(first, 1, question.source, self._original, (question.port,))
        self.adapts: bool = engine.adapts

    @override
    def step(self) -> None:
        """Send it, as soon as the rate allows that, or the socket takes it."""
        if self._entry.ended:
            return
        if not self._engine.may_leave():
            self._engine.put_off(self)
            return
        before = self.attempts
        super().step()
        if self.attempts == before:
            return
        self._engine.note_sent_again()
        if self.attempts < len(self._waits):
            guard = self._guard
            when = guard.clock() + self._waits[self.attempts - 1]
            guard.registry.timetable.add_step(self, when)
            guard.due_at(when)
