"""Many answers to one question: who is out there?"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Self

from udpguard._context import Context, written_addresses
from udpguard._errors import (
    EndpointClosedError,
    InvalidAddressError,
    TooManyPendingError,
    UdpGuardError,
    another,
)
from udpguard._guard import Guard
from udpguard._inbox import Inbox
from udpguard._mistaken import used_with
from udpguard._platform.routing import Routing, check_route, checked_routing
from udpguard._sending import check_size, checked_data, sending_error
from udpguard._typing import Buffer, override
from udpguard.core.address import (
    HostName,
    Sources,
    Token,
    Wire,
    is_limited_broadcast,
    is_multicast,
    peer_of,
    refusal_to_send,
)
from udpguard.core.correlation import Slot, TransactionId, checked_id, request_key
from udpguard.core.options import Default, check_hook, check_limit, checked_window
from udpguard.core.retransmission import RetryPolicy, drawn
from udpguard.core.source import Accept, Sent
from udpguard.core.verdict import Reply

if TYPE_CHECKING:
    from udpguard._seams import Channel
    from udpguard.core.reply_from import ReplyFrom

logger = logging.getLogger("udpguard")

# So many replies, and bytes in them, may be unread: a flood of forged ones must end somewhere.
_MOST_UNREAD: Final = 65_536
_MOST_BYTES: Final = 1 << 24


class _Call(Inbox[Reply]):
    """The question in the registry: whom it is sent to and when, and the answers.

    Args:
        guard: Where it is registered.
        data: What is sent.
        targets: Where to, and through what.
        routing: By which interface, and how far.
        waits: Seconds between one time it is sent and the next.
        window: Seconds from the first time to the end.
        accept: Judges answers.
    """

    __slots__ = (
        "_asked",
        "_began_at",
        "_data",
        "_ends_at",
        "_failures",
        "_is_new_round",
        "_next_at",
        "_original",
        "_routing",
        "_targets",
        "_times",
        "_unread_bytes",
        "_unsent",
        "_window",
        "_wires",
        "begun",
        "is_over",
    )

    def __init__(
        self,
        guard: Guard,
        data: bytes,
        targets: Sequence[tuple[Wire, Channel]],
        routing: Routing | None,
        waits: Sequence[float],
        window: float,
        accept: Accept | None,
    ) -> None:
        super().__init__(guard, _MOST_UNREAD, accept, asks=True, newest_goes=True)
        assert guard.loop is not None
        self.begun: asyncio.Future[None] = guard.loop.create_future()
        """Done when it was sent to all for the first time."""
        self._data = data
        self._original: bytes | None = None
        self._targets = targets
        self._wires = frozenset(wire for wire, _ in targets)
        self._asked: set[Wire] = set()
        self._routing = routing
        self._times = deque(accumulate(waits[:-1]))
        """When it is sent again, counted from the first time."""
        self._window = window
        self._unsent = deque(targets)
        """To whom it is to be sent in this round."""
        self._failures: dict[Wire, UdpGuardError] = {}
        self._is_new_round = True
        self._began_at = math.inf
        self.is_over = False
        """Whether it has ended as it should."""
        self._next_at = math.inf
        self._ends_at = math.inf
        self._unread_bytes = 0

    def stamp(self, data: bytes, original: bytes) -> None:
        """Send this, with an id that was picked, and put the caller's own bytes back into answers."""
        self._data, self._original = data, original

    @override
    def take(self, data: bytes, wire: Wire, rtt: float | None, attempts: int) -> None:
        if self.is_cleared:
            return
        if self._unread_bytes + len(data) > _MOST_BYTES or len(self.queue) >= _MOST_UNREAD:
            self.dropped += 1
            self.forget_seen(wire, data)
        else:
            self._unread_bytes += len(data)
            self.put(Reply(data, peer_of(wire), rtt, attempts))
        if self.entry.ended:
            self.over()

    @override
    def pop(self) -> Reply:
        reply = super().pop()
        self._unread_bytes -= len(reply.data)
        return reply

    @override
    def shut(self, why: UdpGuardError) -> None:
        super().shut(why)
        if not self.begun.done():
            self.begun.set_exception(another(why))
            self.begun.exception()  # perhaps nobody is there any more to see it

    @override
    def has_sent(self, wire: Wire, quote: bytes, port: int) -> bool:
        return wire in self._wires and port == self.entry.port and self._data.startswith(quote)

    @override
    def goes_on_without(self, wire: Wire, quote: bytes, error: UdpGuardError) -> bool:
        return True  # the others may answer

    @override
    def step(self) -> None:
        """Send, end, or tell those who are late; whatever is due."""
        guard, entry = self.guard, self.entry
        if entry.ended:
            return
        guard.registry.stop_waiting(entry, self)
        now = guard.clock()
        if now >= self._ends_at:
            self.over()
            return
        if now >= self._next_at:
            self._next_at = math.inf
            self._unsent = deque(self._targets)
        if self._unsent:
            self._send()
        self.end_late()
        self.remind()

    def over(self) -> None:
        """End it."""
        if self.closed is None:
            self.is_over = True
        self.end(EndpointClosedError("the discovery is over"))

    @override
    def next_deadline(self) -> float:
        return min(super().next_deadline(), self._next_at, self._ends_at)

    # --------------------------------------------------------------------------------------------- sending

    def _send(self) -> None:
        """Send to those who are left of this round, as far as the socket takes it."""
        guard, entry = self.guard, self.entry
        while self._unsent:
            wire, channel = self._unsent[0]
            if guard.outbox.screened and guard.screens.hold(channel, [slot[0] for slot in entry.slots()], entry):
                return
            if not guard.takes(entry):
                guard.wait_for_socket(entry, self)
                return
            now = guard.clock()  # before it leaves: the process may lose its turn right after
            try:
                if not guard.outbox.transmit(channel, self._data, wire, self._routing):
                    guard.wait_for_socket(entry, self)
                    return
            except EndpointClosedError as error:
                self._failures[wire] = error
            except OSError as error:
                guard.registry.counters.send_errors += 1
                address = None if self._routing is None else self._routing.address
                self._failures[wire] = sending_error(error, self._data, wire, address)
            else:
                self._note_sent(wire, now)
            self._unsent.popleft()
        self._end_round()

    def _note_sent(self, wire: Wire, now: float) -> None:
        registry, entry, slots = self.guard.registry, self.entry, self.entry.slots()
        peer = registry.source(wire)
        if self._is_new_round:
            self._is_new_round = False
            self.attempts += 1
            for slot in slots:
                self.sends[slot] = Sent(now, self.attempts, peer, self._original, (entry.port,))
        if entry.sent_at is None:
            registry.held.discard(entry)
            self._began_at, self._ends_at = now, now + self._window
        entry.sent_at = now
        registry.counters.sent += 1
        registry.counters.retransmitted += self.attempts > 1
        peer.sent += 1
        if wire not in self._asked:
            self._asked.add(wire)
            self.asked.append(peer)
        registry.note_asked(entry, peer, slots)

    def _end_round(self) -> None:
        if self.entry.sent_at is None:  # nobody could be asked, and nobody will answer
            *_, error = self._failures.values()
            if not self.begun.done():
                self.begun.set_exception(error)
                self.begun.exception()  # perhaps nobody is there any more to see it
            return
        if not self.begun.done():
            for error in self._failures.values():
                logger.debug("not asked: %s", error)
            self.begun.set_result(None)
        self._next_at = self._began_at + self._times.popleft() if self._times else math.inf
        self._is_new_round = True


@used_with("async with endpoint.discover(addr, data) as replies:", "async for reply in replies:")
class Discovery:
    """A question to many, and the answers as they come: `Client.discover` makes it.

        async with endpoint.discover(("239.255.255.250", 1900), probe, window=3.0) as replies:
            async for reply in replies:
                print(reply.peer, reply.data)

    It is asked on entering; the `async for` ends with the window, or with the last reply of `limit`.
    """

    __module__ = "udpguard"  # where users find it

    def __init__(
        self,
        context: Context,
        addr: object,
        data: Buffer,
        *,
        reply_from: ReplyFrom,
        window: float,
        limit: int | None,
        retry: RetryPolicy | None | Default,
        accept: Accept | None,
        repeats: bool,
        interface: str | int | None,
        ttl: int | None,
    ) -> None:
        self._context = context
        self._guard = context.guard
        self._addresses = written_addresses(addr)
        self._data = checked_data(data)
        self._sources = Sources(reply_from, socket.if_nametoindex)
        self._window = checked_window(window)
        check_limit("limit", limit, optional=True)
        self._limit = limit
        self._policy = context.settings.overridden(None, retry).retry
        check_hook("accept", accept)
        self._accept = accept
        self._repeats = bool(repeats)
        self._routing = checked_routing(interface, ttl) if (interface, ttl) != (None, None) else None
        self._used = False
        self._is_given_up = False
        """Whether it was closed before it began."""
        self._call: _Call | None = None

    # ------------------------------------------------------------------------------------- opening and closing

    async def __aenter__(self) -> Self:
        guard = self._guard
        guard.check_loop()
        if self._used:
            raise RuntimeError("this discovery was begun already: endpoint.discover(…) makes another")
        self._used = True
        wires = await self._wires()
        if self._is_given_up:
            raise EndpointClosedError("the discovery was closed before it was open: endpoint.discover(…) makes another")
        tokens = tuple(dict.fromkeys(token for wire in wires for token in self._sources.tokens(wire)))
        call = self._call = self._listen(wires, tokens)
        try:
            guard.go_on(call.entry)
            await call.begun
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End it before its time.

        Raises:
            RuntimeError: Its event loop runs in another thread.
        """
        call = self._call
        if call is None:
            self._is_given_up = True
        else:
            if call.closed is None:
                self._guard.check_thread("discovery.close")
            call.clear()
            call.over()

    @override
    def __repr__(self) -> str:
        asked = ", ".join(str(one if isinstance(one, HostName) else peer_of(one)) for one, _ in self._addresses[:3])
        is_over = self._is_given_up if self._call is None else self._call.entry.ended
        state = "over" if is_over else "begun" if self._used else "not begun"
        return f"<udpguard.Discovery of {asked}{', …' if len(self._addresses) > 3 else ''} ({state})>"

    @property
    def dropped(self) -> int:
        """How many replies came while 65,536, or 16 MiB of them, were unread, and were dropped."""
        return 0 if self._call is None else self._call.dropped

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Reply:
        """Give the next reply, or end with the window.

        Raises:
            EndpointClosedError: The endpoint was closed meanwhile.
        """
        call = self._call
        if call is None:
            raise RuntimeError("the discovery has not begun: write `async with endpoint.discover(…) as replies:`")
        if call.closed is None:
            self._guard.check_loop()
        try:
            return await call.get(math.inf)
        except EndpointClosedError:
            if call.is_over:
                raise StopAsyncIteration from None
            raise

    # -------------------------------------------------------------------------------------------- whom to ask

    async def _wires(self) -> list[Wire]:
        """Whom it asks."""
        wires: dict[Wire, None] = {}
        for address, written in self._addresses:
            found = await self._context.look_up(address) if isinstance(address, HostName) else [address]
            for wire in found:
                self._check(wire, written)
                wires[wire] = None
        return list(wires)

    def _check(self, wire: Wire, written: object) -> None:
        refusal = refusal_to_send(wire)
        is_limited = is_limited_broadcast(wire)
        if is_limited and not self._context.allow_broadcast:
            refusal = "255.255.255.255 is the broadcast address: open the endpoint with allow_broadcast=True"
        elif (is_limited or is_multicast(wire)) and (self._sources.peer or self._sources.host):
            refusal = (
                f"no reply comes from {peer_of(wire).host} itself: say with reply_from where they may come from, "
                f"such as a network, or 'anywhere'"
            )
        if refusal is not None:
            raise InvalidAddressError(refusal, address=written)
        self._guard.channel_for(wire, written)
        check_size(self._data, wire)
        if self._routing is not None:
            check_route(self._routing, wire)

    def _listen(self, wires: Sequence[Wire], tokens: tuple[Token, ...]) -> _Call:
        context, guard, registry = self._context, self._guard, self._guard.registry
        key = request_key(context.correlator, self._data)
        waits = () if self._policy is None else drawn(self._policy, None, guard.host.random)
        guard.check_loop()  # both are foreign code
        port = self._choose_port(wires, tokens, key)
        targets = [(wire, guard.channel_at(port, wire)) for wire in wires]
        call = _Call(guard, self._data, targets, self._routing, waits, self._window, self._accept)
        if self._limit is not None:
            call.left = self._limit
        if not self._repeats:
            call.ignore_repeats()
        call.enter(wires[0], port)
        if key is not None and isinstance(context.correlator, TransactionId) and context.correlator.assign:
            try:
                key = self._assign(call, context.correlator, tokens, checked_id(key))
            except BaseException:  # no id is left, or the correlator, which is foreign code, is mistaken
                registry.end(call.entry, None)
                raise
            if call.closed is not None:  # the correlator has closed the endpoint
                raise another(call.closed)
        call.listen(tokens, context.book, key)
        return call

    def _choose_port(self, wires: Sequence[Wire], tokens: tuple[Token, ...], key: object) -> int:
        """Without a key a spare port, so that what comes too late does not look like the answer to something else.

        Raises:
            TooManyPendingError: There is none, and somebody hears the same at all of the endpoint's own.
        """
        guard, keeper = self._guard, self._guard.keeper
        if key is not None:
            return guard.some_port()
        is_mixed = len({len(wire) for wire in wires}) > 1  # a spare port is one family's
        if keeper is not None and not is_mixed:
            spare = keeper.choose_spare(wires, tokens)
            if spare is not None:
                return spare
        registry, first = guard.registry, guard.some_port()
        for port in (first, *(-number for number in range(guard.pool) if -number != first)):
            if not any(registry.soil.is_occupied(token, port) for token in tokens):
                return port
        more = "let the endpoint have more ports with Ports(pool=…)"
        way_out = "ask IPv4 and IPv6 addresses in a discovery each" if is_mixed else more
        raise TooManyPendingError(
            f"a discovery or session that hears the same is open already, and there is no other port for one more: "
            f"begin it when that is over, pass correlate=… if the protocol has transaction ids, or {way_out}",
            limit=guard.pool + registry.spares.limit,
        )

    def _assign(self, call: _Call, correlator: TransactionId, tokens: tuple[Token, ...], original: bytes) -> bytes:
        """Pick an id."""
        registry = self._guard.registry
        pool = registry.pool(tokens[0], self._context.book)
        slot: Slot | None = None
        if pool.gate.enter():
            call.held.append(pool.gate)
            slot = registry.assign(pool, tokens, self._guard.clock())
        if slot is None:
            raise TooManyPendingError(
                "all transaction ids are in use: wait for some to end", limit=1 << 8 * pool.length
            )
        call.held.remove(pool.gate)  # from now on the place is the id's
        call.assigned.append(slot)
        key = slot[2]
        assert isinstance(key, bytes)
        call.stamp(correlator.stamped(self._data, key), original)
        return key
