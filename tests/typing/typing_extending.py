"""What type checkers see of the classes to derive from, of the protocol, and of errors; never run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable

from typing_extensions import assert_type, override

import udpguard
from udpguard import NearMiss, Peer, Reason, Reply, Unexpected


class Echoed(udpguard.Correlator):
    """A correlator of a user's."""

    @override
    def request_key(self, data: bytes) -> Hashable | None:
        return data[:4]

    @override
    def reply_key(self, data: bytes) -> Hashable | None:
        return data[:4] or None


class Steady(udpguard.RetryPolicy):
    """A schedule of a user's."""

    @override
    def waits(self, peer: udpguard.PeerStatistics | None, random: Callable[[], float]) -> Iterable[float]:
        if peer is not None:
            assert_type(peer.srtt, float | None)
            assert_type(peer.rto, float)
        return [1.0, 1.0, 1.0]


def told(datagram: Unexpected) -> None:
    assert_type(datagram.data, bytes)
    assert_type(datagram.peer, Peer)
    assert_type(datagram.reason, Reason)


async def under_any_loop() -> None:
    loop = asyncio.get_running_loop()
    transport, guard = await loop.create_datagram_endpoint(udpguard.GuardProtocol, local_addr=("127.0.0.1", 0))
    assert_type(guard, udpguard.GuardProtocol)
    reply = guard.expect(("192.0.2.1", 7), timeout=2.0)
    assert_type(reply, asyncio.Future[Reply])
    assert_type(await reply, Reply)
    assert_type(guard.statistics(), udpguard.Statistics)
    transport.close()
    await loop.create_datagram_endpoint(
        lambda: udpguard.GuardProtocol(correlate=Echoed(), on_unexpected=told, limits=udpguard.Limits()),
        local_addr=("127.0.0.1", 0),
    )


async def own_classes() -> None:
    async with udpguard.open_endpoint(correlate=Echoed(), retry=Steady(), on_unexpected=told) as endpoint:
        await endpoint.request(("192.0.2.1", 7), b"abcd", retry=udpguard.AdaptiveRetry(attempts=3))


def explained(error: udpguard.UdpGuardError) -> None:
    if isinstance(error, udpguard.ReplyTimeoutError):
        assert_type(error.peer, Peer | None)
        assert_type(error.timeout, float)
        assert_type(error.attempts, int)
        assert_type(error.near_misses, tuple[NearMiss, ...])
        timeout: TimeoutError = error
        print(timeout)
    elif isinstance(error, udpguard.PeerUnreachableError):
        assert_type(error.peer, Peer | None)
        assert_type(error.errno, int | None)
        unreachable: OSError = error
        print(unreachable)
    elif isinstance(error, udpguard.TooManyPendingError):
        assert_type(error.limit, int)
    elif isinstance(error, udpguard.DatagramTooLargeError):
        assert_type(error.size, int)
        assert_type(error.limit, int | None)
        too_large: ValueError = error
        print(too_large)


def presets() -> None:
    assert_type(udpguard.Retry.stun(), udpguard.Retry)
    assert_type(udpguard.Retry.coap(), udpguard.Retry)
    assert_type(udpguard.Retry.radius(), udpguard.Retry)
    udpguard.Retry(attempts=3, initial=0.5, final_wait=None, total=10)
