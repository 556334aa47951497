"""Very many questions: a sweep.

A sweep has no task for each question, and no future. Its engine is one state machine: whenever answers have come, time
has passed or the caller has read, it takes as many items from the caller as there are places in flight, and asks them:

- an item that is plain, with nothing in its way, is one record in the registry (`core.bulk`), and leaves with others;
- all others go the long way, as an `Exchange` each, which waits for what is in its way: a name, a turn, an id. It needs
  a place in flight only once it is sent, so that those who wait hold up nobody; but of them there are but so many, too.

What is sent again is a plain question that gets its extras then. Outcomes wait in a queue for the caller; while that is
long nothing is asked, so that all of it stays as small as what is in flight, however long the sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Hashable, Iterable
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from udpguard._context import Addresses, Context, Payload, Settings, checked_payload, parse_all
from udpguard._errors import EndpointClosedError, InvalidAddressError
from udpguard._mistaken import used_with
from udpguard._platform.alarm import Alarm, open_alarm
from udpguard._reasons import closed_meanwhile
from udpguard._supply import Supply
from udpguard._swept import Again, SweptExchange, Ticket
from udpguard._typing import override
from udpguard.core.address import IPV4_WIRE, Sources, Wire, is_tuple
from udpguard.core.bulk import Outlet, ask_many
from udpguard.core.correlation import TransactionId, request_key
from udpguard.core.explain import shown
from udpguard.core.gate import Gate
from udpguard.core.options import Default, check_limit, checked_rate
from udpguard.core.outcome import Outcome, Progress
from udpguard.core.pace import Pace
from udpguard.core.retransmission import AdaptiveRetry, Retry, RetryPolicy, drawn
from udpguard.core.source import Accept, Entry, Source, SweptQuestion, assigned_id
from udpguard.core.swept import Bulk
from udpguard.core.verdict import Reply

if TYPE_CHECKING:
    from udpguard._guard import Guard
    from udpguard._seams import Channel
    from udpguard.core.reply_from import ReplyFrom

Questions: TypeAlias = (
    Iterable[tuple[Addresses, Payload] | tuple[Addresses, Payload, object]]
    | AsyncIterable[tuple[Addresses, Payload] | tuple[Addresses, Payload, object]]
)
"""What a sweep asks: `(addr, data)` or `(addr, data, tag)`, one after the other."""

_TOGETHER: Final = 64
_CHUNKS: Final = 4
_STEP: Final = _CHUNKS * _TOGETHER
_FEW: Final = 64
# In seconds: where the rate would allow more, but those whom it let go did not leave yet.
_A_LITTLE: Final = 0.001


@used_with("async with endpoint.sweep(requests) as sweep:", "async for outcome in sweep:")
class Sweep:
    """Very many questions, and their outcomes as they come: `async with` it, and `async for` the outcomes.

    Made by `Client.sweep`. Leaving the `async with` withdraws what is still in flight.
    """

    __module__ = "udpguard"  # where users find it

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._outcomes = engine.outcomes

    async def __aenter__(self) -> Self:
        self._engine.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._engine.leave()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        engine, outcomes = self._engine, self._outcomes
        if not outcomes:
            await engine.wait_for_outcome()
        outcome = outcomes.popleft()
        if engine.throttled and len(outcomes) <= engine.low:
            engine.throttled = False
            engine.poke()
        return outcome

    @override
    def __repr__(self) -> str:
        progress = self.progress
        return f"<udpguard.Sweep: {progress.asked} asked, {progress.answered} answered, {progress.failed} failed>"

    @property
    def progress(self) -> Progress:
        """How far it has got."""
        return self._engine.progress()


class Engine(Bulk):
    """What a sweep does.

    Args:
        context: The client's.
        requests: What is asked.
        settings: When a question ends and is sent again.
        sources: Where answers may come from.
        accept: Judges an answer.
        in_flight: How many may be in flight at once.
        pace: How fast datagrams may leave.
    """

    __slots__ = (
        "_again",
        "_alarm",
        "_asked",
        "_began",
        "_clean_at",
        "_elapsed",
        "_ended",
        "_error",
        "_failed",
        "_finished",
        "_firsts",
        "_firsts_clean_at",
        "_guard",
        "_is_alarmed",
        "_is_left",
        "_is_plain",
        "_key_of",
        "_limit",
        "_order",
        "_pace",
        "_poke",
        "_questions",
        "_retransmitted",
        "_sources",
        "_supply",
        "_waiters",
        "_waiting",
        "adapts",
        "context",
        "has_timeout",
        "low",
        "paced",
        "policy",
        "throttled",
    )

    def __init__(
        self,
        context: Context,
        requests: Questions,
        settings: Settings,
        sources: Sources,
        accept: Accept | None,
        in_flight: int,
        pace: Pace,
    ) -> None:
        timeout = settings.timeout
        super().__init__(context.correlator, context.book, math.inf if timeout is None else timeout, in_flight)
        self.accept: Accept | None = accept
        self.adapts: bool = settings.retry is not None and not isinstance(settings.retry, Retry)
        self.context: Context = context
        self.policy: RetryPolicy | None = settings.retry
        self.sends_again: bool = isinstance(self.policy, (Retry, AdaptiveRetry)) and self.policy.attempts > 1
        self.has_timeout: bool = timeout is not None
        """Whether that counts; else a question ends with its schedule."""
        self.throttled: bool = False
        """Whether it asks nothing until the caller has read more."""
        self.low: int = in_flight // 2
        """It goes on when no more than so many outcomes are left to be read."""
        self.paced: Gate[Entry] = Gate(0)
        """Those who go the long way wait here until the rate allows them to be sent."""
        self._guard = context.guard
        self._sources = sources
        self._pace = pace
        self._limit = in_flight
        self._supply = Supply(requests, min(_TOGETHER, in_flight, pace.burst))
        self._is_left = False
        correlator = context.correlator
        kind = type(correlator)
        self._key_of = correlator if correlator is not None and kind is not TransactionId else None
        """Finds the key, where that is foreign code."""
        own_ids = isinstance(correlator, TransactionId) and correlator.assign and kind is not TransactionId
        is_anybody = accept is not None or context.quota is not None or not sources.is_peer
        self._is_plain = not (own_ids or is_anybody)
        """Whether its items may go the short way."""
        self._questions: list[Entry] = []
        """Those that are in flight or wait, among others that have ended."""
        self._clean_at = 2 * _FEW
        self._firsts: list[tuple[float, int, SweptQuestion, tuple[float, ...]]] = []
        """When plain questions are sent again for the first time: a heap."""
        self._firsts_clean_at = 2 * _FEW
        self._again: deque[Again] = deque()
        """Those that are to be sent again as soon as the rate allows it."""
        self._order = count()
        self._asked = 0
        self._finished = 0
        """How many have their outcome."""
        self._failed = 0
        self._waiting = 0
        """How many go the long way and were not sent yet."""
        self._retransmitted = 0
        self._began = math.nan
        self._elapsed = math.nan
        self._ended = False
        self._error: BaseException | None = None
        """What the caller's `async for` is to raise in the end."""
        self._waiters: list[asyncio.Future[None]] = []
        self._poke: asyncio.Handle | None = None
        self._alarm: Alarm | None = None
        self._is_alarmed = False
        """Whether that is set."""

    # ------------------------------------------------------------------------------------------- the caller

    def begin(self) -> None:
        """Begin to ask."""
        if not math.isnan(self._began):
            raise RuntimeError("a sweep runs once: make another one with endpoint.sweep(requests)")
        guard = self._guard
        loop = guard.check_loop()
        self._began = guard.clock()
        guard.sweeps.add(self)
        try:
            self._supply.begin(loop, self.poke, self._note_error)
        except BaseException:
            guard.sweeps.discard(self)
            raise
        self.poke()

    async def leave(self) -> None:
        """Withdraw what is in flight, and close what items come from."""
        self.end()
        self.outcomes.clear()
        self._is_left = True
        await self._supply.close()

    def end(self) -> None:
        """Withdraw what is in flight, at once."""
        if self._ended:
            return
        self._stop()
        guard, registry = self._guard, self._guard.registry
        questions, self._questions = self._questions, []
        now = guard.clock()
        for question in questions:
            registry.withdraw(question, now)
        self._firsts.clear()
        self._again.clear()
        self.outcomes.clear()
        guard.let_go_on(self)

    def _stop(self) -> None:
        self._ended = True
        self._supply.stop()
        if math.isnan(self._elapsed):
            self._elapsed = self._guard.clock() - self._began
        self._guard.sweeps.discard(self)
        if self._guard.closed:  # the timetable is empty
            self.step_at: float = math.inf
        else:
            self._guard.registry.timetable.drop_step(self)
        if self._poke is not None:
            self._poke.cancel()
            self._poke = None
        if self._alarm is not None:
            self._alarm.close()
        self._wake_caller()

    @override
    def endpoint_closed(self, cause: BaseException | None) -> None:
        if not self._supply.is_over:
            self._cut(cause)
        self._stop()

    def _cut(self, cause: BaseException | None) -> None:
        """Take note that the endpoint was closed before the sweep was done."""
        if self._error is None:
            self._error = EndpointClosedError("the endpoint was closed before the sweep was done")
            self._error.__cause__ = cause

    async def wait_for_outcome(self) -> None:
        """Wait until there is an outcome to be read.

        Raises:
            StopAsyncIteration: There will be none.
            RuntimeError: The sweep was not entered, or was left. What ended it before its time is raised, too.
        """
        if math.isnan(self._began) or self._is_left:
            what = "is over" if self._is_left else "has not begun"
            raise RuntimeError(
                f"the sweep {what}: read it inside of `async with endpoint.sweep(requests) as sweep:`, "
                f"with `async for outcome in sweep:`"
            )
        while not self.outcomes:
            if self._ended or self._is_complete():
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            waiter = self._guard.check_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:  # cancelled: perhaps again and again, while no outcome comes
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
                raise

    def progress(self) -> Progress:
        """How far it has got."""
        elapsed = self._elapsed
        if math.isnan(elapsed):
            elapsed = 0.0 if math.isnan(self._began) else self._guard.clock() - self._began
        return Progress(
            self._asked,
            self._finished - self._failed,
            self._failed,
            self._retransmitted,
            elapsed,
            self._finished / elapsed if elapsed > 0 else 0.0,
        )

    def poke(self) -> None:
        """Go on in the next turn of the loop: not at once, since the caller may be in the middle of something."""
        if self._poke is None and not self._ended and self._guard.loop is not None:
            self._poke = self._guard.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._poke = None
        self._guard.let_go_on(self)

    def _on_alarm(self) -> None:
        self._is_alarmed = False
        self._guard.let_go_on(self)

    # ------------------------------------------------------------------------------------------- going on

    @override
    def step(self) -> None:
        """Ask what can be asked now, and wake the caller if there is anything for him."""
        if self._ended:
            return
        try:
            self._step()
        except BaseException as error:  # it is a mistake of ours: who waits for outcomes must not wait for ever
            self._error = self._error or error
            self.end()
            raise

    def _step(self) -> None:
        now = self._guard.clock()
        if self._firsts or self._again:
            self._send_again(now)
        self._ask_more(now)
        if self._is_complete() and math.isnan(self._elapsed):
            self._elapsed = self._guard.clock() - self._began
            self._wake_caller()
        elif self.outcomes:
            self._wake_caller()
        if self._pace.is_limited:
            self.set_timer()

    def _wake(self) -> None:
        """Have a step when the guard has told everybody what happened."""
        if not self._ended and not self._guard.closed:
            self._guard.registry.wake(self)

    def _is_complete(self) -> bool:
        """Whether every item has its outcome, and there are no more."""
        return self._supply.is_over and self._finished == self._asked and not self._waiting

    def _wake_caller(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _ask_more(self, now: float) -> None:
        released = self._release(now)
        for _ in range(_CHUNKS):
            places = self._places(now, released)
            items = self._supply.pull(places) if places > 0 else ()
            if not items:
                break
            self._ask(items, now)
        else:
            self.poke()  # others have their turn first

    def _release(self, now: float) -> int:
        """Let those go on who wait until the rate allows them to be sent; how many do."""
        released = 0
        registry = self._guard.registry
        while self.paced.has_queue and released < self._pace.allowance(now):
            registry.wake_first(self.paced)
            released += 1
        return released

    def _places(self, now: float, reserved: int) -> int:
        """How many items may be taken from the caller now."""
        guard = self._guard
        places = min(self.gate.free, _TOGETHER, self._limit - self._waiting)
        if self._supply.is_over or places <= 0:
            return 0
        if len(self.outcomes) >= self._limit:
            self.throttled = True
            return 0
        if self._pace.is_limited:
            places = min(places, self._pace.allowance(now) - reserved - len(self._again))
        room = guard.registry.room.free
        if guard.paused or guard.writable.has_queue or room <= 0:
            # One that waits there will tell when it goes on.
            return min(places, 0 if self._waiting else 1)
        return min(places, room)

    def _give_up(self, error: BaseException) -> None:
        """Take nothing more from the caller, and tell why when all that was taken has its outcome."""
        self._note_error(error)
        self._supply.stop()

    def _note_error(self, error: BaseException) -> None:
        self._error = self._error or _told(error)

    # --------------------------------------------------------------------------------------------- asking

    def _ask(self, items: list[object], now: float) -> None:
        for item in self._ask_plainly(items, now) if self._is_plain else items:
            self._ask_long(item)
        if len(self._questions) > self._clean_at:
            self._questions = [question for question in self._questions if not question.ended]
            self._clean_at = 2 * len(self._questions) + 2 * _FEW

    def _ask_plainly(self, items: list[object], now: float) -> list[object]:
        """Ask what is plain, and has nothing in its way; the others."""
        guard = self._guard
        keys: list[Hashable] | None = None
        strange: list[object] = []
        if self._key_of is not None:
            items, keys, strange = self._with_keys(items)
            if guard.closed:
                return [*items, *strange]
        picks = _Ports(guard) if guard.pool > 1 else None
        outlets = _outlet(guard.channel4), _outlet(guard.channel6)
        asked, rest = ask_many(guard.registry, self, items, keys, now, outlets, picks)
        if guard.closed:  # a foreign key compares as it likes
            self._asked += len(asked)
            self.gate.free -= len(asked)
            for question in [question for question in asked if not question.ended]:
                guard.registry.end(question, None)
                self.fail(question, closed_meanwhile())
            return [*rest, *strange]
        if asked:
            self._note_asked(asked, now)
            guard.outbox.fill_up([guard.channel4, guard.channel6] if picks is None else picks.channels)
        return [*rest, *strange]

    def _note_asked(self, asked: list[SweptQuestion], now: float) -> None:
        """Take note of plain questions that are about to leave."""
        self._asked += len(asked)
        self.gate.free -= len(asked)
        self._pace.take(len(asked), now)
        self._questions += asked
        if self.policy is not None:
            self._plan(asked, self.policy, now)
        elif self.seconds != math.inf:
            self._guard.due_at(now + self.seconds)

    def _with_keys(self, items: list[object]) -> tuple[list[object], list[Hashable], list[object]]:
        """The items of which the correlator tells the key, those keys, and the other items."""
        known: list[object] = []
        keys: list[Hashable] = []
        others: list[object] = []
        for item in items:
            data = item[1] if is_tuple(item) and len(item) > 1 else None
            if type(data) is bytes:
                try:
                    keys.append(request_key(self._key_of, data))
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException:  # the long way meets it again, and tells the caller
                    others.append(item)
                else:
                    known.append(item)
            else:
                others.append(item)
        return known, keys, others

    def _ask_long(self, item: object) -> None:
        """Ask the long way."""
        if not is_tuple(item) or len(item) not in (2, 3):
            self._give_up(TypeError(f"a sweep asks (addr, data) or (addr, data, tag), not {shown(item)}"))
            return
        addr, data, tag = (*item, None)[:3]
        ticket = Ticket(self, addr, data, tag)
        self._waiting += 1
        try:
            addresses = parse_all(addr)
            self._guard.check_loop()
            exchange = SweptExchange(self, ticket, checked_payload(data), self._sources, self.accept)
            entry = exchange.begin(ticket, addresses, self.context.resolver, math.inf, plain=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if isinstance(error, InvalidAddressError) and isinstance(addr, str):
                how = f"{error}; an item of a sweep is ((host, port), data), not {shown(item)}"
                error = InvalidAddressError(how, address=addr)
            self.note_outcome(ticket, None, error)
        else:
            self._questions.append(entry)

    # ------------------------------------------------------------------------------------ sending it again

    def schedule(self, peer: Source, *, asked: int = 0) -> tuple[float, ...]:
        """The waits of a question to a peer that was asked so often for it already.

        Raises:
            ValueError: The policy gives none.
        """
        assert self.policy is not None
        known = peer.statistics(asked) if peer.sent > asked or peer.matched or peer.timed_out else None
        waits = drawn(self.policy, known, self._guard.host.random)
        if not self.has_timeout and not any(waits):
            raise ValueError(f"{self.policy!r} ends at once: a reply needs time to come")
        return waits

    def _plan(self, asked: list[SweptQuestion], policy: RetryPolicy, now: float) -> None:
        """See to it that plain questions are sent again."""
        random, firsts, order = self._guard.host.random, self._firsts, self._order
        if type(policy) is Retry and policy.attempts > 1 and policy.total is None:
            # The later waits are drawn when the first is over: mostly it never is.
            first, jitter = min(policy.initial, policy.maximum), policy.jitter
            for question in asked:
                when = now + first * (1 + jitter * (2 * random() - 1))
                heapq.heappush(firsts, (when, next(order), question, ()))
        else:
            for question in asked:
                self._plan_one(question, now)
            if self._ended:
                return
        if self.has_timeout and self.seconds != math.inf:
            self._guard.due_at(now + self.seconds)
        if len(firsts) > self._firsts_clean_at:
            self._firsts = [one for one in firsts if not one[2].ended]
            heapq.heapify(self._firsts)
            self._firsts_clean_at = 2 * len(self._firsts) + 2 * _FEW
        self._step_at_first()

    def _plan_one(self, question: SweptQuestion, now: float) -> None:
        guard, source = self._guard, question.source
        assert source is not None
        try:
            waits = self.schedule(source, asked=1)
        except BaseException as error:
            if not question.ended:
                guard.registry.end(question, None)
                self.fail(question, error)
            return
        if question.ended:  # the policy itself closed the endpoint, or ended the sweep
            return
        if len(waits) > 1:
            heapq.heappush(self._firsts, (now + waits[0], next(self._order), question, waits))
        elif not self.has_timeout:
            self._end_in(question, sum(waits))

    def _end_in(self, question: SweptQuestion, seconds: float) -> None:
        """Give a question that has none a deadline, so many seconds after it began."""
        question.timeout = seconds
        if seconds != math.inf:
            self._guard.registry.timetable.add(question)
            self._guard.due_at(question.deadline)

    def _step_at_first(self) -> None:
        """Have a step when the first of the plain questions is to be sent again."""
        firsts = self._firsts
        if firsts and firsts[0][0] < self.step_at:  # perhaps it was answered; to look costs more than one step too many
            self._guard.registry.timetable.add_step(self, firsts[0][0])
            self._guard.due_at(firsts[0][0])

    def _send_again(self, now: float) -> None:
        """Send again what is due, but not all at once if that is very much."""
        firsts, again = self._firsts, self._again
        is_due = bool(firsts) and firsts[0][0] <= now
        while is_due and firsts and (firsts[0][2].ended or (firsts[0][0] <= now and len(again) < _STEP)):
            when, _, question, waits = heapq.heappop(firsts)
            if question.ended:
                continue
            wait = when - question.began
            if question.more is not None and not question.more.attempts:  # the socket has not taken it yet
                heapq.heappush(firsts, (now + max(wait, _A_LITTLE), next(self._order), question, waits))
                continue
            one = self._again_of(question, waits, wait)
            if one is not None:
                again.append(one)
        if len(again) < _STEP:
            self._step_at_first()
        left = _STEP
        while again and left and self._pace.allowance(now) > 0:
            again.popleft().step()
            left -= 1
        if not left:
            self.poke()  # others have their turn first

    def _again_of(self, question: SweptQuestion, waits: tuple[float, ...], first: float) -> Again | None:
        guard, source = self._guard, question.source
        assert source is not None
        assert question.data is not None
        assert isinstance(source.token, bytes)
        if not waits:
            waits = (first, *self.schedule(source, asked=1)[1:])
        data, wire = question.data, source.token
        if question.assigned is not None or (question.more is not None and question.more.assigned):
            assert isinstance(self.correlator, TransactionId)
            data = self.correlator.stamped(data, assigned_id(question))
        try:
            channel = guard.channel_at(question.port, wire)
        except EndpointClosedError as error:
            guard.fail(question, error)
            return None
        if not self.has_timeout:
            self._end_in(question, sum(waits))
        return Again(self, channel, data, wire, question, waits)

    # ------------------------------------------------------------------------------------------- the rate

    def may_leave(self) -> bool:
        """Whether the rate allows one more datagram now."""
        return self._pace.allowance(self._guard.clock()) > 0

    def put_off(self, again: Again) -> None:
        """Send it when the rate allows it."""
        self._again.append(again)
        self.set_timer()

    def set_timer(self) -> None:
        """Go on when the rate allows it, if anything waits for that."""
        guard = self._guard
        if self._is_alarmed or self._ended or guard.loop is None:
            return
        if self._again or self.paced.has_queue or self._could_ask():
            if self._alarm is None:
                self._alarm = open_alarm(guard.loop, self._on_alarm, is_real=guard.clock is time.monotonic)
            # One that is right in time need not ring for each datagram: half a burst leaves it as much to be late.
            when = self._pace.half_at if self._alarm.is_fine else self._pace.next_at
            wait = when - guard.clock()
            self._is_alarmed = True
            self._alarm.set(wait if wait > 0 else _A_LITTLE)

    def _could_ask(self) -> bool:
        """Whether there are items, and places for them."""
        has_places = self.gate.free > 0 and self._waiting < self._limit and len(self.outcomes) < self._limit
        return has_places and self._supply.may_have_some

    # ----------------------------------------------------------------------------------------- what came of it

    def note_sent(self, ticket: Ticket) -> None:
        """Take note that an exchange that goes the long way was sent, or sent again."""
        self._pace.take(1, self._guard.clock())
        if ticket.was_sent:
            self._retransmitted += 1
            return
        ticket.was_sent = True
        self._waiting -= 1
        self._asked += 1
        self._wake()

    def note_sent_again(self) -> None:
        """Take note that a plain question was sent again."""
        self._pace.take(1, self._guard.clock())
        self._retransmitted += 1

    def note_outcome(self, ticket: Ticket, reply: Reply | None, error: BaseException | None) -> None:
        """Take what came of an exchange that went the long way."""
        if not ticket.was_sent:
            self._waiting -= 1
            self._asked += 1
        self._note(ticket.addr, ticket.data, ticket.tag, reply, error)

    @override
    def note_answered(self, count: int) -> None:
        self._finished += count
        self._give_back(count)

    @override
    def answer(self, question: SweptQuestion, reply: Reply) -> None:
        self._note(question.addr, question.data, question.tag, reply, None)
        self._give_back(1)

    @override
    def fail(self, question: SweptQuestion, error: BaseException) -> None:
        self._note(question.addr, question.data, question.tag, None, error)
        self._give_back(1)

    def _note(self, addr: object, data: object, tag: object, reply: Reply | None, error: BaseException | None) -> None:
        """Take one outcome."""
        self._finished += 1
        self._wake()
        if error is not None:
            self._failed += 1
            if isinstance(error, EndpointClosedError) and self._guard.closed:
                self._cut(error.__cause__)
            elif not isinstance(error, Exception):  # it ends more than this item
                self._give_up(error)
                return
        outcome = Outcome(addr, data, tag, reply, error)  # type: ignore[arg-type]  # as the caller gave them
        self.outcomes.append(outcome)

    def _give_back(self, count: int) -> None:
        """Give places to those who wait for one, or to items to come."""
        registry = self._guard.registry
        self._wake()
        if not self.gate.has_queue:
            self.gate.free += count
            return
        for _ in range(count):
            registry.give_back(self.gate)


class _Ports:
    """Picks a port for each plain question, where an endpoint has a pool of them.

    Args:
        guard: The endpoint's.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.channels: set[Channel] = set()
        """Those that were picked."""

    def __call__(self, wire: Wire) -> tuple[int, Outlet] | None:
        """The number of a port, and where what leaves from there is put; None: no socket reaches the peer."""
        guard = self._guard
        if (guard.channel4 if len(wire) == IPV4_WIRE else guard.channel6) is None:
            return None
        port = guard.some_port()
        channel = guard.channel_at(port, wire)
        self.channels.add(channel)
        outlet = _outlet(channel)
        assert outlet is not None
        return port, outlet


def _outlet(channel: Channel | None) -> Outlet | None:
    if channel is None:
        return None
    posted = channel.posted
    return Outlet(posted.datas, posted.wires, posted.entries)


def _told(error: BaseException) -> BaseException:
    """An error that can be raised out of an `async for` without being taken for something else."""
    if isinstance(error, (StopIteration, StopAsyncIteration, asyncio.CancelledError)):
        told = RuntimeError(f"{error!r} was raised")
        told.__cause__ = error
        return told
    return error


def new_sweep(
    context: Context,
    requests: Questions,
    *,
    in_flight: int,
    rate: float | None,
    timeout: float | None | Default,
    retry: RetryPolicy | None | Default,
    reply_from: ReplyFrom,
    accept: Accept | None,
) -> Sweep:
    """A sweep for a client; see `Client.sweep`."""
    if not isinstance(requests, (Iterable, AsyncIterable)):
        raise TypeError(f"a sweep asks what an iterable gives, or an asynchronous one, not {shown(requests)}")
    check_limit("in_flight", in_flight)
    settings = context.settings.overridden(timeout, retry)
    sources = context.sources(reply_from, accept)
    return Sweep(Engine(context, requests, settings, sources, accept, in_flight, Pace(checked_rate(rate))))
