"""A file fetched by TFTP through a bad network, while other sessions go on over the same socket."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from interop_servers import Server

import udpguard
from udpguard.testing import Relay, echo
from udpguard.testing import Server as EchoServer

_EXAMPLES: Final = Path(__file__).parents[2] / "examples"
_PATIENCE: Final = 60.0
_PAUSE: Final = 0.05  # between a session's exchanges: 100 make 2,000 exchanges a second
_ELSEWHERE: Final = "127.0.0.2"  # a session that takes in all ports of a host shares no socket with others to that host

# As the example has it, but in step with a server that sends a block again after 50 ms, and gives up after 3 seconds.
RETRY: Final = udpguard.AdaptiveRetry(attempts=1_000, minimum=0.02, maximum=0.1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    is_right: bool
    size: int
    blocks: int
    seconds: float
    lost: int  # datagrams that the relay lost, of those that were sent through it
    sent_through: int
    retransmitted: int
    conversations: int  # exchanges of the other sessions, each of which was verified
    fewest: int  # those of the session that had the fewest
    ports: int  # how many of the endpoint's ports all their servers, and the relay, have seen
    statistics: udpguard.Statistics


def tftp_get() -> ModuleType:
    """The example, as a module."""
    if str(_EXAMPLES) not in sys.path:
        sys.path.append(str(_EXAMPLES))
    return importlib.import_module("tftp_get")


async def fetch_among_sessions(
    tftpd: Server, name: str, content: bytes, *, loss: float, sessions: int, block_size: int, seed: int
) -> Outcome:
    """Fetch a file through a relay, with so many other sessions on the same endpoint.

    Each of them sends numbered datagrams of its own to a server of its own, one after the other until the file is
    there, and expects each back and nothing else.
    """
    fetched = bytearray()
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(tftpd.address, seed=seed, loss=loss, delay=0.0))
        endpoint = await stack.enter_async_context(
            udpguard.open_endpoint(timeout=_PATIENCE, retry=RETRY, ports=tftp_get().PORTS)
        )
        echoes = [await stack.enter_async_context(EchoServer(echo, _ELSEWHERE)) for _ in range(sessions)]
        transfer = await stack.enter_async_context(endpoint.session(relay.address, reply_from="host"))
        others = [await stack.enter_async_context(endpoint.session(server.address)) for server in echoes]
        done = asyncio.Event()
        talks = [asyncio.create_task(_converse(session, done)) for session in others]
        began = time.monotonic()
        try:
            options = {"blksize": block_size, "tsize": 0}
            blocks: int = await tftp_get().fetch(transfer, name, options, lambda terms: None, fetched.extend)
        finally:
            seconds = time.monotonic() - began
            done.set()
            counts = await asyncio.gather(*talks)
        statistics = endpoint.statistics()
        seen = {request.peer.port for server in echoes for request in server.requests}
        seen |= {
            event.source.port for event in relay.trace if event.kind == "sent" and event.destination == tftpd.address
        }
        return Outcome(
            is_right=fetched == content,
            size=len(fetched),
            blocks=blocks,
            seconds=seconds,
            lost=relay.trace.count("lost"),
            sent_through=relay.trace.count("sent"),
            retransmitted=statistics.retransmitted,
            conversations=sum(counts),
            fewest=min(counts),
            ports=len(seen),
            statistics=statistics,
        )


async def _converse(session: udpguard.Session, done: asyncio.Event) -> int:
    """Send, receive, verify, again and again; returns how often."""
    name, count = secrets.token_bytes(8), 0
    while not done.is_set():
        said = name + count.to_bytes(8, "big")
        await session.send(said)
        heard = await session.receive(timeout=_PATIENCE)
        assert heard == said, f"the session with {session.peer} heard {heard!r} and not {said!r}"
        count += 1
        await asyncio.sleep(_PAUSE)
    assert session.statistics() == udpguard.SessionStatistics(count, count, 0, 0, 0)
    return count
