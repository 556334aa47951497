"""An impostor that sends a thousand forgeries to each pending request changes no result."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Any

import pytest
from loopback_kit import Server, assert_sum, opened, plain_socket, same_port, servers, until

import udpguard
from udpguard import TransactionId

PENDING = 20
FORGERIES = 1_000
HOSTS = [f"127.0.{1 + i // 250}.{i % 250 + 1}" for i in range(PENDING)]
NEIGHBOURS = [f"127.0.0.{1 + i % 3}" for i in range(PENDING)]


class Forger:
    """Sends from many wrong places, no more at once than the receiver can hold."""

    def __init__(self, stack: contextlib.ExitStack, endpoint: udpguard.Endpoint) -> None:
        self.stack = stack
        self.endpoint = endpoint
        self.here = ("127.0.0.1", endpoint.local_addr.port)
        self.socks: list[socket.socket] = []
        self.sent = 0

    def at(self, host: str, port: int = 0) -> None:
        with contextlib.suppress(OSError):  # the port may be somebody's
            self.socks.append(self.stack.enter_context(plain_socket(host, port)))

    async def forge(self, datagrams: list[bytes], socks: list[socket.socket]) -> None:
        for i, data in enumerate(datagrams):
            socks[i % len(socks)].sendto(data, self.here)
            self.sent += 1
            if i % 100 == 99:
                await self.read()
        await self.read()

    async def read(self) -> None:
        await until(lambda: self.endpoint.statistics().received == self.sent)

    async def forge_wrong_keys(self, asked: list[Server]) -> None:
        """From the right places, with every key but a right one."""
        right = {server.got[0][0][:2] for server in asked}  # where a network may answer, all of them fit
        for server in asked:
            keys = [key.to_bytes(2, "big") for key in random.sample(range(65_536), FORGERIES + PENDING)]
            await self.forge([key + b"forged" for key in keys if key not in right][:FORGERIES], [server.sock])


@pytest.mark.parametrize("correlate", [None, TransactionId(0, 2, assign=True)], ids=["keyless", "keyed"])
@pytest.mark.parametrize(
    ("reply_from", "hosts"),
    [
        ("peer", HOSTS),
        ("host", HOSTS),
        ("127.0.0.1", ["127.0.0.1"] * PENDING),
        ("127.0.0.0/30", NEIGHBOURS),
    ],
    ids=["peer", "host", "one-host", "network"],
)
async def test_a_thousand_forgeries_for_each_request_from_every_wrong_place(
    correlate: udpguard.Correlator | None, reply_from: str, hosts: list[str]
) -> None:
    if correlate is None and hosts is not HOSTS:
        hosts = hosts[:1]  # without a key the turn belongs to the network
    forgeries = FORGERIES * len(hosts)
    guarded = opened(correlate=correlate, kernel_filter="off")  # every one of them is counted
    with contextlib.ExitStack() as sockets:
        async with servers(*hosts) as asked, guarded as endpoint:
            question = b"\0\0question"
            tasks = [
                asyncio.ensure_future(endpoint.exchange(server.addr, question, timeout=60.0, reply_from=reply_from))
                for server in asked
            ]
            await until(lambda: all(server.got for server in asked))
            forger = Forger(sockets, endpoint)
            for i in range(8):
                forger.at(f"127.77.0.{i + 1}")  # other hosts, other ports
            for server in asked[:8]:
                forger.at("127.77.1.1", server.port)  # other hosts, the right port
                if reply_from == "peer":
                    forger.at(server.addr[0])  # the right host, another port
            await forger.forge([b"\0\0forged"] * forgeries, forger.socks)
            assert endpoint.statistics().unknown_peer == forgeries
            if correlate is not None:
                await forger.forge_wrong_keys(asked)
                assert endpoint.statistics().rejected == forgeries
            assert not any(task.done() for task in tasks)
            for server in asked:
                data, addr = server.got[0]
                server.send(data[:2] + b"answer", addr)
            answers = [(reply.peer, reply.data) for reply in await asyncio.gather(*tasks)]
            assert answers == [(server.addr, b"\0\0answer") for server in asked]
            assert_sum(endpoint.statistics())


async def test_a_server_that_forges_as_well_with_all_other_keys() -> None:
    """All of the 65,535 wrong keys from the right place, and every request still gets its own answer."""
    async with Server() as server, opened(correlate=TransactionId(0, 2, assign=True)) as endpoint:
        tasks = [asyncio.ensure_future(endpoint.request(server.addr, b"\0\0%d" % i, timeout=60.0)) for i in range(10)]
        await until(lambda: len(server.got) == 10)
        right = {data[:2] for data in server.data}
        addr = server.got[0][1]
        sent = 0
        for number in range(65_536):
            key = number.to_bytes(2, "big")
            if key not in right:
                server.send(key + b"forged", addr)
                sent += 1
                if sent % 200 == 0:
                    await until(lambda sent=sent: endpoint.statistics().received == sent)  # type: ignore[misc]
        await until(lambda: endpoint.statistics().rejected == 65_526)
        assert not any(task.done() for task in tasks)
        for data, _ in reversed(server.got):
            server.send(data, addr)
        assert await asyncio.gather(*tasks) == [b"\0\0%d" % i for i in range(10)]


async def test_forgeries_between_the_answers_of_busy_clients() -> None:
    """The forger writes before every answer; a thousand exchanges, none of them wrong."""
    async with same_port("127.0.0.1", "127.0.0.2") as (server, same), Server() as near, opened() as endpoint:

        def answer(server: Server, data: bytes, addr: Any) -> None:
            same.send(b"forged", addr)
            near.send(b"forged", addr)
            server.send(b"answer to " + data, addr)

        server.handler = answer
        for i in range(1_000):
            assert await endpoint.request(server.addr, b"%d" % i, timeout=5.0) == b"answer to %d" % i
        await until(lambda: endpoint.statistics().received == 3_000)
        stats = endpoint.statistics()
        assert (stats.matched, stats.unknown_peer) == (1_000, 2_000)


async def test_an_ipv6_impostor() -> None:
    async with Server(None, "::1") as server, opened() as endpoint:
        task = asyncio.ensure_future(endpoint.request(server.addr, b"x", timeout=30.0))
        _, addr = await server.next()
        async with Server(None, "::1") as forger:
            for i in range(FORGERIES):
                forger.send(b"forged", addr)
                if i % 100 == 99:
                    await until(lambda i=i: endpoint.statistics().received == i + 1)  # type: ignore[misc]
        assert endpoint.statistics().unknown_peer == FORGERIES
        server.send(b"right", addr)
        assert await task == b"right"


async def test_an_impostor_does_not_cost_a_request_its_deadline() -> None:
    """What a forger sends is never logged, never raised, and never ends anything early."""
    async with Server() as server, Server() as forger, opened() as endpoint:
        task = asyncio.ensure_future(endpoint.request(server.addr, b"x", timeout=0.3))
        _, addr = await server.next()
        while not task.done():
            for _ in range(50):
                forger.send(b"forged", addr)
            await asyncio.sleep(0)
        with pytest.raises(udpguard.ReplyTimeoutError) as caught:
            await task
        assert caught.value.near_misses[0].count > 0
