"""One UDP socket, many servers, and nobody else gets in.

    import asyncio
    import udpguard

    async def main() -> None:
        async with udpguard.open_endpoint() as endpoint:
            print(await endpoint.request(("192.0.2.1", 7), b"hello", timeout=2.0))

    asyncio.run(main())

`help(udpguard.open_endpoint)` says how to open an endpoint, `help(udpguard.Client)` what it can be asked to do. Times
are in seconds, an address is `(host, port)`, and an error says in its message what to do next.
"""

import sys as _sys
from importlib import import_module as _import_module
from types import FunctionType as _FunctionType
from typing import TYPE_CHECKING as _TYPE_CHECKING

from udpguard._errors import (
    DatagramTooLargeError,
    DuplicateTransactionError,
    EndpointClosedError,
    ForgerySuspectedError,
    InvalidAddressError,
    PeerRefusedError,
    PeerUnreachableError,
    ReplyTimeoutError,
    TooManyPendingError,
    UdpGuardError,
)
from udpguard.core.address import Address, Peer
from udpguard.core.correlation import Correlator, TransactionId
from udpguard.core.icmp import IcmpMessage
from udpguard.core.options import DEFAULT, Default, Limits
from udpguard.core.ports import Ports
from udpguard.core.retransmission import AdaptiveRetry, Retry, RetryPolicy
from udpguard.core.statistics import PeerStatistics, Statistics
from udpguard.core.verdict import Decision, NearMiss, Reason, Reply, Unexpected

if _TYPE_CHECKING:
    from udpguard._client import Client, Expectation
    from udpguard._context import Addresses, Payload
    from udpguard._discovery import Discovery
    from udpguard._endpoint import Endpoint, EndpointOpener, open_endpoint
    from udpguard._protocol import GuardProtocol
    from udpguard._session import Session, SessionStatistics
    from udpguard._sweep import Questions, Sweep
    from udpguard.core.outcome import Outcome, Progress
    from udpguard.core.reply_from import ReplyFrom
    from udpguard.core.source import Accept

__all__ = [
    "Accept",
    "AdaptiveRetry",
    "Address",
    "Addresses",
    "Client",
    "Correlator",
    "DEFAULT",
    "DatagramTooLargeError",
    "Decision",
    "Default",
    "Discovery",
    "DuplicateTransactionError",
    "Endpoint",
    "EndpointClosedError",
    "EndpointOpener",
    "Expectation",
    "ForgerySuspectedError",
    "GuardProtocol",
    "IcmpMessage",
    "InvalidAddressError",
    "Limits",
    "NearMiss",
    "Outcome",
    "Payload",
    "Peer",
    "PeerRefusedError",
    "PeerStatistics",
    "PeerUnreachableError",
    "Ports",
    "Progress",
    "Questions",
    "Reason",
    "Reply",
    "ReplyFrom",
    "ReplyTimeoutError",
    "Retry",
    "RetryPolicy",
    "Session",
    "SessionStatistics",
    "Statistics",
    "Sweep",
    "TooManyPendingError",
    "TransactionId",
    "UdpGuardError",
    "Unexpected",
    "open_endpoint",
]


__version__ = "0.1.0"
"""The one place where the version stands: what is built reads it here."""

_LATER = {
    "Accept": "udpguard.core.source",
    "Addresses": "udpguard._context",
    "Client": "udpguard._client",
    "Discovery": "udpguard._discovery",
    "Endpoint": "udpguard._endpoint",
    "EndpointOpener": "udpguard._endpoint",
    "Expectation": "udpguard._client",
    "GuardProtocol": "udpguard._protocol",
    "Outcome": "udpguard.core.outcome",
    "Payload": "udpguard._context",
    "Progress": "udpguard.core.outcome",
    "Questions": "udpguard._sweep",
    "ReplyFrom": "udpguard.core.reply_from",
    "Session": "udpguard._session",
    "SessionStatistics": "udpguard._session",
    "Sweep": "udpguard._sweep",
    "open_endpoint": "udpguard._endpoint",
}
"""Values and errors are loaded at once, what needs asyncio when it is named first (PEP 562)."""


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


def _claim() -> None:
    """Let public names show this module as theirs, not the private one they are written in."""
    for value in [globals()[name] for name in __all__ if name not in _LATER]:
        if isinstance(value, (type, _FunctionType)):
            value.__module__ = __name__


_claim()

if not _TYPE_CHECKING:  # type checkers would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(_LATER[name]), name)
        return value


if "asyncio" in _sys.modules:  # who has that is going to ask: then no loop is to stop for what is loaded later
    _import_module("udpguard._endpoint")
