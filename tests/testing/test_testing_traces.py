"""Traces: same seed, same bytes, in any process; kept, loaded, and replayed to the same verdicts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testing_kit import bound, simulated

import udpguard
from udpguard.testing import (
    Answer,
    Event,
    Impostor,
    Network,
    ReplayedNetwork,
    Request,
    Server,
    Simulation,
    Trace,
    echo,
    replay,
    run,
)

ROUGH: dict[str, Any] = {
    "loss": 0.3,
    "duplicate": 0.1,
    "delay": lambda generator: generator.expovariate(4.0),
    "reorder": 0.1,
    "corrupt": 0.02,
}


def moody(request: Request) -> Answer:
    return Answer(request.data[:2] + b"reply", delay=0.2 * (request.number % 4), copies=1 + request.number % 2)


async def ask_around(verdicts: list[Any], statistics: list[udpguard.Statistics], servers: bool = True) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if servers:
            for n in (1, 2, 3):
                await stack.enter_async_context(Server(moody, f"192.0.2.{n}", 53))
        await ask(verdicts, statistics)


async def ask(verdicts: list[Any], statistics: list[udpguard.Statistics]) -> None:
    """A client of three servers, with ids of udpguard's, retransmission, a dead port, an impostor and cancellations."""

    def note(unexpected: udpguard.Unexpected) -> None:
        verdicts.append((asyncio.get_running_loop().time(), unexpected.reason, unexpected.peer, unexpected.data))

    dead = ("192.0.2.1", 54)
    async with udpguard.open_endpoint(on_unexpected=note) as endpoint, Impostor(("192.0.2.2", 53)) as impostor:
        keyed = endpoint.client(correlate=udpguard.TransactionId(0, 2, assign=True))

        async def one(number: int) -> None:
            client = endpoint if number % 4 == 3 else keyed
            where = dead if number % 10 == 9 else (f"192.0.2.{1 + number % 3}", 53)
            try:
                data: Any = await client.request(
                    where, b"\0\0%d" % number, retry=udpguard.Retry(attempts=4, initial=0.7)
                )
            except udpguard.UdpGuardError as error:
                data = type(error)
            verdicts.append((asyncio.get_running_loop().time(), number, data))

        tasks = [asyncio.create_task(one(number)) for number in range(60)]
        await asyncio.sleep(0.3)
        for number in (5, 15, 25):
            tasks[number].cancel()
        for _ in range(20):
            await impostor.forge(b"\x12\x34forged", ("198.51.100.1", endpoint.local_addr.port))
            await asyncio.sleep(0.05)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(20)
        statistics.append(endpoint.statistics())


def outcome(seed: Any = "a", network: Network | None = None, servers: bool = True) -> Any:
    verdicts: list[Any] = []
    statistics: list[udpguard.Statistics] = []
    with Simulation(network=network or Network(seed, **ROUGH)) as sim:
        sim.run(ask_around(verdicts, statistics, servers))
        return verdicts, statistics[0], sim.trace


def test_the_same_seed_gives_the_same_trace_byte_for_byte() -> None:
    first, second, other = outcome("a"), outcome("a"), outcome("b")
    assert first[2].dumps() == second[2].dumps() != other[2].dumps()
    assert (first[0], first[1]) == (second[0], second[1])
    assert first[2] == second[2] != other[2]
    assert first[1].received == first[1].matched + (
        first[1].duplicate + first[1].late + first[1].rejected + first[1].unknown_peer
    )
    assert len({event.kind for event in first[2]}) >= 6


CHILD = """
import sys
sys.path.insert(0, {here!r})
from test_testing_traces import outcome
sys.stdout.buffer.write(outcome("child")[2].dumps())
"""


def test_neither_hashes_nor_the_process_play_a_part() -> None:
    def child(hash_seed: str) -> bytes:
        code = CHILD.format(here=str(Path(__file__).parent))
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=60
        )
        return done.stdout

    assert child("1") == child("2") == outcome("child")[2].dumps()


def test_a_trace_is_kept_and_loaded(tmp_path: Path) -> None:
    trace = outcome()[2]
    trace.save(tmp_path / "a.trace")
    loaded = Trace.load(tmp_path / "a.trace")
    assert loaded == trace
    assert loaded.dumps() == trace.dumps() == (tmp_path / "a.trace").read_bytes()
    assert loaded.seed == "a"
    assert [event.at for event in loaded] == [event.at for event in trace]
    lines = trace.dumps().decode("ascii").splitlines()
    assert len(lines) == len(trace) + 1
    assert json.loads(lines[0]) == {"udpguard_trace": 1, "seed": "a"}
    assert str(trace).count("\n") == len(trace) - 1
    assert "events, seed='a'" in repr(trace)
    assert trace != 1


def test_what_is_no_trace_is_refused() -> None:
    good = outcome()[2].dumps()
    for wrong in (b"", b"{}\n", b"[1]\n", b"\xff", good[:-10], good.replace(b'"kind"', b'"kin"', 1)):
        with pytest.raises(ValueError, match="not a trace"):
            Trace.loads(wrong)
    with pytest.raises(ValueError, match="version"):
        Trace.loads(b'{"udpguard_trace":9,"seed":0}\n')


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("servers", [True, False], ids=["with servers", "without"])
def test_a_replay_gives_the_same_verdicts(seed: int, servers: bool) -> None:
    verdicts, statistics, trace = outcome(seed)
    again = outcome(network=ReplayedNetwork(Trace.loads(trace.dumps())), servers=servers)
    assert again[0] == verdicts
    assert again[1] == statistics
    reasons = {verdict[1] for verdict in verdicts}
    assert udpguard.Reason.DUPLICATE in reasons


@pytest.mark.parametrize("ports", [{"rotate": True}, {"pool": 3}, {"range": (2_000, 3_000)}], ids=str)
def test_ports_come_from_the_seed_and_a_replay_knows_them(ports: Any) -> None:
    async def main() -> Any:
        outcomes: list[Any] = []
        async with (
            Server(moody, "192.0.2.1", 53) as server,
            Server(moody, "192.0.2.1", 54) as other,
            udpguard.open_endpoint(ports=udpguard.Ports(**ports), timeout=0.7) as endpoint,
        ):
            for number in range(20):
                where = (server, other)[number % 2].address
                try:
                    outcomes.append(await endpoint.request(where, b"%d" % number))
                except udpguard.ReplyTimeoutError as error:
                    outcomes.append(str(error))
            return outcomes, endpoint.statistics(), {request.peer.port for request in server.requests}

    first, trace = simulated(main, "ports", loss=0.2, duplicate=0.1)
    assert simulated(main, "ports", loss=0.2, duplicate=0.1) == (first, trace)
    assert simulated(main, "others", loss=0.2, duplicate=0.1)[1] != trace
    assert replay(main, trace) == first
    assert len(first[2]) > 1


def test_a_replay_needs_no_delays_between_question_and_answer() -> None:
    async def main() -> Any:
        server = Server(echo, "192.0.2.1", 7)
        async with server, udpguard.open_endpoint() as endpoint:
            replies = [await endpoint.exchange(server.address, b"%d" % n) for n in range(20)]
        return replies, asyncio.get_running_loop().time()

    result, trace = simulated(main, delay=0.0)
    assert result[1] == 0.0
    assert replay(main, trace) == result


def test_a_replay_waits_for_the_socket_that_a_stranger_wrote_to_as_it_was_opened() -> None:
    async def main() -> Any:
        seen: list[Any] = []
        async with (
            Server(echo, "192.0.2.1", 53) as server,
            Impostor(server) as impostor,
            udpguard.open_endpoint(("198.51.100.1", 0), on_unexpected=seen.append) as endpoint,
        ):
            await impostor.flood(endpoint.local_addr, count=3, rate=1_000.0)  # the first at the very beginning
            await endpoint.request(server.address, b"hello", retry=udpguard.Retry(attempts=8))
        return seen

    seen, trace = simulated(main, 11, loss=0.4, duplicate=0.3)
    assert len(seen) >= 3
    assert replay(main, trace) == seen


def test_a_replay_repeats_icmp_and_what_could_not_be_sent() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.network.host("192.0.2.1", "2001:db8::1")  # type: ignore[attr-defined]
        outcomes: list[Any] = []
        async with udpguard.open_endpoint(timeout=1.0) as endpoint:
            for address in ("192.0.2.1", "2001:db8::1", "192.0.2.66", "192.0.2.1"):
                try:
                    await endpoint.request((address, 7), b"x")
                except (udpguard.PeerUnreachableError, udpguard.UdpGuardError) as error:
                    outcomes.append((type(error), getattr(error, "errno", None), str(error), loop.time()))
        return outcomes

    network = Network("icmp", delay=0.1)
    network.link("any", "192.0.2.66", send_error=errno.EHOSTUNREACH)
    with Simulation(network=network) as sim:
        first = sim.run(main)
        trace = sim.trace
    assert trace.count("icmp") == 3
    assert trace.count("failed") > 0
    assert replay(main, trace) == first


def test_a_replay_reaches_groups_and_hosts_that_are_entered() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        network = loop.network  # type: ignore[attr-defined]
        collected = []
        for number in (1, 2):
            with network.host(f"192.0.2.{number}") as host:
                host.join("224.0.0.251")
                _, one = await loop.create_datagram_endpoint(Noted, local_addr=("0.0.0.0", 5_353))
                collected.append(one)
        sender = await bound("198.51.100.1", 0, Noted)
        sender.transport.sendto(b"x", ("224.0.0.251", 5_353))
        await asyncio.sleep(1)
        return [one.got for one in collected]

    class Noted(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got: list[Any] = []

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.got.append((data, asyncio.get_running_loop().time()))

    result, trace = simulated(main, duplicate=0.5, delay=(0.1, 0.2))
    assert all(result)
    assert replay(main, trace) == result


def test_a_program_that_was_changed_is_shown_the_same_datagrams() -> None:
    """The fault that a trace shows is mended: the replay tells that it is."""

    async def main(check: bool) -> Any:
        seen: list[udpguard.Unexpected] = []
        how: Any = {"correlate": udpguard.TransactionId(0, 2)} if check else {}
        async with (
            udpguard.open_endpoint(("198.51.100.1", 4_000), on_unexpected=seen.append, **how) as endpoint,
            Server(lambda _: [b"\0\2wrong", Answer(b"\0\1right", delay=0.1)], "192.0.2.1", 53) as server,
        ):
            answer = await endpoint.request(server.address, b"\0\1ask")
            await asyncio.sleep(1)
            return answer, len(seen)

    (wrong, _), trace = simulated(lambda: main(False))
    assert wrong == b"\0\2wrong"
    assert replay(main(True), trace) == (b"\0\1right", 1)


def test_a_trace_can_be_left_out() -> None:
    with Simulation(trace=False) as sim:
        assert sim.network.trace is None
        assert sim.run(lambda: asyncio.sleep(1, "done")) == "done"
        with pytest.raises(RuntimeError, match="trace=True"):
            _ = sim.trace
    with pytest.raises(ValueError, match="pass it alone"):
        Simulation(network=Network(), loss=0.5)


def test_events_read_well() -> None:
    async def main() -> None:
        async with Server(echo, "192.0.2.1", 7) as server, udpguard.open_endpoint() as endpoint:
            await endpoint.request(server.address, b"hello")

    with Simulation() as sim:
        sim.run(main)
        assert [event.kind for event in sim.trace] == ["sent", "delivered", "sent", "delivered"]
        event = sim.trace[0]
        assert isinstance(event, Event)
        assert (event.source.host, event.destination, event.data) == ("198.51.100.1", ("192.0.2.1", 7), b"hello")
        assert f"198.51.100.1:{event.source.port} -> 192.0.2.1:7 68656c6c6f 5 B" in str(event)
    assert run(main) is None  # type: ignore[func-returns-value]
