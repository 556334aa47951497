"""What other libraries got wrong: each has a test of its own here, named for it.

Most run in virtual time over a simulated network; where the operating system's part matters, on loopback.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import socket
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from others_kit import Server, echo, nobody, on_loopback, serve, simulated

import udpguard
from udpguard import Limits, Ports, TransactionId
from udpguard.core.address import known_wire, peer_of, wire_of

ASSIGNED = TransactionId(0, 2, assign=True)
KEYED = TransactionId(0, 2)
HOST = "192.0.2.1"
IS_TOLD = sys.platform == "linux" and os.environ.get("UDPGUARD_BACKEND") != "portable"
"""Whether the operating system tells of dead peers."""
ADDR = (HOST, 161)


def now() -> float:
    return asyncio.get_running_loop().time()


def ask(client: udpguard.Client, data: bytes, addr: Any = ADDR, **kwargs: Any) -> asyncio.Task[bytes]:
    return asyncio.ensure_future(client.request(addr, data, **kwargs))


# -------------------------------------------------------------------------------------------- whom they believed


@pytest.mark.parametrize("back", [("192.0.2.9", 161), (HOST, 40_000)], ids=["address", "port"])
def test_gosnmp_47_and_118_telegraf_3320_snmp_exporter_699_aiosnmp_27_a_reply_from_elsewhere_is_named(
    back: tuple[str, int],
) -> None:
    """Dropped in silence, and the user was left with a bare time-out (gosnmp/gosnmp#47 #118, telegraf#3320,
    snmp_exporter#699, aiosnmp#27). Here the time-out names who answered and says what to pass; and that works."""

    async def main() -> None:
        other = await serve(*back)
        await serve(*ADDR, lambda server, data, addr: other.send(b"from elsewhere", addr))
        async with udpguard.open_endpoint(timeout=2.0) as endpoint:
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await endpoint.request(ADDR, b"get")
            message = str(caught.value)
            assert f"1 datagram came from {back[0]}:{back[1]} instead" in message
            assert [(miss.peer, miss.count, miss.data) for miss in caught.value.near_misses] == [
                (back, 1, b"from elsewhere")
            ]
            assert f'reply_from=("{back[0]}", {back[1]})' in message
            assert await endpoint.request(ADDR, b"get", reply_from=back) == b"from elsewhere"

    simulated(main)


STRAY = [b"", b"\x00", b"\xff\xff stray", b"\x00" * 500]


def test_dnspython_cve_2023_29483_and_miekg_dns_1081_one_stray_datagram_ends_no_query() -> None:
    """The first datagram that was not the answer ended the query (CVE-2023-29483 "TuDoor"; miekg/dns#1081).
    Here it is counted and the query waits on, wherever the stray one comes from and whatever it holds."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()

        def answered_late(server: Server, data: bytes, addr: Any) -> None:
            for source in (ADDR, (HOST, 162), ("192.0.2.9", 161), ("203.0.113.5", 9)):
                for stray in STRAY:
                    loop.network.inject(stray, source, addr)  # type: ignore[attr-defined]
            server.send(data + b" answer", addr, after=0.5)

        await serve(*ADDR, answered_late)
        async with udpguard.open_endpoint(("198.51.100.1", 0), correlate=ASSIGNED, timeout=2.0) as endpoint:
            assert await endpoint.request(ADDR, b"\x12\x34 query") == b"\x12\x34 query answer"
            return endpoint.statistics()

    stats = simulated(main)
    assert (stats.matched, stats.rejected, stats.unknown_peer) == (1, 4, 12)


def test_hickory_dns_gave_up_after_three_junk_datagrams_here_a_thousand_end_nothing() -> None:
    """Three datagrams with a wrong id, and the query was given up (hickory-dns): anybody could end every query.
    Here as many as come are refused, unless `Limits(near_misses=…)` says otherwise."""

    async def main() -> Any:
        def junk_first(server: Server, data: bytes, addr: Any) -> None:
            for _ in range(1_000):
                server.send(bytes((data[0] ^ 1, data[1])) + b"junk", addr)
            server.send(data, addr, after=0.5)

        await serve(*ADDR, junk_first)
        async with udpguard.open_endpoint(correlate=ASSIGNED, timeout=2.0) as endpoint:
            assert await endpoint.request(ADDR, b"\0\0 query") == b"\0\0 query"
            return endpoint.statistics()

    stats = simulated(main)
    assert (stats.matched, stats.rejected) == (1, 1_000)


@pytest.mark.parametrize("fixed", [False, True], ids=["spare ports", "one port"])
def test_pymodbus_1468_and_dnsjit_99_a_late_reply_is_not_taken_for_the_next_ones(fixed: bool) -> None:
    """After one time-out the late reply was taken for the next request's, whose own came then for the one after it:
    all that followed were one off (pymodbus-dev/pymodbus#1468, dnsjit#99). Here the next request leaves from another
    port; where there is but one, it waits for the late reply first."""

    async def main() -> None:
        def slow_at_first(server: Server, data: bytes, addr: Any) -> None:
            server.send(data, addr, after=1.5 if len(server.got) == 1 else 0.2)

        await serve(*ADDR, slow_at_first)
        local, ports = (("198.51.100.1", 5_000), Ports(quarantine=5.0)) if fixed else (None, Ports())
        async with udpguard.open_endpoint(local, timeout=1.0, ports=ports) as endpoint:
            with pytest.raises(udpguard.ReplyTimeoutError):
                await endpoint.request(ADDR, b"0")
            for number in range(1, 30):
                assert await endpoint.request(ADDR, b"%d" % number, timeout=2.0) == b"%d" % number
            stats = endpoint.statistics()
            # Rejected: it came to another of our ports than the request that is pending.
            assert (stats.matched, stats.late, stats.rejected) == (29, *((1, 0) if fixed else (0, 1)))

    simulated(main)


def test_powerdns_cve_2023_26437_a_detected_forgery_blames_nobodys_server() -> None:
    """Forged answers were noticed, and the *real* server was taken out of use for it (PowerDNS CVE-2023-26437): a
    denial of service. Here the one request ends with an error that says so, and nothing is held against the server."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        hostile = True

        def attacked(server: Server, data: bytes, addr: Any) -> None:
            for number in range(6 if hostile else 0):
                loop.network.inject(bytes((data[0] ^ 1, number)), ADDR, addr)  # type: ignore[attr-defined]
            server.send(data, addr, after=0.2)

        await serve(*ADDR, attacked)
        async with udpguard.open_endpoint(
            ("198.51.100.1", 0), correlate=ASSIGNED, limits=Limits(near_misses=5)
        ) as endpoint:
            with pytest.raises(udpguard.ForgerySuspectedError, match="guessing"):
                await endpoint.request(ADDR, b"\0\0")
            hostile, began = False, now()
            reply = await endpoint.exchange(ADDR, b"\0\0")
            assert (reply.attempts, now() - began) == (1, pytest.approx(0.22))
            known = endpoint.peer_statistics(ADDR)
            assert known is not None
            assert (known.timed_out, known.backoff, known.matched) == (0, 1, 1)

    simulated(main)


def test_strangers_are_not_counted_as_forgeries() -> None:
    """Six datagrams from one ordinary host that shared the servers' port number ended 100 of 100 requests.
    Here only wrong keys from the right place count towards `Limits(near_misses=…)`, be it none at all."""

    async def main() -> Any:
        addrs = [(f"192.0.2.{number}", 161) for number in range(1, 101)]
        for addr in addrs:
            await serve(*addr, lambda server, data, asker: server.send(data, asker, after=0.5))
        ordinary = await serve("203.0.113.7")
        async with udpguard.open_endpoint(
            ("198.51.100.1", 0), correlate=ASSIGNED, limits=Limits(near_misses=0)
        ) as endpoint:
            asked = [ask(endpoint, b"\0\0%d" % number, addr) for number, addr in enumerate(addrs)]
            await asyncio.sleep(0.1)
            for _ in range(6):
                ordinary.send(b"\0\0 what has it to do with me", endpoint.local_addr)
            assert await asyncio.gather(*asked) == [b"\0\0%d" % number for number in range(100)]
            return endpoint.statistics()

    stats = simulated(main)
    assert (stats.matched, stats.unknown_peer, stats.suspected) == (100, 6, 0)


async def test_one_datagram_beside_ten_thousand_pending_searches_nothing() -> None:
    """A search for near misses among 10,000 pending requests cost 517 µs for each stranger's datagram.
    Here a stranger costs one failed look-up, however many are pending: those who time out look, and share it."""
    costs: list[float] = []
    for pending in (1, 10_000):
        async with udpguard.open_endpoint(("127.0.0.1", 0)) as endpoint:
            waiting = [
                endpoint.expect((f"10.0.{number >> 8}.{number & 255}", 161), timeout=60) for number in range(pending)
            ]
            batch = [(b"junk", wire_of(bytes((10, 1, n, 1)), 161, 0)) for n in range(64)]  # they share the port
            best = min(
                _seconds(lambda endpoint=endpoint, batch=batch: endpoint._guard.receive(batch)) for _ in range(50)
            )
            costs.append(best / 64)
            assert endpoint.statistics().unknown_peer == 50 * 64
            del waiting
    assert costs[1] < 20 * costs[0], "517 µs instead of half a microsecond would be 1,000 times as much"
    assert costs[1] < 100e-6


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def test_aioice_and_aiocoap_the_scope_of_a_link_local_address_is_kept() -> None:
    """The scope was lost between the datagram and the match (aioice, aiocoap): replies of fe80::1 on one link were
    taken for those of another neighbour, or could not be answered. Here the same address on two links is two peers."""

    async def main() -> None:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        for scope in (2, 3):
            network.host(f"fe80::1%{scope}")
        two, three = [await serve(f"fe80::1%{scope}", 7, None) for scope in (2, 3)]
        async with udpguard.open_endpoint(correlate=KEYED, timeout=5.0) as endpoint:
            asked = ask(endpoint, b"ab", ("fe80::1%2", 7))
            await asyncio.sleep(0.1)
            await endpoint.send(("fe80::1%3", 7), b"hello")
            await asyncio.sleep(0.1)
            three.send(b"ab forged", three.asker)
            two.send(b"ab right", two.asker, after=0.5)
            assert await asked == b"ab right"
            assert endpoint.statistics().unknown_peer == 1
            reply = endpoint.expect(("fe80::1%3", 7), timeout=5.0, transaction=b"cd")
            three.send(b"cd", three.asker)
            assert (await reply).peer.host == "fe80::1%3"

    simulated(main)


# ---------------------------------------------------------------------------------------------- keys, turns and ids


@pytest.mark.parametrize("rotates", [True, False], ids=["rotating", "one port, as others do"])
def test_turns_alone_do_not_make_keyless_replies_safe(rotates: bool) -> None:
    """One request at a time to a peer, says everybody, and keyless replies can't be mixed up. They are: a server, or a
    network, that sends an answer twice shifts all that follow (199 of 200 wrong). `Ports(rotate=True)` gives each
    exchange a port of its own, and the second answer arrives where nothing is expected. (On one port and without a
    quarantine the fault is there to be seen.)"""

    async def main() -> int:
        def twice(server: Server, data: bytes, addr: Any) -> None:
            server.send(data, addr)
            server.send(data, addr, after=0.005)

        await serve(*ADDR, twice)
        ports = Ports(rotate=True) if rotates else Ports(quarantine=0)
        local = None if rotates else ("198.51.100.1", 5_000)
        async with udpguard.open_endpoint(local, ports=ports, timeout=5.0) as endpoint:
            return sum([await endpoint.request(ADDR, b"%d" % n) != b"%d" % n for n in range(200)])

    wrong = simulated(main)
    assert wrong == 0 if rotates else wrong > 150


def test_a_thousand_random_16_bit_ids_clash_so_ids_are_assigned() -> None:
    """1,000 ids that callers draw at random from 65,536 clash with a probability of 99.95 %: who leaves ids to callers
    fails in bulk. Here `assign=True` picks them: 1,000 requests, all with id 0, are in flight to one peer at once."""
    clear = 1.0
    for taken in range(1_000):
        clear *= 1 - taken / 65_536
    assert 1 - clear == pytest.approx(0.9995, abs=0.0001)

    async def main() -> list[bytes]:
        asyncio.get_running_loop().network.host(HOST).receive_buffer = 4 << 20  # type: ignore[attr-defined]
        server = await serve(*ADDR, lambda server, data, addr: server.send(data, addr, after=1.0))
        async with udpguard.open_endpoint(correlate=ASSIGNED, timeout=5.0) as endpoint:
            asked = [ask(endpoint, b"\0\0%d" % number) for number in range(1_000)]
            assert await asyncio.gather(*asked) == [b"\0\0%d" % number for number in range(1_000)]
            assert endpoint.statistics().matched == 1_000
        return server.got

    assert len({data[:2] for data in simulated(main)}) == 1_000


async def test_hash_collisions_8000_crafted_keys_cost_what_any_8000_do() -> None:
    """8,000 `ipaddress.IPv6Address` keys whose hashes are equal took 4.5 s to insert in a dictionary: the hash is an
    integer's, and no secret. Here whatever comes off the wire is looked up by bytes, hashed with a secret (SipHash)."""
    crafted = [(1 << 80) + number * (2**61 - 1) for number in range(8_000)]
    addresses = [ipaddress.IPv6Address(number) for number in crafted]
    assert len({hash((int(address), None)) for address in addresses}) == 1, "what makes the attack"
    wires = [wire_of(address.packed, 53, 0) for address in addresses]
    assert len({hash(wire) for wire in wires}) == 8_000
    assert len({hash((wire, 1, b"\0\0")) for wire in wires}) == 8_000
    assert len({hash((str(address), 53)) for address in addresses}) == 8_000
    assert len({hash(peer_of(wire)) for wire in wires}) == 8_000
    assert all(known_wire((str(address), 53)) == wire for address, wire in zip(addresses[:100], wires, strict=False))
    any_8000 = [wire_of((number * 2**64 + 12_345).to_bytes(16, "big"), 53, 0) for number in range(2**30, 2**30 + 8_000)]
    costs: list[float] = []
    for asked in (any_8000, wires):
        peers = [peer_of(wire) for wire in asked]
        async with udpguard.open_endpoint(family=socket.AF_INET6) as endpoint:
            strangers = [(b"x", wire) for wire in asked]
            began = time.perf_counter()
            endpoint._guard.receive(strangers)
            waiting = [endpoint.expect(peer, timeout=60) for peer in peers]
            endpoint._guard.receive(strangers)
            costs.append(time.perf_counter() - began)
            assert endpoint.statistics().matched == 8_000
            assert endpoint.statistics().unknown_peer == 8_000
            del waiting
    assert costs[1] < 10 * costs[0], "4.5 s instead of 1 ms would be 5,000 times as much"


# ------------------------------------------------------------------------------------- one socket, many callers


async def test_asyncio_dgram_13_and_asyncudp_12_a_dead_peer_costs_the_live_ones_nothing() -> None:
    """A dead peer's ConnectionRefusedError was raised on somebody else's next call, whose datagram did not leave
    (asyncio-dgram#13, asyncudp#12). Here it is the dead peer's own request that fails: at once where the operating
    system tells, else at its deadline."""
    dead = nobody()

    def answer(server: Server, data: bytes, addr: Any) -> None:
        if data != b"sent":
            echo(server, data, addr)

    async with on_loopback(answer) as live, udpguard.open_endpoint(timeout=5.0) as endpoint:
        asked: list[asyncio.Task[bytes]] = []
        for number in range(50):
            asked.append(ask(endpoint, b"nobody", dead, timeout=30.0 if IS_TOLD else 0.05))
            assert await endpoint.request(live.addr, b"%d" % number) == b"%d" % number
            await endpoint.send(live.addr, b"sent")
        errors = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)
        assert {type(error) for error in errors} == {
            udpguard.PeerRefusedError if IS_TOLD else udpguard.ReplyTimeoutError
        }
        assert await endpoint.request(live.addr, b"last") == b"last"
        stats = endpoint.statistics()
        assert (stats.matched, stats.send_errors, stats.refused) == (51, 0, 50 * IS_TOLD)
        assert len(live.got) == 101, "nothing of what was sent to the live one was lost"


BAD: list[Any] = [
    ("127.0.0.1", 70_000),
    ("127.0.0.1", "9"),
    ("127.0.0.1", -1),
    ("127.0.0.1",),
    None,
    ("not an address", 9),
]


async def test_uvloop_338_one_bad_address_closes_no_shared_socket() -> None:
    """`sendto` with a malformed address, or one of another family, closed the transport, and with it everybody's
    requests (uvloop#338; asyncio logs a "Fatal write error"). Here it raises at the caller, and that is all."""
    async with on_loopback(None) as server, udpguard.open_endpoint(("127.0.0.1", 0)) as endpoint:
        pending = ask(endpoint, b"mine", server.addr)
        for bad in [*BAD, ("::1", 9)]:
            for call in (endpoint.request, endpoint.send):
                with pytest.raises((udpguard.InvalidAddressError, TypeError)):
                    await call(bad, b"x")  # type: ignore[arg-type]
        with pytest.raises(udpguard.DatagramTooLargeError):
            await endpoint.request(server.addr, bytes(65_508))
        await asyncio.wait_for(server.asked.wait(), 10)
        server.send(b"answer", server.asker)
        assert await pending == b"answer"
        assert endpoint.statistics().sent == 1
        assert not endpoint.is_closing()


@pytest.mark.parametrize("correlate", [None, KEYED, ASSIGNED], ids=["keyless", "keyed", "assigned"])
def test_rpcudp_and_aiosnmp_cancellation_leaks_no_pending_entries(correlate: Any) -> None:
    """An entry for each cancelled call stayed in the table for ever (rpcudp, aiosnmp). Here it goes at once, with its
    turn, its room and its id."""

    async def main() -> None:
        await serve(*ADDR, None)
        async with udpguard.open_endpoint(correlate=correlate, limits=Limits(pending=500)) as endpoint:
            for _ in range(3):
                asked = [ask(endpoint, number.to_bytes(2, "big"), timeout=None) for number in range(1_000)]
                await asyncio.sleep(0.1)
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
                stats = endpoint.statistics()
                assert (stats.pending, stats.waiting) == (0, 0)
            registry: Any = endpoint._guard.registry
            assert (registry._pending, len(registry.waiting), len(registry.held)) == ({}, 0, 0)
            assert registry.room.free == 500
            assert not registry._sources[b"\0\xa1\xc0\0\2\1"].live
            assert stats.cancelled == 3_000

    simulated(main)


async def test_asyncio_dgram_receive_queues_are_bounded() -> None:
    """What nobody fetched lay in a queue without an end (asyncio-dgram): strangers could fill the memory. Here what is
    not expected is counted and let go; of the latest 512 the first 64 bytes are kept for the time-outs' sake."""
    async with udpguard.open_endpoint(("127.0.0.1", 0)) as endpoint:
        reply = endpoint.expect(("127.0.0.1", 9), timeout=None)
        endpoint._guard.receive([(b"the answer", wire_of(bytes((127, 0, 0, 1)), 9, 0))])
        endpoint._guard.receive(_junk(0))
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(1, 1_000):
                endpoint._guard.receive(_junk(number))
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        stats = endpoint.statistics()
        assert stats.received == 64_001
        assert held < 512 * 1_024, "of 64 MB that came"
        assert (await reply).data == b"the answer"


def _junk(number: int) -> list[tuple[bytes, bytes]]:
    """A batch of strangers', and of what an answered peer sends again."""
    return [(bytes(1_000), wire_of(bytes((127, 0, number & 255, i or 1)), 9, 0)) for i in range(64)]


def test_puresnmp_115_dnspython_572_and_740_a_second_answer_settles_nothing_twice() -> None:
    """`set_result` on a future that was done raised InvalidStateError inside the loop's callback, once an answer came
    twice or a caller had gone (exhuma/puresnmp#115, dnspython#572 #740). Here the second is a duplicate, or late."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        troubles: list[Any] = []
        loop.set_exception_handler(lambda _, context: troubles.append(context))

        def thrice(server: Server, data: bytes, addr: Any) -> None:
            for _ in range(3):
                server.send(data, addr, after=0.5)

        await serve(*ADDR, thrice)
        async with udpguard.open_endpoint(correlate=KEYED) as endpoint:
            asked = [ask(endpoint, b"%02d" % number) for number in range(50)]
            loop.call_at(now() + 0.52, lambda: [task.cancel() for task in asked[::2]])  # as the answers arrive
            loop.call_at(now() + 0.3, asked[1].cancel)
            await asyncio.gather(*asked, return_exceptions=True)
            await asyncio.sleep(5)
            assert troubles == []
            return endpoint.statistics()

    stats = simulated(main)
    assert stats.received == 150 == stats.matched + stats.duplicate + stats.late
    assert stats.late >= 3


# ----------------------------------------------------------------------------------------------------- time, and logs


def test_ntplib_junk_does_not_prolong_the_wait() -> None:
    """The time-out began anew with each datagram that was received (ntplib): a trickle of junk, and the call never
    came back. Here there is one deadline from the call, to the millisecond, whatever arrives."""

    async def main() -> float:
        loop = asyncio.get_running_loop()

        def trickles(server: Server, data: bytes, addr: Any) -> None:
            for step in range(100):
                server.send(b"xx wrong key", addr, after=step * 0.05)
                loop.network.inject(b"stranger", ("203.0.113.5", 9), addr, delay=step * 0.05)  # type: ignore[attr-defined]

        await serve(*ADDR, trickles)
        async with udpguard.open_endpoint(("198.51.100.1", 0), correlate=ASSIGNED) as endpoint:
            began = now()
            with pytest.raises(udpguard.ReplyTimeoutError) as caught:
                await endpoint.request(ADDR, b"\0\0", timeout=1.0)
            assert "20 datagrams came from 192.0.2.1:161 with another transaction id" in str(caught.value)
            return now() - began

    assert simulated(main) == pytest.approx(1.0, abs=0.001)


def test_dnspython_1073_the_round_trip_is_not_inflated_by_a_loop_that_was_busy() -> None:
    """The round-trip time ended when the task got to run (dnspython#1073): a busy program thought its servers slow.
    Here it ends when the datagram arrives, also where the loop was blocked for seconds."""

    async def main() -> float | None:
        loop: Any = asyncio.get_running_loop()
        await serve(*ADDR)
        async with udpguard.open_endpoint() as endpoint:
            asked = asyncio.ensure_future(endpoint.exchange(ADDR, b"x"))
            await asyncio.sleep(0.15)  # the answer is on its way
            loop.block(4.0)
            return (await asked).rtt

    assert simulated(main, delay=0.1) == pytest.approx(0.2, abs=0.001)


def test_netty_and_waterfall_117_what_is_unmatched_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Each datagram that matched nothing was logged at WARNING: the log was the flood (netty, Waterfall#117).
    Here they are counted; nothing that arrives is logged above DEBUG, and not line by line either."""
    caplog.set_level(logging.DEBUG)

    async def main() -> Any:
        await serve(*ADDR)
        stranger = await serve("203.0.113.5", 9, None)
        async with udpguard.open_endpoint(("198.51.100.1", 0), correlate=ASSIGNED) as endpoint:
            await endpoint.request(ADDR, b"\0\0")
            for _ in range(2_000):
                stranger.send(b"junk", endpoint.local_addr)
            await asyncio.sleep(5)
            return endpoint.statistics()

    assert simulated(main).unknown_peer == 2_000
    records = [record for record in caplog.records if record.name.startswith("udpguard")]
    assert len(records) < 10
    assert all(record.levelno <= logging.DEBUG for record in records)
