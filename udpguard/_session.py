"""A virtual `connect()`: many conversations over one socket, each with its own peer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias, cast

from udpguard._context import Context, Payload
from udpguard._errors import EndpointClosedError, InvalidAddressError, TooManyPendingError, UdpGuardError, another
from udpguard._guard import Guard
from udpguard._inbox import Inbox
from udpguard._mistaken import used_with
from udpguard._outgoing import post
from udpguard._ports import NoPortError
from udpguard._sending import checked_data
from udpguard._typing import Buffer, override
from udpguard.core.address import (
    HostName,
    Peer,
    Token,
    Wire,
    host_token,
    is_unscoped_link_local,
    parse,
    peer_of,
    refusal_to_ask,
)
from udpguard.core.options import DEFAULT, DEFAULT_TIMEOUT, Default, check_hook, check_limit, checked_timeout
from udpguard.core.record import record
from udpguard.core.retransmission import RetryPolicy
from udpguard.core.source import Accept, Entry
from udpguard.core.verdict import Decision, Reply

if TYPE_CHECKING:
    from udpguard.core.reply_from import ReplyFrom

Drop: TypeAlias = Literal["oldest", "newest"]

# An ICMP message quotes at most so much on Linux, and is about one of the latest datagrams.
_QUOTED: Final = 548
_LATEST: Final = 8


@record
class SessionStatistics:
    """What was counted of one session.

    Attributes:
        sent: Datagrams that left by `send`.
        received: Datagrams from its peer; without the answers to its requests.
        dropped: Of these, those that were dropped since nobody read them in time.
        unread: Of these, those that wait to be read now.
        refused: How often ICMP said that nothing listens at its peer.
    """

    __module__ = "udpguard"  # where users find it

    sent: int
    received: int
    dropped: int
    unread: int
    refused: int


class _Line(Inbox[bytes]):
    """The session in the registry: what comes from its peer, and what was sent there lately."""

    __slots__ = ("is_left", "latest", "received", "refused", "requests")

    def __init__(self, guard: Guard, maximum: int, *, newest_goes: bool) -> None:
        super().__init__(guard, maximum, newest_goes=newest_goes)
        self.latest: list[tuple[Wire, bytes]] | tuple[()] = ()
        self.is_left = False
        """Whether it was the session that was closed, and not the endpoint first."""
        self.received = 0
        self.refused = 0
        self.requests: tuple[Entry, ...] = ()
        """Those within it that are pending."""

    @override
    def shut(self, why: UdpGuardError) -> None:
        super().shut(why)
        for entry in self.requests:
            self.guard.fail(entry, another(why))

    @override
    def take(self, data: bytes, wire: Wire, rtt: float | None, attempts: int) -> None:
        if self.is_cleared:
            return
        self.received += 1
        self.put(data)

    @property
    def wire(self) -> Wire:
        """Its peer."""
        assert self.entry.source is not None
        return cast("Wire", self.entry.source.token)

    def note_latest(self, wire: Wire, data: bytes) -> None:
        """Take note of what is about to be sent."""
        self.latest = [*self.latest[1 - _LATEST :], (wire, data[:_QUOTED])]

    @override
    def step(self) -> None:
        self.end_late()
        self.remind()

    @override
    def has_sent(self, wire: Wire, quote: bytes, port: int) -> bool:
        return port == self.entry.port and any(to == wire and data.startswith(quote) for to, data in self.latest)

    @override
    def goes_on_without(self, wire: Wire, quote: bytes, error: UdpGuardError) -> bool:
        self.refused += 1
        self.guard.registry.counters.refused += 1
        self.tell(error)
        return True


@used_with("async with endpoint.session(addr) as session:", "async for data in session:")
class Session:
    """A conversation with one peer: `Client.session` makes it, `async with` opens it and ends it.

        async with endpoint.session(("192.0.2.1", 69), reply_from="host") as session:
            await session.send(b"hello")
            data = await session.receive(timeout=1.0)

    It shares the endpoint's socket with all others, and hears its peer alone. Datagrams come in the order in which they
    arrived; as with every UDP socket some may be lost, come twice, or out of order.

    `async for data in session` gives what comes until the session is closed, or the peer refuses (`PeerRefusedError`).
    """

    __module__ = "udpguard"  # where users find it

    __slots__ = (
        "__weakref__",
        "_addr",
        "_context",
        "_hears_host",
        "_is_given_up",
        "_line",
        "_max_queue",
        "_newest_goes",
        "_where",
    )

    def __init__(self, context: Context, addr: object, *, reply_from: ReplyFrom, max_queue: int, drop: Drop) -> None:
        check_limit("max_queue", max_queue)
        if drop not in ("oldest", "newest"):
            raise ValueError(f"drop must be 'oldest' or 'newest', not {drop!r}")
        if reply_from not in ("peer", "host"):
            raise ValueError(
                f"a session hears its peer alone: reply_from must be 'peer', or 'host' where the peer answers "
                f"from another port, not {reply_from!r}"
            )
        self._context = context
        self._where = parse(addr, socket.if_nametoindex)
        self._addr = addr
        self._hears_host = reply_from == "host"
        self._max_queue = max_queue
        self._newest_goes = drop == "newest"
        self._line: _Line | None = None
        self._is_given_up = False
        """Whether it was closed before it was open."""

    @property
    def _guard(self) -> Guard:
        return self._context.guard

    # ------------------------------------------------------------------------------------- opening and closing

    async def __aenter__(self) -> Self:
        is_open = self._line is not None and self._line.closed is None
        return self if is_open else await self._open()  # by `await`, and to be closed at the end of a block

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def __await__(self) -> Generator[object, None, Self]:
        """Open it, to be ended by `close`."""
        return self._open().__await__()

    async def _open(self) -> Self:
        self._guard.check_loop()
        self._check_unopened()
        where = self._where
        if isinstance(where, HostName):
            where = (await self._context.look_up(where))[0]
            self._check_unopened()
        refusal = refusal_to_ask(where)
        if refusal is not None:
            raise InvalidAddressError(refusal, address=self._addr)
        self._guard.channel_for(where, self._addr)
        self._listen(where, (host_token(where),) if self._hears_host else (where,))
        return self

    def _check_unopened(self) -> None:
        if self._line is not None:
            raise RuntimeError("this session was opened already: endpoint.session(…) makes another")
        if self._is_given_up:
            raise EndpointClosedError("the session was closed before it was open: endpoint.session(…) makes another")

    def _listen(self, wire: Wire, tokens: tuple[Token, ...]) -> None:
        guard, registry = self._guard, self._guard.registry
        port = self._choose_port(wire, tokens)
        line = _Line(guard, self._max_queue, newest_goes=self._newest_goes)
        # Of a link-local peer without its link, the first that sends tells the link.
        line.fixes = self._hears_host or is_unscoped_link_local(wire)
        line.takes_all = not line.fixes
        line.enter(wire, port)
        line.listen(tokens, registry.book(None))
        self._line = line
        if guard.outbox.screened:
            guard.screens.load_everywhere(tokens)  # first, since that is cheap for those who open many
            guard.screens.load(guard.channel_at(port, wire), tokens)

    def _choose_port(self, wire: Wire, tokens: tuple[Token, ...]) -> int:
        """A port of the endpoint's own, or a spare one where somebody listens to the peer, or old replies may come.

        Raises:
            TooManyPendingError: Sessions with this peer listen at all of them.
        """
        guard, registry = self._guard, self._guard.registry
        port = guard.some_port()
        if guard.keeper is not None:
            with contextlib.suppress(NoPortError):  # else old replies may come, as they do to a connected socket
                port = guard.keeper.choose_to_listen(port, wire, tokens)
        if any(registry.soil.is_occupied(token, port) for token in (wire, host_token(wire))):
            raise TooManyPendingError(
                f"a session with {peer_of(wire)} is open already, and there is no other port for one more: "
                f"close it, or let the endpoint have more ports with Ports(spares=…)",
                limit=1 + registry.spares.limit,
            )
        return port

    def close(self) -> None:
        """End it: nothing comes any more, and who waits in `receive` or `request` gets an `EndpointClosedError`.

        Raises:
            RuntimeError: Its event loop runs in another thread.
        """
        line = self._line
        if line is None:
            self._is_given_up = True
            return
        if line.closed is None:
            self._guard.check_thread("session.close")
        line.is_left = line.is_left or line.closed is None
        line.clear()
        line.end(EndpointClosedError(f"the session with {peer_of(line.wire)} was closed"))

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return self._is_given_up if self._line is None else self._line.closed is not None

    def _opened(self) -> _Line:
        if self._line is None:
            raise RuntimeError(
                "the session is not open: write `async with endpoint.session(…) as session:`, "
                "or `session = await endpoint.session(…)`"
            )
        return self._line

    # ------------------------------------------------------------------------------------------- conversing

    @property
    def peer(self) -> Peer:
        """Whom it is with; with `reply_from="host"`, who answered first, once somebody has.

        Raises:
            RuntimeError: The address is a name, and the session is not open yet.
        """
        if self._line is None and isinstance(self._where, bytes):
            return peer_of(self._where)
        return peer_of(self._opened().wire)

    async def send(self, data: Buffer) -> None:
        """Send a datagram to the peer; wait only while the socket takes none.

        Args:
            data: The payload; one of no bytes is a valid datagram.

        Raises:
            PeerUnreachableError: The operating system would not send it.
            DatagramTooLargeError: It is more than UDP, or the path, carries.
            EndpointClosedError: The session, or the endpoint, was closed.
        """
        line, guard = self._opened(), self._guard
        payload = checked_data(data)
        guard.check_loop()
        if line.closed is not None:
            raise EndpointClosedError(str(line.closed))
        wire, entry = line.wire, line.entry
        line.note_latest(wire, payload)
        guard.registry.note_asked(entry, guard.registry.source(wire), entry.slots())
        channel = guard.channel_at(entry.port, wire)
        entry.sent_at = guard.clock()  # it may leave, and nobody be there any more to take note of that
        await post(guard, channel, wire, payload)
        line.attempts += 1

    async def receive(self, *, timeout: float | None | Default = DEFAULT) -> bytes:
        """Give the next datagram that the peer sent.

        Args:
            timeout: Seconds to wait for it; the client's unless given, None for no deadline.

        Raises:
            ReplyTimeoutError: None came in time; the message says why that may be. The session goes on.
            PeerRefusedError: ICMP says that nothing listens at the peer. The session goes on; whether to end it is
                the caller's affair.
            EndpointClosedError: The session, or the endpoint, was closed.
        """
        line = self._opened()
        self._check_loop(line)
        seconds = self._context.settings.timeout if isinstance(timeout, Default) else checked_timeout(timeout)
        return await line.get(
            DEFAULT_TIMEOUT if seconds is None else seconds,
            lambda waited: self._guard.reasons.timed_out(line.entry, 0.0, waited),
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Give the next datagram, however long it takes; end when the session was closed here.

        Raises:
            PeerRefusedError: ICMP says that nothing listens at the peer. The session goes on, and can be read again.
            EndpointClosedError: The endpoint was closed.
        """
        line = self._opened()
        try:
            return await self.receive(timeout=None)
        except EndpointClosedError:
            if line.is_left:  # though the endpoint may have been closed since
                raise StopAsyncIteration from None
            raise

    async def request(
        self,
        data: Payload,
        *,
        timeout: float | None | Default = DEFAULT,
        retry: RetryPolicy | None | Default = DEFAULT,
        accept: Accept | None = None,
    ) -> bytes:
        """Ask the peer, and give the answer's bytes, which `receive` doesn't give then.

        It leaves from the session's port. Without a correlator the next datagram from the peer is the answer, unless
        `accept` refuses it; requests go one after the other. With `reply_from="host"` the sender of an answer that is
        taken becomes the peer, if nobody else has before; who sends what `accept` refuses does not.

        Arguments and errors are those of `Client.request`.
        """
        line, guard = self._opened(), self._guard
        self._check_loop(line)
        if line.closed is not None:
            raise EndpointClosedError(str(line.closed))
        check_hook("accept", accept)
        reply_from = "host" if self._hears_host and line.fixes else "peer"
        entry = self._context.begin(
            peer_of(line.wire),
            data,
            timeout,
            (retry, reply_from, self._fixing(line, accept) if line.fixes else accept),
            plain=True,
            port=line.entry.port,
        )
        line.requests = (*line.requests, entry)
        closed = self._opened().closed
        if closed is not None:  # by what made the data, its key or the schedule
            guard.fail(entry, another(closed))
        try:
            return await cast("asyncio.Future[bytes]", entry.future)
        except BaseException:  # cancelled, or thrown into; a reply or a time-out has ended it already
            guard.withdraw(entry)
            raise
        finally:
            line.requests = tuple(one for one in line.requests if one is not entry)

    def _fixing(self, line: _Line, accept: Accept | None) -> Accept:
        """What has the sender of the answer that it takes be the peer from then on."""

        def judged(reply: Reply) -> bool | Decision:
            decision = True if accept is None else accept(reply)
            if decision is not True and decision is not Decision.ACCEPT:
                return decision
            wire = cast("Wire", parse(reply.peer, socket.if_nametoindex))
            if line.entry.ended:  # accept itself closed it
                pass
            elif line.fixes:
                self._guard.registry.fix(line.entry, wire)
            elif wire != line.wire:  # it asked before the peer was known
                return Decision.REFUSE
            return decision

        return judged

    def _check_loop(self, line: _Line) -> None:
        if line.closed is None:
            self._guard.check_loop()

    @override
    def __repr__(self) -> str:
        state = " (closed)" if self.is_closing() else " (not open)" if self._line is None else ""
        with_whom = self._where if self._line is None and isinstance(self._where, HostName) else self.peer
        return f"<udpguard.Session with {with_whom}{state}>"

    def statistics(self) -> SessionStatistics:
        """What was counted until now; it can be asked for after closing, too."""
        line = self._opened()
        return SessionStatistics(line.attempts, line.received, line.dropped, len(line.queue), line.refused)
