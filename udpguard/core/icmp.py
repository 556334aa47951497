"""What the network, or this machine, reports of a datagram that was sent."""

from __future__ import annotations

from typing import Final, NamedTuple

from udpguard.core.address import Wire

LOCAL: Final = 1
"""Reported by this machine: `SO_EE_ORIGIN_LOCAL`, linux/errqueue.h."""
ICMP: Final = 2
"""RFC 792."""
ICMP6: Final = 3
"""RFC 4443."""


class NetworkError(NamedTuple):
    """One message. ICMP can be forged by anybody (RFC 5927): nothing in it is to be believed unchecked.

    Attributes:
        wire: Where the datagram was going.
        quote: As much of its payload as the message quotes; some routers quote none of it.
        errno: What the operating system makes of it, such as ECONNREFUSED.
        origin: LOCAL, ICMP or ICMP6.
        type: The ICMP message's type.
        code: Its code.
        offender: Who sent the message, as a wire with port 0; None where nobody says.
        mtu: The most that the path carries in bytes, where the message is about that; else 0.
    """

    wire: Wire
    quote: bytes
    errno: int
    origin: int
    type: int
    code: int
    offender: Wire | None = None
    mtu: int = 0
