"""What the verbs of one client have in common: what it asks through, and what its callers may pass."""

# Annotations are no strings here: `typing.NamedTuple` would compile each, which doubles the time that it takes.

import asyncio
import inspect
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast

from udpguard._errors import InvalidAddressError
from udpguard._exchange import Data, Exchange, Quota
from udpguard._guard import Guard
from udpguard._resolve import Answer, Resolver
from udpguard._sending import checked_data
from udpguard._typing import Buffer, TypeIs
from udpguard.core.address import Address, HostName, Sources, Wire, is_tuple, parse, refusal_to_ask
from udpguard.core.correlation import Book, Correlator
from udpguard.core.options import DEFAULT_TIMEOUT, Default, check_hook, check_limit, checked_timeout
from udpguard.core.retransmission import RetryPolicy
from udpguard.core.source import Accept, Entry

if TYPE_CHECKING:
    from udpguard.core.reply_from import ReplyFrom

Addresses: TypeAlias = Address | Sequence[Address]
"""One address, or a list of them: equivalent servers, tried in turn."""

Payload: TypeAlias = Buffer | Callable[[int], bytes]
"""A datagram, or a function of the attempt's number (0, 1, …) that gives it."""


_FROM_PEER: Final = Sources("peer", socket.if_nametoindex)


class Settings(NamedTuple):
    """When requests end and are sent again: what the client says, or the endpoint, or the call.

    Attributes:
        timeout: Seconds; None: as long as the schedule.
        retry: The schedule; None: sent once.
    """

    timeout: float | None
    retry: RetryPolicy | None

    def overridden(self, timeout: float | None | Default, retry: RetryPolicy | None | Default) -> "Settings":
        """These settings, but for what is given in a place that has the last word.

        Where a schedule is given and a time-out isn't, the deadline is the schedule's own end.
        """
        if not isinstance(retry, (RetryPolicy, Default)) and retry is not None:
            raise TypeError(f"retry must be a RetryPolicy, or None, not {retry!r}: {_retry_instead(retry)}")
        schedule = self.retry if isinstance(retry, Default) else retry
        if not isinstance(timeout, Default):
            return Settings(checked_timeout(timeout), schedule)
        if isinstance(retry, Default):
            return self
        if retry is not None:
            return Settings(None, schedule)
        return Settings(DEFAULT_TIMEOUT if self.timeout is None else self.timeout, None)


def _retry_instead(retry: object) -> str:
    """What to pass, where that can be told."""
    if type(retry) is int and 0 < retry <= 1_000:
        return f"udpguard.Retry(attempts={retry}) sends up to {retry} times"
    return "udpguard.Retry() sends up to 4 times"


class Context(NamedTuple):
    """What one client asks through.

    Attributes:
        guard: The endpoint's.
        resolver: Looks up names.
        correlator: What ties a reply to its request, or None.
        book: The book of its keys.
        settings: When requests end and are sent again.
        quota: How many with a key may be in flight to one peer; None: any number.
        allow_broadcast: Whether the endpoint may send to broadcast addresses.
        owner: The endpoint, kept alive: one that nobody holds closes.
    """

    guard: Guard
    resolver: Resolver
    correlator: Correlator | None
    book: Book
    settings: Settings
    quota: Quota | None
    allow_broadcast: bool
    owner: object

    def begin(
        self,
        addr: Addresses,
        data: Payload,
        timeout: float | None | Default,
        rest: tuple[RetryPolicy | None | Default, "ReplyFrom", Accept | None],
        *,
        plain: bool,
        port: int | None = None,
    ) -> Entry:
        """Begin a request, the long way, from a certain port or any; see `Client.request` for arguments and errors."""
        # Packed, since a coroutine that waits keeps room for all that it ever hands over at once.
        retry, reply_from, accept = rest
        loop = self.guard.check_loop()
        settings = self.settings.overridden(timeout, retry)
        sources = self.sources(reply_from, accept)
        exchange = Exchange(
            self.guard,
            self.correlator,
            self.book,
            checked_payload(data),
            sources,
            accept=accept,
            quota=self.quota,
            policy=settings.retry,
            port=port,
        )
        return exchange.begin(loop.create_future(), parse_all(addr), self.resolver, settings.timeout, plain=plain)

    def sources(self, reply_from: "ReplyFrom", accept: Accept | None) -> Sources:
        """Where the answer to a request may come from, checked together with who judges it.

        Raises:
            ValueError: It may come from anywhere, and nothing else tells it.
            TypeError: `accept` can't be called.
        """
        sources = _FROM_PEER if reply_from == "peer" else Sources(reply_from, socket.if_nametoindex)
        if accept is not None:
            check_hook("accept", accept)
        elif sources.anywhere and self.correlator is None:
            raise ValueError('reply_from="anywhere" takes anybody\'s word: pass accept=… or use a correlator')
        return sources

    async def look_up(self, name: HostName) -> list[Wire]:
        """The addresses of a name that the endpoint has a socket for, at least one."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def told(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        self.resolver.look_up(name, told)
        answer = await future
        if isinstance(answer, BaseException):
            raise answer
        self.guard.check_loop()
        reachable = [wire for wire in answer if any(channel.carries(wire) for channel in self.guard.channels)]
        if not reachable:
            self.guard.channel_for(answer[0], name)
        return reachable


def checked_payload(data: object) -> Data:
    """A datagram as bytes of its own, or a plain function that gives one.

    Raises:
        TypeError: It is neither.
    """
    if not callable(data):
        return checked_data(data)
    if inspect.iscoroutinefunction(data):
        raise TypeError("data must be bytes or a plain function that returns them, not a coroutine function")
    return cast("Callable[[int], bytes]", data)


def _is_list(value: object) -> TypeIs[list[object]]:
    return isinstance(value, list)


def parse_all(addr: object) -> list[tuple[Wire | HostName, object]]:
    """One address or several, in canonical form and as they were written; those that can't answer are refused."""
    parsed = written_addresses(addr)
    for address, one in parsed:
        refusal = refusal_to_ask(address) if isinstance(address, bytes) else None
        if refusal is not None:
            raise InvalidAddressError(refusal, address=one)
    return parsed


def written_addresses(addr: object) -> list[tuple[Wire | HostName, object]]:
    """One address or several, in canonical form and as they were written."""
    several = _is_list(addr) or (is_tuple(addr) and bool(addr) and isinstance(addr[0], tuple))
    if _is_list(addr) and len(addr) == 2 and isinstance(addr[0], str) and isinstance(addr[1], int):
        from udpguard.core.meant import suggestion  # only who errs needs it

        meant = suggestion(addr) or "(host, port)"
        raise InvalidAddressError(f"{addr!r} is a list, which stands for several servers: pass {meant}", address=addr)
    written: list[object] = list(cast("Sequence[object]", addr)) if several else [addr]
    if not written:
        raise InvalidAddressError("the list of addresses is empty", address=addr)
    return [(parse(one, socket.if_nametoindex), one) for one in written]


def checked_quota(in_flight_per_peer: int | None) -> Quota | None:
    """A quota, where there is a limit."""
    check_limit("in_flight_per_peer", in_flight_per_peer, optional=True)
    return None if in_flight_per_peer is None else Quota(in_flight_per_peer)
