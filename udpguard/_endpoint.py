"""Opening and closing: the endpoint that users hold."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import warnings
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, Self

from udpguard._binding import binding_error, opening_error
from udpguard._client import Client
from udpguard._context import Settings, checked_quota
from udpguard._errors import InvalidAddressError
from udpguard._guard import Guard, UnexpectedHook
from udpguard._host import host_of, open_channel
from udpguard._mistaken import used_with
from udpguard._ports import Binder, PortKeeper, checked_ports
from udpguard._protocol import GuardProtocol, literal
from udpguard._resolve import Resolver, unresolved
from udpguard._typing import override
from udpguard.core.address import (
    IPV4_WIRE,
    Address,
    HostName,
    Peer,
    Wire,
    parse,
    peer_of,
    refusal_to_send,
    sockaddr_of,
    wire_of_source,
)
from udpguard.core.correlation import Correlator, check_correlator
from udpguard.core.options import DEFAULT, DEFAULT_TIMEOUT, Default, Limits
from udpguard.core.ports import Ports
from udpguard.core.retransmission import RetryPolicy
from udpguard.core.statistics import PeerStatistics, Statistics

if TYPE_CHECKING:
    from udpguard._seams import BoundSocket


def open_endpoint(
    local_addr: Address | None = None,
    *,
    sock: socket.socket | None = None,
    family: int = socket.AF_UNSPEC,
    timeout: float | None | Default = DEFAULT,
    retry: RetryPolicy | None = None,
    correlate: Correlator | None = None,
    ports: Ports = Ports(),  # noqa: B008 (frozen)
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    allow_broadcast: bool = False,
    kernel_filter: Literal["auto", "on", "off"] = "auto",
    on_unexpected: UnexpectedHook | None = None,
) -> EndpointOpener:
    """Open an endpoint: `await` it, or use it with `async with`, which closes it as well.

        async with udpguard.open_endpoint() as endpoint:
            data = await endpoint.request(("192.0.2.1", 7), b"hello", timeout=2.0)

    Args:
        local_addr: Where to bind, and for that address's family only. Unless given: a random port on every
            interface, for IPv4 and IPv6 alike (one number for both where it is free).
        sock: A bound, unconnected UDP socket of yours instead; the endpoint closes it.
        family: AF_INET or AF_INET6 to have only that.
        timeout: Seconds until a request ends, where the client or the call doesn't say otherwise; 5 unless given, None
            for never.
        retry: When a request is sent again; None: never. Where it is given and `timeout` is not, the deadline is the
            schedule's own end.
        correlate: What, beyond the address, ties a reply to its request.
        ports: The local ports that requests leave from.
        limits: What may be held at once.
        allow_broadcast: Whether `send` and `discover` may go to broadcast addresses (SO_BROADCAST).
        kernel_filter: When the kernel is to drop what strangers send, before it is queued (Linux; elsewhere, and where
            the kernel won't, never): "auto" under a flood, "on" always, "off" never. What it drops is counted as
            `Statistics.kernel_dropped` alone.
        on_unexpected: Called with each datagram that was not delivered; an exception in it is logged once, counted,
            and stops nothing.

    Returns:
        What gives the `Endpoint` when awaited or entered.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument makes no sense, or `sock` is not a bound, unconnected UDP socket.
        InvalidAddressError: `local_addr` is malformed.
        OSError: On awaiting: the address can't be bound to. (ValueError, too: UDPGUARD_BACKEND in the environment is
            neither "auto" nor "portable".)
    """
    if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"family must be socket.AF_INET, AF_INET6 or AF_UNSPEC (both), not {family!r}")
    if sock is not None:
        if local_addr is not None or family != socket.AF_UNSPEC:
            raise ValueError("sock is bound already and has its family: pass it without local_addr and family")
        from udpguard._platform.sockets import check_users_socket  # see `_host`

        check_users_socket(sock)
    where = None if local_addr is None else parse(local_addr, socket.if_nametoindex, port_zero=True)
    if isinstance(where, bytes) and family not in (socket.AF_UNSPEC, _family_of(where)):
        raise InvalidAddressError(f"local_addr {local_addr!r} is not of the family given", address=local_addr)
    settings = Settings(DEFAULT_TIMEOUT, None).overridden(timeout, retry if retry is not None else DEFAULT)
    check_correlator(correlate)
    if kernel_filter not in ("auto", "on", "off"):
        raise ValueError(f"kernel_filter must be 'auto', 'on' or 'off', not {kernel_filter!r}")
    fixed = "sock" if sock is not None else "a port in local_addr" if where is not None and _port_of(where) else None
    guard = Guard(limits, on_unexpected, checked_ports(ports, fixed), kernel_filter)
    return EndpointOpener(
        guard, where, sock, family, correlate, settings, _caller(), allow_broadcast=bool(allow_broadcast)
    )


class Place(NamedTuple):
    """A line of a program.

    Attributes:
        file: Its file.
        line: Its number.
        module: The module's name.
    """

    file: str
    line: int
    module: str


def _caller() -> Place:
    """The line that calls `open_endpoint`: of a forgotten endpoint tracemalloc tells that only if it runs already."""
    try:
        frame = sys._getframe(2)
    except (AttributeError, ValueError):  # an interpreter without frames, or an embedded one
        return Place("<unknown>", 0, "<unknown>")
    return Place(frame.f_code.co_filename, frame.f_lineno, str(frame.f_globals.get("__name__", "<unknown>")))


open_endpoint.__module__ = "udpguard"  # where users find it


def _port_of(where: Wire | HostName) -> int:
    return where.port if isinstance(where, HostName) else peer_of(where).port


def _family_of(wire: Wire) -> socket.AddressFamily:
    return socket.AF_INET if len(wire) == IPV4_WIRE else socket.AF_INET6


@used_with("async with udpguard.open_endpoint() as endpoint:")
class EndpointOpener:
    """What `open_endpoint` returns: `await` it, or use it with `async with`; once."""

    __module__ = "udpguard"  # where users find it

    def __init__(
        self,
        guard: Guard,
        where: Wire | HostName | None,
        sock: socket.socket | None,
        family: int,
        correlate: Correlator | None,
        settings: Settings,
        opened_at: Place,
        *,
        allow_broadcast: bool,
    ) -> None:
        self._guard = guard
        self._where = where
        self._sock = sock
        self._family = family
        self._correlate = correlate
        self._settings = settings
        self._opened_at = opened_at
        self._allow_broadcast = allow_broadcast
        self._used = False
        self._endpoint: Endpoint | None = None

    def __await__(self) -> Generator[object, None, Endpoint]:
        return self._open().__await__()

    async def __aenter__(self) -> Endpoint:
        self._endpoint = await self._open()
        return self._endpoint

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._endpoint is not None
        self._endpoint.close()
        await self._endpoint.wait_closed()

    @override
    def __repr__(self) -> str:
        state = "opened already" if self._used else "not open yet: await it, or use it with `async with`"
        return f"<udpguard.EndpointOpener ({state})>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            message = f"the endpoint is not open yet: write `endpoint = await udpguard.open_endpoint()` before .{name}"
            raise AttributeError(message, name=name, obj=self)

    async def _open(self) -> Endpoint:
        if self._used:
            raise RuntimeError("this endpoint was opened already: call udpguard.open_endpoint() for another")
        self._used = True
        from udpguard._platform.portable import is_dual_stack  # see `_host`
        from udpguard._platform.sockets import local_wire

        loop = asyncio.get_running_loop()
        guard = self._guard
        guard.bind(loop)
        sockets: list[BoundSocket] = []
        try:
            await self._open_ports(loop, sockets)
            guard.screens.begin()
            await asyncio.sleep(0)  # the protocols learn of their transports
            local = tuple(peer_of(local_wire(sock)) for sock in sockets)
        except BaseException as error:
            for channel in guard.channels:
                channel.abort()
            for sock in sockets:
                sock.close()
            if not isinstance(error, OSError) or (told := opening_error(error)) is error:
                raise
            raise told from error
        families = {sock.family for sock in sockets}
        one_family = len(families) == 1 and (self._sock is None or not is_dual_stack(self._sock))
        family = families.pop() if one_family else socket.AF_UNSPEC
        return Endpoint(
            guard,
            Resolver(loop, family),
            self._correlate,
            self._settings,
            local,
            self._opened_at,
            allow_broadcast=self._allow_broadcast,
        )

    async def _open_ports(self, loop: asyncio.AbstractEventLoop, sockets: list[BoundSocket]) -> None:
        """Open the endpoint's own ports; their sockets are added to the list one by one."""
        from udpguard._platform.sockets import local_wire
        from udpguard._transport import BorrowedTransport

        guard, host = self._guard, host_of(loop)
        ports = guard.registry.ports
        assert ports is not None
        binder = Binder(guard, host, ports, allow_broadcast=self._allow_broadcast)
        for number in range(ports.pool):
            own = await self._sockets(loop, binder)
            sockets += own
            for sock in own:
                guard.add_channel(await open_channel(loop, host, sock, GuardProtocol.of(guard, -number)))
        guard.pool = ports.pool
        if any(isinstance(channel, BorrowedTransport) for channel in guard.channels):
            guard.registry.have_no_spares()  # to open one takes several turns of such a loop
        guard.keeper = PortKeeper(guard, host, binder, [local_wire(sock) for sock in sockets])

    async def _sockets(self, loop: asyncio.AbstractEventLoop, bind: Binder) -> Sequence[BoundSocket]:
        from udpguard._platform.sockets import check_users_socket, open_sockets, prepare, users_sockets

        if self._sock is not None:
            prepare(check_users_socket(self._sock), allow_broadcast=self._allow_broadcast)
            users_sockets.add(self._sock)
            return [self._sock]
        where = self._where
        if where is None:
            return open_sockets(self._family, bind)
        if isinstance(where, HostName):
            try:
                found = await loop.getaddrinfo(where.host, where.port, family=self._family, type=socket.SOCK_DGRAM)
            except socket.gaierror as error:
                raise unresolved(error, where.host, self._family) from None
            address = found[0][4]
            where = wire_of_source(*address[:2], *address[3:])
        try:
            return [bind(sockaddr_of(where), _family_of(where))]
        except OSError as error:
            raise binding_error(error, where) from error


@used_with("async with udpguard.open_endpoint() as endpoint:")
class Endpoint(Client):
    """One UDP socket (or one of each family) that asks many servers and believes only the right ones.

    Opened by `open_endpoint`. It is a `Client`, too. Use it with `async with`, or close it when you are done; a
    forgotten one gives a ResourceWarning.
    """

    __module__ = "udpguard"  # where users find it

    def __init__(
        self,
        guard: Guard,
        resolver: Resolver,
        correlate: Correlator | None,
        settings: Settings,
        local: tuple[Peer, ...],
        opened_at: Place,
        *,
        allow_broadcast: bool,
    ) -> None:
        quota = checked_quota(guard.registry.limits.in_flight_per_peer)
        super().__init__(guard, resolver, correlate, settings, quota, allow_broadcast=allow_broadcast)
        self._local = local
        self._opened_at = opened_at

    def client(
        self,
        *,
        correlate: Correlator | None | Default = DEFAULT,
        timeout: float | None | Default = DEFAULT,
        retry: RetryPolicy | None | Default = DEFAULT,
        in_flight_per_peer: int | None | Default = DEFAULT,
    ) -> Client:
        """Another way of asking through this endpoint, such as another protocol.

        Args:
            correlate: What ties a reply to its request; the endpoint's unless given.
            timeout: Seconds until a request ends; the endpoint's unless given.
            retry: When a request is sent again; the endpoint's unless given.
            in_flight_per_peer: How many of this client's requests with a key may be in flight to one peer; what
                `Limits.in_flight_per_peer` says unless given, and then counted together with the endpoint's.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument makes no sense.
        """
        return Client(
            self._guard,
            self._context.resolver,
            self._context.correlator if isinstance(correlate, Default) else correlate,
            self._context.settings.overridden(timeout, retry),
            self._context.quota if isinstance(in_flight_per_peer, Default) else checked_quota(in_flight_per_peer),
            allow_broadcast=self._context.allow_broadcast,
            owner=self,
        )

    async def resolve(self, host: str, port: int) -> Peer:
        """Look a name up once, to pass the `Peer` from then on.

        Args:
            host: A name or a literal.
            port: The server's port.

        Returns:
            The first of its addresses that the endpoint has a socket for, in the resolver's order.

        Raises:
            InvalidAddressError: It is malformed, or stands for no host.
            socket.gaierror: The name does not resolve.
        """
        self._guard.check_loop()
        wire = parse((host, port), socket.if_nametoindex)
        if isinstance(wire, HostName):
            wire = (await self._context.look_up(wire))[0]
        refusal = refusal_to_send(wire)
        if refusal is not None:
            raise InvalidAddressError(refusal, address=(host, port))
        self._guard.channel_for(wire, (host, port))
        return peer_of(wire)

    def statistics(self) -> Statistics:
        """What was counted since the endpoint was opened. It can be asked for after closing, too."""
        return self._guard.statistics()

    def peer_statistics(self, addr: Address) -> PeerStatistics | None:
        """What is known of a peer; None where it was never asked, or not lately, and once the endpoint is closed.

        Args:
            addr: A literal address or a `Peer`.

        Raises:
            InvalidAddressError: It is a name, or malformed.
        """
        source = self._guard.registry.known_source(literal(addr))
        return None if source is None or not source.was_asked else source.statistics()

    @property
    def local_addr(self) -> Peer:
        """Where it is bound; of two sockets, the IPv4 one's."""
        return self._local[0]

    @property
    def local_addrs(self) -> tuple[Peer, ...]:
        """Where its sockets are bound, IPv4 first."""
        return self._local

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What is known of its socket; of two, the IPv4 one's.

        Args:
            name: "receive_buffer" (the bytes that the kernel granted, SO_RCVBUF in `man 7 socket`), "socket",
                "sockname"; and "kernel_filter", whether any of its sockets has a filter now that keeps strangers out.
            default: What to return for other names.
        """
        if name == "kernel_filter":
            return self._guard.screens.attached
        return self._guard.channels[0].get_extra_info(name, default)

    def close(self) -> None:
        """Close it. What is pending fails, each with an `EndpointClosedError` of its own.

        Raises:
            RuntimeError: Its event loop runs in another thread.
        """
        self._guard.check_thread("endpoint.close")
        self._guard.close()
        self._context.resolver.close()

    async def wait_closed(self) -> None:
        """Wait until its sockets are closed."""
        await self._guard.wait_closed()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._guard.closed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
        await self.wait_closed()

    @override
    def __repr__(self) -> str:
        where = ", ".join(map(str, self._local))
        return f"<udpguard.Endpoint {where}{' (closed)' if self._guard.closed else ''}>"

    def __del__(self) -> None:
        guard = getattr(self, "_guard", None)
        if guard is None or guard.closed:
            return
        # Its loop may be closed already, and then takes no calls.
        with contextlib.suppress(RuntimeError):
            for channel in guard.channels:
                channel.abort()
            guard.close()
        where = ", ".join(map(str, self._local))
        file, line, module = self._opened_at
        warnings.warn_explicit(
            f"the endpoint at {where}, opened at {file}:{line}, was never closed: "
            f"use `async with udpguard.open_endpoint() as endpoint`, or close() it",
            ResourceWarning,
            file,
            line,
            module,
            source=self,
        )
