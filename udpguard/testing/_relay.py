"""A relay that makes a good network a bad one: between a client and a server, with real sockets or simulated ones."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, Self, Unpack

from udpguard._typing import override
from udpguard.core.address import Address, Peer, Wire, peer_of
from udpguard.testing._conditions import ConditionArguments, Conditions
from udpguard.testing._places import Later, Place, literal_address
from udpguard.testing._trace import Event, Kind, Seed, Trace

_MOST_DOORS: Final = 1_024
_MOST_EVENTS: Final = 1_000_000


class Relay:
    """Passes datagrams on between clients and one server, and loses, delays, repeats and spoils some, both ways.

        async with Relay(server.address, seed=1, loss=0.3) as relay:
            data = await endpoint.request(relay.address, b"hello")

    Each client is seen by the server as a port of the relay's, and each other port of the server's host that writes to
    a client (TFTP answers from a new one) is seen by clients as another port of the relay's, where they write to it.
    Of both there are up to 1,024 at a time; then the one that was quiet longest makes room. Nobody else gets through.

    Args:
        server: Where the server is.
        host: The address that clients ask at.
        port: The port; 0 for a free one.
        seed: Decides what happens to which datagram.
        conditions: What happens, as `Conditions` has it; `icmp`, `unreachable` and `send_error` mean nothing here.
    """

    def __init__(
        self,
        server: Address,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: Seed = 0,
        **conditions: Unpack[ConditionArguments],
    ) -> None:
        self._server = literal_address(server)
        self._where = (host, port)
        self.conditions: Conditions = Conditions(**conditions)
        """What happens from now on."""
        self.trace: Trace = Trace(seed)
        """What happened, the first 1,000,000 events; time is the loop's."""
        self._generator = random.Random(f"udpguard relay {seed!r}")  # noqa: S311 (that can be predicted)
        self._front = Place(partial(self._from_client, peer_of(self._server)))
        self._backs = _Doors(self._from_server)
        """Each client's, towards the server."""
        self._fronts = _Doors(self._from_client)
        """Each other port's of the server's host, towards the clients."""
        self._later = Later()
        self._count = 0

    @property
    def address(self) -> Peer:
        """Where clients ask.

        Raises:
            RuntimeError: It is not open.
        """
        if not self._front.wire:
            raise RuntimeError("the relay is not open yet: write `async with Relay(…) as relay`")
        return self._front.peer

    def close(self) -> None:
        """Close its sockets; what is on its way is lost."""
        self._later.cancel()
        for opened in (self._front, self._backs, self._fronts):
            opened.close()

    async def __aenter__(self) -> Self:
        await self._front.open(*self._where)
        self._backs.host = self._fronts.host = self._front.peer.host
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
        await asyncio.sleep(0)  # the transports tell that they are closed

    @override
    def __repr__(self) -> str:
        where = self._front.peer if self._front.wire else "that is not open"
        return f"<udpguard.testing.Relay {where} to {peer_of(self._server)}>"

    # ------------------------------------------------------------------------------------------- passing on

    def _from_client(self, server: Peer, data: bytes, client: Peer) -> None:
        self._backs.through(client, lambda back: self._pass_on(data, client, back, server))

    def _from_server(self, client: Peer, data: bytes, source: Peer) -> None:
        server = peer_of(self._server)
        if source == server:
            self._pass_on(data, source, self._front, client)
        elif source.host == server.host:
            self._fronts.through(source, lambda front: self._pass_on(data, source, front, client))

    def _pass_on(self, data: bytes, source: Peer, place: Place, destination: Peer) -> None:
        wire = literal_address(destination.sockaddr)
        self._count += 1
        number, loop = self._count, asyncio.get_running_loop()

        def record(kind: Kind, payload: bytes, note: str = "") -> None:
            if len(self.trace) < _MOST_EVENTS:
                self.trace.events.append(Event(loop.time(), kind, number, source, destination, payload, note))

        record("sent", data)
        if self.conditions.is_too_large(data, wire):
            record("lost", data, "larger than the MTU")
            return
        copies = self.conditions.copies(data, self._generator)
        if not copies:
            record("lost", data)
        if len(copies) > 1:
            record("duplicated", data)
        for copy in copies:
            if copy.data != data:
                record("corrupted", copy.data)
            self._later.call(copy.delay, partial(_deliver, place, copy.data, wire, record))


class _Doors:
    """Sockets that stand for somebody, opened when the first datagram goes out by them.

    Args:
        received: Called with who it is, a datagram that came in for them, and where that is from.
    """

    def __init__(self, received: Callable[[Peer, bytes, Peer], object]) -> None:
        self.host = ""
        """The address that they are opened at."""
        self._received = received
        self._open: OrderedDict[Peer, Place] = OrderedDict()
        self._early: dict[Peer, list[Callable[[Place], object]]] = {}
        """What is to be done as soon as one is open."""
        self._tasks: set[asyncio.Task[None]] = set()

    def through(self, who: Peer, use: Callable[[Place], object]) -> None:
        """Call a function with the socket that stands for somebody."""
        place = self._open.get(who)
        if place is not None:
            self._open.move_to_end(who)
            use(place)
        elif who in self._early:
            self._early[who].append(use)
        else:
            self._early[who] = [use]
            task = asyncio.ensure_future(self._unlock(who))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _unlock(self, who: Peer) -> None:
        place = Place(partial(self._received, who))
        try:
            await place.open(self.host, 0)
        finally:
            early = self._early.pop(who)
        if len(self._open) >= _MOST_DOORS:
            _, quiet = self._open.popitem(last=False)
            quiet.close()
        self._open[who] = place
        for use in early:
            use(place)

    def close(self) -> None:
        """Close them all, and open none any more."""
        for task in self._tasks:
            task.cancel()
        for place in self._open.values():
            place.close()


def _deliver(place: Place, data: bytes, wire: Wire, record: Callable[[Kind, bytes], None]) -> None:
    record("delivered", data)
    place.send(data, wire)
