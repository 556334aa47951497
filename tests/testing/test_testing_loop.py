"""The loop in virtual time: clocks that jump, what has no place in it, and what happens when nothing can."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

import pytest
from testing_kit import Collector, Echo, bound, probe

import udpguard
from udpguard.testing import DeadlockError, Network, Simulation, VirtualLoop, run


def test_time_begins_at_zero_and_jumps_to_the_next_timer() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        times = [loop.time()]
        for seconds in (0.25, 1e-6, 3600.0, 0.0):
            await asyncio.sleep(seconds)
            times.append(loop.time())
        return times

    assert run(main) == pytest.approx([0.0, 0.25, 0.250001, 3600.250001, 3600.250001], abs=1e-9)


def test_an_hour_of_polling_takes_a_moment() -> None:
    async def main() -> float:
        await bound("192.0.2.1", 7)
        async with udpguard.open_endpoint() as endpoint:
            for number in range(3_600):
                assert await endpoint.request(("192.0.2.1", 7), str(number).encode()) == str(number).encode()
                await asyncio.sleep(1.0)
        return asyncio.get_running_loop().time()

    began = time.process_time()
    assert run(main) > 3_600
    assert time.process_time() - began < 2.5  # about 0.4 s where nothing else runs


@pytest.mark.parametrize("days", [40, 400, 40_000])
def test_timers_fire_in_their_order_also_far_from_the_beginning(days: int) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(days * 86_400)
        await asyncio.sleep(1e-12)
        fired: list[int] = []
        for number in (3, 1, 2, 0):
            loop.call_later(number * 1e-3, fired.append, number)
        await asyncio.sleep(1)
        return fired

    assert run(main) == [0, 1, 2, 3]


def test_timeouts_work() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86_400):
                await asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(86_400)


def test_a_deadlock_is_an_error_that_shows_who_waits() -> None:
    async def waits_for_nobody() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match=r"(?s)nothing can happen any more.*waits_for_nobody.*test_testing_loop"):
        run(waits_for_nobody)


def test_after_a_deadlock_tasks_are_ended_and_the_simulation_can_be_used() -> None:
    ended = []

    async def stuck() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    async def fine() -> int:
        await asyncio.sleep(1)
        return 1

    with Simulation() as sim:
        with pytest.raises(DeadlockError):
            sim.run(stuck)
        assert sim.run(fine) == 1
    assert ended == [True]


def test_a_datagram_on_its_way_is_no_deadlock() -> None:
    async def main() -> None:
        await (await bound_collector()).arrived.wait()

    class Waiting(Collector):
        def __init__(self) -> None:
            super().__init__()
            self.arrived = asyncio.Event()

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.arrived.set()

    async def bound_collector() -> Waiting:
        collector = await bound("192.0.2.1", 7, Waiting)
        assert isinstance(collector, Waiting)
        (await probe()).transport.sendto(b"x", ("192.0.2.1", 7))
        return collector

    run(main)


def test_many_tasks_in_a_deadlock_do_not_fill_the_screen() -> None:
    async def main() -> None:
        await asyncio.gather(*(asyncio.get_running_loop().create_future() for _ in range(3)), *map(waits, range(40)))

    async def waits(_: int) -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match="and 31 more") as caught:
        run(main)
    assert str(caught.value).count("\n") == 11


def test_threads_become_calls_in_the_loop() -> None:
    def work(number: int) -> int:
        if number < 0:
            raise LookupError(number)
        return 2 * number

    def stops() -> None:
        raise StopIteration

    async def main() -> None:
        assert await asyncio.to_thread(work, 21) == 42
        with pytest.raises(LookupError):
            await asyncio.to_thread(work, -1)
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(stops)
        future = asyncio.get_running_loop().run_in_executor(None, work, 1)
        future.cancel()
        await asyncio.sleep(0)

    run(main)


def test_what_a_virtual_loop_has_not_it_says() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(NotImplementedError):
                loop.add_reader(sock, print)
            with pytest.raises(TypeError, match="real socket"):
                await loop.create_datagram_endpoint(Echo, sock=sock)
            sock.bind(("127.0.0.1", 0))
            with pytest.raises(TypeError, match="real socket"):
                await udpguard.open_endpoint(sock=sock)
        with pytest.raises(NotImplementedError):
            await asyncio.open_connection("127.0.0.1", 1)
        with pytest.raises(NotImplementedError):
            await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        with pytest.raises(NotImplementedError):
            await loop.subprocess_shell(asyncio.SubprocessProtocol, "true")
        with pytest.raises(NotImplementedError):
            await loop.subprocess_exec(asyncio.SubprocessProtocol, "true")
        with pytest.raises(NotImplementedError):
            loop.add_signal_handler(signal.SIGINT, print)

    run(main)


def test_a_loop_can_be_made_and_closed_without_running() -> None:
    loop = VirtualLoop()
    assert loop.time() == 0.0
    loop.close()
    Simulation().close()


def test_a_network_serves_one_loop_after_the_other() -> None:
    network = Network()
    with Simulation(network=network), pytest.raises(RuntimeError, match="another loop"):
        VirtualLoop(network)
    with Simulation(network=network) as sim:
        assert sim.run(lambda: asyncio.sleep(1, 7)) == 7


def test_a_blocked_loop_reads_what_arrived_meanwhile_and_knows_when() -> None:
    async def main() -> udpguard.Reply:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await bound("192.0.2.1", 7)
        async with udpguard.open_endpoint() as endpoint:
            asked = asyncio.ensure_future(endpoint.exchange(("192.0.2.1", 7), b"x", timeout=1.0))
            await asyncio.sleep(0.01)
            loop.block(0.5)
            return await asked

    reply = run(main, delay=0.1)
    assert reply.rtt == pytest.approx(0.61)  # the server runs in the same loop: it answers at 0.51


def test_a_reply_that_came_in_time_is_delivered_however_long_the_loop_was_blocked() -> None:
    """The server is on its way to answer when the client's deadline and the answer fall into one blocked turn."""

    async def main() -> tuple[float | None, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await bound("192.0.2.1", 7)
        async with udpguard.open_endpoint() as endpoint:
            asked = asyncio.ensure_future(endpoint.exchange(("192.0.2.1", 7), b"x", timeout=1.0))
            await asyncio.sleep(0.15)  # the answer is on its way
            loop.block(5.0)
            return (await asked).rtt, loop.time()

    rtt, now = run(main, delay=0.1)
    assert rtt == pytest.approx(0.2)
    assert now == pytest.approx(5.15)


def test_blocking_for_less_than_nothing_is_refused() -> None:
    with Simulation() as sim:
        for seconds in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="seconds"):
                sim.loop.block(seconds)


async def test_a_simulation_inside_a_running_loop_is_refused_with_advice() -> None:
    with Simulation() as sim:
        with pytest.raises(RuntimeError, match=r"from a plain function.*`await asyncio.to_thread\(run, main\)`"):
            sim.run(asyncio.sleep(0))
    assert await asyncio.to_thread(run, asyncio.sleep(3600, "an hour later")) == "an hour later"


def test_names_are_the_networks() -> None:
    network = Network()
    network.name("Server.Example", "2001:db8::1", "192.0.2.1", delay=2.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("server.example", 53, type=socket.SOCK_DGRAM)
        assert [one[4] for one in found] == [("2001:db8::1", 53, 0, 0), ("192.0.2.1", 53)]
        assert loop.time() == pytest.approx(2.0)
        only = await loop.getaddrinfo(b"server.example.", "53", family=socket.AF_INET, type=socket.SOCK_STREAM)
        assert only == [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 53))]
        assert [one[4][0] for one in await loop.getaddrinfo(None, None)] == ["127.0.0.1", "::1"]
        assert [one[4] for one in await loop.getaddrinfo("fe80::1%3", 1)] == [("fe80::1", 1, 0, 3)]
        for name, family in [("nobody.example", 0), ("192.0.2.1", socket.AF_INET6)]:
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo(name, 53, family=family)
        assert await loop.getnameinfo(("192.0.2.1", 53)) == ("192.0.2.1", "53")

    run(main, network=network)


def test_an_endpoint_asks_by_name() -> None:
    network = Network()
    network.name("server.example", "192.0.2.9", "192.0.2.1")
    network.host("192.0.2.1")

    async def main() -> udpguard.Reply:
        await bound("192.0.2.1", 7)
        async with udpguard.open_endpoint() as endpoint:
            return await endpoint.exchange(("server.example", 7), b"x")

    reply = run(main, network=network)
    assert reply.peer == ("192.0.2.1", 7)  # nobody has the first, so the second is tried


def test_run_takes_coroutines_and_functions_that_give_them() -> None:
    async def main() -> int:
        return 3

    assert run(main) == run(main()) == 3
