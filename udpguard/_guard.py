"""The registry meets asyncio: futures are settled, one timer is kept, what waits is let go on.

All that comes from outside (a batch, the timer, a socket that takes datagrams again, a cancellation) ends in the same
three steps: settle what the registry returns, let those go on who waited for what is free now, set the timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from udpguard._errors import (
    EndpointClosedError,
    ForgerySuspectedError,
    InvalidAddressError,
    PeerRefusedError,
    PeerUnreachableError,
    TooManyPendingError,
)
from udpguard._host import Machine, host_of
from udpguard._outbox import Outbox
from udpguard._reasons import Reasons, closed_meanwhile, refusal_of
from udpguard._typing import override
from udpguard.core.address import (
    IPV4_WIRE,
    IPV6_WIRE,
    Sources,
    Wire,
    peer_of,
)
from udpguard.core.correlation import Book, TransactionId, checked_transaction, sealed
from udpguard.core.gate import Gate
from udpguard.core.icmp import NetworkError
from udpguard.core.options import KernelFilter, Limits, check_hook
from udpguard.core.ports import Ports
from udpguard.core.source import Accept, Details, Entry, LongEntry, SweptQuestion
from udpguard.core.statistics import Statistics
from udpguard.core.verdict import Reason, Reply, Unexpected

if TYPE_CHECKING:
    from udpguard._platform.interface import Ages
    from udpguard._ports import PortKeeper
    from udpguard._screens import Screens
    from udpguard._seams import Channel, Host
    from udpguard.core.judge import Settled
    from udpguard.core.registry import Batch, Registry
    from udpguard.core.reply_from import ReplyFrom
    from udpguard.core.swept import Bulk

logger = logging.getLogger("udpguard")

UnexpectedHook: TypeAlias = Callable[[Unexpected], object]

# uvloop's timers fire up to half a millisecond early: a deadline that is not quite there must not spin. It rounds to
# whole milliseconds, so that half of one would be none.
_SHORTEST_DELAY: Final = 0.0006
_LATER: Final = 0.005


class ReplyFuture(asyncio.Future[Reply]):
    """A future whose cancellation withdraws the expectation at once."""

    _guard: Guard | None = None
    _entry: Entry | None = None

    def withdraws(self, guard: Guard, entry: Entry) -> None:
        """What its cancellation ends."""
        self._guard = guard
        self._entry = entry

    def asks(self, data: bytes) -> None:
        """See `Guard.asks`."""
        if self._guard is not None and self._entry is not None:
            self._guard.asks(self._entry, data)

    @override
    def cancel(self, msg: object = None) -> bool:
        if not super().cancel(msg):
            return False
        if self._guard is not None and self._entry is not None:
            self._guard.withdraw(self._entry)
        return True


class Guard:
    """The registry of one endpoint, and what asyncio adds to it.

    Args:
        limits: What may be held at once.
        on_unexpected: Told of each datagram that was not delivered.
        ports: What ports there are to ask from; None where nothing is asked through it.
        kernel_filter: When a socket filter keeps strangers out.
    """

    def __init__(
        self,
        limits: Limits,
        on_unexpected: UnexpectedHook | None,
        ports: Ports | None = None,
        kernel_filter: KernelFilter = "off",
    ) -> None:
        if not isinstance(limits, Limits):
            raise TypeError(f"limits must be a udpguard.Limits such as Limits(pending=1000), not {limits!r}")
        check_hook("on_unexpected", on_unexpected)
        # Loaded when there is a guard: they would be a tenth of the time of `import udpguard`.
        from udpguard._screens import Screens
        from udpguard.core.registry import Registry

        self.host: Host = Machine()
        """Where its sockets and its random numbers come from."""
        self.registry: Registry = Registry(limits, self._random_bits, ports)
        self.registry.wants_unexpected = on_unexpected is not None
        self.channels: list[Channel] = []
        self.channel4: Channel | None = None
        """What reaches IPv4 peers."""
        self.channel6: Channel | None = None
        """What reaches IPv6 peers."""
        self.own4: list[Channel] = []
        """What reaches IPv4 peers from the endpoint's own ports: number 0, -1, -2, …"""
        self.own6: list[Channel] = []
        self.pool: int = 1
        """How many ports of its own it has."""
        self.keeper: PortKeeper | None = None
        """Has the spare ports, where there may be any."""
        self._dropped_before = 0
        """What the kernel dropped at sockets that are closed."""
        self.outbox: Outbox = Outbox(self)
        self.reasons: Reasons = Reasons(self)
        self.screens: Screens = Screens(self, kernel_filter)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        """In which it was bound to the loop."""
        self.clock: Callable[[], float] = time.monotonic
        self.closed: bool = False
        self.paused: set[object] = set()
        self.writable: Gate[Entry] = Gate(0)
        """Those who wait until the sockets take datagrams again stand at this gate."""
        self._hook = on_unexpected
        self._hook_failed = False
        self._timer: asyncio.Handle | None = None
        self.timer_at: float = math.inf
        """When something is due next, on the loop's clock."""
        self._pumping = False
        self._behind: list[Channel] = []
        """The sockets that are still to be caught up with before anything expires."""
        self._behind_since = 0.0
        """When that began: all that came before is read in the end."""
        self._arrived = -math.inf
        """When the latest of what was read since then had come."""
        self.sweeps: set[Bulk] = set()
        """Those that go on."""
        self._foremost: Entry | None = None
        """Who waited for the sockets and has its turn now."""
        self._open = 0
        self._closers: list[asyncio.Future[None]] = []

    # -------------------------------------------------------------------------------------------- the caller

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to a loop from now on."""
        self.loop = loop
        self._thread = threading.get_ident()
        self.host = host_of(loop)
        # uvloop's time() stands still for up to a millisecond; both loops count CLOCK_MONOTONIC. A loop with a clock
        # of its own, as for simulations, is asked.
        kind = type(loop)
        monotonic = kind.__module__.startswith("uvloop") or kind.time is asyncio.BaseEventLoop.time
        self.clock = time.monotonic if monotonic else loop.time

    def _random_bits(self, count: int) -> int:
        return self.host.random_bits(count)

    def check_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs, which must be the one it belongs to.

        Raises:
            EndpointClosedError: It was closed.
            RuntimeError: No loop runs, or another one.
        """
        if self.closed:
            raise EndpointClosedError(
                "the endpoint is closed: ask inside of its `async with udpguard.open_endpoint() as endpoint:`, "
                "or open a new one"
            )
        loop = asyncio._get_running_loop()
        if loop is None or (loop is not self.loop and self.loop is not None):
            raise self.reasons.not_here(loop)
        if self.loop is None:
            self.bind(loop)
        return loop

    def is_in_other_thread(self) -> bool:
        """Whether its loop runs, but not in this thread."""
        # In a process that was forked the loop seems to go on.
        return self.loop is not None and self.loop.is_running() and threading.get_ident() != self._thread

    def check_thread(self, close: str) -> None:
        """Refuse to have something closed from another thread: who waits for it would not be told.

        Args:
            close: What was called.

        Raises:
            RuntimeError: Its event loop runs in another thread.
        """
        if not self.closed and self.is_in_other_thread():
            raise RuntimeError(
                f"the endpoint belongs to the event loop of another thread: close it there, "
                f"with loop.call_soon_threadsafe({close})"
            )

    def add_channel(self, channel: Channel) -> None:
        """Send through a socket, from the next of the endpoint's own ports, and close it in the end."""
        self.channels.append(channel)
        if channel.carries(bytes(IPV4_WIRE)):
            self.own4.append(channel)
            self.channel4 = self.own4[0]
        if channel.carries(bytes(IPV6_WIRE)):
            self.own6.append(channel)
            self.channel6 = self.own6[0]

    def drop_channel(self, channel: Channel) -> None:
        """Close a socket that is not needed any more."""
        self._dropped_before += channel.dropped()
        self.channels.remove(channel)
        self.screens.drop(channel)
        channel.close()

    def own_ports(self, wire: Wire) -> range:
        """The numbers of the endpoint's own ports that reach a peer."""
        return range(0, -len(self.own4 if len(wire) == IPV4_WIRE else self.own6), -1)

    def some_port(self) -> int:
        """The number of one of the endpoint's own ports, at random."""
        return -self.registry.draw(self.pool) if self.pool > 1 else 0

    def channel_at(self, port: int, wire: Wire) -> Channel:
        """The socket that reaches a peer from a port.

        Raises:
            EndpointClosedError: The port was closed.
        """
        channel = None
        if port <= 0:
            channel = (self.own4 if len(wire) == IPV4_WIRE else self.own6)[-port]
        elif self.keeper is not None:
            channel = self.keeper.channel(port)
        if channel is None:
            raise EndpointClosedError("the port was closed")
        return channel

    def channel_for(self, wire: Wire, address: object) -> Channel:
        """The socket that reaches a peer.

        Raises:
            InvalidAddressError: None does.
        """
        channel = self.channel4 if len(wire) == IPV4_WIRE else self.channel6
        if channel is not None:
            return channel
        family = "IPv4" if len(wire) == IPV4_WIRE else "IPv6"
        raise InvalidAddressError(
            f"this endpoint has no {family} socket, so it can't reach {peer_of(wire)}: "
            f"open it without local_addr, sock and family, or for {family}",
            address=address,
        )

    def expect(
        self,
        loop: asyncio.AbstractEventLoop,
        wire: Wire,
        book: Book,
        *,
        timeout: float,
        reply_from: ReplyFrom,
        accept: Accept | None,
        transaction: object,
        port: int = 0,
    ) -> ReplyFuture:
        """Begin to expect a reply that nothing is sent for here; its future withdraws it when it is cancelled.

        Raises:
            TooManyPendingError: As many as `Limits.pending` are pending.
            DuplicateTransactionError: The transaction is expected already.
            ValueError: There is a transaction but no correlator, or `reply_from` makes no sense.
        """
        if transaction is not None and book.correlator is None:
            raise ValueError("transaction=… needs a correlator to find it in replies: pass correlate=…")
        check_hook("accept", accept)
        if isinstance(book.correlator, TransactionId) and transaction is not None:
            transaction = checked_transaction(transaction)
        key = sealed(transaction)
        tokens = Sources(reply_from, socket.if_nametoindex).tokens(wire)
        registry = self.registry
        more = Details(accept) if accept is not None or len(tokens) > 1 else None
        future = ReplyFuture(loop=loop)
        entry = LongEntry(future, self.clock(), timeout, more, plain=False)
        entry.port = port
        self.take_room(entry)
        entry.source = registry.source(wire)
        registry.enter(entry)
        try:
            registry.listen(entry, tokens, book, key)
        except BaseException:  # it is pending already; or what ends programs came in between
            registry.end(entry, None)
            raise
        if self.outbox.screened:  # its caller may send by himself, through whatever socket
            self.screens.load_everywhere(tokens)
        self.due_at(entry.deadline)
        future.withdraws(self, entry)
        return future

    def take_room(self, entry: LongEntry) -> None:
        """Take one of `Limits.pending` for what can't wait for one.

        Raises:
            TooManyPendingError: None is free.
        """
        if not self.registry.room.enter():
            limit = self.registry.limits.pending
            raise TooManyPendingError(
                f"{limit} requests, expectations and sessions are pending, as many as Limits(pending=…) allows: "
                f"raise it, or wait for some to end",
                limit=limit,
            )
        entry.roomy = True

    def asks(self, entry: Entry, data: bytes) -> None:
        """Take note of what is sent to the peer of an expectation, so that it can be told if that refuses."""
        entry.data = data
        if entry.source is not None and not entry.ended:
            self.registry.note_asked(entry, entry.source, entry.slots())

    def withdraw(self, entry: Entry) -> None:
        """End an exchange that its caller gave up."""
        if self.registry.withdraw(entry, self.clock()):
            self._pump()

    def hang_up(self, entry: Entry) -> None:
        """End what went on listening, if it still does."""
        if not entry.ended:
            self.registry.end(entry, (Reason.LATE, self.clock()))
            self._pump()

    def is_abandoned(self, entry: Entry) -> bool:
        """Whether its caller was cancelled, and will withdraw it when its task gets to run."""
        return cast("asyncio.Future[object]", entry.future).done()

    def fail(self, entry: Entry, error: BaseException) -> None:
        """End an exchange with an error for its caller."""
        if entry.ended:
            return
        refused = isinstance(error, PeerRefusedError)
        if refused:
            self.registry.counters.refused += 1
        elif isinstance(error, PeerUnreachableError):
            self.registry.counters.unreachable += 1
        self.registry.end(entry, (Reason.LATE, self.clock()), refused=refused)
        settle_error(entry, error)
        self._pump()

    def finish(self, entry: Entry, error: BaseException | None = None) -> None:
        """End what had but to be sent, and perhaps could not be."""
        self.registry.end(entry, (Reason.LATE, self.clock()))
        if error is not None:
            settle_error(entry, error)
            return
        future = cast("asyncio.Future[object]", entry.future)
        if not future.done():
            future.set_result(None)

    def go_on(self, entry: Entry) -> None:
        """Let an exchange take its next step."""
        if entry.more is not None:
            self.registry.wake(entry.more)
        self._pump()

    def let_go_on(self, more: Details) -> None:
        """Let what has no exchange of its own take its next step."""
        self.registry.wake(more)
        self._pump()

    # ------------------------------------------------------------------------------------------- the network

    def receive(self, batch: Batch, ages_of: Ages | None = None, port: int = 0) -> None:
        """Take what one drain of a port's socket read, and what tells when that arrived (`Backend.ages`)."""
        if self.closed:
            return
        self.outbox.begin_turn()  # so that nothing is answered before it was asked
        now = self.clock()
        is_due = now >= self.timer_at
        ages = None if ages_of is None else ages_of(exactly=is_due)
        if not ages:
            self._take(batch, now, None, port)
            return
        now = self.clock()  # the ages are of this moment: the process may have lost its turn since the first look
        arrivals = [now - age for age in ages]
        if is_due:
            self._arrived = max(arrivals)
            # The timer may be for what was answered since, or for a step: then nothing here can have come too late.
            if self._arrived >= self.registry.timetable.next_deadline():
                self._take_overdue(batch, now, arrivals, port)
                return
        self._take(batch, now, arrivals, port)

    def _take(self, batch: Batch, now: float, arrivals: Sequence[float] | None, port: int) -> None:
        self._settle(self.registry.receive_batch(batch, now, arrivals, port))

    def _take_overdue(self, batch: Batch, now: float, arrivals: Sequence[float], port: int) -> None:
        """Take what arrived in part after something had fallen due; the loop was blocked."""
        settled, expired = self.registry.receive_overdue(batch, now, arrivals, port)
        for entry in expired:
            settle_error(entry, self.reasons.timed_out(entry, now - self.timer_at))
        self._settle(settled)

    def _settle(self, settled: Sequence[Settled]) -> None:
        """Tell those who were answered, and whoever else is to be told or may go on now."""
        if self.registry.swept:
            self._tell_sweeps()
        for entry, data, wire, rtt, attempts in settled:
            if entry.is_swept:  # and was not answered by the shortest way
                answer_swept(entry, Reply(data, peer_of(wire), rtt, attempts))
                continue
            future = cast("asyncio.Future[object]", entry.future)
            if not future.done():
                future.set_result(data if entry.plain else Reply(data, peer_of(wire), rtt, attempts))
        if self.registry.delivered:
            self._deliver()
        if len(settled) > 1:
            # Each may ask again in this turn: by then, and before the socket is read again, all have.
            self.outbox.expect_more()
        self._follow_up()

    def _follow_up(self) -> None:
        """Tell whoever else is to be told, and let those go on who may."""
        registry = self.registry
        if registry.suspected:
            self._raise_suspicion()
        try:
            if registry.unexpected:
                self._tell()
        except BaseException:  # which ends programs: if `accept` raised such a thing too, one is enough
            registry.interrupt = None
            raise
        finally:
            if registry.woken:
                self._pump()
        self._raise_interrupt()

    def _deliver(self) -> None:
        """Hand on what came for those who go on listening."""
        delivered, self.registry.delivered = self.registry.delivered, []
        for lasting, data, wire, rtt, attempts in delivered:
            lasting.take(data, wire, rtt, attempts)

    def _tell_sweeps(self) -> None:
        """Tell sweeps that plain questions of theirs were answered."""
        swept, self.registry.swept = self.registry.swept, []
        for bulk, answered in swept:
            bulk.note_answered(answered)

    def _raise_interrupt(self) -> None:
        """Raise what ends programs, if foreign code that was called meanwhile did."""
        if self.registry.interrupt is not None:
            interrupt, self.registry.interrupt = self.registry.interrupt, None
            raise interrupt

    def _raise_suspicion(self) -> None:
        """Tell those whose request was ended since too many wrong keys came."""
        registry = self.registry
        suspected, registry.suspected = registry.suspected, []
        limit = registry.limits.near_misses or 0
        for entry in suspected:
            token = None if entry.source is None else entry.source.token
            peer = peer_of(token) if isinstance(token, bytes) else None
            error = ForgerySuspectedError(
                f"more than {limit} datagrams with a wrong transaction id came in the name of {peer} meanwhile: "
                f"somebody may be guessing ids; ask again, with Ports(pool=…) or longer ids to make it harder",
                peer=peer,
                limit=limit,
                near_misses=registry.near_misses(entry, ()),
            )
            settle_error(entry, error)

    def report(self, errors: Sequence[NetworkError], port: int = 0) -> None:
        """Take what ICMP says of datagrams that left through a port of the endpoint; it may all be forged."""
        unsent = self.outbox.unsent()
        for error in errors:
            if self.closed:
                break
            found = self.registry.refused_by(error, self.clock(), port, unsent)
            if found is None:
                continue
            (entry, wire), refusal = found, refusal_of(error)
            if entry.more is None or not entry.more.goes_on_without(wire, error.quote, refusal):
                self.fail(entry, refusal)
        self._raise_interrupt()

    def _tell(self) -> None:
        """Tell the hook what was not delivered, now that the registry is at rest."""
        unexpected, self.registry.unexpected = self.registry.unexpected, []
        assert self._hook is not None
        for datagram in unexpected:
            try:
                self._hook(datagram)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                self.registry.counters.hook_errors += 1
                # What strangers send must not be able to fill the log: the first is shown, the others are counted.
                level = logging.DEBUG if self._hook_failed else logging.ERROR
                self._hook_failed = True
                logger.log(level, "on_unexpected raised, and is called again all the same", exc_info=True)

    def takes(self, entry: Entry | None) -> bool:
        """Whether the sockets take a datagram now, of this exchange or of one that has not waited yet."""
        return not self.paused and (not self.writable.queue or (entry is not None and entry is self._foremost))

    def wait_for_socket(self, entry: Entry, more: Details) -> None:
        """Let an exchange wait until the sockets take datagrams; who has waited already stays in front."""
        more.waits_for = "socket"
        if entry.listens and not more.attempts:
            self.registry.held.add(entry)
        more.queued.append(self.writable)
        self.writable.wait(entry, first=entry is self._foremost)

    def pause(self, whose: object) -> None:
        """Hold the datagrams back: a socket takes none."""
        self.paused.add(whose)

    def resume(self, whose: object) -> None:
        """Let those go on who held datagrams back, in their order, as far as the sockets take them."""
        self.paused.discard(whose)
        self._let_out()

    def _let_out(self) -> None:
        while not self.paused and (entry := self.writable.first()) is not None:
            self._foremost = entry
            self.go_on(entry)
            self._foremost = None
            if entry.more is not None and self.writable in entry.more.queued:
                break
        if self.writable.has_queue and not self.paused and not self.closed and self.loop is not None:
            # The socket took no more and paused nobody: nothing but time will tell when it does.
            self.loop.call_later(_LATER, self._let_out)

    def _pump(self) -> None:
        """Let those go on whose turn it is; what they do may let others go on."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self.registry.woken:
                more = self.registry.woken.popleft()
                more.woken = False
                more.step()
        finally:
            self._pumping = False
            if self.registry.woken and self.loop is not None:  # one of them raised what ends programs
                self.loop.call_soon(self._pump)

    # -------------------------------------------------------------------------------------------------- time

    def due_at(self, when: float) -> None:
        """See to it that the timer fires then or before."""
        if when >= self.timer_at or self.loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self.timer_at = when
        self._timer = self.loop.call_later(max(when - self.clock(), _SHORTEST_DELAY), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.outbox.begin_turn()
        if not self._behind:
            self._behind, self._behind_since = list(self.channels), self.clock()
        try:
            # A reply that lies in the socket already is in time, however late the loop gets to read it.
            self._behind = [channel for channel in self._behind if not self._is_caught_up(channel)]
        finally:
            if self.closed or self._timer is not None or self.loop is None:
                pass
            elif not self._behind:
                # Not later: what came while the sockets were read may lie in one that was read before.
                self._fall_due(self._behind_since)
            else:  # others have their turn, then it goes on
                self._timer = self.loop.call_soon(self._on_timer)

    def _is_caught_up(self, channel: Channel) -> bool:
        """Read a socket; whether that was all of what had come when something was due.

        Where more keeps coming, as in a sweep, it is told by when it came: else what is due would wait for all of it.
        """
        self._arrived = -math.inf
        return channel.catch_up() or self._arrived >= self._behind_since

    def _fall_due(self, now: float) -> None:
        """End what is due at that time, and take the steps that are."""
        stalled, self.timer_at = now - self.timer_at, math.inf
        for entry in self.registry.expire(now):
            settle_error(entry, self.reasons.timed_out(entry, stalled))
        for more in self.registry.timetable.steps(now):
            self.registry.wake(more)
        try:
            self._pump()
        finally:
            self.due_at(self.registry.timetable.next_due())

    # --------------------------------------------------------------------------------------------------- end

    def close(self, cause: BaseException | None = None) -> None:
        """Fail what is pending, and close the sockets."""
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.screens.close()
        try:
            for entry in self.registry.close(self.clock()):
                error = closed_meanwhile()
                error.__cause__ = cause
                with contextlib.suppress(RuntimeError):  # a closed loop takes no calls: nobody is left to tell
                    settle_error(entry, error)
            for bulk in list(self.sweeps):
                with contextlib.suppress(RuntimeError):
                    bulk.endpoint_closed(cause)
        finally:
            if self.keeper is not None:
                self.keeper.close()
            for channel in self.channels:
                channel.close()

    def opened(self) -> None:
        """Count one more socket."""
        self._open += 1

    def lost(self, cause: BaseException | None, port: int = 0, channel: object = None) -> None:
        """Count one socket less; without one of the endpoint's own the others are closed too."""
        self._open -= 1
        if port <= 0:
            self.close(cause)
        elif self.keeper is not None and self.keeper.forget(port, channel):
            for entry in self.registry.listeners_at(port):
                self.fail(entry, EndpointClosedError("the local port that it listened at was lost: open it again"))
        if self._open <= 0:
            closers, self._closers = self._closers, []
            for future in closers:
                if not future.done():
                    future.set_result(None)

    async def wait_closed(self) -> None:
        """Wait until the last socket is closed."""
        if self._open <= 0 or (self.closed and self.loop is not None and self.loop.is_closed()):
            return
        loop = asyncio.get_running_loop()
        if loop is not self.loop:
            raise RuntimeError("the endpoint belongs to another event loop: wait for it there")
        future: asyncio.Future[None] = loop.create_future()
        self._closers.append(future)
        await future

    def statistics(self, kernel_dropped: int = 0) -> Statistics:
        """The counters and gauges as they are; the channels tell themselves what the kernel dropped."""
        dropped = kernel_dropped + self._dropped_before + sum(channel.dropped() for channel in self.channels)
        return self.registry.statistics(dropped)


def answer_swept(entry: Entry, reply: Reply) -> None:
    """Hand an answer to the sweep whose plain question it answers."""
    assert isinstance(entry, SweptQuestion)
    cast("Bulk", entry.future).answer(entry, reply)


def settle_error(entry: Entry, error: BaseException) -> None:
    """Hand an error to its caller, unless the caller has gone."""
    if isinstance(entry, SweptQuestion):
        cast("Bulk", entry.future).fail(entry, error)
        return
    future = cast("asyncio.Future[object]", entry.future)
    if future.done():
        return
    if isinstance(error, StopIteration):  # which no future can hold
        error = RuntimeError(f"{error!r} was raised").with_traceback(error.__traceback__)
    future.set_exception(error)
    future.exception()  # marks it as seen: an expectation that nobody awaits makes no noise
