"""Why a request timed out, in words: the likeliest cause first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from udpguard.core.address import Peer
from udpguard.core.icmp import IcmpMessage
from udpguard.core.record import record
from udpguard.core.verdict import NearMiss, Reason

_STALL: Final = 0.1
_LONGEST: Final = 200

WAITED_FOR: Final = {
    "name": "its name was still being looked up: pass an address, or give the lookup more time",
    "turn": "it waited for its turn all the time: an earlier request to the same peer is still pending, and without "
    "a correlator they go one after the other; pass correlate=… if the protocol has transaction ids",
    "quota": "it waited for its turn all the time: as many requests as in_flight_per_peer allows are still pending",
    "id": "it waited for a transaction id all the time: all of them are in use with this peer",
    "port": "it waited for a local port all the time: late replies to earlier requests may still come to each of them, "
    "and all spare ones are in use; raise Ports(spares=…), or pass correlate=… if the protocol has transaction ids",
    "quarantine": "it waited all the time for the late reply to an earlier request, which would look like its own: "
    "pass correlate=… if there are transaction ids, let the endpoint choose its port, or set Ports(quarantine=0)",
    "session": "it waited all the time for the late reply to an earlier request of its session, which would look like "
    "its own, as a session stays at one port: pass correlate=… if there are transaction ids, ask outside of the "
    "session, or have accept tell old answers from new ones and set Ports(quarantine=0)",
    "room": "it waited for room all the time: as many requests as Limits(pending=…) allows are still pending",
    "socket": "it waited to be sent all the time: the socket's send buffer stayed full",
}
"""What a request may have waited for that was never sent."""


class NoDecisionError(TypeError):
    """`accept` returned something that is no answer."""


@record
class TimeoutFacts:
    """What is known of a request that timed out.

    Attributes:
        asked: Who was asked, or was to be, as the message names it.
        timeout: Seconds from the call to the deadline.
        attempts: How many datagrams were sent; None for an expectation.
        waited_for: A key of `WAITED_FOR`, or None.
        near_misses: What came and was not the answer.
        objection: The latest exception in `accept`.
        has_accept: Whether there was an `accept` that may have refused what came.
        has_key: Whether a transaction key was needed.
        heard: Whether a provisional reply came.
        stalled: By how many seconds the event loop was late.
        untried: Other addresses of the same servers that were never tried.
        trouble: Why it could not be sent again.
        icmp: What ICMP messages said of its peers, the latest first.
        listens: Whether it only listens: a session.
        finder: How a transaction key is found in replies, or why not, where there is a correlator.
        elsewhere: Whether strangers came that resemble nobody who was asked.
        no_link: Whether a link-local address was asked without its link.
        cut_short: Whether its schedule would have sent again after that time.
    """

    asked: str
    timeout: float
    attempts: int | None
    waited_for: str | None
    near_misses: Sequence[NearMiss]
    objection: BaseException | None
    has_accept: bool
    has_key: bool
    heard: bool
    stalled: float
    untried: Sequence[Peer]
    trouble: str | None = None
    icmp: Sequence[IcmpMessage] = ()
    listens: bool = False
    finder: str | None = None
    elsewhere: bool = False
    no_link: bool = False
    cut_short: bool = False


def explain(facts: TimeoutFacts) -> str:
    """The message of a `ReplyTimeoutError`."""
    sent = "" if facts.attempts is None else f" ({facts.attempts} sent)" if facts.attempts else " (never sent)"
    if facts.listens:
        sent = f" ({facts.attempts} sent to it before)" if facts.attempts else ""
    message = f"{'nothing' if facts.listens else 'no reply'} from {facts.asked} in {_seconds(facts.timeout)} s{sent}"
    cause = _cause(facts)
    return f"{message}; {cause}" if cause else message


def _cause(facts: TimeoutFacts) -> str:
    refused = [miss for miss in facts.near_misses if miss.reason is Reason.REJECTED]
    strangers = [miss for miss in facts.near_misses if miss.reason is not Reason.REJECTED]
    if facts.icmp:
        return _reported(facts)
    if facts.objection is not None:
        return _objected(facts.objection, refused)
    if refused:
        return _refusal(facts, refused)
    if not facts.attempts and facts.waited_for is not None:
        return WAITED_FOR[facts.waited_for]
    if facts.stalled > _STALL:
        return (
            f"the event loop was blocked for {_seconds(facts.stalled)} s of that: "
            f"look for calls that block (asyncio's debug mode names them)"
        )
    if strangers:
        likeliest = max(strangers, key=lambda miss: miss.count)
        return (
            f"{_came([likeliest])} instead:\n"
            f'if that is the same server, pass reply_from=("{likeliest.peer.host}", {likeliest.peer.port})'
        )
    return _silence(facts)


def _objected(objection: BaseException, refused: Sequence[NearMiss]) -> str:
    """What `accept` did to refuse, other than saying so."""
    raised = shown(objection, str)
    if not isinstance(objection, NoDecisionError):
        raised = f"accept raised {type(objection).__name__}: {raised}"
    return f"{_came(refused)} and {raised}" if refused else raised


def _reported(facts: TimeoutFacts) -> str:
    """What ICMP says, which anybody may have sent."""
    latest = facts.icmp[0]
    sender = f"an ICMP message from {latest.sender}" if latest.sender is not None else "an ICMP message"
    about = "" if str(latest.peer) == facts.asked else f" of {latest.peer}"
    advice = ": send less at once" if latest.mtu else ""
    return f"{sender} says{about} that {latest.meaning}{advice}"


def _silence(facts: TimeoutFacts) -> str:
    """What may be the cause where nothing came, from there at least."""
    if facts.trouble is not None:
        return facts.trouble
    if facts.no_link:
        host = facts.asked.partition("]")[0].removeprefix("[")
        return f"a link-local address needs its link, as in {host}%eth0: without one the system picks any"
    likely = _likely(facts)
    if not likely or not facts.elsewhere:
        return likely
    return (
        f"{likely}; other hosts have sent something meanwhile: "
        f"if the server answers from another address, open_endpoint(on_unexpected=print) shows it"
    )


def _likely(facts: TimeoutFacts) -> str:
    if facts.listens:
        return "datagrams get lost: send again, if it is its turn to answer" if facts.attempts else ""
    if facts.heard:
        return "it was acknowledged, but its answer never came"
    if facts.untried:
        return f"not tried in that time: {', '.join(map(str, facts.untried[:3]))}"
    if facts.attempts is None:
        return "was the question sent, from this endpoint and in time?"
    if facts.attempts == 1 and facts.cut_short:
        return "datagrams get lost: is the server up? if so, allow more time, or a shorter wait before it is sent again"
    if facts.attempts == 1:
        return "datagrams get lost: is the server up? if so, pass retry=udpguard.Retry() to send again"
    return "is the server up, and does a firewall let its replies through?" if facts.attempts else ""


def _refusal(facts: TimeoutFacts, refused: Sequence[NearMiss]) -> str:
    if facts.has_key and not facts.has_accept:
        begins = refused[0].data[:16].hex(" ") or "nothing at all"
        hint = "" if facts.finder is None else f" (the latest begins with {begins}): {facts.finder}"
        return f"{_came(refused)} with another transaction id or none{hint}"
    if facts.has_accept and not facts.has_key:
        return f"{_came(refused)} and accept refused {_them(refused)}"
    if not facts.has_accept:
        none = "" if facts.finder is None else ", while the request itself has none where correlate looks for it"
        return f"{_came(refused)} with a transaction id{none}, or to the port of an earlier request"
    return f"{_came(refused)} and had another transaction id, or accept refused {_them(refused)}"


def shown(value: object, how: Callable[[object], str] = repr) -> str:
    """A foreign object as text, whatever its own methods do."""
    try:
        return how(value)[:_LONGEST]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return f"<{type(value).__name__} that can't be shown>"


def _came(misses: Sequence[NearMiss]) -> str:
    count = sum(miss.count for miss in misses)
    peers = ", ".join(str(miss.peer) for miss in misses[:3])
    return f"{count} datagram{'s' if count != 1 else ''} came from {peers}{', …' if len(misses) > 3 else ''}"


def _them(misses: Sequence[NearMiss]) -> str:
    return "it" if sum(miss.count for miss in misses) == 1 else "them"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 1 else f"{seconds:.1f}"
