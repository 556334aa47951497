"""Why a question got no answer, or may not be asked here: the errors that callers get, with all that is known of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from udpguard._errors import EndpointClosedError, PeerRefusedError, ReplyTimeoutError
from udpguard.core.address import Wire, is_unscoped_link_local, peer_of
from udpguard.core.explain import TimeoutFacts, explain
from udpguard.core.icmp import NetworkError, sender_of
from udpguard.core.source import Details, Entry

if TYPE_CHECKING:
    from udpguard._guard import Guard
    from udpguard.core.swept import Bulk


class Reasons:
    """What one endpoint tells of its questions that ended without an answer.

    Args:
        guard: Whose they are.
    """

    __slots__ = ("_guard", "_silent")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._silent: tuple[tuple[float, int, float, bool], str, str] = ((math.nan, 0, 0.0, False), "", "")
        """What is told of silence, by time-out, attempts, delay and schedule: before the peer's name, and after it."""

    def timed_out(self, entry: Entry, stalled: float, seconds: float | None = None) -> ReplyTimeoutError:
        """Why no reply came: to an exchange that has expired, or in the latest so many seconds."""
        wire = None if entry.source is None else entry.source.token
        more, sent, quiet = entry.more, 0, self._guard.registry.is_quiet
        if more is None:
            sent = int(entry.sent_at is not None)
        elif entry.is_swept and more.waits_for is None:
            sent = more.attempts
        if sent and isinstance(wire, bytes) and not is_unscoped_link_local(wire) and quiet(wire, entry.began):
            return self._silence(wire, entry.timeout, sent, stalled, cut_short=_is_cut_short(entry))
        return self._explained(entry, stalled, seconds)

    def _silence(self, wire: Wire, timeout: float, sent: int, stalled: float, *, cut_short: bool) -> ReplyTimeoutError:
        """What is told of a plain question where nothing at all came meanwhile.

        A sweep of an empty network has one for each address: all of them say the same but for that, and to find it out
        anew takes four times as long.
        """
        facts = (timeout, sent, stalled, cut_short)
        if self._silent[0] != facts:
            head, _, tail = explain(
                TimeoutFacts(
                    asked="\0",
                    timeout=timeout,
                    attempts=sent,
                    waited_for=None,
                    near_misses=(),
                    objection=None,
                    has_accept=False,
                    has_key=False,
                    heard=False,
                    stalled=stalled,
                    untried=(),
                    cut_short=cut_short,
                )
            ).partition("\0")
            self._silent = (facts, head, tail)
        peer = peer_of(wire)
        _, head, tail = self._silent
        return ReplyTimeoutError(f"{head}{peer}{tail}", peer=peer, timeout=timeout, attempts=sent)

    def _explained(self, entry: Entry, stalled: float, seconds: float | None) -> ReplyTimeoutError:
        more = entry.more or Details()
        asked = [source.token for source in more.asked] or ([entry.source.token] if entry.source is not None else [])
        wires = [token for token in asked if isinstance(token, bytes)]
        latest = None if entry.source is None else entry.source.token
        peer = peer_of(latest) if isinstance(latest, bytes) else None
        attempts = more.attempts if more.asks or more.lasting else None if entry.sent_at is None else 1
        timeout = entry.timeout if seconds is None else seconds
        since = None if seconds is None else self._guard.clock() - seconds
        near_misses, icmp = (
            self._guard.registry.near_misses(entry, wires, since),
            self._guard.registry.hints(entry, since),
        )
        facts = TimeoutFacts(
            asked=more.label or str(peer),
            timeout=timeout,
            attempts=attempts,
            waited_for=more.waits_for,
            near_misses=near_misses,
            objection=more.objection,
            has_accept=more.judged,
            has_key=any(slot[2] is not None for slot in entry.slots()),
            heard=more.heard,
            stalled=stalled,
            trouble=more.trouble,
            untried=more.untried,
            icmp=icmp,
            listens=more.lasting,
            finder=self._guard.registry.finder(entry),
            elsewhere=not near_misses and self._guard.registry.heard_elsewhere(entry.began if since is None else since),
            no_link=any(map(is_unscoped_link_local, wires)),
            cut_short=_is_cut_short(entry),
        )
        return ReplyTimeoutError(
            explain(facts), peer=peer, timeout=timeout, attempts=attempts or 0, near_misses=near_misses, icmp=icmp
        )

    # ---------------------------------------------------------------------------------- loops and threads

    def not_here(self, running: object) -> RuntimeError:
        """What is wrong with who asks in this loop, or in none."""
        own = self._guard.loop
        if own is not None and self._guard.is_in_other_thread():
            return RuntimeError(
                "the endpoint belongs to the event loop of another thread: open one here as well, or ask there, "
                "with asyncio.run_coroutine_threadsafe(endpoint.request(…), loop)"
            )
        if running is None:
            return RuntimeError(
                "no event loop runs here: ask in a coroutine that asyncio.run(…) runs; "
                "and in a process that was forked, open a new endpoint"
            )
        if own is not None and own.is_closed():
            return RuntimeError(
                "the endpoint belongs to another event loop, which is closed: each asyncio.run() starts a new one, "
                "so open the endpoint in the coroutine that it runs"
            )
        return RuntimeError(
            "the endpoint belongs to another event loop: open one in each loop (asyncio.run() starts a new one)"
        )


def _is_cut_short(entry: Entry) -> bool:
    """Whether it would have been sent again, had there been time."""
    if entry.is_swept:
        return cast("Bulk", entry.future).sends_again
    return entry.more is not None and entry.more.is_cut_short


def refusal_of(error: NetworkError) -> PeerRefusedError:
    """What a message says whose quote was found to be true, as an error that says what to do."""
    peer, sender = peer_of(error.wire), sender_of(error)
    by = f"; the message comes from {sender}, perhaps a firewall" if sender not in (None, peer.host) else ""
    return PeerRefusedError(
        f"{peer} refused: ICMP says that nothing listens on that port{by}; "
        f"is the server up, and is this its address and port?",
        peer=peer,
    )


def closed_meanwhile() -> EndpointClosedError:
    """What is told to who waits when the endpoint is closed."""
    return EndpointClosedError(
        "the endpoint was closed while this was pending: await it before its `async with` ends, or close() is called"
    )
