"""The ICMP messages of a simulated network, and what an operating system makes of them."""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from udpguard.core.address import IPV4_WIRE, Wire
from udpguard.core.icmp import ICMP, ICMP6, NetworkError

# Linux quotes as much of a datagram.
_QUOTE: Final = 520
# What Linux makes of a message (net/ipv4/icmp.c, net/ipv6/icmp.c), by its type and code.
_ERRNO: Final = {
    ICMP: {(3, 0): errno.ENETUNREACH, (3, 2): errno.ENOPROTOOPT, (3, 3): errno.ECONNREFUSED, (3, 4): errno.EMSGSIZE},
    ICMP6: {(1, 0): errno.ENETUNREACH, (1, 1): errno.EACCES, (1, 4): errno.ECONNREFUSED, (2, 0): errno.EMSGSIZE},
}


class Message(NamedTuple):
    """What a message says."""

    type: int
    code: int
    mtu: int = 0


NO_HOST: Final = {ICMP: Message(3, 1), ICMP6: Message(1, 3)}
NO_PORT: Final = {ICMP: Message(3, 3), ICMP6: Message(1, 4)}
TOO_LARGE: Final = {ICMP: Message(3, 4), ICMP6: Message(2, 0)}


def origin_of(wire: Wire) -> int:
    """ICMP or ICMP6: which of them speaks of a datagram to this address."""
    return ICMP if len(wire) == IPV4_WIRE else ICMP6


def network_error(wire: Wire, data: bytes, message: Message, offender: Wire | None) -> NetworkError:
    """What a socket is told of a datagram that it sent."""
    origin = origin_of(wire)
    code = _ERRNO[origin].get(message[:2], errno.EHOSTUNREACH)
    return NetworkError(wire, data[:_QUOTE], code, origin, message.type, message.code, offender, message.mtu)
