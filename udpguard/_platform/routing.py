"""Which interface a datagram to many leaves by, and how far it goes.

Others share the socket. So on Linux both go with the datagram, as control messages; elsewhere the socket is set right
before it is sent, and set back right after, in the same turn of the loop.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from udpguard.core.address import IPV4_WIRE, Address, Wire, is_multicast, mapped_sockaddr_of, sockaddr_of

_HAS_CONTROL: Final = sys.platform == "linux"
_IP_PKTINFO: Final = 8
"""<linux/in.h>; Python has no name for it."""
_NO_ADDRESS: Final = "0.0.0.0"  # noqa: S104 (nothing is bound)
_TTL: Final = {
    (True, True): socket.IP_MULTICAST_TTL,
    (True, False): socket.IP_TTL,
    (False, True): socket.IPV6_MULTICAST_HOPS,
    (False, False): socket.IPV6_UNICAST_HOPS,
}
"""By whether it is IPv4, and a multicast group."""


class Routing(NamedTuple):
    """How a datagram is to leave.

    Attributes:
        interface: The index of an interface; 0: as the routes say.
        address: The IPv4 address of an interface instead; None: none was given.
        ttl: Over how many hops it may go; None: as many as the system has it.
    """

    interface: int = 0
    address: str | None = None
    ttl: int | None = None


def checked_routing(interface: object, ttl: object) -> Routing:
    """What a caller said of both.

    Raises:
        TypeError: One is of the wrong type.
        ValueError: There is no such interface, or no such number of hops.
    """
    if ttl is not None and (not isinstance(ttl, int) or isinstance(ttl, bool)):
        raise TypeError(f"ttl must be a number of hops, not {ttl!r}")
    if ttl is not None and not 1 <= ttl <= 255:
        raise ValueError(f"ttl must be 1 to 255 hops, not {ttl}")
    if interface is None:
        return Routing(ttl=ttl)
    if isinstance(interface, int) and not isinstance(interface, bool):
        if not 0 < interface < 1 << 31:
            raise ValueError(f"an interface has an index of 1 or more, not {interface}")
        return Routing(interface, ttl=ttl)
    if not isinstance(interface, str):
        raise TypeError(f"interface must be a name, an index or an IPv4 address of this machine, not {interface!r}")
    with contextlib.suppress(OSError):
        socket.inet_pton(socket.AF_INET, interface)
        return Routing(address=interface, ttl=ttl)
    try:
        return Routing(socket.if_nametoindex(interface), ttl=ttl)
    except (OSError, ValueError):
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise ValueError(f"this machine has no interface {interface!r}; it has {known}") from None


def check_route(routing: Routing, wire: Wire) -> None:
    """Refuse an interface that can't be chosen for this address.

    Raises:
        ValueError: It can't.
    """
    if routing.address is not None and len(wire) != IPV4_WIRE:
        raise ValueError(
            f"interface={routing.address!r}: an address chooses it for IPv4 alone; give its name or its index"
        )
    if (routing.interface or routing.address is not None) and not is_multicast(wire) and not _HAS_CONTROL:
        raise ValueError(
            "an interface can be chosen for multicast alone on this system; for a broadcast, "
            "send to that network's own broadcast address"
        )


def send_routed(sock: socket.socket, data: bytes, wire: Wire, routing: Routing) -> bool:
    """Send a datagram like this; False: the socket takes none now.

    Raises:
        OSError: The operating system won't have it.
    """
    try:
        if _HAS_CONTROL and sys.platform != "win32":
            sock.sendmsg([data], _control(wire, routing), 0, _sockaddr(sock, wire))
        else:
            _send_with_options(sock, data, wire, routing)
    except (BlockingIOError, InterruptedError):
        return False
    return True


def _sockaddr(sock: socket.socket, wire: Wire) -> Address:
    return mapped_sockaddr_of(wire) if sock.family == socket.AF_INET6 else sockaddr_of(wire)


def _control(wire: Wire, routing: Routing) -> list[tuple[int, int, bytes]]:
    """What goes with one datagram (man 7 ip, man 7 ipv6): nothing of the socket's changes."""
    control: list[tuple[int, int, bytes]] = []
    ipv4 = len(wire) == IPV4_WIRE
    if routing.ttl is not None:
        hops = struct.pack("@i", routing.ttl)
        control.append(
            (socket.IPPROTO_IP, socket.IP_TTL, hops) if ipv4 else (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, hops)
        )
    if ipv4 and (routing.interface or routing.address is not None):
        # `struct in_pktinfo`: the interface, the address to send from, which chooses it as well, and one for receiving.
        address = socket.inet_aton(routing.address or _NO_ADDRESS)
        control.append((socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("@i4s4x", routing.interface, address)))
    elif routing.interface:
        control.append((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("@16xi", routing.interface)))
    return control


def _send_with_options(sock: socket.socket, data: bytes, wire: Wire, routing: Routing) -> None:
    """Set the socket, which others share, send, and set it back: all in one turn of the loop."""
    before: list[tuple[int, int, int | bytes]] = []
    try:
        for level, name, value, back in _options(sock, wire, routing):
            sock.setsockopt(level, name, value)
            before.append((level, name, back))
        sock.sendto(data, _sockaddr(sock, wire))
    finally:
        for level, name, back in before:
            sock.setsockopt(level, name, back)


def _options(sock: socket.socket, wire: Wire, routing: Routing) -> Iterator[tuple[int, int, int | bytes, int | bytes]]:
    """What is to be set: level, name, value, and what to set it back to."""
    ipv4, group = len(wire) == IPV4_WIRE, is_multicast(wire)
    level = socket.IPPROTO_IP if ipv4 else socket.IPPROTO_IPV6
    if routing.ttl is not None:
        name = _TTL[ipv4, group]
        yield level, name, routing.ttl, sock.getsockopt(level, name)
    if ipv4 and (routing.interface or routing.address is not None):
        # The address of an interface, or its index in network order (0.x.x.x).
        value = struct.pack("!I", routing.interface)
        if routing.address is not None:
            value = socket.inet_aton(routing.address)
        elif sys.platform != "win32":  # `struct ip_mreqn`
            value = bytes(8) + struct.pack("@i", routing.interface)
        yield level, socket.IP_MULTICAST_IF, value, sock.getsockopt(level, socket.IP_MULTICAST_IF, 4)
    elif routing.interface:
        yield level, socket.IPV6_MULTICAST_IF, routing.interface, sock.getsockopt(level, socket.IPV6_MULTICAST_IF)
