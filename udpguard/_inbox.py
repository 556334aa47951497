"""What a session or a discovery has received and its caller has not read yet: bounded, with those who wait for it.

Those who wait are woken, and take what is there when they get to run: so nothing is lost to one who is cancelled in
between. Their deadlines fall due by the registry's timetable, after the sockets were read.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from udpguard._errors import EndpointClosedError, UdpGuardError, another
from udpguard._guard import Guard
from udpguard.core.address import Token, Wire
from udpguard.core.correlation import Book
from udpguard.core.source import Accept, Lasting, LongEntry

T = TypeVar("T")


class _News:
    """An error that all are told who wait: it is known once one of them has got it.

    Args:
        error: The error.
        readers: How many are told.
    """

    __slots__ = ("error", "readers")

    def __init__(self, error: UdpGuardError, readers: int) -> None:
        self.error = error
        self.readers: float = readers

    def is_lost(self) -> bool:
        """Take note that one of them was cancelled; whether nobody is left to get it, and nobody has."""
        self.readers -= 1
        return not self.readers


class _Reader:
    """One who waits."""

    __slots__ = ("deadline", "future", "late", "news")

    def __init__(self, future: asyncio.Future[None], deadline: float) -> None:
        self.future = future
        self.deadline = deadline
        self.late = False
        self.news: _News | None = None
        """What it is to be told."""

    def wake(self) -> bool:
        """Let it look again; whether it waited."""
        if self.future.done():
            return False
        self.future.set_result(None)
        return True


class Inbox(Lasting, Generic[T]):
    """What was received and not read yet.

    It serves as the `future` of its entry, too: what ends that from outside is told to those who wait.

    Args:
        guard: Where it is registered.
        maximum: How many it holds.
        accept: Judges what comes from the right place.
        newest_goes: Whether one that comes when it is full is dropped, and not the oldest.
        asks: See `Details.asks`.
    """

    __slots__ = ("_maximum", "_newest_goes", "_readers", "closed", "dropped", "entry", "guard", "queue", "refusal")

    def __init__(
        self,
        guard: Guard,
        maximum: int,
        accept: Accept | None = None,
        *,
        newest_goes: bool = False,
        asks: bool = False,
    ) -> None:
        super().__init__(accept, asks=asks)
        self.guard: Guard = guard
        self.entry: LongEntry = LongEntry(self, guard.clock(), math.inf, self, plain=False)
        self.queue: deque[T] | tuple[()] = ()
        """What it holds; a deque from the first on, which takes more memory than all the rest."""
        self.dropped: int = 0
        """How many came when it was full, or were dropped for them."""
        self.closed: UdpGuardError | None = None
        """Why nothing comes any more."""
        self.refusal: UdpGuardError | None = None
        """What the next who reads is to be told, once."""
        self._maximum = maximum
        self._newest_goes = newest_goes
        self._readers: list[_Reader] | tuple[()] = ()

    def enter(self, wire: Wire, port: int) -> None:
        """Be registered as asking a peer from a port.

        Raises:
            TooManyPendingError: As many as `Limits.pending` are pending.
        """
        registry, entry = self.guard.registry, self.entry
        entry.port = port
        entry.source = registry.source(wire)
        self.guard.take_room(entry)
        registry.enter(entry)
        if port > 0:
            self.ports.append(registry.spares.hold(port))
            registry.wake_first(registry.no_spare)

    def listen(self, tokens: Sequence[Token], book: Book, key: Hashable = None) -> None:
        """Listen to these sources from now on.

        Args:
            tokens: Where datagrams may come from.
            book: The book of the key.
            key: What they must have; None: whatever else nobody wants.

        Raises:
            DuplicateTransactionError: The key is another's already; it is registered no more then.
        """
        registry = self.guard.registry
        try:
            registry.listen_on(self.entry, tokens, book, key)
        except BaseException:
            registry.end(self.entry, None)
            raise

    def end(self, why: UdpGuardError) -> None:
        """Listen no more."""
        self.guard.hang_up(self.entry)
        self.shut(why)

    # ------------------------------------------------------------------------------------------ what comes

    def put(self, item: T) -> None:
        """Keep what came, and wake the first who waits."""
        queue = self.queue
        if isinstance(queue, tuple):
            queue = self.queue = deque()
        elif len(queue) >= self._maximum:
            self.dropped += 1
            if self._newest_goes:
                return
            queue.popleft()
        queue.append(item)
        if self._readers:
            self._wake_one()

    def pop(self) -> T:
        """Take out the first that is there."""
        assert isinstance(self.queue, deque)
        return self.queue.popleft()

    def tell(self, error: UdpGuardError) -> None:
        """Tell an error to all who wait, each one of their own; else to the next who reads."""
        waiting = [reader for reader in self._readers if not reader.future.done()]
        news = _News(error, len(waiting))
        for reader in waiting:
            reader.news = news
            reader.wake()
        if not waiting:
            self.refusal = error

    def shut(self, why: UdpGuardError) -> None:
        """Receive nothing any more; what is there can still be read."""
        if self.closed is None:
            self.closed = why
        for reader in self._readers:
            reader.wake()

    def clear(self) -> None:
        """Forget what is there, and keep nothing more."""
        self.queue = ()
        self._maximum = 0

    @property
    def is_cleared(self) -> bool:
        """Whether it keeps nothing more, though it may have been read from the socket before."""
        return not self._maximum

    # An entry's `future`, as the guard sees it.

    def done(self) -> bool:
        """Whether it has ended."""
        return self.closed is not None

    def set_exception(self, error: BaseException) -> None:
        """End it for this reason."""
        self.shut(error if isinstance(error, UdpGuardError) else EndpointClosedError(str(error)))

    def exception(self) -> BaseException | None:
        """Why it ended."""
        return self.closed

    # -------------------------------------------------------------------------------------------- reading

    async def get(self, seconds: float, late: Callable[[float], UdpGuardError] | None = None) -> T:
        """Take the next that came, or wait for it.

        Args:
            seconds: How long; infinite for no deadline.
            late: Gives what to raise then.

        Raises:
            UdpGuardError: Nothing comes any more, or what was told.
        """
        deadline = self.guard.clock() + seconds
        is_late = False
        while True:
            if self.queue:
                item = self.pop()
                if self.queue and self._readers:
                    self._wake_one()
                return item
            self._raise_trouble()
            if is_late and late is not None:
                raise late(seconds)
            is_late = await self._wait_until(deadline)

    async def _wait_until(self, deadline: float) -> bool:
        """Wait for anything; whether it is late by then."""
        guard = self.guard
        assert guard.loop is not None
        reader = _Reader(guard.loop.create_future(), deadline)
        if isinstance(self._readers, tuple):
            self._readers = []
        self._readers.append(reader)
        self.remind()
        try:
            await reader.future
        except BaseException:
            self._forget(reader)
            self._pass_on(reader)
            raise
        self._forget(reader)
        news = reader.news
        if news is not None:
            news.readers = math.inf
            raise another(news.error)
        return reader.late

    def _pass_on(self, reader: _Reader) -> None:
        """What one was woken for who was cancelled then is another's."""
        if reader.news is not None and reader.news.is_lost():
            self.refusal = reader.news.error
        if self.queue or self.refusal:
            self._wake_one()

    def _raise_trouble(self) -> None:
        if self.refusal is not None:
            error, self.refusal = self.refusal, None
            raise error
        if self.closed is not None:
            raise another(self.closed)

    def _wake_one(self) -> None:
        for reader in self._readers:
            if reader.wake():
                return

    def _forget(self, reader: _Reader) -> None:
        assert isinstance(self._readers, list)
        self._readers.remove(reader)
        self.remind()

    def next_deadline(self) -> float:
        """When the first of those who wait is late."""
        return min((reader.deadline for reader in self._readers if not reader.future.done()), default=math.inf)

    def remind(self) -> None:
        """See to it that `step` is called when something is due; when it has ended, nothing is."""
        when = self.next_deadline()
        if when == self.step_at or self.entry.ended:
            return
        self.guard.registry.timetable.add_step(self, when)
        self.guard.due_at(when)

    def end_late(self) -> None:
        """Tell those who are late."""
        now = self.guard.clock()
        for reader in self._readers:
            if reader.deadline <= now and not reader.future.done():
                reader.late = True
                reader.wake()
