"""The registry as an `asyncio.DatagramProtocol`: the thin shell that a transport calls."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from udpguard._errors import InvalidAddressError
from udpguard._guard import Guard, UnexpectedHook
from udpguard._typing import later, override
from udpguard.core.address import Address, HostName, Wire, parse, refusal_to_ask, wire_of_source
from udpguard.core.correlation import Correlator, check_correlator
from udpguard.core.icmp import NetworkError
from udpguard.core.options import DEFAULT, DEFAULT_TIMEOUT, Default, Limits, checked_timeout
from udpguard.core.source import Accept
from udpguard.core.statistics import Statistics
from udpguard.core.verdict import Reply

if TYPE_CHECKING:
    from udpguard._platform.interface import Ages
    from udpguard._platform.sockets import Drops
    from udpguard._seams import Channel
    from udpguard.core.registry import Batch
    from udpguard.core.reply_from import ReplyFrom
else:
    ReplyFrom = later("ReplyFrom")

logger = logging.getLogger("udpguard")


class GuardProtocol(asyncio.DatagramProtocol):
    """An `asyncio.DatagramProtocol` that matches replies to expectations, for any loop's datagram endpoint.

        transport, guard = await loop.create_datagram_endpoint(udpguard.GuardProtocol, local_addr=("0.0.0.0", 0))
        reply = guard.expect(("192.0.2.1", 7), timeout=2.0)
        transport.sendto(b"hello", ("192.0.2.1", 7))
        print((await reply).data)

    Args:
        correlate: What, beyond the address, ties a reply to its request.
        on_unexpected: Called with each datagram that is not delivered.
        limits: What may be held at once.
    """

    __module__ = "udpguard"  # where users find it

    def __init__(
        self,
        *,
        correlate: Correlator | None = None,
        on_unexpected: UnexpectedHook | None = None,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
    ) -> None:
        self._guard = Guard(limits, on_unexpected)
        self._book = self._guard.registry.book(check_correlator(correlate))
        self._drops: Drops | None = None
        self._channel: Channel | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._port = 0

    @classmethod
    def of(cls, guard: Guard, port: int = 0) -> GuardProtocol:
        """A shell around a guard that serves other sockets as well; `port` is the number of its port there."""
        protocol = cls.__new__(cls)
        protocol._port = port
        protocol._guard = guard
        protocol._book = guard.registry.book(None)
        protocol._drops = None
        protocol._channel = None
        protocol._transport = None
        return protocol

    def expect(
        self,
        addr: Address,
        *,
        timeout: float | None | Default = DEFAULT,
        reply_from: ReplyFrom = "peer",
        accept: Accept | None = None,
        transaction: object = None,
    ) -> asyncio.Future[Reply]:
        """Expect a reply from now on; nothing is sent.

        Args:
            addr: Who will be asked: a literal address or a `Peer`.
            timeout: Seconds until it ends with a `ReplyTimeoutError`; 5 unless given, None for never.
            reply_from: Where the reply may come from.
            accept: Judges a reply from the right place.
            transaction: The key it must have, as the correlator's `reply_key` gives it.

        Returns:
            A future of the `Reply`. Cancelling it withdraws the expectation.

        Raises:
            InvalidAddressError: The address can't answer, or is a host name.
            TooManyPendingError: As many as `Limits.pending` are pending.
            DuplicateTransactionError: The transaction is expected from this peer already.
            EndpointClosedError: The transport was closed.
        """
        loop = self._guard.check_loop()
        wire = literal(addr)
        seconds = DEFAULT_TIMEOUT if isinstance(timeout, Default) else checked_timeout(timeout)
        return self._guard.expect(
            loop,
            wire,
            self._book,
            timeout=seconds,
            reply_from=reply_from,
            accept=accept,
            transaction=transaction,
        )

    @override
    def __repr__(self) -> str:
        return f"<udpguard.GuardProtocol ({self._guard.registry.statistics(0).pending} pending)>"

    def statistics(self) -> Statistics:
        """What was counted until now."""
        return self._guard.statistics(0 if self._drops is None else self._drops.count())

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        from udpguard._platform.sockets import Drops  # see `_host`
        from udpguard._transport import UdpTransport

        if self._guard.loop is None:
            self._guard.bind(asyncio.get_running_loop())
        self._guard.opened()
        self._transport = transport
        self._channel = transport if isinstance(transport, UdpTransport) else None
        sock = transport.get_extra_info("socket")
        if not self._guard.channels and sock is not None:
            self._drops = Drops(sock)

    def batch_received(self, batch: Batch, ages: Ages) -> None:
        """Called by udpguard's own transport with what one drain of the socket read: payloads and wires.

        Args:
            batch: The datagrams.
            ages: Tells how many seconds ago each arrived.
        """
        guard = self._guard
        guard.receive(batch, ages, self._port)
        if guard.registry.strangers_left <= 0:
            guard.screens.strangers_came(self._channel)

    @override
    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """Called by any transport with one datagram."""
        self._guard.receive(((data, _wire_of_tuple(addr)),), None, self._port)

    @override
    def error_received(self, exc: Exception) -> None:
        """Called by the transport when the socket has an error, which may be anybody's."""
        self._guard.registry.counters.send_errors += 1
        logger.debug("the socket reports: %r", exc)

    def errors_received(self, errors: Sequence[NetworkError]) -> None:
        """Called by udpguard's own transport with what ICMP says of datagrams that left through the socket."""
        self._guard.report(errors, self._port)

    @override
    def pause_writing(self) -> None:
        """Called by the transport when it takes no more datagrams."""
        self._guard.pause(self)

    @override
    def resume_writing(self) -> None:
        """Called by the transport when it takes datagrams again."""
        self._guard.resume(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport when it is closed."""
        if self._drops is not None:
            self._drops.count()
        transport, self._transport, self._channel = self._transport, None, None
        if self._port > 0:
            self._guard.resume(self)  # what a spare port held back goes on without it
        self._guard.lost(exc, self._port, transport)


def _wire_of_tuple(addr: tuple[object, ...]) -> Wire:
    host, port = addr[0], addr[1]
    scope = addr[3] if len(addr) > 3 else 0
    assert isinstance(host, str)
    assert isinstance(port, int)
    assert isinstance(scope, int)
    return wire_of_source(host, port, scope)


def literal(addr: object) -> Wire:
    """The wire of an address that can answer and needs no look-up.

    Raises:
        InvalidAddressError: It is a name, or no reply can come from it.
    """
    wire = parse(addr, socket.if_nametoindex)
    if isinstance(wire, HostName):
        raise InvalidAddressError(
            f"{wire.host!r} is a host name, and nothing is looked up here: "
            f"pass the Peer that `await endpoint.resolve({wire.host!r}, {wire.port})` gives",
            address=addr,
        )
    refusal = refusal_to_ask(wire)
    if refusal is not None:
        raise InvalidAddressError(refusal, address=addr)
    return wire
