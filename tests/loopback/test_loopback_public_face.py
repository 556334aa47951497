"""The public face: what is exported, how it names itself, and that it says what it does."""

from __future__ import annotations

import enum
import inspect
from typing import Any

import pytest

import udpguard

PUBLIC = [(name, getattr(udpguard, name)) for name in udpguard.__all__]
CLASSES = [(name, value) for name, value in PUBLIC if inspect.isclass(value)]
CONTRACT = [
    "DEFAULT",
    "AdaptiveRetry",
    "Accept",
    "Address",
    "Addresses",
    "Client",
    "Correlator",
    "DatagramTooLargeError",
    "Decision",
    "DuplicateTransactionError",
    "Endpoint",
    "EndpointClosedError",
    "EndpointOpener",
    "Expectation",
    "GuardProtocol",
    "IcmpMessage",
    "InvalidAddressError",
    "Limits",
    "NearMiss",
    "Payload",
    "Peer",
    "PeerRefusedError",
    "PeerStatistics",
    "PeerUnreachableError",
    "Reason",
    "Reply",
    "ReplyTimeoutError",
    "Retry",
    "RetryPolicy",
    "Statistics",
    "TooManyPendingError",
    "TransactionId",
    "UdpGuardError",
    "Unexpected",
    "open_endpoint",
]


def test_all_is_sorted_and_complete() -> None:
    assert list(udpguard.__all__) == sorted(udpguard.__all__)
    assert len(set(udpguard.__all__)) == len(udpguard.__all__)
    missing = set(CONTRACT) - set(udpguard.__all__)
    assert not missing


def test_nothing_else_is_public() -> None:
    public = {
        name for name, value in vars(udpguard).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(udpguard.__all__)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in PUBLIC if inspect.isclass(v) or inspect.isroutine(v)])
def test_names_show_udpguard_as_their_module(name: str, value: Any) -> None:
    assert value.__module__ == "udpguard"
    assert value.__qualname__ == name


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in PUBLIC if inspect.isclass(v) or inspect.isroutine(v)])
def test_it_has_a_docstring_that_says_more_than_its_name(name: str, value: Any) -> None:
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}("), "a dataclass made that one"
    assert len(value.__doc__.split()) >= 3


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_each_of_its_methods_and_properties_has_one_too(name: str, kind: type) -> None:
    bare = []
    for member in vars(kind):
        if member.startswith("_"):
            continue
        value = inspect.getattr_static(kind, member)
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        if not (inspect.isroutine(value) or isinstance(value, property)):
            continue
        if issubclass(kind, enum.Enum) and member in ("name", "value"):
            continue
        if not inspect.getdoc(getattr(kind, member)):
            bare.append(f"{name}.{member}")
    assert not bare


def test_the_tree_of_errors() -> None:
    parents = {
        udpguard.ReplyTimeoutError: TimeoutError,
        udpguard.PeerRefusedError: ConnectionRefusedError,
        udpguard.PeerUnreachableError: OSError,
        udpguard.InvalidAddressError: ValueError,
        udpguard.DatagramTooLargeError: ValueError,
        udpguard.DuplicateTransactionError: ValueError,
        udpguard.EndpointClosedError: Exception,
        udpguard.TooManyPendingError: Exception,
    }
    for error, parent in parents.items():
        assert issubclass(error, udpguard.UdpGuardError)
        assert issubclass(error, parent)
    assert udpguard.UdpGuardError.__bases__ == (Exception,)


def test_default_is_a_typed_sentinel() -> None:
    assert repr(udpguard.DEFAULT) == "DEFAULT"
    assert isinstance(udpguard.DEFAULT, udpguard.Default)
    for verb in (udpguard.Client.request, udpguard.Client.exchange):
        parameters = inspect.signature(verb).parameters
        assert parameters["timeout"].default is udpguard.DEFAULT
        assert parameters["retry"].default is udpguard.DEFAULT
        assert parameters["reply_from"].default == "peer"
        assert parameters["accept"].default is None
    assert inspect.signature(udpguard.open_endpoint).parameters["timeout"].default is udpguard.DEFAULT


def test_reprs_can_be_read() -> None:
    assert repr(udpguard.TransactionId(0, 2, assign=True)) == "TransactionId(0, 2, assign=True)"
    assert repr(udpguard.TransactionId(40, 8, reply_offset=24)) == "TransactionId(40, 8, reply_offset=24)"
    assert repr(udpguard.Peer("::1", 53)) == "Peer(host='::1', port=53)"
    assert (str(udpguard.Peer("::1", 53)), str(udpguard.Peer("127.0.0.1", 53))) == ("[::1]:53", "127.0.0.1:53")
