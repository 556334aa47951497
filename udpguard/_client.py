"""The verbs: request, exchange, expect, send."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from typing import TYPE_CHECKING, Literal, NoReturn, Self, cast

from udpguard._asking import Asker
from udpguard._context import Addresses, Context, Payload, Settings
from udpguard._errors import InvalidAddressError
from udpguard._exchange import Quota
from udpguard._guard import Guard, ReplyFuture
from udpguard._outgoing import post
from udpguard._protocol import literal
from udpguard._resolve import Resolver
from udpguard._sending import checked_data
from udpguard._typing import Buffer, later, override
from udpguard.core.address import (
    Address,
    HostName,
    Peer,
    Wire,
    is_limited_broadcast,
    parse,
    peer_of,
    refusal_to_send,
)
from udpguard.core.correlation import Correlator, check_correlator
from udpguard.core.options import DEFAULT, DEFAULT_TIMEOUT, Default, checked_timeout
from udpguard.core.retransmission import RetryPolicy
from udpguard.core.source import Accept, Entry
from udpguard.core.verdict import Reply

if TYPE_CHECKING:
    from udpguard._discovery import Discovery
    from udpguard._session import Session
    from udpguard._sweep import Questions, Sweep
    from udpguard.core.reply_from import ReplyFrom
else:
    Discovery, Session, Questions, Sweep = map(later, ("Discovery", "Session", "Questions", "Sweep"))
    ReplyFrom = later("ReplyFrom")


class Expectation:
    """A reply that is expected from now on: `await` it for the `Reply`.

    As a context manager, `with` or `async with`, it withdraws itself at the end. Never awaited, it makes no noise.
    """

    __module__ = "udpguard"  # where users find it

    def __init__(self, guard: Guard, owner: object, wire: Wire, future: ReplyFuture, port: int) -> None:
        self._guard = guard
        self._owner = owner  # an endpoint that nobody holds closes
        self._wire = wire
        self._future = future
        self._port = port

    def __await__(self) -> Generator[object, None, Reply]:
        """Wait for the reply.

        Raises:
            ReplyTimeoutError: None came in time.
            PeerRefusedError: Nothing listens where `send` sent to.
            EndpointClosedError: The endpoint was closed.
        """
        return self._future.__await__()

    async def send(self, data: Buffer) -> None:
        """Send a datagram to the peer, from the port that listens.

        Args:
            data: The payload; one of no bytes is a valid datagram.

        Raises:
            PeerUnreachableError: The operating system would not send it.
            DatagramTooLargeError: It is more than UDP, or the path, carries.
            EndpointClosedError: The endpoint was closed.
        """
        payload = checked_data(data)
        self._future.asks(payload)
        guard = self._guard
        guard.check_loop()
        await post(guard, guard.channel_at(self._port, self._wire), self._wire, payload)

    @property
    def peer(self) -> Peer:
        """Who is expected to reply, or was meant to be asked."""
        return peer_of(self._wire)

    def done(self) -> bool:
        """Whether the reply came, or never will."""
        return self._future.done()

    def cancel(self) -> bool:
        """Withdraw it; whether it was still pending."""
        return self._future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.cancel()

    @override
    def __repr__(self) -> str:
        return f"<udpguard.Expectation of {self.peer} ({'done' if self.done() else 'pending'})>"


class Client:
    """One way of asking through an endpoint: its correlator, its time-out, its schedule.

    An endpoint is a client, and `Endpoint.client()` makes more. They share sockets and statistics, and never take
    each other's replies.
    """

    __module__ = "udpguard"  # where users find it

    if not TYPE_CHECKING:  # checkers show `__init__`

        def __new__(cls, *args: object, **_: object) -> Self:
            if not args:
                raise TypeError(
                    f"a udpguard.{cls.__name__} is not made by hand: write `async with udpguard.open_endpoint() as "
                    f"endpoint:`; that is a client, and endpoint.client(…) makes more"
                )
            return super().__new__(cls)

    def __init__(
        self,
        guard: Guard,
        resolver: Resolver,
        correlate: Correlator | None,
        settings: Settings,
        quota: Quota | None,
        *,
        allow_broadcast: bool,
        owner: object = None,
    ) -> None:
        self._guard = guard
        correlator, book = check_correlator(correlate), guard.registry.book(correlate)
        self._context = Context(guard, resolver, correlator, book, settings, quota, allow_broadcast, owner)
        is_plain = settings.retry is None and quota is None
        seconds = settings.timeout or DEFAULT_TIMEOUT
        self._asker = Asker(guard, correlator, book, seconds) if is_plain else None
        """The short way, where requests need nothing but one reply unless the call says otherwise."""

    @override
    def __repr__(self) -> str:
        settings = self._context.settings
        return (
            f"<udpguard.Client correlate={self._context.correlator!r}, timeout={settings.timeout!r}, "
            f"retry={settings.retry!r}{' (closed)' if self._guard.closed else ''}>"
        )

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a udpguard.{type(self).__name__} can't be copied or pickled: open one in each process")

    # ------------------------------------------------------------------------------------------------ asking

    async def request(
        self,
        addr: Addresses,
        data: Payload,
        *,
        timeout: float | None | Default = DEFAULT,
        retry: RetryPolicy | None | Default = DEFAULT,
        reply_from: ReplyFrom = "peer",
        accept: Accept | None = None,
    ) -> bytes:
        """Ask, and give the reply's bytes.

        Args:
            addr: Whom to ask: `(host, port)`, or a list of equivalent servers, which the attempts try in turn, as they
                do with the several addresses of a name.
            data: The datagram, or a function of the attempt's number (0, 1, …) that gives it, for protocols whose
                retransmissions differ.
            timeout: Seconds from the call to the deadline, whatever happens in between; None: no deadline.
            retry: When to send again; None: sent once to each address. Where it is given and `timeout` is not, the
                deadline is the schedule's own end.
            reply_from: Where the reply may come from: "peer", "host" (any port of it), an address, a network
                ("192.0.2.0/24"), a list of these, or "anywhere" (with a correlator or `accept` only).
            accept: Judges a reply that came from the right place: True or False, or a `Decision`.

        Returns:
            The payload of the reply.

        Raises:
            ReplyTimeoutError: No reply that was accepted came in time; the message says why that may be.
            PeerRefusedError: Nothing listens on that port: an ICMP message says so that quotes this request (Linux).
            PeerUnreachableError: It could not be sent to any of the addresses.
            ForgerySuspectedError: More datagrams with a wrong key came than `Limits.near_misses` allows.
            InvalidAddressError: An address is malformed, or of a kind that can't answer.
            DatagramTooLargeError: The datagram is more than UDP, or the path, carries.
            DuplicateTransactionError: Its transaction id is pending for this peer already.
            EndpointClosedError: The endpoint was closed, before or meanwhile.
            socket.gaierror: The name does not resolve.
            RuntimeError: The endpoint belongs to another event loop.
        """
        entry: Entry | None = None
        if self._asker is not None and retry is DEFAULT and reply_from == "peer" and accept is None:
            entry = self._asker.ask(addr, data, timeout, plain=True)
        if entry is None:
            entry = self._context.begin(addr, data, timeout, (retry, reply_from, accept), plain=True)
        try:
            return await cast("asyncio.Future[bytes]", entry.future)
        except BaseException:  # cancelled, or thrown into; a reply or a time-out has ended it already
            self._guard.withdraw(entry)
            raise

    async def exchange(
        self,
        addr: Addresses,
        data: Payload,
        *,
        timeout: float | None | Default = DEFAULT,
        retry: RetryPolicy | None | Default = DEFAULT,
        reply_from: ReplyFrom = "peer",
        accept: Accept | None = None,
    ) -> Reply:
        """Ask as `request` does, and give the whole `Reply`: the data, who sent it, the round-trip time, the attempts.

        Arguments and errors are those of `request`.
        """
        entry: Entry | None = None
        if self._asker is not None and retry is DEFAULT and reply_from == "peer" and accept is None:
            entry = self._asker.ask(addr, data, timeout, plain=False)
        if entry is None:
            entry = self._context.begin(addr, data, timeout, (retry, reply_from, accept), plain=False)
        try:
            return await cast("asyncio.Future[Reply]", entry.future)
        except BaseException:  # cancelled, or thrown into; a reply or a time-out has ended it already
            self._guard.withdraw(entry)
            raise

    # ------------------------------------------------------------------------------------- conversing

    def session(
        self,
        addr: Address,
        *,
        reply_from: Literal["peer", "host"] = "peer",
        max_queue: int = 1_024,
        drop: Literal["oldest", "newest"] = "oldest",
    ) -> Session:
        """Converse with one peer, as over a connected socket: `async with` opens the session.

        Any number of sessions share the endpoint's socket, and none hears another's peer. Datagrams with a transaction
        key that something pending expects go there, all others from the peer to the session; a request of the
        endpoint's to the same peer without a key leaves from another port. Another session with the same peer does,
        too.

        Args:
            addr: Whom with.
            reply_from: "peer", or "host" where the peer answers from another port, which is then the peer (as in TFTP,
                RFC 1350 section 4).
            max_queue: How many datagrams it keeps unread.
            drop: Which is dropped when there are more: the "oldest", or the "newest".

        Returns:
            The session, to be opened with `async with`, or `await`; that raises:

        Raises:
            InvalidAddressError: The address is malformed, or of a kind that can't answer.
            TooManyPendingError: As many as `Limits.pending` are pending, or all the endpoint's ports have a session
                with this peer.
            EndpointClosedError: The endpoint was closed.
            socket.gaierror: The name does not resolve.
        """
        from udpguard._session import Session  # the longer verbs are loaded when they are asked for first

        return Session(self._context, addr, reply_from=reply_from, max_queue=max_queue, drop=drop)

    def discover(
        self,
        addr: Addresses,
        data: Buffer,
        *,
        reply_from: ReplyFrom = "anywhere",
        window: float = 3.0,
        limit: int | None = None,
        retry: RetryPolicy | None | Default = DEFAULT,
        accept: Accept | None = None,
        repeats: bool = False,
        interface: str | int | None = None,
        ttl: int | None = None,
    ) -> Discovery:
        """Ask many at once, and give each reply as it comes: `async with` asks, `async for` gives the replies.

        With a correlator that finds a key in the data, replies need that key. Without one it leaves from a spare port
        where there is one (`Ports.spares`), so that what comes too late looks like the answer to nothing else.

        Args:
            addr: Whom to ask: a multicast group, a broadcast address (with `allow_broadcast`), or plain addresses; of a
                list, all.
            data: The datagram.
            reply_from: Where replies may come from, as in `request`: a network, "anywhere", … Others are strangers.
            window: Seconds from the first send to the end.
            limit: After so many replies it ends before that; None: any number.
            retry: When it is sent again within the window; the client's schedule unless given, None: never.
            accept: Judges each reply, as in `request`.
            repeats: Whether the same data from the same peer is given again; else that counts as a duplicate.
            interface: By which network interface it leaves: a name, an index, or for IPv4 an address of this machine;
                None: as the routes say. For what is no multicast, on Linux only.
            ttl: How many hops it may go (IP_MULTICAST_TTL and IP_TTL in `man 7 ip`); None: as the system has it, for
                multicast 1.

        Returns:
            The discovery, to be used with `async with`; that raises:

        Raises:
            InvalidAddressError: An address is malformed, or no reply can come from it.
            DatagramTooLargeError: The datagram is more than UDP carries.
            PeerUnreachableError: It could not be sent to any of the addresses.
            TooManyPendingError: As many as `Limits.pending` are pending, or no transaction id is free; or, without a
                key, a discovery or session that hears the same is open at each of the endpoint's ports.
            EndpointClosedError: The endpoint was closed.
            socket.gaierror: A name does not resolve.
        """
        from udpguard._discovery import Discovery

        return Discovery(
            self._context,
            addr,
            data,
            reply_from=reply_from,
            window=window,
            limit=limit,
            retry=retry,
            accept=accept,
            repeats=repeats,
            interface=interface,
            ttl=ttl,
        )

    # ---------------------------------------------------------------------------------------- asking very many

    def sweep(
        self,
        requests: Questions,
        *,
        in_flight: int = 1000,
        rate: float | None = None,
        timeout: float | None | Default = DEFAULT,
        retry: RetryPolicy | None | Default = DEFAULT,
        reply_from: ReplyFrom = "peer",
        accept: Accept | None = None,
    ) -> Sweep:
        """Ask very many questions, and give what becomes of each as it comes.

            async with endpoint.sweep(requests, timeout=1.0) as sweep:
                async for outcome in sweep: ...

        Args:
            requests: What is asked: `(addr, data)` or `(addr, data, tag)`, from any iterable or asynchronous iterable,
                of which no more is taken than can be asked. `addr` and `data` are those of `request`.
            in_flight: How many are in flight at once at the most. As many more may wait for their turn with a peer, a
                transaction id or a name, and as many outcomes for the caller.
            rate: Datagrams a second, with those that are sent again, in bursts of at most a millisecond's worth; None:
                as fast as it goes.
            timeout: Seconds from when a question is first sent to its deadline; None: no deadline.
            retry: When it is sent again, as in `request`.
            reply_from: Where the reply may come from, as in `request`.
            accept: Judges a reply that came from the right place, as in `request`.

        Returns:
            A `Sweep`, to be entered with `async with`, which withdraws what is still in flight at its end.

        Raises:
            TypeError: An argument is of the wrong kind; ValueError: it makes no sense.

        A question that fails has its error in its `Outcome`. What the iterable itself raises, and a TypeError for an
        item that is no such tuple, ends the `async for`, once all that was asked has its outcome. Where the endpoint is
        closed, that raises `EndpointClosedError`.
        """
        from udpguard._sweep import new_sweep

        return new_sweep(
            self._context,
            requests,
            in_flight=in_flight,
            rate=rate,
            timeout=timeout,
            retry=retry,
            reply_from=reply_from,
            accept=accept,
        )

    # --------------------------------------------------------------------------------- expecting and sending

    def expect(
        self,
        addr: Address,
        *,
        timeout: float | None | Default = DEFAULT,
        reply_from: ReplyFrom = "peer",
        accept: Accept | None = None,
        transaction: object = None,
    ) -> Expectation:
        """Expect a reply from now on, without sending anything.

        Args:
            addr: Who will reply: a literal address or a `Peer`.
            timeout: Seconds until it ends; None: never.
            reply_from: Where the reply may come from, as in `request`; "anywhere" always goes.
            accept: Judges a reply from the right place, as in `request`.
            transaction: The key that the correlator must find in it; None expects a datagram without a key.

        Returns:
            An `Expectation`, to be awaited for the `Reply` (with `rtt` None and `attempts` 0).

        Raises:
            TooManyPendingError: As many as `Limits.pending` are pending.
            InvalidAddressError: The address is a name, malformed, or of a kind that can't answer.
            DuplicateTransactionError: The transaction is expected from this peer already.
            EndpointClosedError: The endpoint was closed.
        """
        loop = self._guard.check_loop()
        wire = literal(addr)
        self._guard.channel_for(wire, addr)
        port = self._guard.some_port()
        seconds = self._context.settings.timeout if isinstance(timeout, Default) else checked_timeout(timeout)
        future = self._guard.expect(
            loop,
            wire,
            self._context.book,
            timeout=DEFAULT_TIMEOUT if seconds is None else seconds,
            reply_from=reply_from,
            accept=accept,
            transaction=transaction,
            port=port,
        )
        return Expectation(self._guard, self, wire, future, port)

    async def send(self, addr: Address, data: Buffer) -> None:
        """Send a datagram and expect nothing; wait only while the socket takes none.

        Args:
            addr: To whom; a multicast group, or with `allow_broadcast` a broadcast address, too.
            data: The payload; one of no bytes is a valid datagram.

        Raises:
            PeerUnreachableError: The operating system would not send it.
            InvalidAddressError: Nothing can be sent there.
            DatagramTooLargeError: It is more than UDP, or the path, carries.
            EndpointClosedError: The endpoint was closed.
            socket.gaierror: The name does not resolve.
        """
        self._guard.check_loop()
        payload = checked_data(data)
        wire = parse(addr, socket.if_nametoindex)
        if isinstance(wire, HostName):
            wire = (await self._context.look_up(wire))[0]
        refusal = refusal_to_send(wire)
        if refusal is None and is_limited_broadcast(wire) and not self._context.allow_broadcast:
            refusal = "255.255.255.255 is the broadcast address: open the endpoint with allow_broadcast=True"
        if refusal is not None:
            raise InvalidAddressError(refusal, address=addr)
        await post(self._guard, self._guard.channel_for(wire, addr), wire, payload)
