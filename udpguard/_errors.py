"""What can go wrong.

    UdpGuardError(Exception)
    ├── ReplyTimeoutError         (TimeoutError)   nobody that may answer did, in time
    ├── PeerRefusedError          (ConnectionRefusedError)  nothing listens on the port that was asked
    ├── PeerUnreachableError      (OSError)        sending failed: no route, network down, not permitted
    ├── ForgerySuspectedError                      more wrong keys from the right place than `Limits.near_misses`
    ├── EndpointClosedError                        the endpoint was closed before or while it waited
    ├── TooManyPendingError                        an expectation beyond `Limits.pending`
    ├── InvalidAddressError       (ValueError)     no datagram can be sent to that address, or none that is answered
    ├── DatagramTooLargeError     (ValueError)     more than UDP, or the path, carries
    └── DuplicateTransactionError (ValueError)     two pending requests with the same peer and transaction id

Each has its facts as attributes, says in its message what to do next, and survives pickling.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import ECONNREFUSED
from typing import TYPE_CHECKING, Self

from udpguard._typing import later, override

if TYPE_CHECKING:
    from udpguard.core.address import Peer
    from udpguard.core.icmp import IcmpMessage
    from udpguard.core.verdict import NearMiss
else:
    Peer, IcmpMessage, NearMiss = map(later, ("Peer", "IcmpMessage", "NearMiss"))


def _rebuild(kind: type[UdpGuardError], message: str, state: dict[str, object]) -> UdpGuardError:
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    for name, value in state.items():
        setattr(error, name, value)
    return error


def another(error: UdpGuardError) -> UdpGuardError:
    """The same error once more, for somebody else: one that is shared grows a wrong traceback."""
    same = _rebuild(type(error), str(error), {name: getattr(error, name) for name in error._fields} | error.__dict__)
    same.__cause__ = error.__cause__
    return same


class UdpGuardError(Exception):
    """The base of every error that is udpguard's own.

    A name that does not resolve raises `socket.gaierror`, as everywhere in asyncio, and is not one of these.
    """

    _fields: tuple[str, ...] = ()

    @override
    def __str__(self) -> str:
        # OSError would show its errno and strerror instead of the message.
        return str(self.args[0]) if self.args else ""

    @override
    def __reduce__(self) -> tuple[object, ...]:
        state = {name: getattr(self, name) for name in self._fields}
        return _rebuild, (type(self), str(self), {**self.__dict__, **state})

    def __copy__(self) -> Self:
        return self


class ReplyTimeoutError(UdpGuardError, TimeoutError):
    """No acceptable reply came before the deadline. The message names the likeliest cause.

    Attributes:
        peer: Who was asked; of several addresses the last one tried; None where a name was never resolved.
        timeout: The seconds from the call to the deadline.
        attempts: How many datagrams were sent.
        near_misses: What came while it waited and was not the answer: from the right place and refused, or from
            a stranger that shares the peer's host or its port.
        icmp: What ICMP messages said of its peers meanwhile, the latest first; they are not to be believed unchecked.
    """

    _fields = ("attempts", "icmp", "near_misses", "peer", "timeout")

    def __init__(
        self,
        message: str,
        *,
        peer: Peer | None = None,
        timeout: float = 0.0,
        attempts: int = 0,
        near_misses: Sequence[NearMiss] = (),
        icmp: Sequence[IcmpMessage] = (),
    ) -> None:
        super().__init__(message)
        self.peer = peer
        self.timeout = timeout
        self.attempts = attempts
        self.near_misses: tuple[NearMiss, ...] = tuple(near_misses)
        self.icmp: tuple[IcmpMessage, ...] = tuple(icmp)


class PeerRefusedError(UdpGuardError, ConnectionRefusedError):
    """An ICMP message says that nothing listens on the port that was asked, and quotes what this request sent there.

    Attributes:
        peer: Who was asked.
        errno: ECONNREFUSED.
        strerror: Its text.
    """

    _fields = ("errno", "peer", "strerror")

    def __init__(
        self,
        message: str,
        *,
        peer: Peer | None = None,
        errno: int = ECONNREFUSED,
        strerror: str = "Connection refused",
    ) -> None:
        super().__init__(message)
        self.peer = peer
        self.errno: int | None = errno
        self.strerror: str | None = strerror


class PeerUnreachableError(UdpGuardError, OSError):
    """The operating system would not send: no route, network down, or not permitted (see `man 7 ip`).

    Attributes:
        peer: Whom the datagram was for.
        errno: The operating system's error number.
        strerror: Its text.
    """

    _fields = ("errno", "peer", "strerror")

    def __init__(
        self, message: str, *, peer: Peer | None = None, errno: int | None = None, strerror: str | None = None
    ) -> None:
        super().__init__(message)
        self.peer = peer
        self.errno = errno
        self.strerror = strerror


class ForgerySuspectedError(UdpGuardError):
    """More datagrams with a wrong transaction key came from the right place than `Limits.near_misses` allows.

    Somebody may be guessing keys. It says nothing about the server, which may be well: ask again, with
    `Ports(pool=…)` for more to guess, or over another channel (RFC 5452 section 9.2).

    Attributes:
        peer: Who was asked; of several addresses the last one tried.
        limit: The number that was passed.
        near_misses: What came, as far as it is remembered.
    """

    _fields = ("limit", "near_misses", "peer")

    def __init__(
        self, message: str, *, peer: Peer | None = None, limit: int = 0, near_misses: Sequence[NearMiss] = ()
    ) -> None:
        super().__init__(message)
        self.peer = peer
        self.limit = limit
        self.near_misses: tuple[NearMiss, ...] = tuple(near_misses)


class EndpointClosedError(UdpGuardError):
    """The endpoint was closed before the call, or while it waited."""


class TooManyPendingError(UdpGuardError):
    """An expectation was refused, since as many as `Limits.pending` allows are pending.

    Attributes:
        limit: The number that was reached.
    """

    _fields = ("limit",)

    def __init__(self, message: str, *, limit: int = 0) -> None:
        super().__init__(message)
        self.limit = limit


class InvalidAddressError(UdpGuardError, ValueError):
    """The address is malformed, or of a kind that this call can't be made to.

    Attributes:
        address: The address as the caller gave it.
    """

    _fields = ("address",)

    def __init__(self, message: str, *, address: object = None) -> None:
        super().__init__(message)
        self.address = address


class DatagramTooLargeError(UdpGuardError, ValueError):
    """The datagram is larger than UDP, or the path to the peer, carries.

    Attributes:
        peer: Whom it was for.
        size: Its payload's bytes.
        limit: The most that fit, in bytes; None where only the path knows.
    """

    _fields = ("limit", "peer", "size")

    def __init__(self, message: str, *, peer: Peer | None = None, size: int = 0, limit: int | None = None) -> None:
        super().__init__(message)
        self.peer = peer
        self.size = size
        self.limit = limit


class DuplicateTransactionError(UdpGuardError, ValueError):
    """Another pending request or expectation has the same peer and the same transaction id.

    Attributes:
        peer: The peer whose replies could not be told apart; None where they may come from more than one.
        transaction: The key that both have.
    """

    _fields = ("peer", "transaction")

    def __init__(self, message: str, *, peer: Peer | None = None, transaction: object = None) -> None:
        super().__init__(message)
        self.peer = peer
        self.transaction = transaction
