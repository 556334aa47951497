"""What, beyond the address, ties a reply to its request: transaction ids and the like."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Hashable
from typing import Final

from udpguard._typing import override
from udpguard.core.address import Token, is_tuple
from udpguard.core.explain import shown


class Correlator(abc.ABC):
    """Finds the transaction key in requests and in replies.

    Derive from it for protocols whose key is not at a fixed place. With a correlator any number of requests to one
    peer are in flight at once, and a reply needs the right source and the right key.

    Correlators that compare equal share their keys, over all the clients of an endpoint; so one that defines `__eq__`
    must define `__hash__` too (a frozen dataclass does both).
    """

    __slots__ = ()

    @abc.abstractmethod
    def request_key(self, data: bytes) -> Hashable | None:
        """The key in a request, or None where it has none: such requests to one peer take turns.

        What it raises goes to the caller of the request. It is also shown what ICMP messages quote of requests, which
        may be cut off or forged; what it raises then counts as None.
        """

    @abc.abstractmethod
    def reply_key(self, data: bytes) -> Hashable | None:
        """The key in what came off the wire, or None where there is none.

        It is given hostile bytes and should never raise; if it does, that counts as None and as a hook error.
        """


class TransactionId(Correlator):
    """A key at a fixed place in the datagram, as in DNS, NTP, RADIUS or STUN.

    Args:
        offset: Where the id begins in a request, in bytes.
        length: How long it is, in bytes.
        reply_offset: Where it begins in a reply; the same place unless given.
        assign: Whether udpguard picks the ids: unpredictable ones, not in use nor lately used with that peer, written
            into the datagram as it leaves; in the reply the caller's own bytes are put back. That makes the id as hard
            to guess as its length allows (RFC 5452 section 4.3).

    Raises:
        ValueError: An offset is negative, or the length is not positive.

    A key is the id's bytes. A datagram too short to hold the id has none.
    """

    __slots__ = ("assign", "end", "length", "offset", "reply_end", "reply_offset")

    def __init__(self, offset: int, length: int, *, reply_offset: int | None = None, assign: bool = False) -> None:
        reply_offset = offset if reply_offset is None else reply_offset
        for name, value, lowest in (
            ("offset", offset, 0),
            ("length", length, 1),
            ("reply_offset", reply_offset, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number of bytes, not {value!r}")
            if value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, not {value}")
        self.offset: Final = offset
        self.length: Final = length
        self.reply_offset: Final = reply_offset
        self.assign: Final = assign
        self.end: Final = offset + length
        self.reply_end: Final = reply_offset + length

    @override
    def request_key(self, data: bytes) -> bytes | None:
        return data[self.offset : self.end] if len(data) >= self.end else None

    @override
    def reply_key(self, data: bytes) -> bytes | None:
        return data[self.reply_offset : self.reply_end] if len(data) >= self.reply_end else None

    def stamped(self, data: bytes, key: bytes) -> bytes:
        """A request with this id written into it, as it is to leave.

        Where something else in the datagram depends on the id, such as a checksum or a signature, derive a class that
        computes it here: from nothing but the arguments, since it may be asked again for what has left already. What it
        raises goes to the caller of the request.
        """
        return data[: self.offset] + key + data[self.end :]

    def restored(self, data: bytes, original: bytes) -> bytes:
        """A reply with the caller's own bytes where its id was, as `accept` and the caller get it.

        Where they check something that depends on the id, derive a class that leaves the reply as it came.
        """
        return data[: self.reply_offset] + original + data[self.reply_end :]

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TransactionId) or type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    @override
    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[int, int, int, bool]:
        return (self.offset, self.length, self.reply_offset, self.assign)

    @override
    def __repr__(self) -> str:
        elsewhere = f", reply_offset={self.reply_offset}" if self.reply_offset != self.offset else ""
        return f"TransactionId({self.offset}, {self.length}{elsewhere}{', assign=True' if self.assign else ''})"


_MOST_READERS: Final = 16


class Book:
    """One space of keys: all the clients of an endpoint whose replies carry their keys alike.

    Number 0 is the book of those who have no correlator. `rank` says which book reads a datagram first: the one with
    the longest key, the least likely to fit by accident.
    """

    __slots__ = ("__weakref__", "correlator", "fault", "number", "rank", "readers", "reply_begin", "reply_end")

    def __init__(self, number: int, correlator: Correlator | None) -> None:
        self.number: int = number
        self.correlator: Correlator | None = correlator
        self.readers: tuple[Correlator, ...] = ()
        """Those whose requests have their keys here: not all need have them at the same place."""
        self.fault: str | None = None
        """What the first exception in `reply_key` was."""
        self.rank: int = -correlator.length if isinstance(correlator, TransactionId) else 0
        self.reply_begin: int = 0
        """Where the key begins in a reply."""
        self.reply_end: int = 0
        """Where it ends; 0 where the correlator must be asked."""
        if type(correlator) is TransactionId:
            self.reply_begin, self.reply_end = correlator.reply_offset, correlator.reply_end

    @property
    def finder(self) -> str | None:
        """How a key is found in replies, in words, or why not; None where nobody looks for one."""
        if self.correlator is None:
            return None
        name = type(self.correlator).__name__
        if self.fault is not None:
            return f"{name}.reply_key has raised {self.fault}"
        if self.reply_end:
            last = self.reply_end - 1
            place = f"bytes {self.reply_begin} to {last}" if last > self.reply_begin else f"byte {last}"
            return f"is it in {place} of this protocol's replies?"
        return f"does {name}.reply_key find it in this protocol's replies?"

    def read_by(self, correlator: Correlator) -> None:
        """Remember that one more finds its requests' keys in its own way."""
        if type(correlator) is TransactionId:
            if any(known.offset == correlator.offset for known in self.readers if isinstance(known, TransactionId)):
                return
        elif self.readers:
            return
        self.readers = (*self.readers, correlator)[-_MOST_READERS:]


def space_of(correlator: Correlator) -> Hashable:
    """What identifies the book of a correlator.

    `TransactionId`s that read the same bytes of a reply share one, so that an id picked for one client is never in
    use by another.
    """
    if type(correlator) is TransactionId:
        return (TransactionId, correlator.reply_offset, correlator.length)
    return correlator


Slot = tuple[Token, int, Hashable]
"""What a datagram is looked up by: where it came from, the number of the book, and its key (None: it has none)."""


_PLAIN: Final = frozenset((bytes, int, str, type(None)))
"""Types whose values compare without a surprise."""


class SealedKey:
    """A foreign key whose methods can't get in the way: it has one hash for ever, and what won't compare is different.

    A dictionary asks keys whether they are equal when one is taken out as well; an error there would leave an exchange
    half ended.
    """

    __slots__ = ("_fault", "_hash", "key")

    def __init__(self, key: Hashable, fault: Callable[[], object] | None = None) -> None:
        self.key: Hashable = key
        self._hash = hash(key)
        self._fault = fault

    @override
    def __hash__(self) -> int:
        return self._hash

    @override
    def __eq__(self, other: object) -> bool:
        theirs = unsealed(other)
        if self.key is theirs:
            return True
        try:
            return bool(self.key == theirs)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            fault, self._fault = self._fault, None
            if fault is not None:
                fault()
            return False


def sealed(key: Hashable, fault: Callable[[], object] | None = None) -> Hashable:
    """A key that can be looked up and kept: itself, if it is plain. `fault` is told, once, where it won't compare.

    Raises whatever its hash does.
    """
    kind = type(key)
    if kind in _PLAIN or (kind is tuple and is_tuple(key) and _PLAIN.issuperset(map(type, key))):
        return key
    return SealedKey(key, fault)


def unsealed(key: object) -> object:
    """The key that the correlator, or the caller, gave."""
    return key.key if isinstance(key, SealedKey) else key


def request_key(correlator: Correlator | None, data: bytes) -> Hashable | None:
    """The key in a request.

    Raises:
        TypeError: It can't be hashed. What the correlator raises is raised, too.
    """
    if correlator is None:
        return None
    key = correlator.request_key(data)
    try:
        return sealed(key)
    except TypeError:
        raise TypeError(
            f"{type(correlator).__name__}.request_key gave {shown(key)}, which can't be hashed: "
            f"give bytes, a number or a tuple of such"
        ) from None


def checked_id(key: object) -> bytes:
    """The caller's own bytes where an id is to be assigned.

    Raises:
        TypeError: A class derived from `TransactionId` gave something else.
    """
    key = unsealed(key)
    if not isinstance(key, bytes):
        raise TypeError(f"request_key gave {shown(key)}: where ids are assigned it must give bytes")
    return key


def checked_transaction(transaction: object) -> bytes:
    """A key that a `TransactionId` can find.

    Raises:
        TypeError: It is not bytes.
    """
    if not isinstance(transaction, bytes):
        raise TypeError(f"transaction must be the id's bytes, as they stand in the reply, not {shown(transaction)}")
    return memoryview(transaction).tobytes()  # not one of a class that compares in its own way


def check_correlator(correlate: object) -> Correlator | None:
    """Refuse what is no correlator.

    Raises:
        TypeError: It is none, or can't be hashed.
    """
    if correlate is None:
        return None
    if not isinstance(correlate, Correlator):
        hint = "" if not isinstance(correlate, type) else " (a class: make one of it)"
        raise TypeError(f"correlate must be a udpguard.Correlator such as TransactionId(0, 2), not {correlate!r}{hint}")
    for method in (correlate.request_key, correlate.reply_key):
        if inspect.iscoroutinefunction(method):
            raise TypeError(f"{type(correlate).__name__}.{method.__name__} must be a plain function: write it with def")
    try:
        hash(correlate)
    except TypeError:
        raise TypeError(
            f"{type(correlate).__name__} defines __eq__ without __hash__: define both (a frozen dataclass does)"
        ) from None
    return correlate
