"""Those who go on listening beside the exchanges: sessions and discoveries, with servers of their own, and their judge.

A talker answers each datagram with up to three, which say for whom they are and what their place is. What is delivered
must be what came from the one peer, or the ones asked, at the port it listens at, in the order in which it came, and no
more often. Where no clean port was left (the endpoint has but so many) old answers may come: these are counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast

import simulation_wire as wire

import udpguard
from udpguard._protocol import literal
from udpguard.core.address import Wire, host_token, peer_of
from udpguard.testing import Network, VirtualLoop
from udpguard.testing._channel import SimulatedTransport

if TYPE_CHECKING:
    from simulation_program import Program

TALKER: Final = 7_002
TRANSFER: Final = 7_003
"""Where a talker answers from that was asked to move."""
MOVES: Final = b"m"
STAYS: Final = b"t"
_FALSE: Final = b"F"
_EPSILON: Final = 0.001
_LATEST: Final = 20_000


class Talker(asyncio.DatagramProtocol):
    """Answers with several datagrams, from its own port or another; now and then a forger sends as well."""

    def __init__(self, generator: Random, forge: Any) -> None:
        self._generator = generator
        self._forge = forge
        self._transport: SimulatedTransport
        self.transfer: Talker | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("SimulatedTransport", transport)

    def batch_received(self, batch: Sequence[tuple[bytes, Wire]], _ages: object) -> None:
        for data, source in batch:
            kind = wire.kind_of(data)
            speaker = self.transfer if kind == MOVES and self.transfer is not None else self
            if kind in (MOVES, STAYS):
                for place in range(self._generator.randint(1, 3)):
                    speaker._transport.transmit(wire.answer_to(data, wire.TOLD, place), source)
                self._forge(wire.answer_to(data, _FALSE, 255), self._transport.get_extra_info("sockname"), source)


class Listeners:
    """The sessions and discoveries of one simulation.

    Args:
        program: Its program.
        seed: Of what they do.
    """

    def __init__(self, program: Program, seed: str) -> None:
        self._program = program
        self._generator = Random(f"listeners {seed}")
        self._arrived: dict[tuple[Wire, int], deque[bytes]] = {}
        """What came from whom to which port, in its order."""
        self._numbers = 0
        self._kept = Counter[str]()
        self.outcomes: Counter[str] = Counter()
        self.strays: Counter[str] = Counter()

    async def start(self, loop: VirtualLoop, network: Network, addresses: Sequence[str]) -> None:
        """Start a talker on each host."""
        for address in addresses:
            with network.host(address):
                made = []
                for port in (TALKER, TRANSFER):
                    _, talker = await loop.create_datagram_endpoint(
                        lambda: Talker(self._generator, self._forge), local_addr=(address, port)
                    )
                    made.append(talker)
                made[0].transfer = made[1]

    def watch(self, endpoint: udpguard.Endpoint) -> None:
        """Note what arrives, before anybody judges it."""
        guard = endpoint._guard
        receive = guard.receive

        def noted(batch: Any, ages_of: Any = None, port: int = 0) -> None:
            for data, source in batch:
                self._arrived.setdefault((source, port), deque(maxlen=_LATEST)).append(data)
            receive(batch, ages_of, port)

        guard.receive = noted  # type: ignore[method-assign]
        deliver = guard._deliver

        def counted() -> None:
            self._kept["taken"] += len(guard.registry.delivered)
            deliver()

        guard._deliver = counted  # type: ignore[method-assign]

    def counted(self) -> int:
        """How many datagrams the registry gave to sessions and discoveries, and how many of these it ended."""
        if self._kept["sessions"] > self._kept["taken"]:
            self._wrong(f"sessions were given more than there was: {self._kept}")
        return self._kept["taken"] + self.outcomes["ForgerySuspectedError"]

    def _forge(self, data: bytes, server: Any, client: Wire) -> None:
        if self._generator.random() > 0.2:
            return
        host, port = server[:2]
        claims = self._generator.choice(((host, port + 5), ("203.0.113.66", port)))
        if (":" in host) != (":" in claims[0]):
            return
        if not self._program._is_expected(data, literal(claims), peer_of(client)):
            self._program.network.inject(data, claims, peer_of(client))

    # ------------------------------------------------------------------------------------------- what they do

    def one(self, client: udpguard.Client, host: str) -> Any:
        """A session, or a discovery."""
        self._numbers += 1
        if self._generator.random() < 0.6:
            return self._converse(client, host, self._numbers)
        return self._discover(client, self._numbers)

    def _question(self, kind: bytes, place: int, number: int) -> bytes:
        return wire.question(wire.NO_X, wire.NO_Y, kind, number, place)

    async def _converse(self, client: udpguard.Client, host: str, number: int) -> None:
        generator = self._generator
        moves = generator.random() < 0.3
        session = client.session(
            (host, TALKER), reply_from="host" if moves else "peer", max_queue=generator.choice((1, 4, 1_024)),
            drop=generator.choice(("oldest", "newest")),
        )  # fmt: skip
        got: list[bytes] = []
        try:
            async with session:
                line = session._line
                assert line is not None
                clean = self._is_clean(line.entry.port, line.wire)
                for place in range(generator.randint(1, 4)):
                    await session.send(self._question(MOVES if moves else STAYS, place, number))
                    try:
                        for _ in range(generator.randint(1, 3)):
                            data = await session.receive(timeout=generator.choice((0.1, 1.0, 5.0)))
                            got.append(data)
                    except udpguard.ReplyTimeoutError:
                        self.outcomes["silence"] += 1
                    if generator.random() < 0.1:
                        return
        except (udpguard.EndpointClosedError, udpguard.TooManyPendingError) as error:
            self.outcomes[type(error).__name__] += 1
        finally:
            if session._line is not None:
                self._judge_session(session, got, number, moves, clean)

    async def _discover(self, client: udpguard.Client, number: int) -> None:
        generator, program = self._generator, self._program
        is_ipv6 = generator.random() < 0.3
        hosts = [address for address in program._addresses if (":" in address) == is_ipv6]
        hosts = generator.sample(hosts, min(len(hosts), generator.randint(1, 4)))
        window = generator.choice((0.5, 2.0, 10.0))
        wide = generator.random() < 0.5
        retry = generator.choice((None, udpguard.Retry(attempts=3, initial=0.3)))
        # Where the program picks its ids, one that no exchange has.
        own_id = (0xC000 + number % 0x3000).to_bytes(2, "big")
        question = own_id + self._question(STAYS, wire.ANY_SEND, number)[2:]
        discovery = client.discover(
            [(host, TALKER) for host in hosts], question, window=window, retry=retry,
            reply_from=("2001:db8::/32" if is_ipv6 else "192.0.2.0/24") if wide else "peer",
        )  # fmt: skip
        found: list[udpguard.Reply] = []
        now = program.loop.time
        begun = now()
        clean = False
        try:
            async with discovery as replies:
                begun = now()
                call = replies._call
                assert call is not None
                # At a port of its own nothing else is on its way; where its net answers the whole host may.
                clean = (
                    not wide and call.entry.port > 0 and self._is_clean(call.entry.port, literal((hosts[0], TALKER)))
                )
                async for reply in replies:
                    found.append(reply)
                    if generator.random() < 0.02:
                        break
        except (udpguard.EndpointClosedError, udpguard.TooManyPendingError, udpguard.ForgerySuspectedError) as error:
            self.outcomes[type(error).__name__] += 1
        if not program.blocks and now() > begun + window + _EPSILON:
            self._wrong(f"discovery {number} went on {now() - begun} s, not {window}")
        self._judge_discovery(number, hosts, found, clean=clean, wide=wide)

    # -------------------------------------------------------------------------------------------- the judge

    def _is_clean(self, port: int, peer: Wire) -> bool:
        """Whether nothing old may come there from a peer or its host, as the registry knows."""
        registry = self._program._endpoint._guard.registry
        tokens = (peer, host_token(peer))
        return bool(registry.unsoiled((port,), tokens, peer, self._program.loop.time()))

    def _judge_session(
        self, session: udpguard.Session, got: list[bytes], number: int, moves: bool, clean: bool
    ) -> None:
        line, statistics = session._line, session.statistics()
        assert line is not None
        self._kept["sessions"] += statistics.received
        self.outcomes["datagrams of sessions"] += len(got)
        self.outcomes["sessions"] += 1
        arrived = iter(self._arrived.get((line.wire, line.entry.port), ()))
        if not all(any(data == one for one in arrived) for data in got):
            self._wrong(f"session {number} got {got}, which is not what came from {session.peer}, or not in its order")
        if len(got) + statistics.dropped + statistics.unread > statistics.received:
            self._wrong(f"session {number} got {len(got)}: {statistics}")
        if moves and got and session.peer.port != TRANSFER and clean:
            self._wrong(f"session {number} is with {session.peer}")
        for data in got:
            if data[6:7] == _FALSE:
                self._wrong(f"session {number} got what was forged")
            elif data[6:7] != wire.TOLD or wire.number_of(data) != number:
                self.strays["session"] += 1
                if clean:
                    self._wrong(f"session {number} got {data!r} at a clean port, {line.entry.port}")

    def _judge_discovery(
        self, number: int, hosts: list[str], found: list[udpguard.Reply], *, clean: bool, wide: bool
    ) -> None:
        self.outcomes["replies found"] += len(found)
        self.outcomes["discoveries"] += 1
        if len({(reply.peer, reply.data) for reply in found}) != len(found):
            self._wrong(f"discovery {number} was given the same twice: {found}")
        for reply in found:
            if not wide and (reply.peer.host not in hosts or reply.peer.port != TALKER):
                self._wrong(f"discovery {number} asked {hosts}, and {reply} answered")
            if reply.data[6:7] == _FALSE and not wide:
                self._wrong(f"discovery {number} was given what was forged")
            if reply.data[6:7] != wire.TOLD or wire.number_of(reply.data) != number:
                self.strays["discovery"] += 1
                if clean:
                    self._wrong(f"discovery {number} was given {reply} at a clean port")

    def _wrong(self, text: str) -> None:
        self._program.oracle.violation(text)
