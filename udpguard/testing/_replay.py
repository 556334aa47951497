"""A trace as a network: what arrived then arrives again, at its time, whatever is sent.

A simulation's outcome depends on what arrives and when. So a fresh program that does the same as the one before gives
each datagram the same verdict, with no servers and no luck in between; one that was mended shows what it makes of it.
Where something arrives at the very time at which a socket is opened or something is sent, it waits for that.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from udpguard._typing import override
from udpguard.core.address import Address, Wire, peer_of
from udpguard.testing._hosts import Host, SimulatedSocket, failure, literal_wire
from udpguard.testing._icmp import Message, network_error
from udpguard.testing._network import AT, FORGED, Network
from udpguard.testing._simulation import run
from udpguard.testing._trace import Event, Kind, Trace

T = TypeVar("T")


class _Arrival(NamedTuple):
    at: float
    sends: int
    """How many datagrams its receiver had sent before."""
    event: Event


class ReplayedNetwork(Network):
    """A network in which what a trace tells arrives again, and nothing else does.

        with Simulation(network=ReplayedNetwork(Trace.load("flood.trace"))) as sim:
            sim.run(main())

    What is sent goes nowhere; it only must be, where the trace says that it was. Servers may run or not. Hosts that the
    program enters, and names, have to be made as they were then; the seed is the trace's.

    Args:
        trace: What happened.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.seed)
        self._tries: Counter[str] = Counter()
        self._sends: Counter[str] = Counter()
        self._failures: dict[tuple[str, int], str] = {}
        """Why the operating system refused, by who sent and which of its datagrams it was."""
        self._arrivals: deque[_Arrival] = deque()
        sends, tries = Counter[str](), Counter[str]()
        for event in trace:
            if event.kind in ("sent", "failed") and event.note != FORGED:
                host = event.source.host
                tries[host] += 1
                if event.kind == "sent":
                    sends[host] += 1
                else:
                    self._failures[host, tries[host]] = event.note
            elif event.kind in ("delivered", "icmp"):
                self._arrivals.append(_Arrival(event.at, sends[event.destination.host], event))

    @override
    def next_arrival(self) -> float | None:
        """See `Network.next_arrival`."""
        sending = super().next_arrival()
        if not self._arrivals:
            return sending
        arriving = self._arrivals[0].at
        return arriving if sending is None else min(sending, arriving)

    @override
    def deliver(self, now: float, *, idle: bool) -> None:
        """See `Network.deliver`."""
        super().deliver(now, idle=idle)
        while self._arrivals and self._arrivals[0].at <= now:
            at, sends, event = self._arrivals[0]
            sock = self._receiver(event)
            if not idle and (sock is None or self._sends[event.destination.host] < sends):
                return  # the socket is about to be opened, what this answers about to be sent
            idle = False  # whoever gets it may have something to do
            self._arrivals.popleft()
            self._arrives_again(at, event, sock)

    def _receiver(self, event: Event) -> SimulatedSocket | None:
        wire = literal_wire(*event.destination)
        group_member = event.note.removeprefix(AT) if event.note.startswith(AT) else ""
        host = self.owner(literal_wire(group_member) if group_member else wire, self.client)
        return None if host is None else host.listener(wire)

    def _arrives_again(self, at: float, event: Event, sock: SimulatedSocket | None) -> None:
        if sock is None:
            event = event._replace(kind="dropped", note="nobody listens")
        elif event.icmp is None:
            objection = sock.take(event.data, literal_wire(*event.source), at)
            event = event._replace(kind="dropped", note=objection) if objection else event
        else:
            icmp = event.icmp
            offender = literal_wire(event.source.host)
            about = literal_wire(*icmp.about)
            message = Message(icmp.type, icmp.code, icmp.mtu)
            sock.report(network_error(about, event.data, message, offender if any(offender) else None))
        if self.trace is not None:
            self.trace.events.append(event)

    @override
    def send(self, host: Host, data: bytes, source: Wire, wire: Wire, leaves: float) -> None:
        """See `Network.send`."""
        sender = peer_of(source).host
        self._tries[sender] += 1
        name = self._failures.get((sender, self._tries[sender]))
        if name is not None:
            self._log(leaves, "failed", source, wire, data, name)
            raise failure(getattr(errno, name, errno.EIO))
        self._sends[sender] += 1
        self._sent += 1
        self._log(leaves, "sent", source, wire, data, "")

    def _log(self, at: float, kind: Kind, source: Wire, wire: Wire, data: bytes, note: str) -> None:
        if self.trace is not None:
            number = self._sent if kind == "sent" else 0
            self.trace.events.append(Event(at, kind, number, peer_of(source), peer_of(wire), data, note))

    @override
    def inject(self, data: bytes, source: Address, destination: Address, *, delay: float = 0.0) -> None:
        """Nothing: what was forged then arrives again by itself."""

    @override
    def inject_icmp(
        self,
        destination: Address,
        about: Address,
        quote: bytes = b"",
        *,
        type: int | None = None,
        code: int | None = None,
        mtu: int = 0,
        delay: float = 0.0,
    ) -> None:
        """Nothing: what was forged then arrives again by itself."""


def replay(main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]], trace: Trace) -> T:
    """Run a coroutine in a simulation in which what a trace tells arrives again; see `ReplayedNetwork`.

    Args:
        main: The coroutine, or a function that gives one.
        trace: What happened.

    Returns:
        What the coroutine returns.

    Raises:
        DeadlockError: It waits for what didn't happen then.
    """
    return run(main, network=ReplayedNetwork(trace))
