"""What the interop tests check again and again."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import interop_dns
from interop_servers import Server

import udpguard

EXAMPLES = Path(__file__).parents[2] / "examples"


class Witness:
    """A hook that counts what an endpoint turned away, and tells when it is enough."""

    def __init__(self) -> None:
        self.seen: list[udpguard.Unexpected] = []
        self._changed = asyncio.Event()

    def __call__(self, unexpected: udpguard.Unexpected) -> None:
        self.seen.append(unexpected)
        self._changed.set()

    @property
    def reasons(self) -> dict[udpguard.Reason, int]:
        return dict(Counter(unexpected.reason for unexpected in self.seen))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.seen) < count:
                self._changed.clear()
                await self._changed.wait()


def check_sums(statistics: udpguard.Statistics) -> None:
    """What holds at any moment."""
    verdicts = (
        statistics.matched,
        statistics.duplicate,
        statistics.late,
        statistics.rejected,
        statistics.unknown_peer,
    )
    assert statistics.received == sum(verdicts)


def check_at_rest(statistics: udpguard.Statistics) -> None:
    """What holds where nothing is asked any more."""
    check_sums(statistics)
    assert (statistics.pending, statistics.waiting) == (0, 0)


def check_reply(server: Server, index: int, ident: int, reply: udpguard.Reply) -> None:
    """Check that this server answered the question for one of its bulk records, and no other."""
    assert reply.peer == server.address
    check_answer(server, index, ident, reply.data)


def check_answer(server: Server, index: int, ident: int, data: bytes) -> None:
    name, address = server.bulk(index)
    response = interop_dns.parse(data)
    assert (response.ident, response.rcode, response.name) == (ident, 0, name)
    assert response.answers == (interop_dns.Record(name, "A", address),)
