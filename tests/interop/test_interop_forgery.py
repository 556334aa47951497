"""An impostor writes to the endpoint's port while real servers are being asked. It changes nothing.

The real answers are kept back until the last forgery has been judged, so that every query is pending all the
while. Forgeries leave in batches that any receive buffer holds, and a batch leaves when the one before was
judged: so each must show in the statistics, exactly.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Final

import interop_dns
import pytest
from interop_checks import Witness, check_answer, check_at_rest, check_sums
from interop_servers import Server

import udpguard

pytestmark = pytest.mark.interop

PENDING: Final = 20
FORGERIES: Final = 1000  # to each pending query
BATCH: Final = 100

ASSIGNED: Final = udpguard.TransactionId(0, 2, assign=True)
OWN_IDS: Final = udpguard.TransactionId(0, 2)
LIE: Final = "198.51.100.66"


# ---------------------------------------------------------------------------------------------
# From wrong places: sockets beside the real server


@pytest.fixture
def impostors(unbound: Server) -> Iterator[list[socket.socket]]:
    """Sockets at wrong places: other hosts, with the server's port or another; its host, on another."""
    places = [("127.0.0.2", unbound.port), ("127.66.0.1", unbound.port), ("127.0.0.3", 0), ("127.0.0.1", 0)]
    with ExitStack() as stack:
        sockets = []
        for place in places:
            impostor = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            impostor.bind(place)
            sockets.append(impostor)
        yield sockets


def lies(query: bytes, ident: int) -> Iterator[bytes]:
    """What an impostor may send for one query, over and over: what is nearest to the truth comes first."""
    while True:
        yield interop_dns.answer(query, LIE, ident=ident)
        yield interop_dns.answer(query, LIE, ident=ident ^ 0x5A5A)
        yield struct.pack("!H", ident) + query[2:]
        yield struct.pack("!H", ident)
        yield b""


async def forge(
    endpoint: udpguard.Endpoint, witness: Witness, forgeries: Iterable[tuple[Callable[..., object], bytes]]
) -> int:
    """Send forgeries to the endpoint, and return how many, when all have been judged."""
    target = ("127.0.0.1", endpoint.local_addr.port)
    before = sent = len(witness.seen)
    rest = iter(forgeries)
    while batch := tuple(itertools.islice(rest, BATCH)):
        for send, forgery in batch:
            send(forgery, target)
        sent += len(batch)
        await witness.until(sent)
        check_sums(endpoint.statistics())
    return sent - before


@pytest.mark.parametrize("correlate", [None, OWN_IDS, ASSIGNED], ids=["keyless", "own-ids", "assigned"])
async def test_forgeries_from_every_wrong_place(
    unbound: Server, impostors: list[socket.socket], correlate: udpguard.Correlator | None
) -> None:
    witness = Witness()
    async with udpguard.open_endpoint(
        correlate=correlate,
        on_unexpected=witness,
        kernel_filter="off",  # every one of them is counted
    ) as endpoint:
        queries = [interop_dns.query(unbound.bulk(index)[0], ident=index) for index in range(PENDING)]
        async with asyncio.TaskGroup() as group:
            with unbound.held():
                asking = [group.create_task(endpoint.request(unbound.address, query, timeout=60)) for query in queries]
                await asyncio.sleep(0)
                sent = 0
                for index, query in enumerate(queries):
                    pairs = zip(itertools.cycle(it.sendto for it in impostors), lies(query, index))
                    sent += await forge(endpoint, witness, itertools.islice(pairs, FORGERIES))
        for index, task in enumerate(asking):
            check_answer(unbound, index, index, task.result())
        statistics = endpoint.statistics()
        check_at_rest(statistics)
        assert sent == PENDING * FORGERIES
        assert witness.reasons == {udpguard.Reason.UNKNOWN_PEER: sent}
        assert (statistics.matched, statistics.unknown_peer) == (PENDING, sent)
        assert {it.peer for it in witness.seen} == {impostor.getsockname() for impostor in impostors}


async def test_a_whole_host_is_believed_only_with_the_right_key(
    unbound: Server, impostors: list[socket.socket]
) -> None:
    """With `reply_from="host"` other ports of the host are heard: what keeps them out is the key."""
    witness = Witness()
    async with udpguard.open_endpoint(correlate=OWN_IDS, on_unexpected=witness) as endpoint:
        query = interop_dns.query(unbound.bulk(7)[0], ident=7)
        with unbound.held():
            asking = asyncio.ensure_future(endpoint.request(unbound.address, query, timeout=60, reply_from="host"))
            await asyncio.sleep(0)
            *strangers, same_host = impostors
            wrong = [interop_dns.answer(query, LIE, ident=ident) for ident in range(1000, 2000)]
            rejected = await forge(endpoint, witness, ((same_host.sendto, forgery) for forgery in wrong))
            right = interop_dns.answer(query, LIE)
            unknown = await forge(endpoint, witness, ((it.sendto, right) for it in strangers))
        check_answer(unbound, 7, 7, await asking)
        assert witness.reasons == {udpguard.Reason.REJECTED: rejected, udpguard.Reason.UNKNOWN_PEER: unknown}
        check_at_rest(endpoint.statistics())


# ---------------------------------------------------------------------------------------------
# From the right place: a relay in front of the real server, at the address that the endpoint asks


class Relay:
    """Passes queries on to a real server and keeps its answers, until it is told to deliver them.

    It sees what goes over the wire, and can send whatever it likes from the place that the endpoint believes.
    """

    def __init__(self) -> None:
        self.queries: list[bytes] = []
        self.answers: list[bytes] = []
        self.front: asyncio.DatagramTransport
        self.back: asyncio.DatagramTransport
        self.client: tuple[str, int]
        self._changed = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.front.get_extra_info("sockname")[:2]
        return host, port

    async def hold(self, count: int) -> None:
        """Wait until the server has answered `count` queries."""
        async with asyncio.timeout(30):
            while len(self.answers) < count:
                self._changed.clear()
                await self._changed.wait()

    def deliver(self) -> None:
        for answer in self.answers:
            self.front.sendto(answer, self.client)

    def asked(self, data: bytes, source: tuple[str, int]) -> None:
        self.client = source
        self.queries.append(data)
        self.back.sendto(data)

    def answered(self, data: bytes, _: tuple[str, int]) -> None:
        self.answers.append(data)
        self._changed.set()


class _Ear(asyncio.DatagramProtocol):
    def __init__(self, hear: Callable[[bytes, tuple[str, int]], None]) -> None:
        self.hear = hear

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.hear(data, addr)


@asynccontextmanager
async def relaying(server: Server) -> AsyncIterator[Relay]:
    loop = asyncio.get_running_loop()
    relay = Relay()
    relay.back, _ = await loop.create_datagram_endpoint(lambda: _Ear(relay.answered), remote_addr=server.address)
    try:
        relay.front, _ = await loop.create_datagram_endpoint(lambda: _Ear(relay.asked), local_addr=("127.0.0.1", 0))
        try:
            yield relay
        finally:
            relay.front.close()
    finally:
        relay.back.close()
        await asyncio.sleep(0)  # the transports close their sockets in the loop's next turn


async def test_every_wrong_key_from_the_right_place(unbound: Server) -> None:
    """All ids but those in use, more than three thousand forgeries to each query; then the truth, twice."""
    witness = Witness()
    async with (
        relaying(unbound) as relay,
        udpguard.open_endpoint(correlate=ASSIGNED, on_unexpected=witness) as endpoint,
        asyncio.TaskGroup() as group,
    ):
        asking: list[asyncio.Task[bytes]] = []
        for index in range(PENDING):
            query = interop_dns.query(unbound.bulk(index)[0], ident=0)
            asking.append(group.create_task(endpoint.request(relay.address, query, timeout=60)))
        await relay.hold(PENDING)
        in_use = {struct.unpack_from("!H", query)[0] for query in relay.queries}
        assert len(in_use) == PENDING

        wrong = [ident for ident in range(0x10000) if ident not in in_use]
        pairs = zip(itertools.cycle(relay.queries), wrong)
        forgeries = (interop_dns.answer(query, LIE, ident=ident) for query, ident in pairs)
        rejected = await forge(endpoint, witness, ((relay.front.sendto, forgery) for forgery in forgeries))
        keyless = [b"\0"] * 10
        rejected += await forge(endpoint, witness, ((relay.front.sendto, forgery) for forgery in keyless))
        assert endpoint.statistics().pending == PENDING
        assert witness.reasons == {udpguard.Reason.REJECTED: rejected}
        assert rejected == 0x10000 - PENDING + 10

        relay.deliver()
        for index, task in enumerate(asking):
            check_answer(unbound, index, 0, await task)
        relay.deliver()
        await witness.until(rejected + PENDING)
        statistics = endpoint.statistics()
        check_at_rest(statistics)
        assert (statistics.matched, statistics.duplicate, statistics.rejected) == (PENDING, PENDING, rejected)


async def test_what_accept_refuses_is_turned_away(unbound: Server) -> None:
    """Without a correlator, `accept` may judge what the endpoint can't: here the id."""
    witness = Witness()
    async with (
        relaying(unbound) as relay,
        udpguard.open_endpoint(on_unexpected=witness) as endpoint,
    ):
        query = interop_dns.query(unbound.bulk(9)[0], ident=9)

        def same_id(reply: udpguard.Reply) -> bool:
            return reply.data[:2] == query[:2]

        asking = asyncio.ensure_future(endpoint.request(relay.address, query, timeout=60, accept=same_id))
        await relay.hold(1)
        wrong = (interop_dns.answer(query, LIE, ident=ident) for ident in range(1000, 1000 + FORGERIES))
        rejected = await forge(endpoint, witness, ((relay.front.sendto, forgery) for forgery in wrong))
        relay.deliver()
        check_answer(unbound, 9, 9, await asking)
        assert witness.reasons == {udpguard.Reason.REJECTED: rejected}
        check_at_rest(endpoint.statistics())
