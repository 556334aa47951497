"""What the network, or this machine, reports of a datagram that was sent."""

# Annotations are no strings here: `typing.NamedTuple` would compile each, which doubles the time that it takes.

import errno
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from udpguard.core.address import Peer, Wire, peer_of
from udpguard.core.record import record

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


_PORT_UNREACHABLE: Final = {(ICMP, 3, 3), (ICMP6, 1, 4)}

_TOO_LARGE: Final = "the path does not carry datagrams of that size"
_TOO_BIG: Final = {(ICMP, 3, 4), (ICMP6, 2, 0)}

_MEANINGS: Final = {
    (ICMP, 3, 0): "the network is unreachable",
    (ICMP, 3, 1): "the host is unreachable",
    (ICMP, 3, 2): "the host does not speak UDP",
    (ICMP, 3, 3): "nothing listens on that port",
    (ICMP, 3, 5): "the source route failed",
    (ICMP, 3, 6): "the network is unknown",
    (ICMP, 3, 7): "the host is unknown",
    (ICMP, 3, 9): "the network is prohibited",
    (ICMP, 3, 10): "the host is prohibited",
    (ICMP, 3, 11): "the network is unreachable for this type of service",
    (ICMP, 3, 12): "the host is unreachable for this type of service",
    (ICMP, 3, 13): "a firewall forbids it",
    (ICMP, 11, 0): "the path is too long, or goes in circles",
    (ICMP, 11, 1): "some of its fragments were lost on the way",
    (ICMP6, 1, 0): "there is no route to it",
    (ICMP6, 1, 1): "a firewall forbids it",
    (ICMP6, 1, 2): "it is beyond the scope of the source address",
    (ICMP6, 1, 3): "the host is unreachable",
    (ICMP6, 1, 4): "nothing listens on that port",
    (ICMP6, 1, 5): "a firewall forbids this source address",
    (ICMP6, 1, 6): "the route to it rejects datagrams",
    (ICMP6, 3, 0): "the path is too long, or goes in circles",
    (ICMP6, 3, 1): "some of its fragments were lost on the way",
}
"""What messages say by origin, type and code: RFC 792, 1122 (3.2.2.1), 1812 (5.2.7.1) and 4443."""


def is_refusal(error: NetworkError) -> bool:
    """Whether it says that nothing listens on the port that was asked."""
    return error.errno == errno.ECONNREFUSED and (error.origin, error.type, error.code) in _PORT_UNREACHABLE


@record
class IcmpMessage:
    """What ICMP said of datagrams to a peer while a request waited that then timed out. It may be forged (RFC 5927).

    Attributes:
        peer: Where the datagrams were going.
        sender: The host that sent the message; None where nobody knows.
        meaning: What it says, in words.
        type: Its type, as in RFC 792, or for an IPv6 peer in RFC 4443.
        code: Its code.
        mtu: The most bytes that the path carries, headers and all, where it is about that; else 0.
        count: How many came.
    """

    peer: Peer
    sender: str | None
    meaning: str
    type: int
    code: int
    mtu: int = 0
    count: int = 1


def sender_of(error: NetworkError) -> str | None:
    """The host that sent a message."""
    return None if error.offender is None else peer_of(error.offender).host


def _meaning(error: NetworkError) -> str:
    kind = (error.origin, error.type, error.code)
    if kind in _TOO_BIG or error.errno == errno.EMSGSIZE:
        return f"the path carries no more than {error.mtu:,} bytes with their headers" if error.mtu else _TOO_LARGE
    return _MEANINGS.get(kind) or f"it could not be delivered (ICMP type {error.type}, code {error.code})"


# A flood of forged ones must fill nothing: so many peers, so many kinds of messages of each.
_MOST_PEERS: Final = 4_096
_MOST_KINDS: Final = 4


class _Noted:
    """Messages of one kind about one peer."""

    __slots__ = ("at", "count", "error")

    def __init__(self, error: NetworkError) -> None:
        self.error = error
        self.count = 0
        self.at = 0.0


class Hints:
    """The latest messages that nothing was done about, by the peer they are about: bounded, read at time-outs."""

    __slots__ = ("_by_wire",)

    def __init__(self) -> None:
        self._by_wire: OrderedDict[Wire, OrderedDict[tuple[object, ...], _Noted]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._by_wire.values()))

    def add(self, error: NetworkError, now: float) -> None:
        """Note a message that came now."""
        kinds = self._by_wire.setdefault(error.wire, OrderedDict())
        self._by_wire.move_to_end(error.wire)
        if len(self._by_wire) > _MOST_PEERS:
            self._by_wire.popitem(last=False)
        kind = (error.origin, error.type, error.code, error.offender)
        noted = kinds.get(kind)
        if noted is None:
            noted = kinds[kind] = _Noted(error._replace(quote=b""))
            if len(kinds) > _MOST_KINDS:
                kinds.popitem(last=False)
        elif error.mtu:
            noted.error = error._replace(quote=b"")
        kinds.move_to_end(kind)
        noted.count += 1
        noted.at = now

    def __contains__(self, wire: object) -> bool:
        """Whether there is any about this peer, however old."""
        return wire in self._by_wire

    def of(self, wires: Iterable[Wire], since: float) -> list[IcmpMessage]:
        """What came since then about these peers, the latest first."""
        found = [
            noted
            for wire in dict.fromkeys(wires)
            for noted in self._by_wire.get(wire, OrderedDict[tuple[object, ...], _Noted]()).values()
            if noted.at >= since
        ]
        found.sort(key=lambda noted: -noted.at)
        return [_told(noted.error, noted.count) for noted in found]

    def clear(self) -> None:
        """Forget everything."""
        self._by_wire.clear()


def _told(error: NetworkError, count: int) -> IcmpMessage:
    return IcmpMessage(peer_of(error.wire), sender_of(error), _meaning(error), error.type, error.code, error.mtu, count)
