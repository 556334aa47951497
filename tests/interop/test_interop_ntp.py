"""NTP (RFC 5905) with a real chronyd: the transmit timestamp comes back as the origin timestamp."""

from __future__ import annotations

import asyncio
import re
import struct
import time
from collections.abc import Callable
from typing import Final

import pytest
from interop_checks import Witness, check_at_rest
from interop_servers import STRATUM, Server

import udpguard

pytestmark = pytest.mark.interop

TIMESTAMPS: Final = udpguard.TransactionId(40, 8, reply_offset=24)
SINCE_1900: Final = 2_208_988_800
A_MICROSECOND: Final = 1e-6  # what readings of a monotonic clock and of the time of day may differ by
CLIENT: Final = b"\x23" + bytes(39)  # version 4, mode 3; what stands before the transmit timestamp


def now() -> bytes:
    """The machine's clock as an NTP timestamp."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return struct.pack("!II", (seconds + SINCE_1900) & 0xFFFFFFFF, (rest << 32) // 1_000_000_000)


def between(earlier: bytes, later: bytes) -> float:
    """Seconds from one timestamp to another."""
    return (int.from_bytes(later, "big") - int.from_bytes(earlier, "big")) / 2**32


def inside(packet: bytes) -> float:
    """How long a request was at the server, from the kernel's receipt to the reply's departure, in seconds."""
    return between(packet[32:40], packet[40:48])


async def test_a_server_gives_the_time_and_our_timestamp_back(chronyd: Server) -> None:
    async with udpguard.open_endpoint(correlate=TIMESTAMPS) as endpoint:
        sent = now()
        reply = await endpoint.exchange(chronyd.address, CLIENT + sent, timeout=10)
        arrived = now()
        assert reply.peer == chronyd.address
        assert len(reply.data) == 48
        assert (reply.data[0] & 0x7, reply.data[1]) == (4, STRATUM)
        assert reply.data[24:32] == sent
        received, transmitted = reply.data[32:40], reply.data[40:48]
        offset = (between(sent, received) + between(arrived, transmitted)) / 2
        assert abs(offset) < 1
        assert reply.attempts == 1
        check_at_rest(endpoint.statistics())


@pytest.mark.parametrize("retry", [None, udpguard.Retry()], ids=["sent-once", "retry"])
async def test_a_round_trip_takes_longer_than_the_servers_part_of_it(
    chronyd: Server, retry: udpguard.Retry | None
) -> None:
    """It is taken from before the datagram leaves: the server may answer before the call that sends returns."""
    async with udpguard.open_endpoint(correlate=TIMESTAMPS) as endpoint:
        for _ in range(300):
            sent = now()
            reply = await endpoint.exchange(chronyd.address, CLIENT + sent, timeout=10, retry=retry)
            assert reply.rtt is not None
            assert inside(reply.data) - A_MICROSECOND <= reply.rtt <= between(sent, now())


async def test_five_hundred_timestamps_at_once(chronyd: Server) -> None:
    """Each reply carries the timestamp of its own request, whatever order they come in."""
    async with udpguard.open_endpoint(correlate=TIMESTAMPS) as endpoint:

        async def ask(index: int) -> None:
            sent = struct.pack("!II", 0xE0000000 + index, index)
            retry = udpguard.Retry(attempts=8, initial=0.25, multiplier=1.5)
            reply = await endpoint.exchange(chronyd.address, CLIENT + sent, timeout=30, retry=retry)
            assert reply.data[24:32] == sent

        async with asyncio.TaskGroup() as group:
            for index in range(500):
                group.create_task(ask(index))
        check_at_rest(endpoint.statistics())
        assert endpoint.statistics().matched == 500


async def test_each_retransmission_carries_a_timestamp_of_its_own(chronyd: Server) -> None:
    """The server is held until three went out. A reply to any of them counts, and says which it answers."""
    sent: list[bytes] = []
    third = asyncio.Event()

    def stamped(attempt: int) -> bytes:
        assert attempt == len(sent)
        sent.append(now())
        if attempt == 2:
            third.set()
        return CLIENT + sent[-1]

    async with udpguard.open_endpoint(correlate=TIMESTAMPS) as endpoint:
        retry = udpguard.Retry(attempts=5, initial=0.1, multiplier=2.0)
        with chronyd.held():
            asking = asyncio.ensure_future(endpoint.exchange(chronyd.address, stamped, timeout=30, retry=retry))
            async with asyncio.timeout(10):
                await third.wait()
        reply = await asking
        assert len(set(sent)) == len(sent)
        assert reply.data[24:32] in sent
        assert reply.attempts == len(sent) >= 3
        assert reply.rtt is not None  # distinct keys: no retransmission is ambiguous
        assert inside(reply.data) - A_MICROSECOND <= reply.rtt <= between(reply.data[24:32], now())
        check_at_rest(endpoint.statistics())


async def test_a_timestamp_that_nobody_asked_with_is_turned_away(chronyd: Server) -> None:
    """The right server, but the answer to a question that the endpoint sent outside any request."""
    witness = Witness()
    async with udpguard.open_endpoint(correlate=TIMESTAMPS, on_unexpected=witness) as endpoint:
        stray, own = now(), struct.pack("!II", 1, 1)
        with chronyd.held():
            asking = asyncio.ensure_future(endpoint.request(chronyd.address, CLIENT + own, timeout=30))
            await asyncio.sleep(0)
            await endpoint.send(chronyd.address, CLIENT + stray)
        assert (await asking)[24:32] == own
        await witness.until(1)
        assert [(it.data[24:32], it.peer) for it in witness.seen] == [(stray, chronyd.address)]
        assert endpoint.statistics().received == 2
        check_at_rest(endpoint.statistics())


def test_the_offset_example(chronyd: Server, run_example: Callable[..., str]) -> None:
    printed = run_example("ntp_offset.py", chronyd.at)
    line = re.fullmatch(r"(\S+): offset (\S+) s, delay (\S+) s, stratum (\d+)\n", printed)
    assert line, printed
    assert line[1] == chronyd.at
    assert abs(float(line[2])) < 1
    assert 0 <= float(line[3]) < 10
    assert int(line[4]) == STRATUM


def test_the_monitor_example(chronyd: Server, run_example: Callable[..., str]) -> None:
    printed = run_example("uptime_monitor.py", "--protocol", "ntp", "--count", "2", "--interval", "0.2", chronyd.at)
    assert f"\n{chronyd.at}: asked 2, lost 0%, " in printed
