"""What is pending, and what is known of the place it is expected from: the registry's records."""

# Annotations are no strings here: `typing.NamedTuple` would compile each, which doubles the time that it takes.

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, TypeAlias

from udpguard._errors import UdpGuardError
from udpguard.core.address import IPV6_WIRE, Peer, Token, Wire, has_scope
from udpguard.core.correlation import Book, Slot
from udpguard.core.gate import Gate
from udpguard.core.ids import IdPool
from udpguard.core.ports import Spare
from udpguard.core.retransmission import backed_off, retransmission_timeout
from udpguard.core.statistics import PeerStatistics
from udpguard.core.verdict import Decision, Reply

Accept = Callable[[Reply], bool | Decision]
"""Judges a reply that came from the right place."""

_FLOOR: Final = 1.0
_CEILING: Final = 60.0
_MOST_BOOKS: Final = 16


class Sent(NamedTuple):
    """What left for one slot: when last, how often, to whom, the bytes that an id replaced, and from which ports."""

    at: float
    times: int
    peer: "Source"
    original: bytes | None
    ports: tuple[int, ...]


class Details:
    """What only some exchanges have: retransmissions, several addresses, an `accept`, a wait for the socket.

    The shell derives from it the exchanges that it drives.
    """

    lasting: ClassVar[bool] = False
    """Whether it goes on listening after a datagram was delivered to it: it is a `Lasting` then."""

    __slots__ = (
        "accept",
        "adapts",
        "asked",
        "asks",
        "assigned",
        "attempts",
        "heard",
        "held",
        "judged",
        "label",
        "objection",
        "ports",
        "queued",
        "refusals",
        "sends",
        "slots",
        "step_at",
        "trouble",
        "untried",
        "waits_for",
        "woken",
    )

    def __init__(self, accept: Accept | None = None, *, asks: bool = False) -> None:
        self.accept: Accept | None = accept
        self.asks: bool = asks
        """Whether udpguard itself sends the question: nothing can be its answer before that."""
        self.slots: list[Slot] = []
        """The slots it is pending in besides its first."""
        self.sends: dict[Slot, Sent] = {}
        self.asked: list[Source] = []
        self.assigned: list[Slot] = []
        self.held: list[Gate[Entry]] = []
        """The gates in which it has a place."""
        self.queued: list[Gate[Entry]] = []
        """The gates at which it waits for one."""
        self.ports: list[Spare] = []
        """The spare ports it uses."""
        self.attempts: int = 0
        self.refusals: int = 0
        """How many of these were refused: they owe no reply."""
        self.adapts: bool = False
        """Whether its schedule follows the peer's round-trip time: an expiry backs the time-out off (RFC 6298, 5.5)."""
        self.heard: bool = False
        """Whether a provisional reply came."""
        self.step_at: float = math.inf
        self.judged: bool = False
        """Whether `accept` was asked of anything."""
        self.objection: BaseException | None = None
        """The latest exception in `accept`."""
        self.label: str | None = None
        """How to name whom it asks, where that is more than an address."""
        self.waits_for: str | None = None
        """A key of `explain.WAITED_FOR`."""
        self.trouble: str | None = None
        """Why it could not be sent again."""
        self.untried: Sequence[Peer] = ()
        self.woken: bool = False
        """Whether it is about to go on."""

    @property
    def is_cut_short(self) -> bool:
        """Whether its schedule would have sent once more, had there been time."""
        return False

    def step(self) -> None:
        """Go on: it is time for the next attempt, or what it waited for is free."""

    def has_sent(self, wire: Wire, quote: bytes, port: int) -> bool:  # noqa: ARG002
        """Whether what it sent to a peer from a port begins like this."""
        return False

    def goes_on_without(self, wire: Wire, quote: bytes, error: UdpGuardError) -> bool:  # noqa: ARG002
        """Take note that a peer refuses what begins like this; False: there is nobody else to wait for."""
        self.refusals += 1
        return False


_MOST_SEEN: Final = 65_536


class Lasting(Details):
    """What goes on listening after a datagram was delivered to it: a session, a discovery.

    The shell derives from it what keeps the datagrams for the caller. There may be ten thousand of them, and most need
    few of their attributes: those that `__getattr__` knows are made when they are first asked for, which saves half of
    the time and two thirds of the memory that a session takes.
    """

    __slots__ = ("_old_seen", "_seen", "fixes", "left", "takes_all")

    lasting: ClassVar[bool] = True

    def __init__(self, accept: Accept | None = None, *, asks: bool = False) -> None:
        self.accept = accept
        self.asks = asks
        self.fixes: bool = False
        """Whether from the first datagram on it listens to who sent that, and to nobody else."""
        self.takes_all: bool = False
        """Whether it wants all that comes from a single peer, as it comes."""
        self.left: float
        """How many more are wanted."""
        self._seen: set[tuple[Wire, int]] | None
        """What was delivered, where repeats are not wanted, by who sent it and a hash with the interpreter's secret."""
        self._old_seen: set[tuple[Wire, int]]

    if not TYPE_CHECKING:  # pragma: no branch (else any attribute would be one)

        def __getattr__(self, name: str) -> object:
            make = _MADE_LATE.get(name)
            if make is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = make()
            setattr(self, name, value)
            return value

    def ignore_repeats(self) -> None:
        """Want the same data from the same peer once."""
        self._seen, self._old_seen = set(), set()

    def has_seen(self, wire: Wire, data: bytes) -> bool:
        """Whether this was delivered, and is not wanted again."""
        if self._seen is None:
            return False
        known = (wire, hash(data))
        return known in self._seen or known in self._old_seen

    def note_seen(self, wire: Wire, data: bytes) -> None:
        """Take note that this is delivered; of very many, the first are forgotten."""
        if self._seen is None:
            return
        if len(self._seen) >= _MOST_SEEN // 2:
            self._seen, self._old_seen = set(), self._seen
        self._seen.add((wire, hash(data)))

    def forget_seen(self, wire: Wire, data: bytes) -> None:
        """Take note that it could not be kept: it is wanted when it comes again."""
        if self._seen is not None:
            self._seen.discard((wire, hash(data)))

    def take(self, data: bytes, wire: Wire, rtt: float | None, attempts: int) -> None:
        """Keep a datagram for the caller."""
        raise NotImplementedError


_MADE_LATE: Final[dict[str, Callable[[], object]]] = {
    **dict.fromkeys(("slots", "asked", "assigned", "held", "queued", "ports"), list),
    **dict.fromkeys(("attempts", "refusals"), int),
    **dict.fromkeys(("adapts", "heard", "judged", "woken"), bool),
    **dict.fromkeys(("objection", "label", "waits_for", "trouble", "_seen"), lambda: None),
    **dict.fromkeys(("step_at", "left"), lambda: math.inf),
    "sends": dict,
    "untried": tuple,
}


Assigned: TypeAlias = tuple[IdPool, bytes]
"""The pool of an id that was picked for an exchange without extras, and the caller's own bytes that it replaced.

A plain tuple: one with names takes four times as long to make.
"""


class Entry:
    """One exchange, from the call to its end. `future` is the caller's, opaque here: the shell settles it.

    Either a `Question` or a `LongEntry`.

    There may be a million of them: an attribute more is 8 bytes each, a number that nothing else holds 24.
    """

    __slots__ = (
        "began",
        "data",
        "ended",
        "future",
        "more",
        "own_slot",
        "plain",
        "sent_at",
        "source",
        "timeout",
    )

    is_swept: ClassVar[bool] = False
    """Whether it is a `SweptQuestion`."""
    assigned: Assigned | None = None
    """The id it holds, where it has no `more`."""
    listens: bool
    """Whether it is pending in its slots."""
    port: int
    """The number of the local port its reply must come to, where it has no `more`."""
    roomy: bool
    """Whether it holds one of `Limits.pending`."""
    ticket: int
    """Of its latest deadline, where it has had more than one."""

    future: object
    data: bytes | None
    """The question as its caller gave it, to be compared with what ICMP quotes; where `more` asks, that has it."""
    began: float
    timeout: float
    more: Details | None
    plain: bool
    """Whether the caller wants the reply's bytes alone."""
    ended: bool
    own_slot: Slot | None
    source: "Source | None"
    sent_at: float | None

    @property
    def deadline(self) -> float:
        """When it ends, unless it is answered before."""
        return self.began + self.timeout

    @property
    def slot(self) -> Slot | None:
        """The first slot it is, or was, pending in."""
        if self.own_slot is None and self.listens and self.source is not None:
            return (self.source.token, 0, None)
        return self.own_slot

    def slots(self) -> tuple[Slot, ...]:
        """All the slots it is, or was, pending in."""
        slot = self.slot
        if slot is None:
            return ()
        return (slot,) if self.more is None else (slot, *self.more.slots)


class LongEntry(Entry):
    """Any exchange that is not a plain `Question`."""

    __slots__ = ("listens", "port", "roomy", "ticket")

    def __init__(self, future: object, began: float, timeout: float, more: Details | None, *, plain: bool) -> None:
        # `Entry.__init__` written out: the call would take a third of the time.
        self.future: object = future
        self.data: bytes | None = None
        self.began: float = began
        self.timeout: float = timeout
        self.more: Details | None = more
        self.plain: bool = plain
        self.ended: bool = False
        self.own_slot: Slot | None = None
        self.source: Source | None = None
        self.sent_at: float | None = None
        self.listens: bool = False
        self.port: int = 0
        self.roomy: bool = False
        self.ticket: int = 0


class Question(Entry):
    """An exchange that asks one peer and expects one reply from it, with a turn, an id or a key of the caller's.

    It listens and has its room as long as there is one. `Registry.ask` makes it without calling it, which takes half
    the time.
    """

    __slots__ = ()

    listens: bool = True
    port: int = 0
    roomy: bool = True


class AssignedQuestion(Question):
    """A question with an id that was picked for it."""

    __slots__ = ("assigned",)


class PortedQuestion(AssignedQuestion):
    """A question, perhaps with such an id, that left from another port than the endpoint's first."""

    __slots__ = ("port",)


class SweptQuestion(PortedQuestion):
    """A question of a sweep; its `future` is the sweep's `Bulk`."""

    __slots__ = ("addr", "tag")

    is_swept: ClassVar[bool] = True
    plain: bool = False
    addr: object
    """Whom it is for, as the caller wrote it."""
    tag: object


def assigned_id(entry: Entry) -> bytes:
    """The id that was picked for an exchange."""
    assert entry.own_slot is not None
    key = entry.own_slot[2]
    assert isinstance(key, bytes)
    return key


class Pools(dict[int, IdPool]):
    """The ids that are assigned for a peer, by the number of their book; and how many are pending in which book.

    Most sources have neither, so one attribute serves for both.
    """

    __slots__ = ("live",)

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] | None = None
        """Counted only where there is more than one book."""


class Source(Gate[Entry]):
    """One place that replies come from: what is pending there, who has the turn, and what was learnt of it.

    It is itself the gate at which those who ask without a key wait for their turn. A peer's own record is that of its
    wire, and holds its statistics too.
    """

    __slots__ = (
        "backoff",
        "books",
        "keyless",
        "live",
        "matched",
        "pools",
        "rttvar",
        "sent",
        "srtt",
        "timed_out",
        "token",
        "used",
    )

    scoped: ClassVar[bool] = False
    """Whether it is on one link: what is expected on any link may cover it too."""

    def __init__(self, token: Token) -> None:
        super().__init__(1)
        self.token: Token = token
        self.live: int = 0
        """How many are pending here."""
        self.books: tuple[Book, ...] = ()
        """The books of those that are, or were, pending here; the one with the longest key first."""
        self.keyless: Entry | OrderedDict[Entry, None] | None = None
        self.pools: Pools | None = None
        self.used: float = 0.0
        """When it was needed last, more or less."""
        self.srtt: float | None = None
        self.rttvar: float = 0.0
        self.backoff: int = 1
        self.sent: int = 0
        self.matched: int = 0
        self.timed_out: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it."""
        if self.live or not self.free:
            return False
        return not self.pools or all(pool.is_idle for pool in self.pools.values())

    def add_live(self, book: Book) -> None:
        """Take note that one more is pending here."""
        self.live += 1
        if not book.number:
            return
        if book not in self.books:
            self._know(book)
        live = self.live_by_book
        if live is not None:
            live[book.number] = live.get(book.number, 0) + 1

    def drop_live(self, number: int) -> None:
        """Take note that one less is."""
        self.live -= 1
        live = self.live_by_book
        if live is not None and number:
            live[number] -= 1

    @property
    def live_by_book(self) -> dict[int, int] | None:
        """How many are pending here in which book, where there is more than one; else None."""
        return None if self.pools is None else self.pools.live

    def own_pools(self) -> Pools:
        """Its `pools`, made where there are none."""
        if self.pools is None:
            self.pools = Pools()
        return self.pools

    def _know(self, book: Book) -> None:
        """Remember that replies from here may carry keys of this book; of books nobody needs but a few."""
        if not self.books:
            self.books = (book,)
            return
        books = [*self.books, book]
        pools = self.own_pools()
        if pools.live is None:
            pools.live = {self.books[0].number: self.live - 1 - self._of_nobody()}
        if len(books) > _MOST_BOOKS:
            books = [known for known in books if known is book or self._needs(known)]
            pools.live = {known.number: self._count(known) for known in books} if len(books) > 1 else None
            kept = {known.number for known in books}
            for number in [number for number in pools if number not in kept]:
                del pools[number]
        self.books = tuple(sorted(books, key=lambda known: known.rank))

    def _of_nobody(self) -> int:
        """How many are pending here in nobody's book."""
        return sum(entry.slot is not None and entry.slot[1] == 0 for entry in self.expecting_keyless())

    def expecting_keyless(self) -> Collection[Entry]:
        """What is pending here without a key, the oldest first."""
        return (self.keyless,) if isinstance(self.keyless, Entry) else self.keyless or ()

    def _count(self, book: Book) -> int:
        live = self.live_by_book
        return 0 if live is None else live.get(book.number, 0)

    def _needs(self, book: Book) -> bool:
        pool = None if self.pools is None else self.pools.get(book.number)
        return self._count(book) > 0 or (pool is not None and not pool.is_idle)

    def add_keyless(self, entry: Entry) -> None:
        """Expect a datagram without a key, after those already expected."""
        if self.keyless is None:
            self.keyless = entry
        elif isinstance(self.keyless, Entry):
            self.keyless = OrderedDict.fromkeys((self.keyless, entry))
        else:
            self.keyless[entry] = None

    def remove_keyless(self, entry: Entry) -> None:
        """Expect it no more."""
        if self.keyless is entry:
            self.keyless = None
        else:
            assert isinstance(self.keyless, OrderedDict)
            del self.keyless[entry]
            if not self.keyless:
                self.keyless = None

    def sample(self, rtt: float) -> None:
        """Learn from an unambiguous round trip of so many seconds."""
        srtt = self.srtt
        if srtt is None:
            self.srtt, self.rttvar = rtt, rtt / 2
        else:  # RFC 6298, 2.3; `retransmission.smoothed` has it in words
            self.rttvar += (abs(srtt - rtt) - self.rttvar) * 0.25
            self.srtt = srtt + (rtt - srtt) * 0.125
        self.backoff = 1

    def back_off(self) -> None:
        """Learn from an expiry of the retransmission timer."""
        self.backoff = backed_off(self.backoff)

    @property
    def was_asked(self) -> bool:
        """Whether anything was sent to it, or expected from it in vain or not."""
        return bool(self.sent or self.matched or self.timed_out)

    def statistics(self, uncounted: int = 0) -> PeerStatistics:
        """What is known of the peer, but for so many of the latest sends."""
        rto = _FLOOR if self.srtt is None else max(_FLOOR, retransmission_timeout(self.srtt, self.rttvar))
        return PeerStatistics(
            srtt=self.srtt,
            rttvar=None if self.srtt is None else self.rttvar,
            rto=min(rto * self.backoff, _CEILING),
            backoff=self.backoff,
            sent=self.sent - uncounted,
            matched=self.matched,
            timed_out=self.timed_out,
        )


class ScopedSource(Source):
    """A source on one link."""

    __slots__ = ()

    scoped: ClassVar[bool] = True


def source_of(token: Token) -> Source:
    """A record for a source."""
    if isinstance(token, bytes) and len(token) == IPV6_WIRE and has_scope(token):
        return ScopedSource(token)
    return Source(token)


class Posted:
    """Questions that leave together: their payloads, their peers, and what becomes of them."""

    __slots__ = ("datas", "entries", "wires")

    def __init__(self) -> None:
        self.datas: list[bytes] = []
        self.wires: list[Wire] = []
        self.entries: list[Entry] = []
