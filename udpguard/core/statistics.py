"""What was counted: of everything, and of one peer."""

from __future__ import annotations

from udpguard.core.record import record


@record
class Statistics:
    """Counters since the endpoint was opened, and two gauges.

    Whenever no `accept` is running, `received == matched + duplicate + late + rejected + unknown_peer`.

    Attributes:
        received: Datagrams that came in.
        matched: Of these, those delivered, provisional replies among them.
        duplicate: Those that fit an exchange already answered.
        late: Those that fit one that had timed out or was cancelled.
        rejected: Those from a source that something pending covers, with the wrong key or refused by `accept`.
        unknown_peer: Those that nobody expected.
        sent: Datagrams that went out.
        retransmitted: Of these, those sent after the first of their request.
        timed_out: Requests and expectations that ended at their deadline.
        refused: Requests and expectations that ended with a `PeerRefusedError`.
        unreachable: Requests that ended because they could not be sent.
        suspected: Requests and expectations that ended since more wrong keys came than `Limits.near_misses` allows.
        cancelled: Requests that were cancelled, and expectations that were withdrawn.
        send_errors: Sends that the operating system refused, and errors it reported of a socket; without what ICMP
            says, where the operating system tells whose datagram that is about.
        hook_errors: Exceptions in `on_unexpected`, `accept` and `reply_key`.
        kernel_dropped: Datagrams that the kernel dropped before they were read, since the receive buffer was full or a
            socket filter took them for strangers' (Linux's SO_MEMINFO; 0 elsewhere). `received` does not count them.
        pending: Requests and expectations that wait for a reply now.
        waiting: Requests that wait to be sent now: for their turn, a name, an id, room, or the socket; and sends.
    """

    received: int = 0
    matched: int = 0
    duplicate: int = 0
    late: int = 0
    rejected: int = 0
    unknown_peer: int = 0
    sent: int = 0
    retransmitted: int = 0
    timed_out: int = 0
    refused: int = 0
    unreachable: int = 0
    suspected: int = 0
    cancelled: int = 0
    send_errors: int = 0
    hook_errors: int = 0
    kernel_dropped: int = 0
    pending: int = 0
    waiting: int = 0


@record
class PeerStatistics:
    """What is known of one peer. The least lately used of more than 65,536 peers are forgotten.

    Attributes:
        srtt: The smoothed round-trip time in seconds (RFC 6298); None before the first sample.
        rttvar: Its mean deviation in seconds; None before the first sample.
        rto: The retransmission time-out in seconds that `AdaptiveRetry()` begins with.
        backoff: The factor on the RTO since the last sample (RFC 6298, 5.5 to 5.7).
        sent: Datagrams sent to it.
        matched: Replies delivered to what asked it.
        timed_out: Requests to it, and expectations, that ended at their deadline.
    """

    srtt: float | None
    rttvar: float | None
    rto: float
    backoff: int
    sent: int
    matched: int
    timed_out: int


class Counters:
    """The counters while they count."""

    __slots__ = (
        "cancelled",
        "duplicate",
        "hook_errors",
        "late",
        "matched",
        "received",
        "refused",
        "rejected",
        "retransmitted",
        "send_errors",
        "sent",
        "suspected",
        "timed_out",
        "unknown_peer",
        "unreachable",
    )

    def __init__(self) -> None:
        self.received: int = 0
        self.matched: int = 0
        self.duplicate: int = 0
        self.late: int = 0
        self.rejected: int = 0
        self.unknown_peer: int = 0
        self.sent: int = 0
        self.retransmitted: int = 0
        self.timed_out: int = 0
        self.refused: int = 0
        self.unreachable: int = 0
        self.suspected: int = 0
        self.cancelled: int = 0
        self.send_errors: int = 0
        self.hook_errors: int = 0

    def snapshot(self, **others: int) -> Statistics:
        """What they show now, with what is counted elsewhere."""
        return Statistics(**{name: getattr(self, name) for name in self.__slots__}, **others)
