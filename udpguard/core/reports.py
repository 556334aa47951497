"""What is made of ICMP messages: the one request that is refused, or a hint for a time-out's explanation.

Anybody can forge them (RFC 5927), for any destination. So a message ends an exchange only where it says that the port
is closed, and quotes the beginning of what that very exchange has sent to that very peer. What else there is about a
peer that something is pending for is noted, within bounds; all the rest is dropped.

A message carries no date. One about an earlier request with the same peer, key and payload can't be told from one
about the request that is pending now, which asks the same closed port the same question.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

from udpguard.core.address import IPV6_WIRE, Wire, has_scope, without_scope
from udpguard.core.correlation import Correlator, TransactionId, sealed
from udpguard.core.icmp import LOCAL, IcmpMessage, NetworkError, is_refusal
from udpguard.core.judge import Judge
from udpguard.core.ledger import asked
from udpguard.core.source import Entry, Source, assigned_id

# Without a key those who asked one peer are looked through; so many, lest a flood of forged messages cost much.
_MOST_LOOKED_AT: Final = 256


class Reports(Judge):
    """Whom ICMP messages concern. All times are in seconds on one clock, passed in."""

    interrupt: BaseException | None

    def refused_by(
        self, error: NetworkError, now: float, port: int = 0, unsent: Collection[Entry] = ()
    ) -> tuple[Entry, Wire] | None:
        """The exchange that a message refuses, and whom it asked.

        A message that refuses none is noted as a hint, if it is about anybody's peer.

        Args:
            error: The message.
            now: The time.
            port: The number of the port that the datagram left from.
            unsent: Those whose question has not left yet.
        """
        if error.origin == LOCAL:  # whose send failed has been told
            return None
        try:
            if error.quote and is_refusal(error):
                for entry, reader, wire in self._candidates(error.wire, error.quote):
                    if entry not in unsent and _has_sent(entry, reader, wire, error.quote, port):
                        return entry, wire
            self._note(error, now)
        except BaseException as fault:  # foreign keys compare as they like
            self._fault(fault)
        return None

    def is_quiet(self, wire: Wire, since: float) -> bool:
        """Whether nothing came since then that could explain why this peer does not answer."""
        return wire not in self._hints and self._rejected.is_quiet(since) and self._strangers.is_quiet(since)

    def hints(self, entry: Entry, since: float | None = None) -> list[IcmpMessage]:
        """What was noted about its peers while it waited, or since then."""
        wires = [peer.token for peer in asked(entry) if isinstance(peer.token, bytes)]
        return self._hints.of(wires, entry.began if since is None else since)

    def _candidates(self, wire: Wire, quote: bytes) -> Iterator[tuple[Entry, Correlator | None, Wire]]:
        """Who may have sent this to that peer, the right key first; and who finds the key in it."""
        for token in _on_any_link(wire):
            source = self._sources.get(token)
            if source is not None and source.live:
                for reader, number in [(reader, book.number) for book in source.books for reader in book.readers]:
                    key = self._request_key(reader, quote)
                    entry = None if key is None else self._pending.get((token, number, key))
                    if entry is not None:
                        yield entry, reader, token
                for entry in _some_keyless(source):
                    yield entry, None, token
            for entry in list(islice(self._elsewhere.get(token, ()), _MOST_LOOKED_AT)):
                yield entry, None, token

    def _request_key(self, reader: Correlator, quote: bytes) -> object:
        try:
            return sealed(reader.request_key(quote))
        except BaseException as fault:
            self._fault(fault)
            return None

    def _fault(self, fault: BaseException) -> None:
        """Take note of an exception in foreign code, which was shown what anybody may have sent."""
        if isinstance(fault, (KeyboardInterrupt, SystemExit)):
            self.interrupt = fault

    def _note(self, error: NetworkError, now: float) -> None:
        for token in _on_any_link(error.wire):
            source = self._sources.get(token)
            if (source is not None and source.live) or token in self._elsewhere:
                self._hints.add(error._replace(wire=token), now)


def _on_any_link(wire: Wire) -> tuple[Wire, ...]:
    return (wire, without_scope(wire)) if len(wire) == IPV6_WIRE and has_scope(wire) else (wire,)


def _some_keyless(source: Source) -> list[Entry]:
    """Those who wait for an answer before those who listen anyway: both may have sent the same."""
    some = list(islice(source.expecting_keyless(), _MOST_LOOKED_AT))
    some.sort(key=lambda entry: entry.more is not None and entry.more.lasting)
    return some


def _has_sent(entry: Entry, reader: Correlator | None, wire: Wire, quote: bytes, port: int) -> bool:
    """Whether what an exchange has sent to a peer from a port begins like this."""
    if entry.ended:
        return False
    if entry.more is not None and (entry.more.asks or entry.more.lasting):
        return entry.more.has_sent(wire, quote, port)
    data = entry.data
    if data is None or entry.port != port or entry.source is None or entry.source.token != wire:
        return False
    if entry.assigned is not None:
        assert isinstance(reader, TransactionId)
        data = reader.stamped(data, assigned_id(entry))
    return data.startswith(quote)
