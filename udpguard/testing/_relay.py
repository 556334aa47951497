"""A relay that makes a good network a bad one: between a client and a server, with real sockets or simulated ones."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

from typing_extensions import Self, Unpack, override

from udpguard.core.address import Address, Peer, Wire, peer_of
from udpguard.testing._conditions import ConditionArguments, Conditions
from udpguard.testing._places import Later, Place, literal_address
from udpguard.testing._trace import Event, Kind, Seed, Trace

_MOST_CLIENTS: Final = 1_024
_MOST_EVENTS: Final = 1_000_000


class Relay:
    """Passes datagrams on between clients and one server, and loses, delays, repeats and spoils some, both ways.

        async with Relay(server.address, seed=1, loss=0.3) as relay:
            data = await endpoint.request(relay.address, b"hello")

    Each client, up to 1,024 (then the one that was quiet longest makes room), is seen by the server as a port of the
    relay's. Clients hear the server from the relay's own address only.

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
        self._front = Place(self._from_client)
        self._backs: OrderedDict[Peer, Place] = OrderedDict()
        self._early: dict[Peer, list[bytes]] = {}
        """What comes from clients whose socket is being opened."""
        self._later = Later()
        self._tasks: set[asyncio.Task[None]] = set()
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
        for task in self._tasks:
            task.cancel()
        for place in (self._front, *self._backs.values()):
            place.close()

    async def __aenter__(self) -> Self:
        await self._front.open(*self._where)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
        await asyncio.sleep(0)  # the transports tell that they are closed

    @override
    def __repr__(self) -> str:
        where = self._front.peer if self._front.wire else "that is not open"
        return f"<udpguard.testing.Relay {where} to {peer_of(self._server)}>"

    # ------------------------------------------------------------------------------------------- passing on

    def _from_client(self, data: bytes, client: Peer) -> None:
        back = self._backs.get(client)
        if back is not None:
            self._backs.move_to_end(client)
            self._pass_on(data, client, back, self._server)
        elif client in self._early:
            self._early[client].append(data)
        else:
            self._early[client] = [data]
            task = asyncio.ensure_future(self._welcome(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _welcome(self, client: Peer) -> None:
        back = Place(lambda data, source: self._from_server(data, source, client))
        try:
            await back.open(self._front.peer.host, 0)
        finally:
            early = self._early.pop(client)
        if len(self._backs) >= _MOST_CLIENTS:
            _, quiet = self._backs.popitem(last=False)
            quiet.close()
        self._backs[client] = back
        for data in early:
            self._pass_on(data, client, back, self._server)

    def _from_server(self, data: bytes, source: Peer, client: Peer) -> None:
        if source == peer_of(self._server):
            self._pass_on(data, source, self._front, literal_address(client.sockaddr))

    def _pass_on(self, data: bytes, source: Peer, place: Place, wire: Wire) -> None:
        self._count += 1
        number, loop = self._count, asyncio.get_running_loop()

        def record(kind: Kind, payload: bytes, note: str = "") -> None:
            if len(self.trace) < _MOST_EVENTS:
                self.trace.events.append(Event(loop.time(), kind, number, source, peer_of(wire), payload, note))

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


def _deliver(place: Place, data: bytes, wire: Wire, record: Callable[[Kind, bytes], None]) -> None:
    record("delivered", data)
    place.send(data, wire)
