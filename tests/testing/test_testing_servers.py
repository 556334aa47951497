"""Servers, impostors and relays: each on real sockets and in a simulation."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections import Counter
from typing import Any

import pytest
from testing_kit import Collector, everywhere, in_simulation, probe, really, simulated, until

import udpguard
from udpguard.testing import (
    Answer,
    Impostor,
    Relay,
    Request,
    Server,
    Simulation,
    VirtualLoop,
    canned,
    echo,
    silent,
    with_other_id,
)


def asked(run: Any, handler: Any, data: bytes = b"hello", *, unexpected: int = 0, **how: Any) -> Any:
    """The outcome of one exchange with a server that has this handler, what was unexpected, and the server's address.

    What is unexpected is waited for, and a while longer, in which no more may come.
    """

    async def main() -> Any:
        seen: list[udpguard.Unexpected] = []
        async with Server(handler) as server, udpguard.open_endpoint(on_unexpected=seen.append) as endpoint:
            outcome: Any
            try:
                outcome = await endpoint.exchange(server.address, data, **{"timeout": 0.6, **how})
            except udpguard.UdpGuardError as error:
                outcome = error
            await until(lambda: len(seen) >= unexpected)
            await asyncio.sleep(0.1)
            return outcome, seen, server.address

    return run(main)


@everywhere
def test_it_echoes(run: Any) -> None:
    reply, seen, address = asked(run, echo)
    assert (reply.data, reply.peer, seen) == (b"hello", address, [])


@everywhere
def test_it_has_answers_ready(run: Any) -> None:
    assert asked(run, canned({b"hello": b"hi"}))[0].data == b"hi"
    assert asked(run, canned({b"bye": b"hi"}, otherwise=b"what?"))[0].data == b"what?"
    assert isinstance(asked(run, canned({}))[0], udpguard.ReplyTimeoutError)


@everywhere
def test_it_is_silent(run: Any) -> None:
    assert isinstance(asked(run, silent)[0], udpguard.ReplyTimeoutError)


@everywhere
def test_it_answers_as_a_function_of_the_request(run: Any) -> None:
    def handler(request: Request) -> bytes:
        assert request.peer.host in ("127.0.0.1", "198.51.100.1")
        return b"%d:%s" % (request.number, request.data.upper())

    assert asked(run, handler)[0].data == b"0:HELLO"


@everywhere
def test_it_answers_late(run: Any) -> None:
    outcome, seen, _ = asked(run, lambda _: Answer(b"late", delay=0.9), unexpected=1)
    assert isinstance(outcome, udpguard.ReplyTimeoutError)
    assert [one.reason for one in seen] == [udpguard.Reason.LATE]


@everywhere
def test_it_answers_twice(run: Any) -> None:
    outcome, seen, _ = asked(run, lambda _: Answer(b"twice", copies=2), unexpected=1)
    assert outcome.data == b"twice"
    assert [one.reason for one in seen] == [udpguard.Reason.DUPLICATE]


@everywhere
@pytest.mark.parametrize("where", ["port", "host"])
def test_it_answers_from_elsewhere(run: Any, where: Any) -> None:
    answers = [Answer(b"1", sent_from=where), Answer(b"2", sent_from=where)]
    outcome, seen, address = asked(run, lambda _: answers, unexpected=2)
    assert isinstance(outcome, udpguard.ReplyTimeoutError)
    assert [one.data for one in seen] == [b"1", b"2"]
    (other,) = {one.peer for one in seen}
    assert (other.host == address.host) == (where == "port")
    assert (other.port == address.port) == (where == "host")
    assert f'reply_from=("{other.host}", {other.port})' in str(outcome)


@everywhere
def test_it_answers_from_an_address_of_the_tests_choice_and_to_somebody_else(run: Any) -> None:
    async def main() -> Any:
        async with Server(silent) as other:
            loopback = "127.0.0.5"
            async with Server(lambda _: Answer(b"moved", sent_from=(loopback, 0), to=other.address)) as server:
                await server.send(b"x", server.address)  # asks itself
                with pytest.raises(ValueError, match="who gets it"):
                    await server.send(b"x")
                got = await other.next()
                return got.data, got.peer.host

    assert run(main) == (b"moved", "127.0.0.5")


@everywhere
def test_another_id_is_a_near_miss(run: Any) -> None:
    outcome, seen, _ = asked(run, lambda request: with_other_id(request.data), b"\x00\x01question")
    assert outcome.data == b"\xff\xfequestion"  # without a correlator nobody notices
    assert not seen


def test_ids_that_are_not_there_are_refused() -> None:
    assert with_other_id(b"abcd", 1, 2) == b"a\x9d\x9cd"
    for wrong in [(b"a", 0, 2), (b"abcd", 3, 2), (b"abcd", -1, 2), (b"abcd", 1, 0)]:
        with pytest.raises(ValueError, match="no id"):
            with_other_id(*wrong)
    with pytest.raises(ValueError, match="negative"):
        Answer(b"", delay=-1)


@everywhere
def test_requests_are_kept_and_can_be_waited_for(run: Any) -> None:
    async def main() -> None:
        async with Server(silent) as server:
            assert str(server.address) in repr(server)
            sender = Server(silent)
            with pytest.raises(RuntimeError, match="not open"):
                _ = sender.address
            assert "not open" in repr(sender)
            async with sender:
                waiting = asyncio.ensure_future(server.next())
                await asyncio.sleep(0)
                for data in (b"1", b"", b"3"):
                    await sender.send(data, server.address)
                assert (await waiting).data == b"1"
                assert [(await server.next()).data for _ in range(2)] == [b"", b"3"]
                assert [request.number for request in server.requests] == [0, 1, 2]
                assert server.requests[0].peer == sender.address

    run(main)


@everywhere
def test_an_open_server_has_its_port_and_a_closed_one_gives_it_back(run: Any) -> None:
    async def main() -> None:
        async with Server() as server:
            with pytest.raises(OSError, match="in use"):
                async with Server(echo, *server.address):
                    pass
            address = server.address
        async with Server(echo, *address) as server:
            assert server.address == address

    run(main)


@everywhere
def test_ipv6_works(run: Any) -> None:
    async def main() -> bytes:
        async with Server(echo, "::1") as server, udpguard.open_endpoint() as endpoint:
            return await endpoint.request(server.address, b"six")

    assert run(main) == b"six"


def test_it_is_at_any_address_of_a_simulation_and_at_all_of_a_host() -> None:
    async def main() -> Any:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        host = network.host("192.0.2.2", "192.0.2.3")
        async with (
            Server(echo, "192.0.2.1", 7) as one,
            Server(echo, host, 7) as several,
            udpguard.open_endpoint() as endpoint,
        ):
            assert (one.address, several.address) == (("192.0.2.1", 7), ("192.0.2.2", 7))
            assert await endpoint.request(one.address, b"1") == b"1"
            reply = await endpoint.exchange(("192.0.2.3", 7), b"3", reply_from=("192.0.2.2", 7))
            return reply.peer

    assert simulated(main)[0] == ("192.0.2.2", 7)


async def test_a_host_of_a_simulation_is_nowhere_else() -> None:
    with Simulation() as sim, pytest.raises(RuntimeError, match="belongs to a simulation"):
        async with Server(echo, sim.client):
            pass


def test_a_handler_that_raises_is_reported_and_the_server_goes_on() -> None:
    def handler(request: Request) -> bytes:
        if not request.number:
            raise LookupError
        return b"fine"

    async def main() -> Any:
        failed: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["exception"]))
        async with Server(handler) as server, udpguard.open_endpoint() as endpoint:
            retry = udpguard.Retry(attempts=2, initial=0.1, jitter=0)
            return await endpoint.request(server.address, b"x", retry=retry), [type(one) for one in failed]

    assert in_simulation(main) == (b"fine", [LookupError])


async def a_coroutine(request: Request) -> bytes:
    return request.data


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (a_coroutine, "handler must be a plain function, not a coroutine function"),
        (b"22 degrees", "handler must be a function, not b'22 degrees'"),
    ],
)
def test_a_handler_is_a_plain_function(handler: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Server(handler)


@everywhere
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("22 degrees", "an answer must be bytes, not str: encode it, as in text.encode()"),
        ([b"fine", "22 degrees"], "an answer must be bytes, not str: encode it"),
        (22, "an answer must be bytes, not int"),
        (b"x" * 65_508, "65508 bytes for 127.0.0.1:"),
        (Answer(b"x" * 65_508, delay=0.01), "65508 bytes for 127.0.0.1:"),
    ],
)
def test_what_is_no_answer_is_told(run: Any, answer: Any, says: str) -> None:
    async def main() -> str:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.set_result(str(context["exception"])))
        async with Server(lambda _: answer) as server, udpguard.open_endpoint() as endpoint:
            await endpoint.send(server.address, b"how warm?")
            return await told

    assert says in run(main)


@everywhere
def test_any_bytes_are_an_answer(run: Any) -> None:
    assert asked(run, lambda _: bytearray(b"22 degrees"))[0].data == b"22 degrees"


@pytest.mark.parametrize(
    ("host", "says"),
    [("192.0.2.77", "none of this machine's addresses; in a simulation"), ("127.0.0.1", "another socket has it")],
)
def test_where_no_server_can_be_is_told(host: str, says: str) -> None:
    async def main() -> str:
        async with Server() as server:
            with pytest.raises(OSError, match=f"could not bind to {host}:{server.address.port}: .*{says}") as caught:
                await Server(host=host, port=server.address.port).__aenter__()
            return errno.errorcode[caught.value.errno or 0]

    assert really(main) in {"EADDRNOTAVAIL", "EADDRINUSE"}


# -------------------------------------------------------------------------------------------------- impostors


@everywhere
def test_an_impostor_beside_the_server_is_heard_by_nobody(run: Any) -> None:
    async def main() -> Any:
        seen: list[udpguard.Unexpected] = []
        async with (
            Server(silent) as server,
            Impostor(server.address) as impostor,
            udpguard.open_endpoint(("127.0.0.1", 0), on_unexpected=seen.append) as endpoint,
        ):
            asked = asyncio.ensure_future(endpoint.request(server.address, b"true", timeout=15.0))
            request = await server.next()
            await impostor.forge_from_other_port(b"port", endpoint.local_addr)
            await impostor.forge_from_other_host(b"host", endpoint.local_addr)
            await impostor.forge(b"twice", endpoint.local_addr, sent_from=("127.0.0.9", 0), delay=0.01, copies=2)
            await until(lambda: len(seen) == 4)
            await server.send(b"true", request.peer)
            assert await asked == b"true"
            return Counter(one.data for one in seen), {one.peer.host for one in seen if one.data == b"port"}

    assert run(main) == (Counter({b"twice": 2, b"port": 1, b"host": 1}), {"127.0.0.1"})


@everywhere
def test_an_impostor_of_a_server_guesses_keys_from_its_very_address(run: Any) -> None:
    async def main() -> Any:
        async with (
            Server(silent) as server,
            Impostor(server, seed=1) as impostor,
            udpguard.open_endpoint(("127.0.0.1", 0), correlate=udpguard.TransactionId(0, 8, assign=True)) as endpoint,
        ):
            asked = asyncio.ensure_future(endpoint.request(server.address, bytes(8) + b"true", timeout=15.0))
            request = await server.next()
            template = bytes(8) + b"forged"
            assert await impostor.guess(endpoint.local_addr, template, length=8, count=50, rate=5_000.0) == 50
            await until(lambda: endpoint.statistics().rejected == 50)
            await server.send(request.data, request.peer)
            assert await asked == bytes(8) + b"true"
            return endpoint.statistics()

    stats = run(main)
    assert (stats.matched, stats.rejected) == (1, 50)


def test_in_a_simulation_anybody_can_be_anybody() -> None:
    async def main() -> Any:
        async with (
            Server(silent, "192.0.2.1", 53),
            udpguard.open_endpoint() as endpoint,
            Impostor(("192.0.2.1", 53)) as impostor,
        ):
            assert "192.0.2.1" in repr(impostor)
            asked = asyncio.ensure_future(endpoint.request(("192.0.2.1", 53), b"x"))
            await asyncio.sleep(0.01)
            await impostor.forge(b"forged", ("198.51.100.1", endpoint.local_addr.port))
            return await asked

    assert simulated(main)[0] == b"forged"  # address matching is not authentication


def test_on_a_real_network_an_address_that_is_taken_can_not_be_forged() -> None:
    async def main() -> None:
        async with Server() as server, Impostor(server.address) as impostor, Server() as other:
            with pytest.raises(OSError):
                await impostor.forge(b"x", other.address)
            await impostor.forge(b"x", other.address, sent_from=("127.0.0.1", 0), delay=10.0)  # never leaves

    really(main)


@everywhere
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_floods_are_bounded_in_count_and_rate(run: Any, host: str) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        async with Server(silent, host) as server, Impostor(("127.0.0.1", 9)) as impostor:
            began = loop.time()
            assert await impostor.flood(server.address, count=200, rate=2_000.0) == 200
            assert loop.time() - began >= 0.0999
            assert await impostor.flood(server.address, count=3, rate=1.0e6, data=b"junk") == 3
            for _ in range(203):
                await server.next()
            assert [request.data for request in list(server.requests)[-3:]] == [b"junk"] * 3
            for count, rate in [(-1, 1.0), (1_000_001, 1.0), (1, 0.0), (1, float("nan"))]:
                with pytest.raises(ValueError, match="count"):
                    await impostor.flood(server.address, count=count, rate=rate)
            with pytest.raises(ValueError, match="no id"):
                await impostor.guess(server.address, b"", count=1, rate=1.0)
            return {request.peer for request in server.requests}

    assert len(run(main)) > 1


def test_a_flood_leaves_a_request_alone_but_for_a_full_buffer() -> None:
    async def main() -> Any:
        async with (
            Server(lambda request: Answer(request.data, delay=0.5), "192.0.2.1", 7) as server,
            Impostor(server) as impostor,
            udpguard.open_endpoint(("198.51.100.1", 4_000)) as endpoint,
        ):
            asked = asyncio.ensure_future(endpoint.request(server.address, b"x"))
            await impostor.flood(endpoint.local_addr, count=5_000, rate=10_000.0)
            assert await asked == b"x"
            return endpoint.statistics().unknown_peer

    assert simulated(main)[0] == 5_000


# ------------------------------------------------------------------------------------------------------ relays


@everywhere
def test_a_relay_loses_repeats_and_delays_both_ways(run: Any) -> None:
    async def main() -> Any:
        async with (
            Server() as server,
            Relay(server.address, seed="a", loss=0.2, duplicate=0.2, delay=(0, 0.01)) as relay,
        ):
            assert str(server.address) in repr(relay)
            retry = udpguard.Retry(attempts=20, initial=0.1, multiplier=1.0)
            correlate = udpguard.TransactionId(0, 2, assign=True)
            async with udpguard.open_endpoint(retry=retry, correlate=correlate) as endpoint:
                replies = await asyncio.gather(
                    *(endpoint.exchange(relay.address, bytes(2) + b"%d" % n) for n in range(100))
                )
                assert [reply.data[2:] for reply in replies] == [b"%d" % n for n in range(100)]
                assert {reply.peer for reply in replies} == {relay.address}
                assert endpoint.statistics().retransmitted > 0
            return relay.trace

    trace = run(main)
    for kind in ("lost", "duplicated", "delivered"):
        assert trace.count(kind) > 0, kind


@everywhere
def test_a_relay_does_the_same_to_the_same_datagrams(run: Any) -> None:
    async def fates(seed: int) -> Any:
        async with (
            Server(silent) as server,
            Relay(server.address, seed=seed, duplicate=0.5, delay=0.0) as relay,
            Server(silent) as sender,
        ):
            for n in range(64):
                await sender.send(b"%d" % n, relay.address)
                while (await server.next()).data != b"%d" % n:
                    pass
            return [event.data for event in relay.trace if event.kind == "duplicated"]

    async def main() -> Any:
        return [await fates(seed) for seed in (1, 1, 2)]

    first, second, third = run(main)
    assert first == second != third
    assert 10 < len(first) < 54


def test_relays_see_clients_apart_and_bound_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udpguard.testing._relay._MOST_DOORS", 2)

    async def main() -> Any:
        async with Server() as server, Relay(server.address, delay=0.0, mtu=1_000) as relay:
            for n in range(4):
                async with udpguard.open_endpoint() as endpoint:
                    assert await endpoint.request(relay.address, b"%d" % n) == b"%d" % n
                    assert await endpoint.request(relay.address, b"again") == b"again"
                    with pytest.raises(udpguard.ReplyTimeoutError):
                        await endpoint.request(relay.address, bytes(1_000), timeout=0.05)
            unopened = Relay(server.address)
            with pytest.raises(RuntimeError, match="not open"):
                _ = unopened.address
            unopened.close()
            return {request.peer for request in server.requests}

    assert len(really(main)) == 4


def test_a_relay_lets_nobody_from_another_host_answer() -> None:
    """On loopback; in a simulation another host is somewhere else altogether."""

    async def main() -> Any:
        async with (
            Server(lambda _: [Answer(b"wrong", sent_from="host"), Answer(b"right", delay=0.05)]) as server,
            Relay(server.address) as relay,
            udpguard.open_endpoint() as endpoint,
        ):
            answer = await endpoint.request(relay.address, b"x")
            return answer, endpoint.statistics(), [event.data for event in relay.trace if event.kind == "sent"]

    answer, statistics, passed_on = really(main)
    assert (answer, statistics.received, passed_on) == (b"right", 1, [b"x", b"right"])


@everywhere
def test_another_port_of_the_server_is_another_port_of_the_relay(run: Any) -> None:
    """As with TFTP: the first answer comes from a new port, where the client goes on."""

    async def main() -> Any:
        async def welcome(request: Request) -> None:
            """Answer from a port of this client's own, an echo for whoever writes there."""
            own = await stack.enter_async_context(Server(echo, server.address.host))
            ports.append(own)
            await own.send(b"hello " + request.data, request.peer)

        ports: list[Server] = []
        tasks: list[Any] = []
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                Server(lambda request: tasks.append(asyncio.ensure_future(welcome(request))))
            )
            relay = await stack.enter_async_context(Relay(server.address, delay=0.0))
            endpoint = await stack.enter_async_context(udpguard.open_endpoint())
            sessions = [
                await stack.enter_async_context(endpoint.session(relay.address, reply_from="host")) for _ in range(2)
            ]
            for n, session in enumerate(sessions):
                assert await session.request(b"%d" % n, timeout=5.0) == b"hello %d" % n
            for n, session in enumerate(sessions):
                for _ in range(3):
                    assert await session.request(b"more of %d" % n, timeout=5.0) == b"more of %d" % n
            peers = [session.peer for session in sessions]
            assert len({relay.address, *peers}) == 3
            assert {peer.host for peer in peers} == {relay.address.host}
            # To either port of the server, a client comes from the same port of the relay's.
            return [
                ({request.peer for request in own.requests}, {first.peer})
                for own, first in zip(ports, server.requests, strict=True)
            ]

    for at_its_own_port, at_the_first in run(main):
        assert at_its_own_port == at_the_first


def test_nothing_is_left_behind() -> None:
    async def main() -> None:
        async with (
            Server(lambda _: Answer(b"", delay=60.0)) as server,
            Relay(server.address, delay=60.0) as relay,
            udpguard.open_endpoint() as endpoint,
        ):
            await endpoint.send(relay.address, b"x")
            await endpoint.send(server.address, b"x")
            await server.next()
        assert len(asyncio.all_tasks()) <= 2  # this one, and the one that waits for it

    began = time.monotonic()
    really(main)
    assert time.monotonic() - began < 10.0


def test_a_simulation_of_them_all_is_the_same_each_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with (
            Server(lambda request: Answer(request.data, copies=2), "192.0.2.1", 7) as server,
            Relay(server.address, seed=5, loss=0.3, duplicate=0.2) as relay,
            Impostor(server) as impostor,
        ):
            collector: Collector = await probe("127.0.0.1")
            for n in range(50):
                collector.transport.sendto(b"%d" % n, relay.address)
                await impostor.flood(collector.transport.get_extra_info("sockname"), count=3, rate=100.0)

    assert simulated(main, "a", loss=0.1)[1].dumps() == simulated(main, "a", loss=0.1)[1].dumps()


def test_an_endpoint_on_every_interface_is_hit_at_its_own_address() -> None:
    async def main() -> udpguard.Statistics:
        async with (
            Server(silent, "192.0.2.1", 53) as server,
            Impostor(server) as impostor,
            udpguard.open_endpoint() as endpoint,
        ):
            for local in endpoint.local_addrs:
                assert await impostor.flood(local, count=3, rate=100.0) == 3
            await impostor.forge(b"forged", endpoint.local_addr)
            await asyncio.sleep(1)
            return endpoint.statistics()

    counts = in_simulation(main)
    assert (counts.received, counts.unknown_peer) == (7, 7)
