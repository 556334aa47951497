"""Retransmission schedules as datagrams leave: times read off the trace of a simulated network, to the millisecond."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import udpguard
from udpguard import AdaptiveRetry, Retry, RetryPolicy, TransactionId
from udpguard.testing import Simulation, Trace

MILLISECOND = 0.001
ADDRS = {"IPv4": ("192.0.2.1", 7), "IPv6": ("2001:db8::1", 7)}
KEYS = {"keyless": None, "keyed": TransactionId(0, 2), "assigned": TransactionId(0, 2, assign=True)}
Handler = Callable[[asyncio.DatagramTransport, bytes, Any, int], object]


class Server(asyncio.DatagramProtocol):
    """Hears all, and answers as the test says; its handler is told how many came until then."""

    def __init__(self, handler: Handler | None) -> None:
        self.handler = handler
        self.heard = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.heard += 1
        if self.handler is not None:
            self.handler(self.transport, data, addr, self.heard)


async def serve(addr: tuple[str, int], handler: Handler | None = None) -> None:
    loop = asyncio.get_running_loop()
    loop.network.host(addr[0])  # type: ignore[attr-defined]
    await loop.create_datagram_endpoint(lambda: Server(handler), local_addr=addr)


def sends(trace: Trace, since: float, addr: tuple[str, int]) -> list[float]:
    """When datagrams left for a server, in seconds since then."""
    return [event.at - since for event in trace if event.kind == "sent" and event.destination == addr]


class Run(NamedTuple):
    """When a request that nobody answers was sent, and when and how it ended."""

    times: list[float]
    ended: float
    error: udpguard.ReplyTimeoutError


def unanswered(
    policy: RetryPolicy, seed: int = 0, *, addr: tuple[str, int] = ADDRS["IPv4"], key: Any = None, begin: float = 0.0,
    handler: Handler | None = None,
) -> Run:  # fmt: skip
    async def main() -> tuple[float, float, udpguard.ReplyTimeoutError]:
        loop = asyncio.get_running_loop()
        await serve(addr, handler)
        await asyncio.sleep(begin)
        async with udpguard.open_endpoint(correlate=key) as endpoint:
            began = loop.time()
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await endpoint.request(addr, b"\0\0 question", retry=policy)
            ended = loop.time()
            await asyncio.sleep(300)  # nothing leaves after the end
            stats = endpoint.statistics()
            assert (stats.sent, stats.retransmitted) == (caught.value.attempts, caught.value.attempts - 1)
            return began, ended, caught.value

    with Simulation(seed) as sim:
        began, ended, error = sim.run(main)
        times = sends(sim.trace, began, addr)
        assert len(times) == error.attempts
        return Run(times, ended - began, error)


def to_the_millisecond(*seconds: float) -> Any:
    # A timer that fires a trifle early, as clocks are, is armed again for a good half of a millisecond.
    return pytest.approx(list(seconds), abs=MILLISECOND)


def waits_of(times: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


# ------------------------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("family", ADDRS)
def test_stun_leaves_at_the_times_of_rfc_8489_section_6_2_1(family: str, key: str) -> None:
    run = unanswered(Retry.stun(), addr=ADDRS[family], key=KEYS[key])
    assert run.times == to_the_millisecond(0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5)
    assert run.ended == pytest.approx(39.5, abs=MILLISECOND)
    assert run.error.timeout == 39.5


def test_also_far_from_the_beginning_of_time() -> None:
    """A machine that has been up for ten years: the clock's numbers are large, and their steps still small."""
    run = unanswered(Retry.stun(), begin=3e8)
    assert run.times == to_the_millisecond(0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5)
    assert run.ended == pytest.approx(39.5, abs=MILLISECOND)


def test_coap_leaves_at_the_times_of_rfc_7252_section_4_8_all_longer_by_one_factor() -> None:
    factors: list[float] = []
    for seed in range(60):
        run = unanswered(Retry.coap(), seed)
        factor = run.times[4] / 30
        assert 1.0 <= factor <= 1.5, "ACK_RANDOM_FACTOR"
        assert run.times == to_the_millisecond(*(factor * seconds for seconds in (0, 2, 6, 14, 30)))
        assert run.ended == pytest.approx(93, abs=MILLISECOND), "MAX_TRANSMIT_WAIT"
        factors.append(factor)
    assert min(factors) < 1.05
    assert max(factors) > 1.45
    assert len(set(factors)) == 60, "drawn anew for each exchange"
    assert unanswered(Retry.coap(), 7).times == unanswered(Retry.coap(), 7).times, "by the seed"


def test_radius_leaves_at_the_times_of_rfc_5080_section_2_2_1() -> None:
    """IRT 2 s, doubled each time, MRT 16 s, each ± 10 %; MRC 5 sends and MRD 30 s, whichever is first."""
    attempts: set[int] = set()
    ratios: list[float] = []
    for seed in range(60):
        run = unanswered(Retry.radius(), seed)
        assert run.ended == pytest.approx(30, abs=MILLISECOND)
        attempts.add(run.error.attempts)
        for wait, plain in zip(waits_of(run.times), (2, 4, 8, 16), strict=False):
            assert 0.9 * plain - MILLISECOND <= wait <= 1.1 * plain + MILLISECOND
            ratios.append(wait / plain)
    assert attempts <= {4, 5}
    assert 5 in attempts
    assert (min(ratios), max(ratios)) == (pytest.approx(0.9, abs=0.01), pytest.approx(1.1, abs=0.01))
    assert len({round(ratio, 6) for ratio in ratios}) > 200, "each wait has a draw of its own"


def test_the_default_doubles_from_one_second() -> None:
    run = unanswered(Retry(jitter=0.0))
    assert run.times == to_the_millisecond(0, 1, 3, 7)
    assert run.ended == pytest.approx(15, abs=MILLISECOND)


def test_what_arrives_meanwhile_moves_no_time() -> None:
    def refuses(transport: Any, data: bytes, addr: Any, heard: int) -> None:
        for step in range(200):
            asyncio.get_running_loop().call_later(0.1 * step, transport.sendto, b"no key of yours", addr)

    run = unanswered(Retry.stun(), key=KEYS["keyed"], handler=refuses)
    assert run.times == to_the_millisecond(0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5)
    assert run.ended == pytest.approx(39.5, abs=MILLISECOND)


def test_many_at_once_have_times_of_their_own() -> None:
    """200 requests, begun 7 ms after each other: each keeps to its schedule, by one timer."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        began: list[float] = []
        async with udpguard.open_endpoint() as endpoint:
            tasks: list[asyncio.Task[bytes]] = []
            for number in range(200):
                addr = (f"192.0.2.{number + 1}", 7)
                await serve(addr)
                await asyncio.sleep(0.007)
                began.append(loop.time())
                tasks.append(asyncio.ensure_future(endpoint.request(addr, b"x", retry=Retry.stun())))
                await asyncio.sleep(0)
            await asyncio.gather(*tasks, return_exceptions=True)
        return began

    with Simulation() as sim:
        for number, since in enumerate(sim.run(main)):
            times = sends(sim.trace, since, (f"192.0.2.{number + 1}", 7))
            # The one timer does not fire twice within half a millisecond.
            assert times == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5], abs=MILLISECOND)


# ------------------------------------------------------------------------------------- what a peer teaches on the way


def test_adaptive_times_follow_rfc_6298_and_karn() -> None:
    """The round trips are 0.8 s; RTO = SRTT + 4 RTTVAR by RFC 6298, doubled at each expiry, and kept doubled until a
    round trip is measured that no retransmission makes ambiguous."""
    addr, policy = ADDRS["IPv4"], AdaptiveRetry(attempts=4)
    answers = {1, 4, 5}  # the first question; the second one's third datagram, and the third one's first

    def answer(transport: Any, data: bytes, asker: Any, heard: int) -> None:
        if heard in answers:
            asyncio.get_running_loop().call_later(0.78, transport.sendto, data, asker)

    marks: list[float] = []
    known: list[udpguard.PeerStatistics | None] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await serve(addr, answer)
        async with udpguard.open_endpoint(retry=policy) as endpoint:
            for _ in range(3):
                marks.append(loop.time())
                await endpoint.request(addr, b"x")
                known.append(endpoint.peer_statistics(addr))
            marks.append(loop.time())
            with pytest.raises(udpguard.ReplyTimeoutError):
                await endpoint.request(addr, b"x")
            known.append(endpoint.peer_statistics(addr))
            marks.append(loop.time())
            with pytest.raises(udpguard.ReplyTimeoutError):
                await endpoint.request(addr, b"x")

    with Simulation() as sim:
        sim.run(main)
        of = [[at for at in sends(sim.trace, mark, addr) if at >= 0] for mark in marks]
    begun = [before[: len(before) - len(after)] for before, after in itertools.pairwise([*of, []])]
    first, second, third, fourth, fifth = known[0], known[1], known[2], known[3], begun[4]
    assert first is not None
    assert second is not None
    assert third is not None
    assert fourth is not None
    # (2.2): R = 0.8 gives SRTT 0.8, RTTVAR 0.4, RTO 2.4.
    assert (first.srtt, first.rttvar, first.rto) == (pytest.approx(0.8), pytest.approx(0.4), pytest.approx(2.4))
    assert begun[0] == to_the_millisecond(0)
    # Two expiries double it twice, and the answer to the third send is no sample.
    assert begun[1] == to_the_millisecond(0, 2.4, 2.4 + 4.8)
    assert (second.srtt, second.backoff) == (first.srtt, 4)
    # Backed off until the next sample, which this one is: RTTVAR = 3/4 × 0.4.
    assert begun[2] == to_the_millisecond(0)
    assert (third.rttvar, third.backoff, third.rto) == (pytest.approx(0.3), 1, pytest.approx(2.0))
    assert begun[3] == to_the_millisecond(0, 2, 6, 14)
    assert fourth.backoff == 16
    # 2 s × 16 = 32 s, then 60 s, the cap of (2.5).
    assert fifth == to_the_millisecond(0, 32, 92, 152)


def test_a_peer_that_answers_at_once_is_still_not_asked_again_within_a_second() -> None:
    """RFC 6298 (2.4): whatever was measured, the RTO is not below one second."""
    addr = ADDRS["IPv4"]

    async def main() -> float:
        def answer(transport: Any, data: bytes, asker: Any, heard: int) -> None:
            if heard <= 20:
                transport.sendto(data, asker)

        await serve(addr, answer)
        async with udpguard.open_endpoint() as endpoint:
            for _ in range(20):
                await endpoint.request(addr, b"x")
            began = asyncio.get_running_loop().time()
            with pytest.raises(udpguard.ReplyTimeoutError):
                await endpoint.request(addr, b"x", retry=AdaptiveRetry())
            return began

    with Simulation() as sim:
        began = sim.run(main)
        assert [at for at in sends(sim.trace, began, addr) if at >= 0] == to_the_millisecond(0, 1, 3, 7)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_servers_that_refuse_use_up_nothing_of_the_schedule(key: Any) -> None:
    """However many of a list are dead, the others are asked as if those were not on it."""
    silent, alive = ("192.0.2.1", 7), ("192.0.2.2", 7)
    dead = [("192.0.2.1", port) for port in range(100, 108)]

    async def main() -> tuple[float, udpguard.Reply]:
        await serve(silent)
        await serve(alive, lambda transport, data, addr, _: transport.sendto(data, addr))
        async with udpguard.open_endpoint(correlate=key) as endpoint:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            retry = Retry(attempts=2, initial=1.0, jitter=0.0)
            return begun, await endpoint.exchange([*dead, silent, alive], b"??", retry=retry)

    with Simulation(delay=0.01) as sim:
        begun, reply = sim.run(main)
        assert reply.peer == alive
        assert reply.attempts == len(dead) + 2
        (first,), (second,) = sends(sim.trace, begun, silent), sends(sim.trace, begun, alive)
        assert first == pytest.approx(0.02 * len(dead), abs=MILLISECOND)
        assert second - first == pytest.approx(1.0, abs=MILLISECOND)
