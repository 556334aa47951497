"""What a time-out says: the likeliest cause first, and what to do next."""

from __future__ import annotations

from typing import Any

import pytest

from udpguard import IcmpMessage, NearMiss, Peer, Reason
from udpguard.core.explain import WAITED_FOR, TimeoutFacts, explain, shown

ASKS_WITHOUT = (
    "2 datagrams came from 192.0.2.1:161 with a transaction id, while the request itself has none where "
    "correlate looks for it, or to the port of an earlier request"
)
SILENT = "is the server up, and does a firewall let its replies through?"
ELSEWHERE = (
    "; other hosts have sent something meanwhile: if the server answers from another address, "
    "open_endpoint(on_unexpected=print) shows it"
)
BLOCKED = ": look for calls that block (asyncio's debug mode names them)"


def told(**facts: Any) -> str:
    defaults: dict[str, Any] = {
        "asked": "192.0.2.1:161", "timeout": 2.0, "attempts": 1, "waited_for": None, "near_misses": (),
        "objection": None, "has_accept": False, "has_key": False, "heard": False, "stalled": 0.0,
        "trouble": None, "untried": (),
    }  # fmt: skip
    return explain(TimeoutFacts(**{**defaults, **facts}))


def stranger(host: str = "192.0.2.9", port: int = 161, count: int = 3) -> NearMiss:
    return NearMiss(Peer(host, port), Reason.UNKNOWN_PEER, count, b"x")


def refused(host: str = "192.0.2.1", port: int = 161, count: int = 2) -> NearMiss:
    return NearMiss(Peer(host, port), Reason.REJECTED, count, b"x")


def test_another_address_answered() -> None:
    assert told(attempts=3, near_misses=[stranger()]) == (
        "no reply from 192.0.2.1:161 in 2.0 s (3 sent); 3 datagrams came from 192.0.2.9:161 instead:\n"
        'if that is the same server, pass reply_from=("192.0.2.9", 161)'
    )


def test_the_busiest_stranger_is_named() -> None:
    message = told(near_misses=[stranger(count=1), stranger("2001:db8::9", 7, 2), stranger("192.0.2.10", 9, 1)])
    assert message.endswith(
        '2 datagrams came from [2001:db8::9]:7 instead:\nif that is the same server, pass reply_from=("2001:db8::9", 7)'
    )


def said(meaning: str, sender: str | None = "192.0.2.254", peer: str = "192.0.2.1", mtu: int = 0) -> IcmpMessage:
    return IcmpMessage(Peer(peer, 161), sender, meaning, 3, 1, mtu)


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ({"icmp": [said("the host is unreachable"), said("x")], "near_misses": [refused()], "stalled": 9.0},
         "an ICMP message from 192.0.2.254 says that the host is unreachable"),
        ({"icmp": [said("the host is unreachable", None, "192.0.2.7")]},
         "an ICMP message says of 192.0.2.7:161 that the host is unreachable"),
        ({"icmp": [said("the path carries no more than 1,400 bytes", mtu=1_400)]},
         "an ICMP message from 192.0.2.254 says that the path carries no more than 1,400 bytes: send less at once"),
        ({}, "datagrams get lost: is the server up? if so, pass retry=udpguard.Retry() to send again"),
        ({"cut_short": True},
         "datagrams get lost: is the server up? if so, allow more time, or a shorter wait before it is sent again"),
        ({"attempts": 3, "cut_short": True}, "is the server up, and does a firewall let its replies through?"),
        ({"attempts": 3}, "is the server up, and does a firewall let its replies through?"),
        ({"heard": True}, "it was acknowledged, but its answer never came"),
        ({"untried": [Peer("::1", 7)]}, "not tried in that time: [::1]:7"),
        ({"untried": [Peer("192.0.2.1", n) for n in range(1, 6)]},
         "not tried in that time: 192.0.2.1:1, 192.0.2.1:2, 192.0.2.1:3"),
        ({"stalled": 0.25}, "the event loop was blocked for 0.25 s of that" + BLOCKED),
        ({"stalled": 12.34}, "the event loop was blocked for 12.3 s of that" + BLOCKED),
        ({"near_misses": [refused()], "has_key": True},
         "2 datagrams came from 192.0.2.1:161 with another transaction id or none"),
        ({"near_misses": [refused()], "has_accept": True},
         "2 datagrams came from 192.0.2.1:161 and accept refused them"),
        ({"near_misses": [refused(count=1)], "has_accept": True},
         "1 datagram came from 192.0.2.1:161 and accept refused it"),
        ({"near_misses": [refused()], "has_accept": True, "has_key": True},
         "2 datagrams came from 192.0.2.1:161 and had another transaction id, or accept refused them"),
        ({"near_misses": [refused(port=n, count=1) for n in range(1, 6)], "has_key": True},
         "5 datagrams came from 192.0.2.1:1, 192.0.2.1:2, 192.0.2.1:3, … with another transaction id or none"),
        ({"near_misses": [refused()], "has_accept": True, "objection": KeyError("a")},
         "2 datagrams came from 192.0.2.1:161 and accept raised KeyError: 'a'"),
        ({"has_accept": True, "objection": KeyError("a")}, "accept raised KeyError: 'a'"),
        ({"near_misses": [refused()]},
         "2 datagrams came from 192.0.2.1:161 with a transaction id, or to the port of an earlier request"),
        ({"trouble": "no route to 192.0.2.1:161"}, "no route to 192.0.2.1:161"),
        ({"trouble": "no route to 192.0.2.1:161", "elsewhere": True, "no_link": True}, "no route to 192.0.2.1:161"),
        ({"near_misses": [refused()], "has_key": True, "finder": "is it?"},
         "2 datagrams came from 192.0.2.1:161 with another transaction id or none (the latest begins with 78): is it?"),
        ({"near_misses": [NearMiss(Peer("::1", 7), Reason.REJECTED, 1, b"")], "has_key": True, "finder": "?"},
         "1 datagram came from [::1]:7 with another transaction id or none (the latest begins with nothing at all): ?"),
        ({"near_misses": [refused()], "finder": "?"}, ASKS_WITHOUT),
        ({"elsewhere": True, "attempts": 3}, SILENT + ELSEWHERE),
    ],
)  # fmt: skip
def test_each_cause(facts: dict[str, Any], cause: str) -> None:
    message = told(**facts)
    assert message == f"no reply from 192.0.2.1:161 in 2.0 s ({facts.get('attempts', 1)} sent); {cause}"


@pytest.mark.parametrize("reason", sorted(WAITED_FOR))
def test_what_it_waited_for(reason: str) -> None:
    assert (
        told(attempts=0, waited_for=reason)
        == f"no reply from 192.0.2.1:161 in 2.0 s (never sent); {WAITED_FOR[reason]}"
    )
    assert WAITED_FOR[reason] not in told(attempts=1, waited_for=reason), "it was sent after all"


def test_an_expectation_sends_nothing() -> None:
    assert told(attempts=None) == (
        "no reply from 192.0.2.1:161 in 2.0 s; was the question sent, from this endpoint and in time?"
    )
    assert told(attempts=None, near_misses=[stranger(count=1)]).startswith(
        "no reply from 192.0.2.1:161 in 2.0 s; 1 datagram came from 192.0.2.9:161 instead:\n"
    )


def test_an_expectation_without_accept_is_not_told_of_one() -> None:
    # A client with a correlator that expects a datagram without a key: those with one are rejected.
    assert told(attempts=None, near_misses=[refused(count=1)]) == (
        "no reply from 192.0.2.1:161 in 2.0 s; 1 datagram came from 192.0.2.1:161 with a transaction id, "
        "or to the port of an earlier request"
    )


def test_a_link_local_address_without_its_link() -> None:
    assert told(asked="[fe80::1]:7", no_link=True) == (
        "no reply from [fe80::1]:7 in 2.0 s (1 sent); a link-local address needs its link, as in fe80::1%eth0: "
        "without one the system picks any"
    )


def test_a_session_that_waits_for_its_peer_has_no_strangers_to_tell_of() -> None:
    assert told(attempts=0, listens=True, elsewhere=True) == "nothing from 192.0.2.1:161 in 2.0 s"


def test_never_sent_for_no_known_reason() -> None:
    assert told(attempts=0) == "no reply from 192.0.2.1:161 in 2.0 s (never sent)"


@pytest.mark.parametrize(("timeout", "says"), [(0.05, "0.05"), (0.3, "0.3"), (1.0, "1.0"), (93.25, "93.2"), (5, "5.0")])
def test_seconds(timeout: float, says: str) -> None:
    assert told(timeout=timeout).startswith(f"no reply from 192.0.2.1:161 in {says} s")


def test_the_likeliest_cause_goes_first() -> None:
    # From the last to the first: each that is added takes the place of those before.
    facts: dict[str, Any] = {"attempts": 1}
    for name, value, says in (
        ("untried", [Peer("192.0.2.2", 7)], "not tried"),
        ("heard", True, "acknowledged"),
        ("trouble", "no route", "no route"),
        ("near_misses", [stranger()], "instead"),
        ("stalled", 1.0, "blocked"),
        ("near_misses", [refused(), stranger()], "transaction id"),
        ("objection", ValueError("bad"), "accept raised ValueError: bad"),
    ):
        facts[name] = value
        assert says in told(has_key=True, **facts)


class MuteError(Exception):
    """One that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_that_can_not_be_shown_is_named() -> None:
    message = told(near_misses=[refused()], has_accept=True, objection=MuteError())
    assert message.endswith(" and accept raised MuteError: <MuteError that can't be shown>")


def test_an_exception_of_many_words_is_cut() -> None:
    message = told(has_accept=True, objection=ValueError("a" * 10_000))
    assert message.endswith("accept raised ValueError: " + "a" * 200)


class Oddity:
    """A foreign object with methods of its own."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __repr__(self) -> str:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("fine", "fine"),
        ("long" * 100, "long" * 50),
        (None, "<Oddity that can't be shown>"),
        (RuntimeError("no"), "<Oddity that can't be shown>"),
        (RecursionError("no"), "<Oddity that can't be shown>"),
    ],
)
def test_foreign_objects_are_shown_safely(answer: object, says: str) -> None:
    assert shown(Oddity(answer)) == says
    assert shown(Oddity(answer), str) == says


def test_an_interrupt_while_a_foreign_object_is_shown_goes_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        shown(Oddity(KeyboardInterrupt()))
