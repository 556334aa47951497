"""What becomes of a datagram, and what users are told of it."""

# Annotations are no strings here: `typing.NamedTuple` would compile each, which doubles the time that it takes.

import enum
from typing import NamedTuple

from udpguard.core.address import Peer
from udpguard.core.record import record


class Decision(enum.Enum):
    """What an `accept` function says of a reply that came from the right place."""

    ACCEPT = "accept"
    """It is the answer. The same as True."""
    REFUSE = "refuse"
    """It is not the answer: keep listening. The same as False."""
    PROVISIONAL = "provisional"
    """It is a sign of life, such as CoAP's empty acknowledgement: stop retransmitting, keep listening."""


class Reason(enum.Enum):
    """Why a datagram was not delivered. There may be more of them one day."""

    DUPLICATE = "duplicate"
    """It fits an exchange that was answered a short while ago (at most 120 s)."""
    LATE = "late"
    """It fits an exchange that timed out or was cancelled a short while ago."""
    REJECTED = "rejected"
    """Something pending covers its source, but its key is wrong or missing, or `accept` refused it."""
    UNKNOWN_PEER = "unknown_peer"
    """Nobody expects anything from there."""


class Reply(NamedTuple):
    """An answer from the right place.

    Attributes:
        data: The datagram's payload.
        peer: Who sent it.
        rtt: Seconds from the send to the arrival; None where retransmission makes it ambiguous (Karn's rule, RFC 6298
            section 3), or where nothing was sent. On Linux it is right to half a millisecond, however late the event
            loop gets to it; elsewhere, or with UDPGUARD_BACKEND=portable, it goes up to when the reply was read.
        attempts: How many datagrams had been sent when it came.
    """

    data: bytes
    peer: Peer
    rtt: float | None
    attempts: int


class Unexpected(NamedTuple):
    """A datagram that was not delivered, as `on_unexpected` gets it.

    Attributes:
        data: The datagram's payload, as it came.
        peer: Who sent it, or seems to have.
        reason: Why it was not delivered.
    """

    data: bytes
    peer: Peer
    reason: Reason


@record
class NearMiss:
    """What came while a request waited that then timed out, and was not its answer.

    Attributes:
        peer: Who sent it.
        reason: `Reason.REJECTED` for datagrams from the right place that were refused, `Reason.UNKNOWN_PEER` for
            those of a stranger that shares the peer's host or its port.
        count: How many came, among the latest 512 datagrams of either kind.
        data: The first bytes of the latest, at most 64.
    """

    peer: Peer
    reason: Reason
    count: int
    data: bytes
