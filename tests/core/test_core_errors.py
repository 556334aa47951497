"""The errors: their bases, their fields, their messages, and that they survive a journey."""

from __future__ import annotations

import copy
import errno
import pickle
from typing import Any

import pytest

import udpguard
from udpguard import (
    DatagramTooLargeError,
    DuplicateTransactionError,
    EndpointClosedError,
    ForgerySuspectedError,
    IcmpMessage,
    InvalidAddressError,
    NearMiss,
    Peer,
    PeerRefusedError,
    PeerUnreachableError,
    Reason,
    ReplyTimeoutError,
    TooManyPendingError,
    UdpGuardError,
)

PEER = Peer("192.0.2.1", 161)
SAID = IcmpMessage(PEER, "192.0.2.254", "the host is unreachable", 3, 1, count=2)
MISS = NearMiss(PEER, Reason.REJECTED, 3, b"x")

EXAMPLES: list[tuple[type[UdpGuardError], type[Exception], dict[str, Any]]] = [
    (UdpGuardError, Exception, {}),
    (
        ReplyTimeoutError,
        TimeoutError,
        {"peer": PEER, "timeout": 2.0, "attempts": 3, "near_misses": (MISS,), "icmp": (SAID,)},
    ),
    (PeerRefusedError, ConnectionRefusedError, {"peer": PEER, "errno": errno.ECONNREFUSED, "strerror": "refused"}),
    (PeerUnreachableError, OSError, {"peer": PEER, "errno": errno.ENETUNREACH, "strerror": "Network is unreachable"}),
    (ForgerySuspectedError, Exception, {"peer": PEER, "limit": 5, "near_misses": (MISS,)}),
    (EndpointClosedError, Exception, {}),
    (TooManyPendingError, Exception, {"limit": 5}),
    (InvalidAddressError, ValueError, {"address": ("192.0.2.1", 0)}),
    (DatagramTooLargeError, ValueError, {"peer": PEER, "size": 70_000, "limit": 65_507}),
    (DuplicateTransactionError, ValueError, {"peer": PEER, "transaction": b"\1\2"}),
]
every_error = pytest.mark.parametrize(
    ("kind", "base", "fields"), EXAMPLES, ids=lambda value: getattr(value, "__name__", "")
)


def test_every_error_is_here() -> None:
    public = {name for name in udpguard.__all__ if name.endswith("Error")}
    assert public == {kind.__name__ for kind, _, _ in EXAMPLES}


@every_error
def test_bases_fields_and_message(kind: type[UdpGuardError], base: type, fields: dict[str, Any]) -> None:
    error = kind("what happened", **fields)
    assert isinstance(error, base)
    assert isinstance(error, UdpGuardError)
    assert str(error) == "what happened"
    assert error.args == ("what happened",)
    assert {name: getattr(error, name) for name in fields} == fields
    assert set(kind._fields) == set(fields)


@every_error
def test_they_can_be_sent_to_another_process(kind: type[UdpGuardError], base: type, fields: dict[str, Any]) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        error = kind("what happened", **fields)
        error.add_note("a note")
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is kind
        assert str(again) == "what happened"
        assert {name: getattr(again, name) for name in fields} == fields
        assert again.__notes__ == ["a note"]


@every_error
def test_they_can_be_copied(kind: type[UdpGuardError], base: type, fields: dict[str, Any]) -> None:
    error = kind("what happened", **fields)
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == "what happened"
        assert {name: getattr(again, name) for name in fields} == fields


@every_error
def test_the_fields_have_defaults(kind: type[UdpGuardError], base: type, fields: dict[str, Any]) -> None:
    error = kind("what happened")
    again = pickle.loads(pickle.dumps(error))
    assert {name: getattr(again, name) for name in fields} == {name: getattr(error, name) for name in fields}


def test_near_misses_are_a_tuple() -> None:
    assert ReplyTimeoutError("", near_misses=[MISS]).near_misses == (MISS,)


def test_an_error_without_a_message() -> None:
    assert str(UdpGuardError()) == ""
    assert str(pickle.loads(pickle.dumps(UdpGuardError()))) == ""


class OwnError(ReplyTimeoutError):
    """A user's, with a field of its own."""


def test_a_users_own_error_keeps_its_fields() -> None:
    error = OwnError("mine", peer=PEER, attempts=2)
    error.more = [1, 2]  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is OwnError
    assert (again.peer, again.attempts, again.more) == (PEER, 2, [1, 2])
