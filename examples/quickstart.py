"""Ask three servers over one socket, while an impostor answers first.

    python examples/quickstart.py

Three uppercase servers and an impostor run on loopback, in this process. All three servers are asked at
once through one udpguard endpoint. The impostor answers each question before they do: they hold their
answers back until the forged one has been turned away. Prints who answered what, in what time, and what
was turned away and why. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import udpguard

LOOPBACK = "127.0.0.1"
QUESTIONS = (b"hello, alpha", b"hello, beta", b"hello, gamma")


async def run() -> int:
    impostor = await start(Impostor())
    servers = [await start(UppercaseServer(impostor)) for _ in QUESTIONS]
    asked = list(zip(servers, QUESTIONS, strict=True))
    try:
        async with udpguard.open_endpoint(on_unexpected=impostor.on_unexpected) as endpoint:
            print(f"One socket, {endpoint.local_addr}, asks {len(servers)} servers.\n")
            replies = await asyncio.gather(*(endpoint.exchange(server.address, question) for server, question in asked))
            counts = endpoint.statistics()
    finally:
        for party in (impostor, *servers):
            party.transport.close()

    print("Answered:")
    for question, reply in zip(QUESTIONS, replies, strict=True):
        time = "?" if reply.rtt is None else f"{reply.rtt * 1000:.2f} ms"
        print(f"  {reply.peer}  {question.decode()} -> {reply.data.decode()}  in {time}")
    print("Turned away:")
    for unexpected in impostor.turned_away:
        print(f"  {unexpected.peer}  {unexpected.data.decode()}  reason: {unexpected.reason.value}")

    right = [
        all(
            (reply.data, reply.peer) == (question.upper(), server.address)
            for (server, question), reply in zip(asked, replies, strict=True)
        ),
        {(each.data, each.peer) for each in impostor.turned_away}
        == {(impostor.forge(question), impostor.address) for question in QUESTIONS},
        (counts.sent, counts.matched, counts.unknown_peer, counts.received) == (3, 3, 3, 6),
        (counts.pending, counts.waiting, counts.hook_errors) == (0, 0, 0),
    ]
    if not all(right):
        print(f"WRONG: that is not how it should be. The endpoint counted {counts}", file=sys.stderr)
        return 1
    print(f"\n{counts.matched} answers believed, {counts.unknown_peer} forgeries turned away: all is well.")
    return 0


class Party(asyncio.DatagramProtocol):
    """Somebody with a socket: a stock asyncio protocol, as any server's may be."""

    transport: asyncio.DatagramTransport

    @property
    def address(self) -> tuple[str, int]:
        """Where it can be asked."""
        host, port = self.transport.get_extra_info("sockname")
        return host, port


class Impostor(Party):
    """Answers questions that were put to others, from an address of its own."""

    def __init__(self) -> None:
        self.turned_away: list[udpguard.Unexpected] = []
        self._held_back: dict[bytes, Callable[[], None]] = {}

    def forge(self, question: bytes) -> bytes:
        """A false answer to the question."""
        return b"forged answer to " + question

    def answer_first(self, question: bytes, client: tuple[str, int], then: Callable[[], None]) -> None:
        """Send the client a false answer, and do what is `then` to be done when it was turned away."""
        self._held_back[self.forge(question)] = then
        self.transport.sendto(self.forge(question), client)

    def on_unexpected(self, unexpected: udpguard.Unexpected) -> None:
        """The endpoint did not believe this."""
        self.turned_away.append(unexpected)
        self._held_back.pop(unexpected.data, lambda: None)()


class UppercaseServer(Party):
    """Answers in upper case, but after the impostor."""

    def __init__(self, impostor: Impostor) -> None:
        self._impostor = impostor

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """A client asks."""
        self._impostor.answer_first(data, addr, then=lambda: self.transport.sendto(data.upper(), addr))


P = TypeVar("P", bound=Party)


async def start(party: P) -> P:
    """Open a socket for it, on a free loopback port."""
    loop = asyncio.get_running_loop()
    party.transport, _ = await loop.create_datagram_endpoint(lambda: party, local_addr=(LOOPBACK, 0))
    return party


def main() -> int:
    try:
        return asyncio.run(run())
    except (OSError, udpguard.UdpGuardError) as error:
        print(f"WRONG: {error}\nIs loopback ({LOOPBACK}) up, and does a firewall let UDP through?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
