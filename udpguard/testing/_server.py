"""Servers that a test decides about: what they answer, when, how often, and from where. Simulated or real."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Self, TypeAlias, cast

from udpguard._sending import checked_data
from udpguard._typing import override
from udpguard.core.address import Address, Peer, Wire, peer_of
from udpguard.core.options import check_hook
from udpguard.testing._hosts import Host
from udpguard.testing._places import Later, Place, literal_address, neighbour

_MOST_KEPT: Final = 65_536

SentFrom: TypeAlias = Literal["server", "port", "host"] | Address
"""Where an answer leaves from; see `Answer`."""


class Request(NamedTuple):
    """A datagram that a server got.

    Attributes:
        data: Its payload.
        peer: Who sent it.
        number: 0 for the first that this server got, and so on.
    """

    data: bytes
    peer: Peer
    number: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sends.

    Attributes:
        data: The payload.
        delay: After how many seconds it leaves.
        copies: How often.
        sent_from: "server": from where the server was asked; "port": from another port of the same host; "host": from
            another host, at the same port number; or an address. On a real network that has to be one that this
            machine has, such as 127.0.0.2, at a port that is free; 0 stands for any.
        to: Who gets it, unless it is who asked.

    Raises:
        ValueError: A number makes no sense.
    """

    data: bytes
    delay: float = 0.0
    copies: int = 1
    sent_from: SentFrom = "server"
    to: Address | None = None

    def __post_init__(self) -> None:
        if not self.delay >= 0 or self.copies < 0:
            raise ValueError(f"delay and copies must not be negative: {self!r}")


Answers: TypeAlias = bytes | Answer | Iterable[bytes | Answer] | None
"""What a handler gives: an answer, several, or None for silence."""

Handler: TypeAlias = Callable[[Request], Answers]


def echo(request: Request) -> bytes:
    """Answer with the same bytes."""
    return request.data


def silent(request: Request) -> None:
    """Answer nothing at all."""


def canned(answers: Mapping[bytes, Answers], otherwise: Answers = None) -> Handler:
    """A handler that has its answers ready.

    Args:
        answers: By the request's payload.
        otherwise: The answer to all others.
    """

    def answer(request: Request) -> Answers:
        return answers.get(request.data, otherwise)

    return answer


def with_other_id(data: bytes, offset: int = 0, length: int = 2) -> bytes:
    """A datagram with another transaction id: each bit of it is inverted.

    Args:
        data: The datagram.
        offset: Where the id begins.
        length: How many bytes it has.

    Raises:
        ValueError: It is not in there.
    """
    end = offset + length
    if not 0 <= offset < end <= len(data):
        raise ValueError(f"a datagram of {len(data)} bytes has no id of {length} bytes at {offset}")
    return data[:offset] + bytes(byte ^ 0xFF for byte in data[offset:end]) + data[end:]


def _each(given: object) -> Iterator[Answer]:
    """What a handler gave, one by one.

    Raises:
        TypeError: It is none of `Answers`.
    """
    if given is None:
        return
    for answer in cast("Iterable[object]", given) if _are_several(given) else (given,):
        yield answer if isinstance(answer, Answer) else Answer(checked_data(answer, what="an answer"))


def _are_several(given: object) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, (bytes, bytearray, str))


class Server:
    """A UDP server for tests; use it with `async with`.

        async with Server(echo) as server:
            data = await endpoint.request(server.address, b"hello")

    It works in a simulation and on every other loop, there with a real socket.

    Args:
        handler: Gives the answers to a `Request`; a plain function, whose `Answer` may have a delay. What it raises
            goes to the loop's exception handler.
        host: Where it is: an address, or a `Host` of the simulation, of which it then hears all addresses. In a
            simulation an address that nobody has yet gets a host.
        port: The port; 0 for a free one.

    Raises:
        TypeError: The handler is no function, or a coroutine function.
    """

    def __init__(self, handler: Handler = echo, host: str | Host = "127.0.0.1", port: int = 0) -> None:
        check_hook("handler", handler)
        self._handler = handler
        self._where = (host, port)
        self._place = Place(self._received)
        self._others: dict[Peer | Literal["port"], Place] = {}
        self._opening = asyncio.Lock()
        self.requests: deque[Request] = deque(maxlen=_MOST_KEPT)
        """What it got; the latest 65,536."""
        self._unread: deque[Request] = deque(maxlen=_MOST_KEPT)
        self._came = asyncio.Event()
        self._count = 0
        self._later = Later()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> Peer:
        """Where it is asked.

        Raises:
            RuntimeError: It is not open.
        """
        if not self._place.wire:
            raise RuntimeError("the server is not open yet: write `async with Server(…) as server`")
        return self._place.peer

    async def next(self) -> Request:
        """The next request that this was not called for yet; wait for it, if need be."""
        while not self._unread:
            self._came.clear()
            await self._came.wait()
        return self._unread.popleft()

    async def send(self, answer: bytes | Answer, to: Address | None = None) -> None:
        """Send without being asked.

        Args:
            answer: What, when, how often, from where.
            to: Who gets it, unless the answer says that.

        Raises:
            InvalidAddressError: An address is no literal.
            DatagramTooLargeError: It is more than UDP carries.
            OSError: There can't be a socket where it is to leave from.
            ValueError: Nobody says who gets it.
        """
        answer = Answer(answer) if isinstance(answer, bytes) else answer
        receiver = to if answer.to is None else answer.to
        if receiver is None:
            raise ValueError("who gets it? Pass to=…")
        wire = literal_address(receiver)
        place = self._known_place(answer.sent_from) or await self._other_place(answer.sent_from)
        self._send(place, answer, wire)

    def close(self) -> None:
        """Close its sockets; what has not left yet never does."""
        self._later.cancel()
        for task in self._tasks:
            task.cancel()
        for place in (self._place, *self._others.values()):
            place.close()

    async def __aenter__(self) -> Self:
        await self._place.open(*self._where)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
        await asyncio.sleep(0)  # the transports tell that they are closed

    @override
    def __repr__(self) -> str:
        return f"<udpguard.testing.Server {self._place.peer if self._place.wire else 'that is not open'}>"

    # ------------------------------------------------------------------------------------------- answering

    def _received(self, data: bytes, peer: Peer) -> None:
        request = Request(data, peer, self._count)
        self._count += 1
        self.requests.append(request)
        self._unread.append(request)
        self._came.set()
        for answer in _each(self._handler(request)):
            self._answer(answer, peer)

    def _answer(self, answer: Answer, asker: Peer) -> None:
        place = self._known_place(answer.sent_from)
        if place is not None:
            self._send(place, answer, literal_address(asker if answer.to is None else answer.to))
            return
        task = asyncio.ensure_future(self.send(answer, asker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send(self, place: Place, answer: Answer, wire: Wire) -> None:
        def leave() -> None:
            for _ in range(answer.copies):
                place.send(answer.data, wire)

        self._later.call(answer.delay, leave)

    def _known_place(self, sent_from: SentFrom) -> Place | None:
        return self._place if sent_from == "server" else self._others.get(self._name(sent_from))

    def _name(self, sent_from: SentFrom) -> Peer | Literal["port"]:
        if sent_from == "port":
            return "port"
        if sent_from == "host":
            return neighbour(self._place.wire)
        assert not isinstance(sent_from, str)
        return peer_of(literal_address(sent_from, port_zero=True))

    async def _other_place(self, sent_from: SentFrom) -> Place:
        name = self._name(sent_from)
        async with self._opening:  # two answers at once must not open it twice
            place = self._others.get(name)
            if place is None:
                place = Place()
                await place.open(*((self._place.peer.host, 0) if isinstance(name, str) else name))
                self._others[name] = place
        return place
