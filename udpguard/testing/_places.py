"""Sockets for servers and impostors, on whichever network the running loop has: a simulated one, or this machine's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from udpguard._binding import binding_error
from udpguard._errors import InvalidAddressError
from udpguard._host import Machine, open_channel
from udpguard._platform.sockets import local_wire
from udpguard._sending import check_size
from udpguard._typing import override
from udpguard.core.address import (
    IPV4_WIRE,
    Address,
    HostName,
    Peer,
    Wire,
    parse,
    peer_of,
    sockaddr_of,
    wire_of_source,
)
from udpguard.testing._hosts import Host, current_host, is_loopback, literal_wire
from udpguard.testing._loop import VirtualLoop

if TYPE_CHECKING:
    from udpguard._seams import BoundSocket
    from udpguard._seams import Host as HostSeam

_ANYWHERE: Final = "in a simulation, as of udpguard.testing.run(main), a server may have any"


class Place(asyncio.DatagramProtocol):
    """A socket that is open: tells what arrives, and sends.

    Args:
        received: Called with each datagram.
    """

    def __init__(self, received: Callable[[bytes, Peer], object] | None = None) -> None:
        self._received = received
        self._transport: asyncio.DatagramTransport | None = None
        self.wire: Wire = b""
        """Where it is reached."""

    @property
    def peer(self) -> Peer:
        """Where it is reached."""
        return peer_of(self.wire)

    async def open(self, host: str | Host, port: int) -> None:
        """Open it.

        Raises:
            InvalidAddressError: The host is a name.
            OSError: The address is in use, or not this machine's.
        """
        loop = asyncio.get_running_loop()
        where, sock = _bind(loop, host, port)
        self.wire = local_wire(sock)
        if isinstance(host, Host):
            self.wire = self.wire[:2] + literal_wire(host.addresses[0])[2:]
        try:
            await open_channel(loop, where, sock, self)
            await asyncio.sleep(0)  # it learns of its transport
        except BaseException:
            sock.close()
            raise

    def send(self, data: bytes, wire: Wire) -> None:
        """Send a datagram; while the socket is busy it waits its turn.

        Raises:
            DatagramTooLargeError: It is more than UDP carries.
        """
        assert self._transport is not None
        check_size(data, wire)
        self._transport.sendto(data, sockaddr_of(wire))

    def close(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self._transport.abort()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    @override
    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """Called by the transport."""
        if self._received is not None:
            more: tuple[object, ...] = addr
            scope = more[3] if len(more) > 3 else 0
            assert isinstance(scope, int)
            self._received(data, peer_of(wire_of_source(str(addr[0]), addr[1], scope)))


class Later:
    """Calls that are still to be made."""

    def __init__(self) -> None:
        self._timers: set[asyncio.TimerHandle] = set()

    def call(self, delay: float, function: Callable[[], object]) -> None:
        """Call a function in so many seconds; at once, if they are 0."""
        if not delay:
            function()
            return

        def ring() -> None:
            self._timers.discard(timer)
            function()

        timer = asyncio.get_running_loop().call_later(delay, ring)
        self._timers.add(timer)

    def cancel(self) -> None:
        """Call none of them."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()


def _bind(loop: asyncio.AbstractEventLoop, host: str | Host, port: int) -> tuple[HostSeam, BoundSocket]:
    if isinstance(host, Host):
        if not isinstance(loop, VirtualLoop) or loop.network is not host.network:
            raise RuntimeError(f"{host!r} belongs to a simulation, which doesn't run here")
        address = ("0.0.0.0", port) if _is_ipv4(literal_wire(host.addresses[0])) else ("::", port)  # noqa: S104 (meant)
        return host, host.bind(address, _family(literal_wire(address[0])))
    wire = literal_wire(host, port)
    where: Host | Machine = Machine()
    if isinstance(loop, VirtualLoop):
        local = is_loopback(wire) or not any(wire[2:])
        where = current_host(loop.network) if local else loop.network.host(host)
    try:
        return where, where.bind(sockaddr_of(wire), _family(wire), allow_broadcast=False)
    except OSError as error:
        raise binding_error(error, wire, _ANYWHERE) from error


def _is_ipv4(wire: Wire) -> bool:
    return len(wire) == IPV4_WIRE


def _family(wire: Wire) -> socket.AddressFamily:
    return socket.AF_INET if _is_ipv4(wire) else socket.AF_INET6


def literal_address(address: Address, *, port_zero: bool = False) -> Wire:
    """The wire of a literal address, perhaps with port 0 for any.

    Raises:
        InvalidAddressError: It is malformed, or a name.
    """
    wire = parse(address, socket.if_nametoindex, port_zero=port_zero)
    if isinstance(wire, HostName):
        raise InvalidAddressError(f"{wire.host!r} is a name: give an IP address", address=address)
    return wire


def neighbour(wire: Wire) -> Peer:
    """The address beside this one, at the same port."""
    host, last = wire[2:6] if _is_ipv4(wire) else wire[6:22], wire[5 if _is_ipv4(wire) else 21]
    beside = host[:-1] + bytes([last + 1 if last < 0xFE else last - 1])
    return peer_of(wire[:2] + beside if _is_ipv4(wire) else wire[:6] + beside + wire[22:])
